"""Distances agree with astropy."""

import astropy.cosmology as ac
import numpy as np
import pytest

from cigars.cosmology import distance_modulus

Z = np.array([0.01, 0.1, 0.4, 0.8, 1.2, 2.0])


@pytest.mark.parametrize(
    "cosmology",
    [
        ac.LambdaCDM(70, 0.3, 0.7, Tcmb0=0),
        ac.LambdaCDM(70, 0.3, 0.7 + 1e-9, Tcmb0=0),  # curvature that vanishes
        ac.LambdaCDM(70, 0.02, 0.02, Tcmb0=0),
        ac.LambdaCDM(70, 0.9, 0.9, Tcmb0=0),
        ac.Flatw0waCDM(70, 0.3, w0=-0.8, wa=0.5, Tcmb0=0),
        ac.Flatw0waCDM(70, 0.1, w0=-1.8, wa=-2.5, Tcmb0=0),
    ],
)
def test_distance_modulus_agrees_with_astropy(cosmology):
    w0, wa = getattr(cosmology, "w0", -1.0), getattr(cosmology, "wa", 0.0)
    ours = distance_modulus(Z, np.array([cosmology.Om0]), np.array([cosmology.Ode0]), np.array([w0]), np.array([wa]))
    assert ours.shape == (1, Z.size)
    np.testing.assert_allclose(ours[0], cosmology.distmod(Z).value, atol=2e-5)  # mag: 1e-5 in distance
    wrong = distance_modulus(Z, np.array([cosmology.Om0 + 0.01]), np.array([cosmology.Ode0]), np.array([w0]), np.array([wa]))
    assert np.abs(wrong[0] - cosmology.distmod(Z).value).max() > 2e-4
