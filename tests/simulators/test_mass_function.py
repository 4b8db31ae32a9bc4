"""Redshifts and masses of the host population against the Schechter sum of Leja+20, astropy volumes and prospector's table."""

import functools

import astropy.units as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from astropy.cosmology import FlatLambdaCDM
from scipy import stats

from simulators.mass_function import comoving_density, fraction_below, galaxies_per_deg2, mass_quantile, mass_share, redshift_share
from simulators.population import draw_galaxies
from tests.simulators.population_reference import NUMBER, SIGNIFICANT, p_value


@functools.partial(jax.jit, static_argnums=(1, 2))
def _draw_pairs(key, z_max: float, density: str):
    """Redshifts and masses of drawn galaxies: alone they compile in a tenth of the time."""
    return draw_galaxies(key, NUMBER, z_max, density)[:2]


def _draw_redshifts(key, z_max: float, density: str):
    return _draw_pairs(key, z_max, density)[0]


def _schechter(mass, z):
    """Leja+20 written out with Lagrange interpolation of its anchors, galaxies / Mpc^3 / dex."""
    z = np.maximum(z, 0.2)
    a, b, c = (z - 1.6) * (z - 3) / (1.4 * 2.8), -(z - 0.2) * (z - 3) / (1.4 * 1.4), (z - 0.2) * (z - 1.6) / (2.8 * 1.4)
    log1, log2, star = (p * a + q * b + r * c for p, q, r in ((-2.44, -3.08, -4.14), (-2.89, -3.29, -3.51), (10.79, 10.88, 10.84)))
    x = 10 ** (mass - star)
    return np.log(10) * np.exp(-x) * (10**log1 * x**0.72 + 10**log2 * x**-0.48)


def _mass_cumulative(mass, z):
    """P(< mass | z) by the trapezoid rule on 2,001 nodes."""
    nodes = np.linspace(8.5, 12.5, 2001)
    phi = _schechter(nodes[:, None], z)
    cumulative = np.concatenate([np.zeros((1, len(z))), np.cumsum(phi[1:] + phi[:-1], axis=0)])
    return np.array([np.interp(m, nodes, column / column[-1]) for m, column in zip(mass, cumulative.T, strict=True)])


def test_redshifts_follow_the_tabulated_density(key):
    sample = np.asarray(_draw_redshifts(key, 1.5, "tabulated"))
    z = np.linspace(0.02, 1.5, 2001)
    cumulative = np.array([0, *map(fraction_below, z[1:])])
    assert cumulative[-1] == 1
    assert p_value(np.interp(sample, z, cumulative)) > SIGNIFICANT
    assert p_value(np.interp(sample + 0.02, z, cumulative)) < SIGNIFICANT
    priors_beta = pytest.importorskip("prospect.models.priors_beta", reason="astro-prospector is a test dependency")
    nodes, table = np.loadtxt(priors_beta.file_pdf_of_z_l20, unpack=True)
    middle = np.linspace(0.03, 1.49, 300)
    density = [fraction_below(z + 2e-4) - fraction_below(z - 2e-4) for z in middle]
    shape = np.interp(middle, nodes, table) / density
    np.testing.assert_allclose(shape / shape.mean(), 1, atol=1e-3)  # differences over cells of 2e-4


def test_masses_follow_the_schechter_sum(key):
    z, mass = (np.asarray(v[:4000], float) for v in _draw_pairs(key, 1.5, "tabulated"))
    assert p_value(_mass_cumulative(mass, z)) > SIGNIFICANT
    assert p_value(_mass_cumulative(mass + 0.04, z)) < SIGNIFICANT


