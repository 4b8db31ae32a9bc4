"""The Savage-Dickey ratio is the exact one of normal posteriors, by kernels, and agrees with the flow's own on a run."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from cigars.catalogue import Catalogue, select, write_catalogue
from cigars.catalogue_checks import TargetWarning
from cigars.cli_compare import _ratios
from cigars.config import Config, load_config
from cigars.posterior import load_posterior
from cigars.savage_dickey import check_posterior, kernel_ln_density, nested_values, savage_dickey
from cigars.targets import target_hash
from cigars.truncation import truncated

from .catalogues import make_catalogue
from .synthetic import synthetic

NO_STEP = "prior.mass_step={fixed=0}"


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
    with pytest.raises(ValueError, match=r"within 4 standard deviations and 100 independent draws, got 9\.\d and 1000"):
        kernel_ln_density(draws, np.array([9.5]))
    with pytest.raises(ValueError, match="and 100 independent draws"):
        kernel_ln_density(draws[:20], np.array([0.0]))


def test_draws_of_chains_that_follow_one_another_have_the_error_of_independent_ones():
    """At most, as a density decorrelates sooner than a mean; taken for independent their error would be half of the scatter over chains."""
    rng, correlation = np.random.default_rng(3), 9 / 11  # (1 + ρ) / (1 - ρ) = 10
    found = []
    for _ in range(60):
        draws, step = np.empty((2000, 1)), rng.normal(size=2000) * (1 - correlation**2) ** 0.5
        draws[0] = rng.normal()
        for k in range(1, 2000):
            draws[k] = correlation * draws[k - 1] + step[k]
        found.append(kernel_ln_density(draws, np.array([1.0]), worth=0.1))
    values, errors = np.array(found).T
    assert 0.3 < values.std() / errors.mean() < 1
    assert values.std() / (errors.mean() * 0.1**0.5) > 1.3  # 1.8, of which 60 chains know 9 %
    with pytest.raises(ValueError, match=r"100 independent draws, got 1\.0 and 20"):
        kernel_ln_density(draws, np.array([1.0]), worth=0.01)


def test_draws_that_weights_have_repeated_are_not_counted_as_independent():
    """A normal posterior of Ω_m under a normal prior instead of a wide one: the error is the scatter, which 40 posteriors know to 11 %."""
    prior, var = norm(0.38, 0.03), 1 / (1 / 0.05**2 + 1 / 0.03**2)
    found = []
    for seed in range(40):
        weighted = synthetic(2000, seed=seed, objects=1, Om0=(0.3, 0.05)).reweight(
            {"Om0": {"normal": [0.38, 0.03], "within": [0, 1]}}, seed
        )
        assert weighted.effective_draws < 0.4 * weighted.draws
        found.append(savage_dickey(weighted, {"Om0": 0.4}, seed=seed))
    values, errors = (np.array([getattr(one, name) for one in found]) for name in ("ln_k", "error"))
    exact = norm(var * (0.3 / 0.05**2 + 0.38 / 0.03**2), var**0.5).logpdf(0.4) - prior.logpdf(0.4)
    assert abs(values.mean() - exact) < 5 * values.std() / 40**0.5
    assert 0.6 < values.std() / errors.mean() < 1.35


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


class Given:
    """A posterior of whose mass step there are normal draws, as of a run that was truncated for its catalogue where there is a box."""

    names = ("mass_step",)

    def __init__(self, box=None):
        self.config = truncated(Config(), {"mass_step": box}) if box else Config()
        self.draws = self.effective_draws = 6000
        self.priors, self.attributes = self.config.marginals, {"truncated_for": "0123"} if box else {}

    def marginal(self, *_):
        return 0.02 + 0.02 * np.random.default_rng(4).normal(size=(6000, 1))


def test_the_prior_of_a_truncated_run_is_the_configured_one():
    """A box of 0.16 in 0.4 mag holds all of the posterior, which is then the same; by its own width ln K would be off by ln 2.5."""
    exact = norm(0.02, 0.02).logpdf(0) + np.log(0.4)
    for posterior, wide in ((Given(), None), (Given(), Config()), (Given(box=(-0.06, 0.1)), Config())):
        found = savage_dickey(posterior, {"mass_step": 0.0}, wide=wide, method="kernel")
        assert abs(found.ln_k - exact) < 5 * found.error + 0.02
        assert abs(found.ln_k - exact - np.log(0.4 / 0.16)) > 5 * found.error + 0.02
    with pytest.raises(ValueError, match="expected the configuration before truncation"):
        savage_dickey(Given(box=(-0.06, 0.1)), {"mass_step": 0.0})
    with pytest.raises(ValueError, match=r"within 3 standard deviations of a posterior that was truncated, got 4\.\d"):
        savage_dickey(Given(box=(-0.06, 0.1)), {"mass_step": -0.05}, wide=Config())
    with pytest.raises(ValueError, match="within the prior as truncated"):
        savage_dickey(Given(box=(-0.06, 0.1)), {"mass_step": -0.1}, wide=Config())
    region = {"names": ["mass_step"], "centre": [0.0], "directions": [[1.0]], "limits": [[-0.1, 0.1]]}
    with pytest.raises(ValueError, match=r"priors that are independent, got prior\.region"):
        savage_dickey(Given(), {"mass_step": 0.0}, wide=Config().updated(**{"prior.region": region}))


def test_only_the_posterior_of_this_catalogue_under_the_first_model_is_taken(posterior, catalogue, workplace):
    joint, config = load_posterior(posterior), load_config(workplace.config)
    check_posterior(joint, config, catalogue)
    check_posterior(joint, config.updated(**{"name": "other", "seed": 5, "training.surveys": 20, "size.capacity": 99}), catalogue)
    check_posterior(joint, config, select(catalogue, np.arange(len(catalogue.id))[::-1]))
    for changes, part in (
        ({"prior.M0": {"uniform": [-20, -19.1]}}, "prior"), ({"prior.mass_step": {"fixed": 0}}, "prior"),
        ({"supernovae.dust": "host"}, "supernovae"), ({"size.expected_supernovae": 61}, "size"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=rf"of the configuration of the first model, tiny, got one that differs in {part};"):
            check_posterior(joint, config.updated(**changes), catalogue)
    with pytest.raises(ValueError, match=r"its \d+ objects whole, got one of \d+ objects"):
        check_posterior(joint, config, select(catalogue, np.arange(len(catalogue.id) - 1)))
    shifted = catalogue.observations._replace(m=catalogue.observations.m + np.float32(0.01))
    with pytest.raises(ValueError, match="expected a posterior of the catalogue"):
        check_posterior(joint, config, Catalogue(catalogue.id, shifted))
    with pytest.raises(ValueError, match="exposure 2, got 1; infer with --exposure 2"):
        check_posterior(joint, config, catalogue, 2.0)
    with pytest.raises(ValueError, match="got one weighted since"):
        check_posterior(joint.reweight({"M0": {"uniform": [-19.9, -19.1]}}), config, catalogue)


def test_redshifts_that_the_run_did_not_read_make_no_other_catalogue():
    """A run without any is asked about a catalogue with some: its posterior is that of this catalogue, and of no other."""
    config, given = Config(), make_catalogue(size=6)
    blank = given.observations._replace(z_spec=np.full(6, np.nan, np.float32), z_spec_err=np.full(6, np.nan, np.float32))

    def made(observations, **attributes):
        return SimpleNamespace(config=config, attributes=attributes, ids=given.id, observations=observations)

    with pytest.warns(TargetWarning, match="5 of 6 objects have z_spec, .* not read"):
        check_posterior(made(blank, truncated_for=target_hash(given)), config, given)
    check_posterior(made(given.observations, method="exact"), config, given)
    with pytest.raises(ValueError, match="expected a posterior of the catalogue"):
        check_posterior(made(blank, method="exact"), config, given)
    with pytest.warns(TargetWarning), pytest.raises(ValueError, match="expected a posterior of the catalogue"):
        check_posterior(made(blank._replace(c=blank.c + np.float32(0.01))), config, given)


def test_a_truncated_posterior_is_one_of_what_was_truncated(posterior, catalogue, workplace):
    joint, config = load_posterior(posterior), load_config(workplace.config)
    cut = truncated(config, {"M0": (-19.8, -19.2), "dtd_logA": (-12.3, -12.0)})

    def made(config, target):
        return SimpleNamespace(config=config, attributes={"truncated_for": target}, ids=joint.ids, observations=joint.observations)

    check_posterior(made(cut, target_hash(catalogue)), config, catalogue)
    with pytest.raises(ValueError, match="differs in prior"):
        check_posterior(made(cut, ""), config, catalogue)
    with pytest.raises(ValueError, match="differs in prior"):
        check_posterior(made(cut, target_hash(catalogue)), config.updated(**{"prior.M0": {"uniform": [-19.7, -19.1]}}), catalogue)
    with pytest.raises(ValueError, match="truncated for this catalogue"):
        check_posterior(made(cut, "0123"), config, catalogue)


def test_one_model_without_a_ratio_costs_no_other(monkeypatch):
    """Steps held at two values, one far outside a posterior that is the law of normal draws: the other's ratio is that law's."""
    monkeypatch.setattr("cigars.savage_dickey.check_posterior", lambda *_: None)
    far, near = ({"prior.mass_step": {"fixed": value}} for value in (0.15, 0.0))
    models = {"wide": Config(), "far": Config().updated(**far), "near": Config().updated(**near)}
    posterior = Given()
    posterior.attributes["weighted_by"] = "kernels alone"
    with pytest.warns(TargetWarning, match="far: .* expected a value within 4 standard deviations .* no Savage-Dickey ratio"):
        found = _ratios(posterior, models, None, 1.0, 0)
    assert list(found) == ["near"]
    assert abs(found["near"].ln_k - norm(0.02, 0.02).logpdf(0) - np.log(0.4)) < 5 * found["near"].error + 0.02


def test_the_command_refuses_another_posterior_before_it_simulates(posterior, catalogue, workplace, refused, tmp_path):
    joint, config = load_posterior(posterior), load_config(workplace.config)
    joint.save(tmp_path / "p.nc")
    (name, ratio), *others = _ratios(
        load_posterior(tmp_path / "p.nc"), {"tiny": config, NO_STEP: load_config(workplace.config, [NO_STEP])}, catalogue, 1.0, 0
    ).items()
    assert (name, others) == (NO_STEP, [])
    assert ratio == savage_dickey(joint, {"mass_step": 0.0})
    write_catalogue(tmp_path / "fewer.fits", select(catalogue, np.arange(20)), tuple("ugrizy"), {})
    base = ["--against", NO_STEP, "-o", tmp_path / "x", "--posterior", tmp_path / "p.nc", "--device", "cpu"]
    assert "its 20 objects whole" in refused("compare", workplace.config, tmp_path / "fewer.fits", *base)
    assert "got one that differs in prior" in refused(
        "compare", workplace.config, workplace.mock, *base, "--set", "prior.M0={uniform=[-20,-19.1]}"
    )
    assert not (tmp_path / "x").exists()
