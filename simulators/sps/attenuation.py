r"""Dust attenuation of starlight: Kriek & Conroy (2013) diffuse dust and Charlot & Fall (2000) birth clouds.

tau(lambda) / tau_2 = [k(lambda) + E_b D(lambda)] / 4.05 (lambda / 5500 A)^delta,  E_b = 0.85 - 1.9 delta,
k Calzetti et al. (2000) and D a Drude profile at 2175 A of width 350 A; normalised to 1 at 5500 A ("native"), or as the FSPS engine
has it ("fsps": k from rounded coefficients, 0.1% from one at 5500 A). Birth clouds: tau_1 (lambda / 5500 A)^-1.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

__all__ = ["AttenuationBasis", "attenuation_basis", "birth_cloud_curve", "diffuse_curve", "diffuse_optical_depth"]

PIVOT = 5500.0  # A
BUMP = 2175.0  # A
BUMP_WIDTH = 350.0  # A
R_V = 4.05
BUMP_OFFSET, BUMP_SLOPE = 0.85, -1.9  # Kriek & Conroy (2013), equation 3


class AttenuationBasis(NamedTuple):
    """What the curves need at fixed wavelengths, so that a galaxy costs one power a wavelength."""

    ln_ratio: Float[Array, " wavelength"]  # ln(wavelength / 5500 A)
    calzetti: Float[Array, " wavelength"]  # k / 4.05
    bump: Float[Array, " wavelength"]  # D / 4.05
    calzetti_pivot: Float[Array, ""]  # what the sum is divided by: k / 4.05 at 5500 A, or 1 for "fsps"
    bump_pivot: Float[Array, ""]  # D / 4.05 at 5500 A, or 0 for "fsps"


def attenuation_basis(wavelength: Float[np.ndarray, " wavelength"], convention: str = "native") -> AttenuationBasis:
    """Basis at wavelengths in A, for `diffuse_optical_depth` and `birth_cloud_curve`; float32."""
    normalised = convention == "native"
    values = (
        np.log(np.asarray(wavelength, float) / PIVOT),
        _calzetti(wavelength, convention),
        _drude(wavelength),
        _calzetti(np.array(PIVOT), convention) if normalised else 1.0,
        _drude(np.array(PIVOT)) if normalised else 0.0,
    )
    return AttenuationBasis(*(jnp.asarray(v, jnp.float32) for v in values))


def diffuse_optical_depth(
    tau2: Float[Array, "*galaxy"], dust_index: Float[Array, "*galaxy"], basis: AttenuationBasis
) -> Float[Array, "*galaxy wavelength"]:
    """Optical depth of the diffuse dust, `tau2` at 5500 A, with slope offset `dust_index`."""
    strength = BUMP_OFFSET + BUMP_SLOPE * dust_index
    amplitude = tau2 / (basis.calzetti_pivot + strength * basis.bump_pivot)
    shape = _rows(basis.calzetti, strength) + strength[..., None] * _rows(basis.bump, strength)
    return amplitude[..., None] * shape * jnp.exp(dust_index[..., None] * _rows(basis.ln_ratio, strength))


def birth_cloud_curve(basis: AttenuationBasis) -> Float[Array, " wavelength"]:
    """Optical depth of birth clouds over tau_1: (wavelength / 5500 A)^-1."""
    return jnp.exp(-basis.ln_ratio)


def diffuse_curve(wavelength: Float[np.ndarray, " wavelength"], dust_index: Float[Array, "*galaxy"]) -> Float[Array, "*galaxy wavelength"]:
    """Diffuse optical depth over tau_2 at wavelengths in A (native normalisation: 1 at 5500 A)."""
    return diffuse_optical_depth(jnp.ones_like(dust_index), dust_index, attenuation_basis(wavelength))


def _rows(values: Float[Array, " wavelength"], like: Float[Array, "*galaxy"]) -> Float[Array, "*one wavelength"]:
    """Values with unit axes before them, one for each axis of `like` (strict rank promotion)."""
    return values.reshape((1,) * like.ndim + values.shape)


def _calzetti(wavelength: np.ndarray, convention: str) -> np.ndarray:
    micron_inverse = 1e4 / np.asarray(wavelength, float)
    blue = -2.156 + 1.509 * micron_inverse - 0.198 * micron_inverse**2 + 0.011 * micron_inverse**3
    red = -1.857 + 1.040 * micron_inverse
    slope, offset = (2.659, R_V) if convention == "native" else (1.17 / 0.44, 1.78 / 0.44)
    return (slope * np.where(micron_inverse < 1e4 / 6300.0, red, blue) + offset) / R_V


def _drude(wavelength: np.ndarray) -> np.ndarray:
    width = (np.asarray(wavelength, float) * BUMP_WIDTH) ** 2
    return width / ((np.asarray(wavelength, float) ** 2 - BUMP**2) ** 2 + width) / R_V
