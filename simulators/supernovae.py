"""Supernova population: brightness, stretch, colour and the dust in front (forward model §6).

    δM = γ_Z log(Z/Z☉) + γ_age age + ΔM [log M > M_step]
    M_int ~ N(M_0 + δM + α x_int + β c_int, σ_0),   M = M_int + (R_V + 1) E,   c = c_int + E,   E = A_V / R_V

The colour excess raises B by (R_V + 1) E (A_B = A_V + E). Local dust follows the Sérsic profiles of DustPedia galaxies.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln, ndtr, ndtri
from jaxtyping import Array, Float, Key

from cigars.schema import Globals

__all__ = [
    "Light",
    "brightness_shift",
    "draw_dust",
    "draw_light",
    "dust_column",
    "host_dust",
    "mean_absolute_magnitude",
    "sersic_scale",
    "truncated_normal",
]

R_V_MEAN, R_V_SD, R_V_LOW, A_V_MEAN = 3.0, 0.5, 1.2, 0.1
COLOUR_SD = 0.1

# DustPedia mixture of the Sérsic index, forward model §6: rows are nodes in log M.
SERSIC_MASS = (8.25, 11.25)
SERSIC_WEIGHT = (0.724, 0.881, 0.689, 0.739, 0.427, 0.317, 0.494)
SERSIC_MEAN = ((0.829, 1.259, 1.212, 1.311, 1.172, 1.520, 3.252), (1.433, 3.642, 2.392, 3.524, 3.607, 4.371, 5.386))
SERSIC_SD = ((0.182, 0.436, 0.337, 0.457, 0.351, 0.515, 1.127), (0.328, 0.858, 0.834, 1.383, 1.457, 1.444, 1.051))
SERSIC_LOW = 0.5


class Light(NamedTuple):
    """Intrinsic and extinguished light of supernovae, each [sn]: the absolute magnitude includes the dust."""

    x_int: Float[Array, "sn"]
    c_int: Float[Array, "sn"]
    R_V: Float[Array, "sn"]
    A_V: Float[Array, "sn"]
    absolute_magnitude: Float[Array, "sn"]


def brightness_shift(
    theta: Globals, mass_log10_msun: Array, metallicity_log10_zsun: Array, age_gyr: Array, width: float | None = None
) -> Array:
    """δM in mag from host mass, progenitor metallicity and age (Gyr), the step smoothed by `width` dex; Θ broadcasts against objects."""
    sharp = jnp.where(mass_log10_msun > theta.mass_step_loc, theta.mass_step, 0.0)
    step = sharp if width is None else theta.mass_step * ndtr((mass_log10_msun - theta.mass_step_loc) / width)
    return theta.gamma_Z * metallicity_log10_zsun + theta.gamma_age * age_gyr + step


def mean_absolute_magnitude(theta: Globals, delta_m: Array, x_int: Array, c_int: Array) -> Array:
    """Mean of M_int in mag, before scatter and dust."""
    return theta.M0 + delta_m + theta.alpha * x_int + theta.beta * c_int


def draw_light(key: Key[Array, ""], theta: Globals, delta_m: Float[Array, "sn"], dust: tuple[Array, Array]) -> Light:
    """Stretch, colour and magnitude given δM and the dust (R_V, A_V)."""
    x, c, scatter = jax.random.normal(key, (3, *delta_m.shape))
    c = theta.alpha_c * x + COLOUR_SD * c
    intrinsic = mean_absolute_magnitude(theta, delta_m, x, c) + theta.sigma_int * scatter
    r_v, a_v = dust
    return Light(x, c, r_v, a_v, intrinsic + a_v + a_v / r_v)


def draw_dust(
    key: Key[Array, ""], variant: str, mass_log10_msun: Float[Array, "sn"], tau2: Float[Array, "sn"], index: Float[Array, "sn"]
) -> tuple[Float[Array, "sn"], Float[Array, "sn"]]:
    """R_V and A_V (mag) before each supernova, by the variant `independent`, `host` or `local` of forward model §6."""
    if variant == "independent":
        for_r_v, for_a_v = jax.random.uniform(key, (2, *tau2.shape))
        return truncated_normal(for_r_v, R_V_MEAN, R_V_SD, R_V_LOW), -A_V_MEAN * jnp.log1p(-for_a_v)
    r_v, a_v = host_dust(tau2, index)
    return r_v, (a_v if variant == "host" else a_v * dust_column(key, mass_log10_msun))


def truncated_normal(u: Array, mean: Array | float, sd: Array | float, low: float) -> Array:
    """Normal(mean, sd) above `low` by inverse survival function at the uniform u: the far upper tail keeps its resolution."""
    above = ndtr((mean - low) / jnp.asarray(sd, u.dtype))
    return jnp.maximum(mean - sd * ndtri(above * (1 - u)), low)


def host_dust(tau2: Array, index: Array) -> tuple[Array, Array]:
    """R_V = A(5510 Å) / (A(4450 Å) − A(5510 Å)) of the host's diffuse law, and A_V = 1.086 τ_2 k(5510 Å)."""
    from simulators.sps.attenuation import diffuse_curve

    curve = diffuse_curve(np.array([4450.0, 5510.0]), index)
    blue, visual = curve[..., 0], curve[..., 1]
    return visual / (blue - visual), 2.5 / math.log(10) * tau2 * visual


