"""Draws of the host population against astro-prospector and scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from cigars.schema import Galaxies
from simulators import population
from simulators.population import (
    draw_galaxies,
    student2_quantile,
    truncated_normal_quantile,
    uniform_pair,
)
from simulators.star_formation import bin_masses_log10, expected_sfr_ratios
from tests.simulators.population_reference import NUMBER, SIGNIFICANT, draw, p_value, prospector_draws


@pytest.fixture(scope="module")
def galaxies(key) -> Galaxies:
    return jax.device_get(draw(key, NUMBER, 1.5, "tabulated"))


@pytest.fixture(scope="module")
def prospector() -> dict[str, np.ndarray]:
    return prospector_draws()


def _truncated(x, mean, sd, low, high):
    return stats.truncnorm.cdf(x, (low - mean) / sd, (high - mean) / sd, loc=mean, scale=sd)


def test_numbers_are_those_of_the_specification(galaxies):
    """§3 typed again, which draws cannot tell to some per cent; 1e-6: float32."""
    assert (population.RATIO_SCALE, population.RATIO_LIMIT) == (0.3, 5)
    assert (population.METALLICITY_RANGE, population.GAS_RANGE) == ((-1.98, 0.19), (-2, 0.5))
    assert (population.TAU2_SD, population.TAU2_RANGE) == (0.2, (0, 4))
    assert (population.INDEX_SD, population.INDEX_RANGE) == (0.4, (-1, 0.4))
    assert (population.DUST_RATIO, population.DUST_RATIO_RANGE) == ((1, 0.3), (0, 2))
    np.testing.assert_allclose(population.AGN_FRACTION_LN_RANGE, np.log([1e-5, 3]), rtol=1e-12)
    np.testing.assert_allclose(population.AGN_TAU_LN_RANGE, np.log([5, 150]), rtol=1e-12)
    x = np.linspace(8.5, 12.5, 41)
    mean, sd = -0.65 + 0.8 / (1 + np.exp(-(x - 10.1) / 0.3)), 0.52 - 0.36 / (1 + np.exp(-(x - 10.4) / 0.2))
    np.testing.assert_allclose(population.metallicity_moments(jnp.asarray(x)), (mean, sd), atol=5e-6)  # float32 masses over 0.2
    np.testing.assert_allclose(population.dust_tau2_mean(jnp.asarray(x - 10)), 0.2 + 0.5 * np.maximum(x - 10, 0), atol=1e-6)
    tau = np.linspace(0, 4, 41)
    index, scatter = population.dust_index_moments(jnp.asarray(tau))
    np.testing.assert_allclose(index, -0.095 + 0.111 * tau - 0.0066 * tau**2, atol=1e-6)
    assert scatter == 0.4
    assert np.abs(galaxies.sfr_ratios_log10).max() == 5  # 0.36 % of the draws of Student's t are beyond


def test_redshifts_are_distributed_as_by_prospector(galaxies, prospector):
    """Prospector's cumulative sum counts each node of its table, 0.04 apart, whole: its draws are low by half a cell, 0.02."""
    theirs = prospector["z"] + 0.02
    assert stats.ks_2samp(galaxies.z, theirs).pvalue > SIGNIFICANT
    assert stats.ks_2samp(galaxies.z + 0.05, theirs).pvalue < SIGNIFICANT


