"""The Bayes factor by the exact likelihood is that of the likelihood integrated over a grid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from cigars.config import Config
from cigars.evidence import exact_evidence
from cigars.schema import FIDUCIAL, Observations
from cigars.targets import TargetWarning
from simulators.candidates import candidates
from simulators.exact import ExactPosterior, stacked
from simulators.likelihood import ln_likelihood
from simulators.survey import draw_surveys, prepare
from tests.simulators import banks

SAMPLE, OBJECTS = 1 << 9, 20
FREE = {"prior.M0": {"uniform": [-20.0, -19.0]}, "prior.sigma_int": {"uniform": [0.01, 0.2]}}
FIXED = {f"prior.{name}": {"fixed": getattr(FIDUCIAL, name)} for name in FIDUCIAL._fields if f"prior.{name}" not in FREE}


@pytest.mark.slow  # two samplers compile for a minute each
def test_the_bayes_factor_is_that_of_a_grid(key):
    wide = Config().updated(**FIXED, **FREE, **{"observation.host_sigma": 0.6, "size.expected_supernovae": OBJECTS, "size.capacity": 64})
    nested = wide.updated(**{"prior.sigma_int": {"fixed": 0.19}})
    simulator = prepare(wide, banks.synthetic_bank(80))
    survey = jax.device_get(draw_surveys(key, jnp.arange(1), simulator, wide, FIDUCIAL))
    observations = Observations(*(leaf[survey.observed] for leaf in survey.observations))
    matches = candidates(observations, simulator, wide)
    m0 = np.linspace(-20, -19, 101)
    sigma = np.linspace(0.01, 0.2, 21)
    nodes = stacked(np.stack(np.meshgrid(m0, sigma, indexing="ij"), -1), wide)
    at = jax.jit(lambda every: jax.lax.map(lambda one: ln_likelihood(one, matches, simulator, wide, 1.0, SAMPLE), every))
    ln_l = np.asarray(at(nodes), float).reshape(len(m0), len(sigma))
    edges = np.where(np.arange(len(sigma)) % (len(sigma) - 1) == 0, 0.5, 1.0) / (len(sigma) - 1)  # the trapezoidal rule
    at_nested = np.array([np.interp(0.19, sigma, row) for row in ln_l])
    exact = logsumexp(at_nested) - logsumexp(ln_l, b=edges[None])
    one, two = (exact_evidence(c, observations, simulator, draws=400, warmup=200, seed=1, sample=SAMPLE) for c in (wide, nested))
    error = np.hypot(one.error, two.error)
    assert abs(two.ln_z - one.ln_z - exact) < 5 * error + 0.02  # and 0.02 for the grid
    assert error < 0.1
    assert abs(exact) > 0.3
    assert abs(one.ln_z - two.ln_z - exact) > 5 * error + 0.02


def test_chains_in_different_modes_give_no_evidence(monkeypatch):
    """The mean over draws of one mode or the other would have a small error and a wrong value."""
    config = Config().updated(**FIXED, **FREE)
    rng, made = np.random.default_rng(1), {}

    def sampled(*_, chains, draws, **given):
        made.update(given)
        theta = np.stack([rng.normal(-19.5, 0.02, (chains, draws)), rng.normal(0.1, 0.01, (chains, draws))], -1)
        return ExactPosterior(theta, tuple(config.marginals), np.array([r_hat, 1.0]), np.full(2, 300.0), diverged, np.empty((0, 0)))

    monkeypatch.setattr("simulators.exact.sample_exact", sampled)
    monkeypatch.setattr("simulators.candidates.candidates", lambda *_: None)
    monkeypatch.setattr("simulators.likelihood.ln_likelihood", lambda theta, *_: -0.5 * ((theta.M0 + 19.5) / 0.02) ** 2)
    r_hat, diverged = 1.4, 0
    with pytest.raises(ValueError, match=r"expected chains that agree, got R̂ above 1\.05: M0 1\.40; raise warmup and draws"):
        exact_evidence(config, None, object())
    assert len(np.unique(made["pilot"].theta[..., 0])) >= 2  # they begin apart
    r_hat = float("nan")
    with pytest.raises(ValueError, match="M0 nan"):
        exact_evidence(config, None, object())
    with pytest.raises(ValueError, match="at least two chains"):
        exact_evidence(config, None, object(), chains=1)
    r_hat, diverged = 1.01, 3
    with pytest.warns(TargetWarning, match="evidence: 3 divergences of the sampler"):
        assert np.isfinite(exact_evidence(config, None, object()).ln_z)
