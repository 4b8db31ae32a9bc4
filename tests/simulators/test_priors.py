"""Priors of the global parameters against scipy densities and moments."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from cigars.config import Config
from cigars.schema import FIDUCIAL, Globals, Marginal
from simulators.priors import distribution, log_prior, sample_globals

NORMAL = Marginal("normal", -1.34, 0.2, -np.inf, np.inf)
HALF = Marginal("normal", 0.5, 0.3, 0.4, np.inf)
TAIL = Marginal("normal", 0.5, 0.3, 1.7, 2.6)  # 4 to 7 standard deviations above
NARROW = Marginal("normal", 0.5, 0.3, 0.4, 0.9)
UNIFORM = Marginal("uniform", 0.0, 1.0, -0.55, 0.25)
REFERENCES = {
    NORMAL: stats.norm(-1.34, 0.2),
    HALF: stats.truncnorm(-1 / 3, np.inf, 0.5, 0.3),
    NARROW: stats.truncnorm(-1 / 3, 4 / 3, 0.5, 0.3),
    TAIL: stats.truncnorm(4, 7, 0.5, 0.3),
    UNIFORM: stats.uniform(-0.55, 0.8),
}
COSMOLOGIES = ("LCDM", "flat-LCDM", "flat-w0waCDM")


@functools.partial(jax.jit, static_argnums=1)
def _drawn(key, config: Config) -> Globals:
    draw = jax.vmap(lambda k: sample_globals(k, config.marginals, config.fixed, config.flat))
    return draw(jax.random.split(key, 2000))


def _sample(key, number: int, config: Config) -> Globals:
    return jax.tree.map(lambda v: v[:number], jax.device_get(_drawn(key, config)))


@pytest.mark.parametrize("marginal", REFERENCES)
def test_densities_equal_scipy(marginal):
    reference = REFERENCES[marginal]
    x = reference.ppf(np.linspace(0.01, 0.99, 21))
    ours = distribution(marginal).log_prob(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(ours, reference.logpdf(x), atol=2e-6)  # float32
    assert not np.allclose(ours, reference.logpdf(x * 1.01 + 0.02) + 0.01, atol=2e-6)


@pytest.mark.parametrize("marginal", REFERENCES)
def test_draws_follow_scipy(key, marginal):
    reference = REFERENCES[marginal]
    sample = np.asarray(distribution(marginal).sample(key, (5000,)), float)
    assert stats.kstest(sample, reference.cdf).pvalue > 0.01
    assert stats.kstest(sample + 0.1 * reference.std(), reference.cdf).pvalue < 0.01
    assert abs(sample.mean() - reference.mean()) < 5 * reference.std() / np.sqrt(5000)  # five standard errors


def test_a_fixed_parameter_is_a_delta():
    assert float(distribution(Marginal("fixed", -19.5, 0.0, -np.inf, np.inf)).sample(jax.random.key(0))) == -19.5


@pytest.mark.parametrize("cosmology", COSMOLOGIES)
def test_log_prior_is_the_sum_of_scipy_log_densities(key, cosmology):
    config = Config().updated(**{"supernovae.cosmology": cosmology})
    theta = _sample(key, 30, config)
    exact = np.zeros(30)
    for name, marginal in config.marginals.items():
        reference = (
            stats.norm(marginal.loc, marginal.scale)
            if marginal.kind == "normal"
            else stats.uniform(marginal.low, marginal.high - marginal.low)
        )
        exact += reference.logpdf(getattr(theta, name).astype(float))
    np.testing.assert_allclose(log_prior(theta, config.marginals), exact, atol=2e-5)  # 13 terms in float32
    fewer = dict(list(config.marginals.items())[:-1])
    assert not np.allclose(log_prior(theta, fewer), exact, atol=2e-5)


def test_log_prior_is_minus_infinity_outside_the_support():
    marginals = {"Om0": Marginal("uniform", 0.0, 1.0, 0.0, 1.0), "M0": Marginal("normal", -19.5, 1.0, -20.0, -19.0)}
    assert float(log_prior(FIDUCIAL, marginals)) > -10
    for outside in ({"Om0": 1.01}, {"Om0": -0.01}, {"M0": -18.9}):
        assert float(log_prior(FIDUCIAL._replace(**outside), marginals)) == -np.inf


def test_the_density_is_differentiable_inside_the_support():
    marginals = {"dtd_slope": NORMAL}
    slope = jax.grad(lambda s: log_prior(FIDUCIAL._replace(dtd_slope=s), marginals))(jnp.float32(-1.24))
    assert float(slope) == pytest.approx(-0.1 / 0.2**2, rel=1e-5)


@pytest.mark.parametrize("cosmology", COSMOLOGIES)
def test_flat_cosmologies_are_flat_and_others_are_not(key, cosmology):
    theta = _sample(key, 200, Config().updated(**{"supernovae.cosmology": cosmology}))
    curvature = 1 - theta.Om0 - theta.Ode0
    assert (np.abs(curvature).max() < 1e-6) == (cosmology != "LCDM")
    assert (theta.w0.std() > 0.1) == (cosmology == "flat-w0waCDM")


def test_parameters_are_independent_and_fixing_one_leaves_the_rest(key):
    config = Config()
    theta = np.stack([v for v in _sample(key, 2000, config) if v.std() > 0])
    assert np.abs(np.corrcoef(theta) - np.eye(len(theta))).max() < 5 / np.sqrt(2000)  # five standard errors
    free = _sample(key, 3, config)
    pinned = _sample(key, 3, config.updated(**{"prior.M0.fixed": -19.3}))
    assert set(pinned.M0.tolist()) == {float(np.float32(-19.3))}
    for name in Globals._fields:
        assert np.array_equal(getattr(free, name), getattr(pinned, name)) == (name != "M0")


def test_incomplete_priors_are_refused(key):
    marginals = {"Om0": UNIFORM}
    with pytest.raises(ValueError, match=r"missing \['w0'"):
        sample_globals(key, marginals, {}, True)
    with pytest.raises(ValueError, match=r"unknown \['H0'\]"):
        sample_globals(key, {**Config().marginals, "H0": UNIFORM}, Config().fixed, False)
    with pytest.raises(ValueError, match="got 'cauchy'"):
        distribution(Marginal("cauchy", 0.0, 1.0, 0.0, 1.0))