def test_metallicities_and_ratios_of_prospector_follow_our_conditionals(prospector):
    """Probability integral transform: exact whatever the marginal distribution of prospector's masses.

    Prospector draws metallicities with twice the scatter of Gallazzi+05 (its `scale_massmet` is the full width P84 - P16); the forward
    model takes the scatter itself, as the published catalogues do. Both facts are pinned here.
    """
    z, mass = (jnp.asarray(prospector[name], jnp.float32) for name in ("z", "mass_log10_msun"))
    mean, sd = (np.asarray(v, float) for v in population.metallicity_moments(mass))
    metallicity = prospector["metallicity_log10_zsun"]
    assert p_value(_truncated(metallicity, mean, 2 * sd, -1.98, 0.19)) > SIGNIFICANT
    assert p_value(_truncated(metallicity, mean, sd, -1.98, 0.19)) < SIGNIFICANT
    assert p_value(_truncated(metallicity, mean - 0.1, 2 * sd, -1.98, 0.19)) < SIGNIFICANT
    residual = prospector["sfr_ratios_log10"] - np.asarray(expected_sfr_ratios(z, mass), float)
    for column in residual.T:
        assert p_value(column / 0.3, stats.t(2).cdf) > SIGNIFICANT
        assert p_value(column / 0.2, stats.t(2).cdf) < SIGNIFICANT
        assert p_value(column / 0.3 + 0.2, stats.t(2).cdf) < SIGNIFICANT


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
    assert p_value(_truncated(galaxies.metallicity_log10_zsun, mean, sd, -1.98, 0.19)) > SIGNIFICANT
    assert p_value(_truncated(galaxies.metallicity_log10_zsun, mean, 1.1 * sd, -1.98, 0.19)) < SIGNIFICANT
    expected = np.asarray(expected_sfr_ratios(jnp.asarray(galaxies.z), jnp.asarray(galaxies.mass_log10_msun)))
    deviates = (galaxies.sfr_ratios_log10 - expected) / 0.3
    assert np.abs(galaxies.sfr_ratios_log10).max() <= 5
    assert all(p_value(column, stats.t(2).cdf) > SIGNIFICANT for column in deviates.T)
    assert all(p_value(1.1 * column, stats.t(2).cdf) < SIGNIFICANT for column in deviates.T)
    correlation = np.corrcoef(np.clip(deviates, -3, 3).T) - np.eye(6)
    assert np.abs(correlation).max() < 5 / np.sqrt(NUMBER)  # five standard errors of a correlation


def test_dust_follows_scipy(galaxies):
    masses = np.asarray(bin_masses_log10(jax.tree.map(jnp.asarray, galaxies)), float)
    mean = 0.2 + 0.5 * np.maximum(masses[:, 0] - np.log10(3e7), 0)
    tau = galaxies.dust_tau2.astype(float)
    assert p_value(_truncated(tau, mean, 0.2, 0, 4)) > SIGNIFICANT
    assert p_value(_truncated(tau, 0.2, 0.2, 0, 4)) < SIGNIFICANT
    index = -0.095 + 0.111 * tau - 0.0066 * tau**2
    assert p_value(_truncated(galaxies.dust_index, index, 0.4, -1, 0.4)) > SIGNIFICANT
    assert p_value(_truncated(galaxies.dust_index, index - 0.05, 0.4, -1, 0.4)) < SIGNIFICANT
    assert p_value(_truncated(galaxies.dust_ratio, 1, 0.3, 0, 2)) > SIGNIFICANT
    assert p_value(_truncated(galaxies.dust_ratio, 1, 0.33, 0, 2)) < SIGNIFICANT


def test_gas_and_agn_are_uniform(galaxies):
    for sample, low, high in (
        (galaxies.gas_metallicity_log10_zsun, -2, 0.5),
        (galaxies.agn_fraction_ln, np.log(1e-5), np.log(3)),
        (galaxies.agn_tau_ln, np.log(5), np.log(150)),
    ):
        assert p_value((sample - low) / (high - low)) > SIGNIFICANT
        assert p_value((sample - low) / (high - low) * 0.95) < SIGNIFICANT


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


def test_draws_are_reproducible_and_keys_differ(key, galaxies):
    jax.tree.map(np.testing.assert_array_equal, galaxies, jax.device_get(draw(key, NUMBER, 1.5, "tabulated")))
    other = draw(jax.random.fold_in(key, 1), NUMBER, 1.5, "tabulated")
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
