"""The host population against astro-prospector, scipy, astropy and analytic densities."""

import csv
import functools
from pathlib import Path

import astropy.units as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from astropy.cosmology import WMAP9, FlatLambdaCDM
from scipy import stats

from cigars.schema import Galaxies
from simulators import population
from simulators.mass_function import mass_quantile
from simulators.population import (
    age_bin_edges_log10_yr,
    age_universe_gyr,
    bin_masses_log10,
    bin_widths_log10_yr,
    comoving_density,
    draw_galaxies,
    expected_sfr_ratios,
    fraction_below,
    galaxies_per_deg2,
    redshift_density,
    student2_quantile,
    truncated_normal_quantile,
    uniform_pair,
)
from tests.shared import needs_shared, shared_data

REFERENCE = Path(__file__).parents[1] / "references" / "prospector_draws.npz"
NUMBER = 20_000
SIGNIFICANT = 0.01  # asked by the forward model, §3: KS p > 0.01
_draw = jax.jit(draw_galaxies, static_argnums=(1, 2, 3))


@functools.partial(jax.jit, static_argnums=(1, 2))
def _draw_redshifts(key, z_max: float, density: str):
    """Alone it compiles in a tenth of the time."""
    return draw_galaxies(key, NUMBER, z_max, density).z


@pytest.fixture(scope="module")
def galaxies(key) -> Galaxies:
    return jax.device_get(_draw(key, NUMBER, 1.5, "tabulated"))


@pytest.fixture(scope="module")
def prospector() -> dict[str, np.ndarray]:
    """2,000 draws by astro-prospector (see `make_prospector_draws.py`); one falls outside its own redshift range, at 0."""
    with np.load(REFERENCE) as raw:
        inside = raw["z"] > 0
        return {name: raw[name][inside] if raw[name].shape[:1] == inside.shape else raw[name] for name in raw.files}


def _p(sample, distribution="uniform") -> float:
    return float(stats.kstest(sample, distribution).pvalue)


def _truncated(x, mean, sd, low, high):
    return stats.truncnorm.cdf(x, (low - mean) / sd, (high - mean) / sd, loc=mean, scale=sd)


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


def test_age_of_the_universe_is_that_of_wmap9():
    z = np.linspace(0, 2, 500, dtype=np.float32)
    np.testing.assert_allclose(age_universe_gyr(jnp.asarray(z)), WMAP9.age(z.astype(float)).value, rtol=1e-5)  # asked


def test_bin_edges_follow_the_definition_and_widths_their_differences():
    z = np.array([0.02, 0.3, 0.9, 1.5], np.float32)
    log_t = np.log10(WMAP9.age(z.astype(float)).to_value(u.yr))
    expected = np.stack([[0.0, np.log10(3e7), *np.linspace(8, t + np.log10(0.85), 5), t] for t in log_t])
    np.testing.assert_allclose(age_bin_edges_log10_yr(jnp.asarray(z)), expected, atol=5e-6)  # 1e-5 in age
    np.testing.assert_allclose(bin_widths_log10_yr(jnp.asarray(z)), np.log10(np.diff(10**expected)), atol=5e-6)


@needs_shared
def test_edges_and_masses_equal_the_golden_galaxies():
    lines = [line for line in shared_data("golden_sps.csv").read_text().splitlines() if not line.startswith("#")]
    rows = list(csv.DictReader(lines))

    def column(*names: str) -> np.ndarray:
        return np.array([[float(row[name]) for name in names] for row in rows], np.float32)

    z, mass = column("zred")[:, 0], column("logmass")[:, 0]
    ratios = column(*(f"logsfr_ratios{i}" for i in range(1, 7)))
    blank = Galaxies(*(jnp.zeros_like(z),) * 10)
    galaxies = blank._replace(z=jnp.asarray(z), mass_log10_msun=jnp.asarray(mass), sfr_ratios_log10=jnp.asarray(ratios))
    edges, masses = column(*(f"log10age_edge{i}" for i in range(8))), column(*(f"logmass_bin{i}" for i in range(1, 8)))
    np.testing.assert_allclose(age_bin_edges_log10_yr(jnp.asarray(z)), edges, atol=1e-5)  # 7 digits in the file, 5e-6 in float32
    np.testing.assert_allclose(bin_masses_log10(galaxies), masses, atol=1e-5)
    reverse = galaxies._replace(sfr_ratios_log10=-galaxies.sfr_ratios_log10)
    assert np.abs(bin_masses_log10(reverse) - masses).max() > 0.1


