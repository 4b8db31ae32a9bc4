"""Recombination physics of the templates: what the gas makes of each ionising photon."""

import numpy as np
import pytest

from simulators.sps.library import read_table
from simulators.sps.nebular import nebular_templates

HALPHA, HBETA = 6562.8, 4861.32


@pytest.fixture(scope="module")
def table():
    return read_table()


def line(table, wavelength):
    return table.line_luminosity[..., int(np.argmin(abs(table.line_wavelength - wavelength)))]


def test_balmer_decrement_is_case_b(table):
    """Osterbrock & Ferland (2006): 2.86 at 10^4 K, 2.75 at 2 10^4 K, 3.04 at 5000 K; gas up to solar metallicity is in between."""
    ratio = (line(table, HALPHA) / line(table, HBETA))[table.nebular_metallicity_log10_zsun < 0.1]
    assert (ratio > 2.7).all()
    assert (ratio < 3.15).all()


def test_halpha_per_ionising_photon(table):
    """Case B: 1.37e-12 erg per photon at 10^4 K (Kennicutt 1998) if every photon ionises, at all gas metallicities (see `build_table`)."""
    erg = line(table, HALPHA) * table.lsun_erg_s
    np.testing.assert_allclose(erg, 1.37e-12, rtol=0.2)
    assert not np.allclose(2 * erg, 1.37e-12, rtol=0.2, atol=0)


def test_ionising_photons_of_a_young_population(table):
    """A Kroupa population at 1 Myr and solar metallicity emits about 10^46.7 ionising photons / s / Msun (Leitherer et al. 1999)."""
    solar = table.ionising_photons[int(np.argmin(abs(table.metallicity_log10_zsun)))]
    assert 46.4 < np.log10(np.interp(1e6, table.age_yr, solar)) < 47.1
    assert np.interp(2e7, table.age_yr, solar) < 0.01 * np.interp(1e6, table.age_yr, solar)


def test_templates_add_up_and_keep_the_nodes(table):
    """Linear in the weights; the refined grid of gas metallicities contains the table's own nodes."""
    ages = table.age_yr[:40]
    photons = table.ionising_photons[:, :40]
    a, b = np.zeros(40), np.zeros(40)
    a[:20], b[20:] = 0.3, 0.7
    first, second, both = (nebular_templates(table, ages, photons, w) for w in (a, b, a + b))
    np.testing.assert_allclose(first.continuum + second.continuum, both.continuum, rtol=1e-10)
    np.testing.assert_allclose(first.lines + second.lines, both.lines, rtol=1e-10)
    assert np.isin(np.round(table.nebular_metallicity_log10_zsun, 6), np.round(both.gas_metallicity_log10_zsun, 6)).all()


def test_light_is_proportional_to_photons(table):
    weights = np.ones(40)
    once, twice = (nebular_templates(table, table.age_yr[:40], k * table.ionising_photons[:, :40], weights) for k in (1, 2))
    np.testing.assert_allclose(twice.lines, 2 * once.lines, rtol=1e-12)
