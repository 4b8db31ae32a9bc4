"""Draws given host and Θ: the truth of simulated supernovae ranks uniformly among them, and not at a wrong Θ."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from cigars.schema import FIDUCIAL, LOCALS, Globals, Observations
from simulators.candidates import known_hosts
from simulators.latents import _positive, draw_latents
from simulators.survey import draw_surveys, prepare

OBJECTS, DRAWS = 1500, 31
CHECKED = ("x_int", "c_int", "age_gyr")


def p_values(key, surveys, simulator, config, **wrong):
    """p of uniform ranks of the truth at the fiducial Θ, or at a wrong one, by unknown."""
    some = lambda leaf: np.asarray(leaf)[np.asarray(surveys.observed)][:OBJECTS]  # noqa: E731
    matches = known_hosts(Observations(*map(some, surveys.observations)), some(surveys.host), simulator, config)
    theta = Globals(*(jnp.full(DRAWS, value, jnp.float32) for value in FIDUCIAL._replace(**wrong)))
    rows = jnp.broadcast_to(jnp.asarray(some(surveys.host)), (DRAWS, OBJECTS))
    drawn = dict(zip(LOCALS, np.moveaxis(np.asarray(draw_latents(key, theta, rows, matches, simulator, config)), -1, 0), strict=True))
    for name in ("z", "mass_log10_msun", "metallicity_log10_zsun", "dust_tau2", "dust_index"):
        np.testing.assert_array_equal(drawn[name][5], some(getattr(surveys.latents, name)))  # the host's own
    jitter = np.random.default_rng(0).uniform(size=OBJECTS)
    ranks = {name: (drawn[name] < some(getattr(surveys.latents, name))).sum(0) + jitter for name in CHECKED}
    return {name: float(stats.kstest(rank / (DRAWS + 1), "uniform").pvalue) for name, rank in ranks.items()}


def test_the_truth_ranks_uniformly_among_draws_and_not_at_a_wrong_theta(key, fiducial_surveys, simulator, config):
    p = p_values(key, fiducial_surveys, simulator, config)
    assert min(p.values()) > 0.01, p
    wrong = p_values(key, fiducial_surveys, simulator, config, M0=FIDUCIAL.M0 + 0.2, sigma_int=0.02)
    assert wrong["c_int"] < 1e-4, wrong
    assert p_values(key, fiducial_surveys, simulator, config, alpha=0.6)["x_int"] < 1e-4
    assert p_values(key, fiducial_surveys, simulator, config, gamma_age=0.3)["age_gyr"] < 1e-4


def test_colour_follows_stretch(key, draw_at, simulator, config):
    tilted = {"alpha_c": 0.3}  # ten times what the prior allows
    surveys = draw_at(FIDUCIAL._replace(**tilted))
    p = p_values(key, surveys, simulator, config, **tilted)
    assert min(p.values()) > 0.01, p
    assert p_values(key, surveys, simulator, config)["c_int"] < 1e-4


@pytest.mark.slow  # compiles another simulator
def test_the_same_behind_the_dust_of_the_host_with_correlated_errors_and_informative_variances(key, bank, config):
    config = config.updated(
        **{
            "supernovae.dust": "host",
            "observation.sn_correlation": (0.5, 0.4, 0.3),
            "observation.sn_x": {"offset": -1.0, "slope": 0.8, "scatter": 0.75, "floor": 0.1},
        }
    )
    simulator = prepare(config, bank)
    surveys = jax.device_get(draw_surveys(key, jnp.arange(24), simulator, config, FIDUCIAL))
    p = p_values(key, surveys, simulator, config)
    assert min(p.values()) > 0.01, p
    assert p_values(key, surveys, simulator, config, M0=FIDUCIAL.M0 + 0.2, sigma_int=0.02)["c_int"] < 1e-4


@pytest.mark.parametrize("mean", [-20.0, -8.5, -7.5, -2.0, 0.0, 3.0])
def test_normals_above_zero(mean):
    u = (np.arange(20_000, dtype=np.float32) + 0.5) / 20_000
    drawn = np.asarray(_positive(jnp.asarray(u), jnp.full(len(u), mean, jnp.float32)), float)
    expected = stats.truncnorm(-mean, np.inf, mean)
    assert drawn.min() >= 0
    # 3e-3: single precision in the tail, and terms of order mean⁻⁴ beyond 8 σ, where an exponential stands in
    assert drawn.mean() == pytest.approx(expected.mean(), rel=3e-3)
