"""Band integrals against speclite's own AB magnitudes, exact lines, and the errors of bad bands."""

import jax.numpy as jnp
import numpy as np
import pytest
from speclite.filters import load_filter

from simulators.sps.bandpass import Band, band_weights, line_transmissions, load_bands, redshift_range, shifted_weights
from simulators.sps.grid import WavelengthGrid, fine_points, hat_integrals
from simulators.sps.library import read_table

GRID = WavelengthGrid(float(np.log(1150.0)), 0.004, 578)
NAMES = ("lsst2023-u", "lsst2023-g", "lsst2023-y", "decam2014-z", "sdss2010-r")
LINES = np.array([3728.8, 5006.84, 6562.8])
Z = jnp.array([0.02, 0.3123, 0.77, 1.4], jnp.float32)


@pytest.fixture(scope="module")
def weights():
    return band_weights(load_bands(NAMES), GRID, LINES)


def band_means(spectrum, weights):
    """<L_nu> of a rest-frame spectrum (of ln wavelength)."""
    averages = hat_integrals(spectrum(fine_points(GRID)), GRID) / GRID.step
    return np.asarray(shifted_weights(Z, weights, GRID.pixels)) @ averages


def bumpy(x):
    """A blue power law with a break at 4000 A and absorption 20 A wide."""
    wave = np.exp(x)
    return (wave / 5000) ** -0.5 * (1 + 0.8 / (1 + np.exp(-(wave - 4000) / 15))) * (1 - 0.4 * np.exp(-(((wave - 5175) / 20) ** 2)))


def test_flat_spectrum_has_unit_mean_in_every_band_and_redshift(weights):
    np.testing.assert_allclose(band_means(np.ones_like, weights), 1.0, atol=2e-5)  # float32 sums of 578 terms, NEGLIGIBLE off the grid


def test_matches_speclite_ab_magnitudes(weights):
    """speclite integrates f_lambda per photon over its own samples of a fine spectrum; 0.3 mmag is the bar for smooth spectra."""
    wave = np.linspace(2500, 11600 * 2.4, 200_000)
    mean = band_means(bumpy, weights)
    for i, z in enumerate(np.asarray(Z, float)):
        f_nu = bumpy(np.log(wave / (1 + z))) * 3.63078054770e-20  # erg/s/cm2/Hz
        for j, name in enumerate(NAMES):
            expected = load_filter(name).get_ab_magnitude(f_nu * 2.99792458e18 / wave**2, wave)
            assert -2.5 * np.log10(mean[i, j]) == pytest.approx(expected, abs=3e-4)


def test_energy_weighting_would_be_rejected():
    """Weighting by energy (T dlambda in place of T dln lambda) moves this spectrum in g by more than three times the tolerance above."""
    band = load_bands(("lsst2023-g",))[0]
    mean = []
    for weight in (band.transmission / band.wavelength, band.transmission):
        light = np.trapezoid(bumpy(np.log(band.wavelength)) * weight, band.wavelength)
        mean.append(light / np.trapezoid(weight, band.wavelength))
    assert abs(2.5 * np.log10(mean[0] / mean[1])) > 1e-3


def test_redshift_moves_the_band_and_nothing_else(weights):
    """A spectrum stretched by 1 + z is seen at z as the original at rest: invariance of the AB mean."""
    pivot = float(np.log1p(float(Z[1])))
    at_rest = band_means(lambda x: bumpy(x - pivot + np.log1p(float(Z[0]))), weights)[0]
    np.testing.assert_allclose(band_means(bumpy, weights)[1], at_rest, rtol=3e-4)


def test_lines_see_the_throughput_itself(weights):
    got = np.asarray(line_transmissions(Z, weights))
    for j, band in enumerate(load_bands(NAMES)):
        x = np.log(band.wavelength)
        fine = np.linspace(x[0], x[-1], 400_001)
        norm = np.trapezoid(np.interp(np.exp(fine), band.wavelength, band.transmission), fine)
        exact = np.interp(LINES * (1 + np.asarray(Z, float)[:, None]), band.wavelength, band.transmission, left=0, right=0) / norm
        np.testing.assert_allclose(got[:, j], exact, atol=2e-3 * exact.max() + 1e-6)


def test_range_of_redshift_and_bands_off_the_grid():
    low, high = redshift_range(load_bands(("lsst2023-u", "lsst2023-y")), GRID)
    assert low == 0.0
    assert 1.5 < high <= 1.6
    with pytest.raises(ValueError, match="band twomass-J: expected light within 1150"):
        redshift_range(load_bands(("twomass-J",)), read_table().grid._replace(pixels=300))


def test_errors_name_the_band(tmp_path):
    with pytest.raises(ValueError, match="lsst2023-q"):
        load_bands(("lsst2023-q",))
    file = tmp_path / "bands.npz"
    np.savez(file, g_wavelength=np.array([4000.0, 5000.0, 6000.0]), g_transmission=np.array([0.0, 1.0, 0.0]))
    assert load_bands(("survey-g",), str(file))[0].name == "survey-g"
    with pytest.raises(ValueError, match=r"\['r'\], got bands \['g'\]"):
        load_bands(("g", "r"), str(file))
    np.savez(file, g_wavelength=np.array([4000.0, 3000.0]), g_transmission=np.array([0.0, 1.0]))
    with pytest.raises(ValueError, match="increasing wavelength"):
        load_bands(("g",), str(file))
    assert isinstance(load_bands(("sdss2010-g",))[0], Band)
