"""The Savage-Dickey ratio is the exact one of normal posteriors, by kernels, and agrees with the flow's own on a run."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from cigars.config import load_config
from cigars.posterior import load_posterior
from cigars.savage_dickey import kernel_ln_density, nested_values, savage_dickey


@pytest.mark.parametrize("at", [0.0, 1.0, 2.5])
def test_kernels_give_the_density_of_normal_draws(at):
    draws = np.random.default_rng(1).normal(0.3, 0.2, size=(4000, 1))
    point = 0.3 + 0.2 * at
    found, error = kernel_ln_density(draws, np.array([point]))
    assert abs(found - norm(0.3, 0.2).logpdf(point)) < 5 * error
    assert error < 0.15
    shifted = kernel_ln_density(draws + 0.3, np.array([point]))[0]
    assert abs(shifted - norm(0.3, 0.2).logpdf(point)) > 5 * error


def test_two_parameters_at_once():
    law = multivariate_normal([0.1, -0.2], [[0.04, 0.03], [0.03, 0.09]])
    draws = law.rvs(6000, random_state=np.random.default_rng(2))
    point = np.array([0.3, 0.1])
    found, error = kernel_ln_density(draws, point)
    assert abs(found - law.logpdf(point)) < 5 * error + 0.02  # kernels in two dimensions are wider
    assert abs(found - sum(norm(m, s).logpdf(p) for m, s, p in zip([0.1, -0.2], [0.2, 0.3], point, strict=True))) > 5 * error


def test_a_point_where_there_are_no_draws_is_refused():
    draws = np.random.default_rng(1).normal(size=(1000, 1))
    with pytest.raises(ValueError, match=r"within 4 standard deviations and 100 draws, got 9\.\d and 1000"):
        kernel_ln_density(draws, np.array([9.5]))
    with pytest.raises(ValueError, match="and 100 draws"):
        kernel_ln_density(draws[:20], np.array([0.0]))


def test_flow_and_draws_of_a_run_agree(posterior):
    joint = load_posterior(posterior)
    draws = joint.sample(2000, seed=1)
    middle = float(np.median(draws.marginal("mass_step")))  # where kernels have draws, wherever so small a training puts them
    flow = savage_dickey(joint, {"mass_step": middle})
    assert flow.method == "flow"
    kernel = savage_dickey(draws, {"mass_step": middle}, method="kernel")
    assert kernel.method == "kernel"
    assert abs(flow.ln_k - kernel.ln_k) < 5 * np.hypot(flow.error, kernel.error) + 0.05
    elsewhere = savage_dickey(joint, {"mass_step": -0.15 if middle > 0 else 0.15})
    assert flow.error < 0.1
    assert abs(elsewhere.ln_k - kernel.ln_k) > 5 * np.hypot(elsewhere.error, kernel.error) + 0.05


@pytest.mark.slow  # nine marginals of the flow
def test_the_marginal_density_of_the_flow_is_normalised(posterior):
    """Integrated over the prior's η it is one; steps of one standard deviation of the draws do for what is nearly normal."""
    joint = load_posterior(posterior)
    draws = norm.ppf((joint.sample(4000, seed=1).marginal("mass_step") + 0.2) / 0.4)
    eta = draws.mean() + draws.std() * np.linspace(-4, 4, 9)
    theta = 0.4 * norm.cdf(eta) - 0.2  # of the uniform prior of the mass step
    density = np.exp([joint.ln_marginal({"mass_step": float(v)})[0] for v in theta])
    assert np.trapezoid(density, eta) == pytest.approx(1, abs=0.05)


def test_values_that_cannot_be_asked_are_refused(posterior):
    joint = load_posterior(posterior)
    with pytest.raises(ValueError, match="expected values of"):
        savage_dickey(joint, {"w0": -1.0})
    with pytest.raises(ValueError, match="got none"):
        savage_dickey(joint, {})
    with pytest.raises(ValueError, match="within the prior"):
        savage_dickey(joint, {"mass_step": 5.0})


def test_nested_models_are_recognised():
    wide = load_config("demo")
    assert nested_values(wide, load_config("demo", ["prior.mass_step={fixed=0}"])) == {"mass_step": 0.0}
    assert nested_values(wide, load_config("demo", ["supernovae.dust=host"])) == {}
    assert nested_values(wide, load_config("demo", ["prior.mass_step={fixed=0}", "prior.M0={uniform=[-20,-19]}"])) == {}
    assert nested_values(wide, wide) == {}
    flat = load_config("demo", ["supernovae.cosmology=flat-w0waCDM"])
    constant = load_config("demo", ["supernovae.cosmology=flat-w0waCDM", "prior.w0={fixed=-1}", "prior.wa={fixed=0}"])
    assert nested_values(flat, constant) == {"w0": -1.0, "wa": 0.0}
