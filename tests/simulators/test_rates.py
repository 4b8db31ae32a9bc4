"""Delay-time rates against analytic cases, and the distribution of progenitor ages against scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from astropy.cosmology import WMAP9
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from simulators.rates import FIRST_BIN, age_bounds_gyr, draw_age, ln_bin_ages, ln_rate_per_bin, ln_slope_bound

BINS = 5
Z = jnp.array([0.02, 0.5, 1.5], jnp.float32)


def _edges(z: float) -> np.ndarray:
    """Edges of the bins above 100 Myr, Gyr, from astropy."""
    oldest = WMAP9.age(z).value
    return np.array([*np.geomspace(0.1, 0.85 * oldest, BINS), oldest])


def test_bins_start_at_100_myr_and_end_at_the_age_of_the_universe():
    young, old = age_bounds_gyr(Z)
    exact = np.stack([_edges(z) for z in np.asarray(Z, float)])
    np.testing.assert_allclose(young, exact[:, :-1], rtol=2e-5)  # 1e-5 of the age of the universe
    np.testing.assert_allclose(old, exact[:, 1:], rtol=2e-5)
    np.testing.assert_allclose(np.exp(ln_bin_ages(Z)), np.sqrt(exact[:, 1:] * exact[:, :-1]), rtol=2e-5)
    assert FIRST_BIN + young.shape[-1] == 7


def test_slope_zero_counts_mass_and_any_slope_is_a_power_law():
    ln_mass = jnp.log(jnp.array([[1e9, 2e9, 0.5e9, 4e9, 1e10]] * 3, jnp.float32))
    ln_age = ln_bin_ages(Z)
    np.testing.assert_array_equal(ln_rate_per_bin(ln_mass, ln_age, 0.0), ln_mass)
    rate = np.exp(np.asarray(ln_rate_per_bin(ln_mass, ln_age, -1.34), float) - np.asarray(ln_mass, float))
    np.testing.assert_allclose(rate, np.exp(np.asarray(ln_age, float)) ** -1.34, rtol=3e-6)  # float32 logarithms near 23
    at_one_gyr = ln_rate_per_bin(ln_mass, jnp.zeros_like(ln_mass), -3.0)  # the amplitude is defined there
    np.testing.assert_array_equal(at_one_gyr, ln_mass)


def test_rate_is_linear_in_mass_and_its_slope_derivative_is_the_mean_log_age():
    ln_mass = jnp.log(jnp.array([1.0, 2.0, 0.5, 4.0, 10.0]))
    ln_age = ln_bin_ages(jnp.float32(0.5))

    def total(slope, shift):
        return jax.nn.logsumexp(ln_rate_per_bin(ln_mass + shift, ln_age, slope))

    assert float(total(-1.34, 2.0) - total(-1.34, 0.0)) == pytest.approx(2.0, abs=1e-6)
    weight = np.exp(np.asarray(ln_mass - 1.34 * ln_age, float))
    mean = (weight * np.asarray(ln_age, float)).sum() / weight.sum()
    assert float(jax.grad(total)(-1.34, 0.0)) == pytest.approx(mean, abs=1e-5)


finite = st.floats(-12.0, 12.0, width=32)


@settings(max_examples=100, deadline=None)
@given(st.lists(finite, min_size=BINS, max_size=BINS), st.floats(0.02, 1.5), st.floats(-2.5, 0.0))
def test_the_bound_holds_for_every_host(ln_mass, z, slope):
    ln_mass, ages = np.array(ln_mass), np.log(np.sqrt(_edges(z)[1:] * _edges(z)[:-1]))
    ratio = np.logaddexp.reduce(ln_mass + slope * ages) - np.logaddexp.reduce(ln_mass - 1.34 * ages)
    bound = float(ln_slope_bound(jnp.float32(slope), -1.34, jnp.asarray(AGE_RANGE)))
    assert ratio <= bound + 1e-5  # float32


_RANGE = [np.log(np.sqrt(_edges(z)[1:] * _edges(z)[:-1])) for z in (0.02, 1.5)]
AGE_RANGE = np.array([min(r.min() for r in _RANGE), max(r.max() for r in _RANGE)], np.float32)


@pytest.mark.parametrize(("slope", "attained_at"), [(-1.8, 0), (-0.9, 1), (-1.34, 0)])
def test_the_bound_is_attained_by_a_host_of_one_age(slope, attained_at):
    bound = float(ln_slope_bound(slope, -1.34, jnp.asarray(AGE_RANGE)))
    assert bound == pytest.approx((slope + 1.34) * AGE_RANGE[attained_at], abs=1e-6)
    assert bound >= 0 or slope == -1.34 or AGE_RANGE[attained_at] * (slope + 1.34) > 0


def _age_cumulative(ln_mass: np.ndarray, slope: float, edges: np.ndarray):
    """CDF of the progenitor's age: piecewise linear through the cumulative rates at the edges."""
    rate = np.exp(ln_mass) * np.sqrt(edges[1:] * edges[:-1]) ** slope
    cumulative = np.concatenate([[0.0], np.cumsum(rate)])
    return lambda age: np.interp(age, edges, cumulative / cumulative[-1])


def test_ages_follow_the_rates(key):
    number, z, slope = 20_000, 0.4, -1.34
    ln_mass = np.log([1e8, 1e9, 5e9, 2e10, 1e10])
    ln_rate = ln_rate_per_bin(jnp.asarray(ln_mass, jnp.float32), ln_bin_ages(jnp.float32(z)), slope)
    ages = np.asarray(draw_age(key, jnp.broadcast_to(ln_rate, (number, BINS)), jnp.full(number, z, jnp.float32)), float)
    edges = _edges(z)
    assert edges[0] * (1 - 1e-5) <= ages.min()
    assert ages.max() <= edges[-1] * (1 + 1e-5)
    assert stats.kstest(ages, _age_cumulative(ln_mass, slope, edges)).pvalue > 0.01
    assert stats.kstest(ages, _age_cumulative(ln_mass, slope + 0.1, edges)).pvalue < 0.01
    assert stats.kstest(ages, _age_cumulative(ln_mass, slope - 0.1, edges)).pvalue < 0.01
    observed = np.histogram(ages, edges)[0]
    expected = number * np.diff(_age_cumulative(ln_mass, slope, edges)(edges))
    assert stats.chisquare(observed, expected).pvalue > 0.01


def test_a_host_of_one_bin_has_ages_of_that_bin_alone(key):
    z = jnp.full(1000, 0.3, jnp.float32)
    young, old = age_bounds_gyr(z)
    for i in range(BINS):
        ln_rate = jnp.full((1000, BINS), -jnp.inf).at[:, i].set(-25.0)
        ages = draw_age(key, ln_rate, z)
        assert bool(jnp.all((ages >= young[:, i]) & (ages <= old[:, i])))
        uniform = (ages - young[:, i]) / (old[:, i] - young[:, i])
        assert stats.kstest(np.asarray(uniform), "uniform").pvalue > 0.01
        assert stats.kstest(np.asarray(uniform) ** 1.2, "uniform").pvalue < 0.01