def test_masses_in_bins_sum_to_the_mass_even_for_extreme_histories(galaxies):
    extreme = galaxies._replace(sfr_ratios_log10=np.sign(galaxies.sfr_ratios_log10) * np.float32(5))
    for sample in (galaxies, extreme):
        masses = np.asarray(bin_masses_log10(jax.tree.map(jnp.asarray, sample)), float)
        np.testing.assert_allclose(np.log10((10**masses).sum(-1)), sample.mass_log10_msun, atol=5e-6)  # float32 at 12


def test_expected_ratios_equal_prospector(prospector):
    z, mass = (jnp.asarray(prospector[name], jnp.float32) for name in ("grid_z", "grid_mass"))
    exact = prospector["grid_expected"]
    assert np.abs(expected_sfr_ratios(z, mass) - exact).max() < 1e-3  # 0.01 asked; the table is good to 3e-5
    assert np.abs(expected_sfr_ratios(z, jnp.full_like(mass, 10.5)) - exact).max() > 0.01  # without its dependence on mass


def test_redshifts_are_distributed_as_by_prospector(galaxies, prospector):
    """Prospector's cumulative sum counts each node of its table, 0.04 apart, whole: its draws are low by half a cell, 0.02."""
    theirs = prospector["z"] + 0.02
    assert stats.ks_2samp(galaxies.z, theirs).pvalue > SIGNIFICANT
    assert stats.ks_2samp(galaxies.z + 0.05, theirs).pvalue < SIGNIFICANT


def test_redshifts_follow_the_tabulated_density(galaxies):
    z = np.linspace(0.02, 1.5, 20_001)
    cumulative = np.concatenate([[0], np.cumsum((redshift_density(z)[1:] + redshift_density(z)[:-1]) / 2 * np.diff(z))])
    assert cumulative[-1] == pytest.approx(1, abs=1e-4)  # rounding of half a cell at either end
    assert _p(np.interp(galaxies.z, z, cumulative)) > SIGNIFICANT
    assert _p(np.interp(galaxies.z + 0.02, z, cumulative)) < SIGNIFICANT
    priors_beta = pytest.importorskip("prospect.models.priors_beta", reason="astro-prospector is a test dependency")
    nodes, table = np.loadtxt(priors_beta.file_pdf_of_z_l20, unpack=True)
    middle = np.linspace(0.03, 1.49, 300)
    shape = np.interp(middle, nodes, table) / redshift_density(middle)
    np.testing.assert_allclose(shape / shape.mean(), 1, atol=1e-3)  # differences over cells of 2e-4


def test_masses_follow_the_schechter_sum(galaxies):
    z, mass = galaxies.z[:4000].astype(float), galaxies.mass_log10_msun[:4000].astype(float)
    assert _p(_mass_cumulative(mass, z)) > SIGNIFICANT
    assert _p(_mass_cumulative(mass + 0.04, z)) < SIGNIFICANT


def test_mass_tail_keeps_its_resolution():
    survival = np.array([0.5, 1e-2, 1e-4, 1e-6, 1e-8])
    for z in (0.05, 0.7, 1.43):
        nodes = np.linspace(8.5, 12.5, 40_001)
        phi = _schechter(nodes, z)
        above = np.cumsum(phi[::-1])[::-1]
        exact = np.interp(np.log(1 / survival), -np.log(above / above[0]), nodes)
        ours = mass_quantile(jnp.asarray(survival, jnp.float32), jnp.full(5, z, jnp.float32))
        np.testing.assert_allclose(ours, exact, atol=5e-4)  # dex


