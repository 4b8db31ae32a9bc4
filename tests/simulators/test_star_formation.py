"""Age bins and star-formation histories against astropy, astro-prospector and the golden galaxies."""

import csv

import astropy.units as u
import jax.numpy as jnp
import numpy as np
from astropy.cosmology import WMAP9

from cigars.schema import Galaxies
from simulators.star_formation import (
    age_bin_edges_log10_yr,
    bin_masses_log10,
    bin_widths_log10_yr,
    expected_sfr_ratios,
)
from tests.shared import needs_shared, shared_data
from tests.simulators.population_reference import NUMBER, draw, prospector_draws


def test_age_of_the_universe_is_that_of_wmap9():
    z = np.linspace(0, 2, 500, dtype=np.float32)
    oldest = np.asarray(age_bin_edges_log10_yr(jnp.asarray(z))[:, -1], float)
    np.testing.assert_allclose(10 ** (oldest - 9), WMAP9.age(z.astype(float)).value, rtol=1e-5)  # asked


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


def test_masses_in_bins_sum_to_the_mass_even_for_extreme_histories(key):
    galaxies = draw(key, NUMBER, 1.5, "tabulated")
    extreme = galaxies._replace(sfr_ratios_log10=5 * jnp.sign(galaxies.sfr_ratios_log10))
    for sample in (galaxies, extreme):
        masses = np.asarray(bin_masses_log10(sample), float)
        np.testing.assert_allclose(np.log10((10**masses).sum(-1)), sample.mass_log10_msun, atol=5e-6)  # float32 at 12


def test_expected_ratios_equal_prospector():
    prospector = prospector_draws()
    z, mass = (jnp.asarray(prospector[name], jnp.float32) for name in ("grid_z", "grid_mass"))
    exact = prospector["grid_expected"]
    assert np.abs(expected_sfr_ratios(z, mass) - exact).max() < 1e-3  # 0.01 asked; the table is good to 3e-5, at its kink to 2e-4
    assert np.abs(expected_sfr_ratios(z, jnp.full_like(mass, 10.5)) - exact).max() > 0.01  # without its dependence on mass