def test_mass_tail_keeps_its_resolution():
    survival = np.array([0.5, 1e-2, 1e-4, 1e-6, 1e-8])
    for z in (0.05, 0.7, 1.43):
        nodes = np.linspace(8.5, 12.5, 40_001)
        phi = _schechter(nodes, z)
        above = np.cumsum(phi[::-1])[::-1]
        exact = np.interp(np.log(1 / survival), -np.log(above / above[0]), nodes)
        ours = mass_quantile(jnp.asarray(survival, jnp.float32), jnp.full(5, z, jnp.float32))
        np.testing.assert_allclose(ours, exact, atol=5e-4)  # dex


@pytest.mark.parametrize("density", ["tabulated", "volume"])
def test_restricting_redshift_conditions_the_population(key, density):
    everything = np.asarray(_draw_redshifts(key, 1.5, density))
    restricted = np.asarray(_draw_redshifts(jax.random.fold_in(key, 1), 0.8, density))
    below = everything < 0.8
    fraction = fraction_below(0.8, density)
    assert abs(below.mean() - fraction) < 5 * np.sqrt(fraction * (1 - fraction) / NUMBER)
    assert restricted.max() <= 0.8
    assert stats.ks_2samp(restricted, everything[below]).pvalue > SIGNIFICANT
    assert stats.ks_2samp(restricted, everything).pvalue < SIGNIFICANT


def _counts_per_steradian(z):
    """Galaxies per unit redshift and steradian from astropy's volume and the Schechter sum."""
    nodes = np.linspace(8.5, 12.5, 2001)
    density = np.trapezoid(_schechter(nodes[:, None], z), nodes, axis=0)
    return FlatLambdaCDM(H0=70, Om0=0.3, Tcmb0=0).differential_comoving_volume(z).to_value(u.Mpc**3 / u.sr) * density


def test_volume_density_and_number_follow_astropy(key):
    z = np.linspace(0.02, 1.5, 1501)
    counts = _counts_per_steradian(z)
    cumulative = np.concatenate([[0], np.cumsum((counts[1:] + counts[:-1]) / 2 * np.diff(z))])
    sample = np.asarray(_draw_redshifts(key, 1.5, "volume"))
    assert p_value(np.interp(sample, z, cumulative / cumulative[-1])) > SIGNIFICANT
    tabulated = np.asarray(_draw_redshifts(key, 1.5, "tabulated"))
    assert p_value(np.interp(tabulated, z, cumulative / cumulative[-1])) < SIGNIFICANT
    square_degree = (np.pi / 180) ** 2
    for z_max in (0.4, 1.5):
        exact = np.interp(z_max, z, cumulative) * square_degree
        assert galaxies_per_deg2(z_max) == pytest.approx(exact, rel=1e-3)  # 1e-5 from d_M, the rest from the quadrature in z
    np.testing.assert_allclose(comoving_density(np.array([0.1, 0.9])), [0.0338, 0.0214], rtol=0.02)


@pytest.mark.parametrize("z_max", [0.3, 1.5])
def test_shares_of_redshift_and_mass_are_those_of_the_counts(z_max):
    """By astropy and the Schechter sum on a grid of both."""
    z, mass = np.linspace(0.02, z_max, 401), np.linspace(8.5, 12.5, 801)
    counts = _schechter(mass[:, None], z) * FlatLambdaCDM(H0=70, Om0=0.3, Tcmb0=0).differential_comoving_volume(z).value

    def shares(density):
        cumulative = np.concatenate([[0], np.cumsum(density[1:] + density[:-1])])
        return cumulative / cumulative[-1]

    np.testing.assert_allclose(redshift_share(z, z_max), shares(counts.sum(0)), atol=1e-3)
    np.testing.assert_allclose(mass_share(mass, z_max), shares(counts.sum(1)), atol=1e-3)
    assert np.abs(redshift_share(z, z_max) - shares(counts.sum(0) / (1 + z))).max() > 1e-2
    assert np.abs(mass_share(mass, z_max) - shares(counts.sum(1) * 10 ** (0.05 * mass))).max() > 1e-2
    np.testing.assert_array_equal(mass_share(np.array([8.0, 13.0]), z_max), [0, 1])