def test_metallicities_and_ratios_of_prospector_follow_our_conditionals(prospector):
    """Probability integral transform: exact whatever the marginal distribution of prospector's masses.

    Prospector draws metallicities with twice the scatter of Gallazzi+05 (its `scale_massmet` is the full width P84 - P16); the forward
    model takes the scatter itself, as the published catalogues do. Both facts are pinned here.
    """
    z, mass = (jnp.asarray(prospector[name], jnp.float32) for name in ("z", "mass_log10_msun"))
    mean, sd = (np.asarray(v, float) for v in population.metallicity_moments(mass))
    metallicity = prospector["metallicity_log10_zsun"]
    assert _p(_truncated(metallicity, mean, 2 * sd, -1.98, 0.19)) > SIGNIFICANT
    assert _p(_truncated(metallicity, mean, sd, -1.98, 0.19)) < SIGNIFICANT
    assert _p(_truncated(metallicity, mean - 0.1, 2 * sd, -1.98, 0.19)) < SIGNIFICANT
    residual = prospector["sfr_ratios_log10"] - np.asarray(expected_sfr_ratios(z, mass), float)
    for column in residual.T:
        assert _p(column / 0.3, stats.t(2).cdf) > SIGNIFICANT
        assert _p(column / 0.2, stats.t(2).cdf) < SIGNIFICANT
        assert _p(column / 0.3 + 0.2, stats.t(2).cdf) < SIGNIFICANT


def test_metallicity_moments_fit_gallazzi():
    priors_beta = pytest.importorskip("prospect.models.priors_beta", reason="astro-prospector is a test dependency")
    mass, median, low, high = priors_beta.massmet.T
    mean, sd = population.metallicity_moments(jnp.asarray(mass, jnp.float32))
    np.testing.assert_allclose(mean, median, atol=0.06)  # dex: the smooth fit; the relation itself is uncertain by 0.1
    np.testing.assert_allclose(sd, (high - low) / 2, atol=0.06)


def test_ratios_agree_with_draws_of_prospector(galaxies, prospector):
    for ours, theirs in zip(galaxies.sfr_ratios_log10.T, prospector["sfr_ratios_log10"].T, strict=True):
        assert stats.ks_2samp(ours, theirs).pvalue > SIGNIFICANT
        assert stats.ks_2samp(ours + 0.1, theirs).pvalue < SIGNIFICANT


def test_our_metallicities_and_ratios_follow_scipy(galaxies):
    mass = galaxies.mass_log10_msun.astype(float)
    mean, sd = -0.65 + 0.8 / (1 + np.exp(-(mass - 10.1) / 0.3)), 0.52 - 0.36 / (1 + np.exp(-(mass - 10.4) / 0.2))
    assert _p(_truncated(galaxies.metallicity_log10_zsun, mean, sd, -1.98, 0.19)) > SIGNIFICANT
    assert _p(_truncated(galaxies.metallicity_log10_zsun, mean, 1.1 * sd, -1.98, 0.19)) < SIGNIFICANT
    expected = np.asarray(expected_sfr_ratios(jnp.asarray(galaxies.z), jnp.asarray(galaxies.mass_log10_msun)))
    deviates = (galaxies.sfr_ratios_log10 - expected) / 0.3
    assert np.abs(galaxies.sfr_ratios_log10).max() <= 5
    assert all(_p(column, stats.t(2).cdf) > SIGNIFICANT for column in deviates.T)
    assert all(_p(1.1 * column, stats.t(2).cdf) < SIGNIFICANT for column in deviates.T)
    correlation = np.corrcoef(np.clip(deviates, -3, 3).T) - np.eye(6)
    assert np.abs(correlation).max() < 5 / np.sqrt(NUMBER)  # five standard errors of a correlation


def test_dust_follows_scipy(galaxies):
    masses = np.asarray(bin_masses_log10(jax.tree.map(jnp.asarray, galaxies)), float)
    mean = 0.2 + 0.5 * np.maximum(masses[:, 0] - np.log10(3e7), 0)
    tau = galaxies.dust_tau2.astype(float)
    assert _p(_truncated(tau, mean, 0.2, 0, 4)) > SIGNIFICANT
    assert _p(_truncated(tau, 0.2, 0.2, 0, 4)) < SIGNIFICANT
    index = -0.095 + 0.111 * tau - 0.0066 * tau**2
    assert _p(_truncated(galaxies.dust_index, index, 0.4, -1, 0.4)) > SIGNIFICANT
    assert _p(_truncated(galaxies.dust_index, index - 0.05, 0.4, -1, 0.4)) < SIGNIFICANT
    assert _p(_truncated(galaxies.dust_ratio, 1, 0.3, 0, 2)) > SIGNIFICANT
    assert _p(_truncated(galaxies.dust_ratio, 1, 0.33, 0, 2)) < SIGNIFICANT


