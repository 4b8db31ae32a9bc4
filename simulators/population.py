"""Draws of host galaxies from the Prospector-beta population, every one in closed form from its own uniform number.

z ~ p(z);  log M | z ~ Schechter sum of Leja+20;  log Z | M ~ truncated normal (a smooth fit of Gallazzi+05);
log(SFR_i/SFR_{i+1}) ~ e_i(z, M) + 0.3 t_2, clipped to ±5 (Wang+23);  dust | SFR as in the forward model §3.

Uniforms come as pairs (u, 1 - u), each exact near its own zero, so both tails of every quantile survive float32.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, UInt32

from cigars.schema import Galaxies
from simulators.mass_function import REDSHIFT_RANGE, fraction_below, mass_quantile, redshift_quantile
from simulators.star_formation import expected_sfr_ratios, youngest_sfr_log10

__all__ = [
    "draw_galaxies",
    "dust_index_moments",
    "dust_tau2_mean",
    "metallicity_moments",
    "student2_quantile",
    "truncated_normal_quantile",
]

Pair = tuple[Float[Array, "*g"], Float[Array, "*g"]]

METALLICITY_RANGE = (-1.98, 0.19)
RATIO_SCALE, RATIO_LIMIT = 0.3, 5.0
TAU2_SD, TAU2_RANGE = 0.2, (0.0, 4.0)
INDEX_SD, INDEX_RANGE = 0.4, (-1.0, 0.4)
DUST_RATIO, DUST_RATIO_RANGE = (1.0, 0.3), (0.0, 2.0)
GAS_RANGE = (-2.0, 0.5)
AGN_FRACTION_LN_RANGE = (math.log(1e-5), math.log(3.0))
AGN_TAU_LN_RANGE = (math.log(5.0), math.log(150.0))
_UNIFORMS = 15


def uniform_pair(bits: UInt32[Array, "*g"]) -> Pair:
    """u and 1 - u of (bits + 1/2) / 2^32; the smaller keeps its full relative precision."""
    return tuple((b.astype(jnp.float32) + 0.5) * 2.0**-32 for b in (bits, ~bits))  # type: ignore[return-value]


def truncated_normal_quantile(
    pair: Pair, mean: Float[Array, "*g"] | float, sd: Float[Array, "*g"] | float, low: float, high: float
) -> Float[Array, "*g"]:
    """Quantile of a normal truncated to [low, high], from the pair (u, 1 - u).

    The probabilities below and above the result are formed separately and the smaller is inverted: exact in both tails.
    """
    a, b = (low - mean) / sd, (high - mean) / sd
    below_low, above_high = jax.scipy.special.ndtr(a), jax.scipy.special.ndtr(-b)
    inside = jnp.where(a > 0, jax.scipy.special.ndtr(-a) - above_high, 1.0 - below_low - above_high)
    inside = jnp.where(b < 0, jax.scipy.special.ndtr(b) - below_low, inside)
    below, above = below_low + pair[0] * inside, above_high + pair[1] * inside
    deviate = jax.scipy.special.ndtri(jnp.minimum(below, above))
    return jnp.clip(mean + sd * jnp.where(below < above, deviate, -deviate), low, high)


def student2_quantile(pair: Pair) -> Float[Array, "*g"]:
    """Quantile of Student's t with two degrees of freedom, (2u - 1) / sqrt(2 u (1 - u))."""
    u, complement = pair
    return (u - complement) * jax.lax.rsqrt(2.0 * u * complement)


def metallicity_moments(mass_log10_msun: Float[Array, "*g"]) -> Pair:
    """Mean and standard deviation of log10 Z/Zsun before truncation to [-1.98, 0.19] (fit of Gallazzi+05, §3)."""
    mean = -0.65 + 0.8 * jax.nn.sigmoid((mass_log10_msun - 10.1) / 0.3)
    return mean, 0.52 - 0.36 * jax.nn.sigmoid((mass_log10_msun - 10.4) / 0.2)


def dust_tau2_mean(sfr_log10: Float[Array, "*g"]) -> Float[Array, "*g"]:
    """Mean of tau_2 before truncation, 0.2 + 0.5 max(0, log SFR of the youngest bin)."""
    return 0.2 + 0.5 * jnp.maximum(sfr_log10, 0.0)


def dust_index_moments(tau2: Float[Array, "*g"]) -> tuple[Float[Array, "*g"], float]:
    """Mean and standard deviation of the slope offset before truncation: redder laws at low optical depth (§3)."""
    return -0.095 + 0.111 * tau2 - 0.0066 * tau2**2, INDEX_SD


def _between(u: Float[Array, "*g"], limits: tuple[float, float]) -> Float[Array, "*g"]:
    return limits[0] + (limits[1] - limits[0]) * u


def draw_galaxies(key: Key[Array, ""], number: int, z_max: float = REDSHIFT_RANGE[1], density: str = "tabulated") -> Galaxies:
    """Draw `number` galaxies of the population with 0.02 <= z < z_max.

    Args:
        key: random key.
        number: galaxies to draw (static).
        z_max: upper limit of redshift (static); `fraction_below(z_max, density)` of the population lies below it.
        density: redshift density, "tabulated" or "volume" (see `simulators.mass_function`).

    Raises:
        ValueError: for z_max outside (0.02, 1.5] or an unknown density.
    """
    pairs = [uniform_pair(row) for row in jax.random.bits(key, (_UNIFORMS, number), jnp.uint32)]
    z = redshift_quantile(pairs[0][0] * fraction_below(z_max, density), density)
    mass = mass_quantile(pairs[1][0], z)
    metallicity = truncated_normal_quantile(pairs[2], *metallicity_moments(mass), *METALLICITY_RANGE)
    deviates = jnp.stack([student2_quantile(pair) for pair in pairs[3:9]], axis=-1)
    ratios = jnp.clip(expected_sfr_ratios(z, mass) + RATIO_SCALE * deviates, -RATIO_LIMIT, RATIO_LIMIT)
    tau2 = truncated_normal_quantile(pairs[9], dust_tau2_mean(youngest_sfr_log10(z, mass, ratios)), TAU2_SD, *TAU2_RANGE)
    return Galaxies(
        z=z,
        mass_log10_msun=mass,
        metallicity_log10_zsun=metallicity,
        sfr_ratios_log10=ratios,
        dust_tau2=tau2,
        dust_index=truncated_normal_quantile(pairs[10], *dust_index_moments(tau2), *INDEX_RANGE),
        dust_ratio=truncated_normal_quantile(pairs[11], *DUST_RATIO, *DUST_RATIO_RANGE),
        gas_metallicity_log10_zsun=_between(pairs[12][0], GAS_RANGE),
        agn_fraction_ln=_between(pairs[13][0], AGN_FRACTION_LN_RANGE),
        agn_tau_ln=_between(pairs[14][0], AGN_TAU_LN_RANGE),
    )
