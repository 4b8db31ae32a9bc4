"""Supernova light and dust against scipy distributions, textbook extinction laws and direct integration of Sérsic profiles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

from cigars.schema import FIDUCIAL
from simulators import supernovae
from simulators.supernovae import brightness_shift, draw_dust, draw_light, dust_column, host_dust, sersic_scale

NUMBER = 40_000
THETA = FIDUCIAL._replace(alpha_c=0.03, sigma_int=0.15, alpha=-0.3)
dust = jax.jit(draw_dust, static_argnums=1)
column = jax.jit(dust_column)

# The table of forward model §6, typed again: weight, means and standard deviations of the Sérsic index by log M.
NODES = np.arange(8.25, 11.5, 0.5)
WEIGHT = [0.724, 0.881, 0.689, 0.739, 0.427, 0.317, 0.494]
MEANS = [0.829, 1.259, 1.212, 1.311, 1.172, 1.520, 3.252], [1.433, 3.642, 2.392, 3.524, 3.607, 4.371, 5.386]
SDS = [0.182, 0.436, 0.337, 0.457, 0.351, 0.515, 1.127], [0.328, 0.858, 0.834, 1.383, 1.457, 1.444, 1.051]


def _p(sample, cdf) -> float:
    return float(stats.kstest(np.asarray(sample, float), cdf).pvalue)


def _full(value) -> jax.Array:
    return jnp.full(NUMBER, value, jnp.float32)


def test_brightness_shift_is_linear_with_a_step_above_the_threshold():
    theta = FIDUCIAL._replace(gamma_Z=-0.7, gamma_age=0.06, mass_step=-0.11, mass_step_loc=10.2)
    mass, metallicity, age = (jnp.array(v, jnp.float32) for v in ([10.1, 10.2, 10.3, 12], [0.1, -0.5, 0, -1.9], [1, 5, 0.1, 13]))
    linear = -0.7 * np.asarray(metallicity) + 0.06 * np.asarray(age)
    step = np.array([0, 0, -0.11, -0.11])  # log M = M_step itself is below
    np.testing.assert_allclose(brightness_shift(theta, mass, metallicity, age), linear + step, atol=1e-6)
    smooth = -0.11 * stats.norm(10.2, 0.15).cdf(mass)
    np.testing.assert_allclose(brightness_shift(theta, mass, metallicity, age, 0.15), linear + smooth, atol=1e-6)


@pytest.fixture(scope="module")
def light(key):
    r_v, a_v = dust(key, "independent", _full(10), _full(0.5), _full(0))
    return jax.device_get(jax.jit(draw_light)(key, jax.tree.map(jnp.float32, THETA), _full(-0.2), (r_v, a_v)))


def test_light_follows_the_equations_of_the_model(light):
    excess = light.A_V / light.R_V
    scatter = light.absolute_magnitude - (light.R_V + 1) * excess - (THETA.M0 - 0.2 + THETA.alpha * light.x_int + THETA.beta * light.c_int)
    for sample, law, wrong in (
        (light.x_int, stats.norm(), stats.norm(0, 1.05)),
        (light.c_int - THETA.alpha_c * light.x_int, stats.norm(0, 0.1), stats.norm(0.003, 0.1)),
        (scatter, stats.norm(0, THETA.sigma_int), stats.norm(0, 1.05 * THETA.sigma_int)),
    ):
        assert _p(sample, law.cdf) > 1e-3
        assert _p(sample, wrong.cdf) < 1e-3


def test_stretch_colour_scatter_and_dust_are_independent_but_for_alpha_c(light):
    scatter = light.absolute_magnitude - light.A_V * (1 + 1 / light.R_V) - THETA.alpha * light.x_int - THETA.beta * light.c_int
    draws = np.stack([light.x_int, light.c_int - THETA.alpha_c * light.x_int, scatter])
    assert np.abs(np.corrcoef(draws) - np.eye(3)).max() < 5 / np.sqrt(NUMBER)  # five standard errors
    assert abs(np.corrcoef(light.x_int, light.c_int)[0, 1]) > 5 / np.sqrt(NUMBER)  # the correlation that alpha_c makes is seen


def test_independent_dust_has_the_stated_distributions(key):
    r_v, a_v = (np.asarray(v, float) for v in dust(key, "independent", _full(10), _full(0.5), _full(0)))
    assert r_v.min() >= 1.2
    assert _p(r_v, stats.truncnorm(-3.6, np.inf, 3, 0.5).cdf) > 1e-3
    assert _p(r_v, stats.truncnorm(-3.6, np.inf, 3.03, 0.5).cdf) < 1e-3
    assert _p(a_v, stats.expon(scale=0.1).cdf) > 1e-3
    assert _p(a_v, stats.expon(scale=0.103).cdf) < 1e-3
    assert abs(stats.spearmanr(r_v, a_v).statistic) < 5 / np.sqrt(NUMBER)


def test_host_dust_at_zero_slope_is_that_of_calzetti():
    """Calzetti+00 has R_V = 4.05 by its normalisation, 4.18 by its own formula at 4450 and 5510 Å; the UV bump is 1 % there."""
    blue, visual = (2.659 * (-2.156 + 1.509 / w - 0.198 / w**2 + 0.011 / w**3) + 4.05 for w in (0.445, 0.551))
    r_v, a_v = jax.jit(host_dust)(jnp.float32(0.7), jnp.float32(0.0))
    assert float(r_v) == pytest.approx(visual / (blue - visual), rel=0.01)
    assert float(r_v) == pytest.approx(4.05, rel=0.04)
    assert float(a_v) == pytest.approx(1.0857 * 0.7, rel=0.005)  # 5510 Å against 5500 Å
    slopes = jnp.linspace(-1.0, 0.4, 15)
    laws = np.asarray(host_dust(jnp.ones_like(slopes), slopes)[0])
    assert np.all(np.diff(laws) > 0)  # steeper curves redden more
    assert float(host_dust(jnp.float32(0.7), jnp.float32(0.1))[0]) != pytest.approx(visual / (blue - visual), rel=0.01)


def test_variants_share_the_law_and_differ_in_the_column(key):
    mass, tau, slope = _full(10.5), _full(0.6), _full(-0.4)
    host, local = (dust(key, variant, mass, tau, slope) for variant in ("host", "local"))
    np.testing.assert_array_equal(host[0], local[0])
    np.testing.assert_allclose(host[1], host_dust(tau, slope)[1], rtol=1e-6)
    assert np.asarray(local[1]).std() > 0.3 * float(host[1][0])


@pytest.mark.parametrize("mass", [8.25, 9.5, 10.4, 11.25, 12.3])
def test_local_dust_averages_to_that_of_the_host(key, mass):
    """The cubic in n of §6 is a fit of the mean column; 5 % allows for its own error."""
    assert float(column(key, _full(mass)).mean()) == pytest.approx(1.0, abs=0.05)


def _sersic_law(mass: float):
    weight, (m1, m2), (s1, s2) = np.interp(mass, NODES, WEIGHT), *([np.interp(mass, NODES, r) for r in t] for t in (MEANS, SDS))
    one, two = (stats.truncnorm((0.5 - m) / s, np.inf, m, s) for m, s in ((m1, s1), (m2, s2)))
    return lambda n: weight * one.cdf(n) + (1 - weight) * two.cdf(n)


@pytest.mark.parametrize("mass", [8.0, 9.6, 11.25])
def test_sersic_indices_follow_the_mixture(key, mass):
    n = np.asarray(jax.jit(supernovae._draw_sersic_index)(key, _full(mass)), float)
    assert n.min() >= 0.5
    assert _p(n, _sersic_law(max(mass, 8.25))) > 1e-3
    assert _p(n, _sersic_law(max(mass, 8.25) + 0.1 if mass < 11 else 11.1)) < 1e-3


@pytest.mark.parametrize("index", [0.5, 1.0, 2.0, 4.0, 8.0])
def test_half_of_the_light_is_inside_the_effective_radius(index):
    exact, tolerance = special.gammaincinv(2 * index, 0.5), 3e-3 if index < 1 else 1e-4  # the series is in 1/n
    assert float(sersic_scale(jnp.float32(index))) == pytest.approx(exact, rel=tolerance)
    assert float(sersic_scale(jnp.float32(1.01 * index))) != pytest.approx(exact, rel=tolerance)


_of_index = jax.jit(lambda key, index: dust_column(key, index))


@pytest.mark.parametrize("index", [0.6, 1.2, 4.0])
def test_columns_follow_the_profiles(key, index, monkeypatch):
    """Position from the stars' profile, column from a dust profile of half the index, by quadrature and special functions alone."""
    monkeypatch.setattr(supernovae, "_draw_sersic_index", lambda key, mass: mass)  # the index in place of the mass: compiled once
    drawn = np.asarray(_of_index(key, _full(index)), float)
    b, k = special.gammaincinv(2 * index, 0.5), index / 2
    bk = special.gammaincinv(2 * k, 0.5)
    norm = integrate.quad(lambda r: np.exp(-bk * r ** (1 / k)) * r, 0, np.inf)[0]
    cubic = 0.0096 * index**3 - 0.021 * index**2 + 0.080 * index + 0.64

    def below(value, index=index):  # columns fall outwards: P(column < v) = P(r > radius of v)
        radius = np.maximum(-np.log(value * cubic * norm) / bk, 0) ** k
        return special.gammaincc(2 * index, b * radius ** (1 / index))

    # five standard errors of a cumulative fraction, and 0.01 for the expansions of b_n where columns pile up at the centre
    tolerance = 5 * 0.5 / np.sqrt(NUMBER) + 0.01
    assert stats.kstest(drawn, below).statistic < tolerance
    assert stats.kstest(1.2 * drawn, below).statistic > tolerance