def sersic_scale(index: Array) -> Array:
    """b_n such that half the light is inside r_e: the median of Gamma(2n) (Ciotti & Bertin 99, equation 18; n > 0.36)."""
    return 2 * index - 1 / 3 + 4 / (405 * index) + 46 / (25515 * index**2) + 131 / (1148175 * index**3)


def dust_column(key: Key[Array, ""], mass_log10_msun: Float[Array, "sn"]) -> Float[Array, "sn"]:
    """Dust column at the supernova in units of the host's mean, for a position drawn from the stars' Sérsic profile.

    The dust has index n/2 and ∫ profile r dr = 1; the cubic in n is its mean over the stars, so the column averages to 1.
    """
    index_key, radius_key = jax.random.split(key)
    n = _draw_sersic_index(index_key, mass_log10_msun)
    # with t = b r^(1/n) the light r exp(−t) dr is a Gamma(2n) density of t
    radius = (jax.random.gamma(radius_key, 2 * n) / sersic_scale(n)) ** n
    k = n / 2
    # b of index k as the median of Gamma(n): k may be as low as 0.25, and the two forms cross at 0.44, each off by 4e-3
    b = jnp.where(k > 0.44, sersic_scale(jnp.maximum(k, 0.44)), _small_scale(k))
    ln_norm = jnp.log(k) + gammaln(2 * k) - 2 * k * jnp.log(b)
    mean = 0.0096 * n**3 - 0.021 * n**2 + 0.080 * n + 0.64
    return jnp.exp(-b * radius ** (1 / k) - ln_norm) / mean


def _small_scale(k: Array) -> Array:
    """b_n for 0.25 <= n < 0.44 by MacArthur+03 (appendix A): a quartic, good to 5e-3 there."""
    return 0.01945 - 0.8902 * k + 10.95 * k**2 - 19.67 * k**3 + 13.43 * k**4


def _draw_sersic_index(key: Key[Array, ""], mass_log10_msun: Float[Array, "sn"]) -> Float[Array, "sn"]:
    choose, value = jax.random.uniform(key, (2, *mass_log10_msun.shape))
    nodes = jnp.linspace(*SERSIC_MASS, len(SERSIC_WEIGHT))
    first = choose < jnp.interp(mass_log10_msun, nodes, jnp.asarray(SERSIC_WEIGHT, jnp.float32))
    mean, sd = (_of_component(table, first, mass_log10_msun, nodes) for table in (SERSIC_MEAN, SERSIC_SD))
    return truncated_normal(value, mean, sd, SERSIC_LOW)


def _of_component(table: tuple, first: Array, mass_log10_msun: Array, nodes: Array) -> Array:
    one, two = (jnp.interp(mass_log10_msun, nodes, jnp.asarray(row, jnp.float32)) for row in table)
    return jnp.where(first, one, two)