def test_gas_and_agn_are_uniform(galaxies):
    for sample, low, high in (
        (galaxies.gas_metallicity_log10_zsun, -2, 0.5),
        (galaxies.agn_fraction_ln, np.log(1e-5), np.log(3)),
        (galaxies.agn_tau_ln, np.log(5), np.log(150)),
    ):
        assert _p((sample - low) / (high - low)) > SIGNIFICANT
        assert _p((sample - low) / (high - low) * 0.95) < SIGNIFICANT


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (-np.inf, 2.0), (3.0, 6.0), (-9.0, -4.0), (-12.0, 7.75), (0.25, 9.0)])
def test_truncated_normal_quantile_is_accurate_in_both_tails(low, high):
    p = np.array([1e-9, 1e-6, 1e-3, 0.2, 0.5, 0.8, 1 - 1e-3, 1 - 1e-6, 1 - 1e-9])
    pair = (jnp.asarray(p, jnp.float32), jnp.asarray(1 - p, jnp.float32))
    exact = stats.truncnorm.ppf(p, low, high)
    np.testing.assert_allclose(truncated_normal_quantile(pair, 0.0, 1.0, low, high), exact, rtol=2e-5, atol=2e-6)  # float32


def test_student_quantile_and_uniform_pairs():
    p = np.array([1e-8, 1e-3, 0.3, 0.5, 0.9, 1 - 1e-8])
    ours = student2_quantile((jnp.asarray(p, jnp.float32), jnp.asarray(1 - p, jnp.float32)))
    np.testing.assert_allclose(ours, stats.t(2).ppf(p), rtol=1e-5, atol=1e-6)
    u, complement = uniform_pair(jnp.array([0, 1, 2**31, 2**32 - 1], jnp.uint32))
    np.testing.assert_allclose(np.asarray(u, float) + np.asarray(complement, float), 1, atol=1e-7)
    assert float(u.min()) == float(complement.min()) == 2.0**-33  # neither tail is empty


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
    assert _p(np.interp(sample, z, cumulative / cumulative[-1])) > SIGNIFICANT
    tabulated = np.asarray(_draw_redshifts(key, 1.5, "tabulated"))
    assert _p(np.interp(tabulated, z, cumulative / cumulative[-1])) < SIGNIFICANT
    square_degree = (np.pi / 180) ** 2
    for z_max in (0.4, 1.5):
        exact = np.interp(z_max, z, cumulative) * square_degree
        assert galaxies_per_deg2(z_max) == pytest.approx(exact, rel=1e-3)  # 1e-5 from d_M, the rest from the quadrature in z
    np.testing.assert_allclose(comoving_density(np.array([0.1, 0.9])), [0.0338, 0.0214], rtol=0.02)


def test_draws_are_reproducible_and_keys_differ(key, galaxies):
    jax.tree.map(np.testing.assert_array_equal, galaxies, jax.device_get(_draw(key, NUMBER, 1.5, "tabulated")))
    other = _draw(jax.random.fold_in(key, 1), NUMBER, 1.5, "tabulated")
    assert all(not np.array_equal(a, b) for a, b in zip(galaxies, other, strict=True))


def test_packaged_tables_are_those_that_the_script_builds():
    pytest.importorskip("prospect.models.priors_beta", reason="astro-prospector is a test dependency")
    from simulators.build_population_tables import AGE_NODES, ATTRIBUTION, _age_polynomial
    from simulators.star_formation import prior_table

    np.testing.assert_allclose(prior_table("age_polynomial"), _age_polynomial(), rtol=1e-6)
    assert prior_table("ratio_log10").shape == (AGE_NODES, 6)
    assert str(prior_table("attribution")).startswith(ATTRIBUTION[:40])


def test_unusable_requests_say_what_to_set(key):
    with pytest.raises(ValueError, match=r"z_max: expected .* got 1.6; set hosts.z_max"):
        draw_galaxies(key, 10, 1.6)
    with pytest.raises(ValueError, match="expected 'tabulated' or 'volume', got 'flat'"):
        draw_galaxies(key, 10, 1.5, "flat")
