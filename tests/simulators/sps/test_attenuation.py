"""Limits of the two dust components: Calzetti's published values, unity at 5500 A, the slope and the bump of Kriek & Conroy (2013)."""

import jax.numpy as jnp
import numpy as np
import pytest

from simulators.sps.attenuation import attenuation_basis, birth_cloud_curve, diffuse_curve, diffuse_optical_depth


def curve(wavelength, index):
    return np.asarray(diffuse_curve(np.atleast_1d(np.asarray(wavelength, float)), jnp.float32(index)))


@pytest.mark.parametrize("index", [-1.0, -0.3, 0.0, 0.4])
def test_unity_at_5500(index):
    assert curve(5500.0, index)[0] == pytest.approx(1.0, abs=1e-6)


def test_calzetti_where_the_bump_vanishes():
    """Calzetti et al. (2000), equation 4, by hand: k = 5.060, 3.325, 2.185 at 4400, 6563, 9000 A; E_b = 0 at delta = 0.85/1.9."""
    zero = 0.85 / 1.9
    wavelength = np.array([4400.0, 6563.0, 9000.0])
    expected = np.array([5.060, 3.325, 2.185]) / 4.05 * (wavelength / 5500) ** zero
    np.testing.assert_allclose(curve(wavelength, zero), expected, rtol=8e-4)  # k(5500) is 4.0479, not 4.05: 5e-4


def test_published_slope_is_told_from_its_opposite():
    ratio = curve([1500.0, 5500.0], -0.5) / curve([1500.0, 5500.0], 0.0)
    assert ratio[0] == pytest.approx((1500 / 5500) ** -0.5, rel=0.05)  # the bump's wing changes too
    assert ratio[0] != pytest.approx((1500 / 5500) ** 0.5, rel=0.5)


def test_bump_strength_follows_slope():
    """Kriek & Conroy (2013), equation 3: E_b = 0.85 - 1.9 delta in units of k; measured at 2175 A with the slope divided out."""
    for index in (-0.4, 0.0, 0.2):
        tilt = (2175 / 5500) ** index
        k = curve(2175.0, index)[0] / tilt * 4.05
        bare = 2.659 * (-2.156 + 1.509 / 0.2175 - 0.198 / 0.2175**2 + 0.011 / 0.2175**3) + 4.05
        assert k - bare == pytest.approx(0.85 - 1.9 * index, abs=0.02)  # normalisation at 5500 A: 2e-3 of k = 8.5


def test_optical_depth_is_linear_in_tau():
    basis = attenuation_basis(np.array([3000.0, 5500.0, 9000.0]))
    index = jnp.array([-0.3], jnp.float32)
    one, three = (np.asarray(diffuse_optical_depth(jnp.array([t], jnp.float32), index, basis)) for t in (1.0, 3.0))
    np.testing.assert_allclose(three, 3 * one, rtol=1e-6)


def test_birth_clouds_follow_inverse_wavelength():
    basis = attenuation_basis(np.array([2750.0, 5500.0, 11000.0]))
    np.testing.assert_allclose(np.asarray(birth_cloud_curve(basis)), [2.0, 1.0, 0.5], rtol=1e-6)


def test_fsps_curve_is_the_engines_rounding():
    """FSPS divides rounded coefficients by 0.44 and 4.05: 0.99836 at 5500 A but for the bump, whatever the slope."""
    depth = diffuse_optical_depth(
        jnp.ones(1, jnp.float32), jnp.full(1, 0.85 / 1.9, jnp.float32), attenuation_basis(np.array([5500.0]), "fsps")
    )
    assert float(depth[0, 0]) == pytest.approx((1.17 * -0.000793 + 1.78) / 0.44 / 4.05, abs=1e-5)
