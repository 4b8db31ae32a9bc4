"""Stellar mass function and redshift density of the host population, as densities and as quantile tables for inverse-CDF draws.

phi(M, z) = ln 10 sum_k phi_k 10^{(M - M*)(alpha_k + 1)} exp(-10^{M - M*})  per Mpc^3 and dex (h = 0.7), with log phi_k and M* quadratic
in z through anchors at z = 0.2, 1.6, 3.0 and evaluated at max(z, 0.2)  (Leja+20, table 1; continuity model). Given z, log M has this
density on [8.5, 12.5]. Redshift has either the published density p(z) of astro-prospector ("tabulated", Wang+23), which belongs to
another mass limit, or p(z) ∝ (dV/dz) int phi dM at the fiducial cosmology ("volume"), consistent with the limit used here.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cigars.schema import FIDUCIAL
from simulators.constants import AREA_OF_SKY_DEG2
from simulators.cosmology import comoving_volume_element, interpolate_uniform, transverse_distance_table
from simulators.grids import cell_at
from simulators.star_formation import prior_table

__all__ = [
    "MASS_RANGE_LOG10",
    "REDSHIFT_RANGE",
    "comoving_density",
    "fraction_below",
    "galaxies_per_deg2",
    "mass_quantile",
    "mass_share",
    "redshift_quantile",
    "redshift_share",
    "schechter_sum",
]

MASS_RANGE_LOG10 = (8.5, 12.5)
REDSHIFT_RANGE = (0.02, 1.5)
_ANCHORS = np.array([0.2, 1.6, 3.0])
_LOG_PHI = np.array([[-2.44, -3.08, -4.14], [-2.89, -3.29, -3.51]])
_LOG_M_STAR = np.array([10.79, 10.88, 10.84])
_ALPHA = (-0.28, -1.48)
_FINE = 8192  # cells of the numerical integrals over z
_MASS_FINE = 8001
_TAIL_STEP, _TAIL_NODES = 0.02, 1152  # -ln(survival) up to 23: a float32 draw reaches 22.9
_MASS_Z = np.linspace(0.2, REDSHIFT_RANGE[1], 53)
_REDSHIFT_NODES = 4096


def schechter_sum(mass_log10_msun: np.ndarray, z: np.ndarray) -> np.ndarray:
    """phi in galaxies per Mpc^3 and dex at log10 M/Msun (numpy, broadcasting with z)."""
    low = np.maximum(z, _ANCHORS[0])
    log_m_star = np.polyval(np.polyfit(_ANCHORS, _LOG_M_STAR, 2), low)
    x = 10.0 ** (mass_log10_msun - log_m_star)
    powers = (10.0 ** np.polyval(np.polyfit(_ANCHORS, phi, 2), low) * x ** (a + 1.0) for phi, a in zip(_LOG_PHI, _ALPHA, strict=True))
    return math.log(10.0) * np.exp(-x) * sum(powers)


def comoving_density(z: np.ndarray) -> np.ndarray:
    """Galaxies with 8.5 <= log M <= 12.5 per comoving Mpc^3 (h = 0.7) at each redshift (numpy)."""
    mass = np.linspace(*MASS_RANGE_LOG10, 1001)
    return np.trapezoid(schechter_sum(mass, np.asarray(z, dtype=float)[..., None]), mass, axis=-1)


@functools.cache
def _volume_counts() -> tuple[np.ndarray, np.ndarray]:
    """Redshift grid and galaxies per steradian and unit redshift on it, fiducial cosmology."""
    z = np.linspace(*REDSHIFT_RANGE, _FINE + 1)
    with jax.ensure_compile_time_eval():  # may be first needed while a caller is traced
        table = transverse_distance_table(FIDUCIAL, REDSHIFT_RANGE[1])
        points = jnp.asarray(z, dtype=jnp.float32)
        d_m = interpolate_uniform(table, points, REDSHIFT_RANGE[1])
        volume = np.asarray(comoving_volume_element(FIDUCIAL, d_m, points), dtype=float)
    coarse = np.linspace(*REDSHIFT_RANGE, 297)
    return z, volume * np.interp(z, coarse, comoving_density(coarse))


@functools.cache
def _redshift_cumulative(density: str) -> tuple[np.ndarray, np.ndarray]:
    """Redshift grid and normalised cumulative distribution of the population on it."""
    z = np.linspace(*REDSHIFT_RANGE, _FINE + 1)
    if density == "tabulated":
        p = np.interp(z, prior_table("redshift_z"), prior_table("redshift_density"))
    elif density == "volume":
        p = _volume_counts()[1]
    else:
        raise ValueError(f"redshift density: expected 'tabulated' or 'volume', got {density!r}; set hosts.redshift_density")
    cumulative = np.concatenate([[0.0], np.cumsum((p[1:] + p[:-1]) / 2)])
    return z, cumulative / cumulative[-1]


def fraction_below(z_max: float, density: str = "tabulated") -> float:
    """Fraction of the population below z_max: restricting draws to z < z_max raises their density by its inverse."""
    low, high = REDSHIFT_RANGE
    if not low < z_max <= high:
        raise ValueError(f"z_max: expected {low} < z_max <= {high}, got {z_max}; set hosts.z_max")
    return float(np.interp(z_max, *_redshift_cumulative(density)))


def redshift_share(z: np.ndarray, z_max: float) -> np.ndarray:
    """Share, below each z, of the galaxies that `galaxies_per_deg2` counts (numpy)."""
    return np.interp(z, *_redshift_cumulative("volume")) / fraction_below(z_max, "volume")


def mass_share(mass_log10_msun: np.ndarray, z_max: float) -> np.ndarray:
    """Share, below each log10 M/Msun, of the galaxies that `galaxies_per_deg2` counts (numpy): that at 0.7 z_max, good to 1e-3."""
    nodes = np.linspace(*MASS_RANGE_LOG10, 1001)
    density = schechter_sum(nodes, np.array(0.7 * z_max))
    below = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return np.interp(mass_log10_msun, nodes, below / below[-1])


def galaxies_per_deg2(z_max: float = REDSHIFT_RANGE[1], density: str = "volume") -> float:
    """Galaxies of the population per square degree, 0.02 <= z <= z_max and 8.5 <= log M <= 12.5, at the fiducial cosmology.

    By another density than "volume" there are as many in all, z <= 1.5, at other redshifts.
    """
    z, counts = _volume_counts()
    per_steradian = np.trapezoid(counts, z) * fraction_below(z_max, density)
    return float(per_steradian * 4.0 * math.pi / AREA_OF_SKY_DEG2)


@functools.cache
def _redshift_quantiles(density: str) -> np.ndarray:
    """z on a uniform grid of cbrt(u): p(z) grows as z^2, which makes z nearly linear in it."""
    z, cumulative = _redshift_cumulative(density)
    return np.interp(np.linspace(0.0, 1.0, _REDSHIFT_NODES) ** 3, cumulative, z).astype(np.float32)


@functools.cache
def _mass_quantiles() -> np.ndarray:
    """log10 M on uniform grids of z and of t = -ln P(> M), so that the exponential tail keeps its resolution."""
    mass = np.linspace(*MASS_RANGE_LOG10, _MASS_FINE)
    phi = schechter_sum(mass, _MASS_Z[:, None])
    cells = (phi[:, 1:] + phi[:, :-1]) / 2
    above = np.cumsum(cells[:, ::-1], axis=1)[:, ::-1]
    t = -np.log(above / above[:, :1])
    grid = _TAIL_STEP * np.arange(_TAIL_NODES)
    return np.stack([np.interp(grid, row, mass[:-1]) for row in t]).astype(np.float32)


def redshift_quantile(u: Float[Array, "*g"], density: str = "tabulated") -> Float[Array, "*g"]:
    """Redshift below which a fraction `u` of the population lies."""
    table = jnp.asarray(_redshift_quantiles(density))
    cell, t = cell_at(jnp.cbrt(u) * (_REDSHIFT_NODES - 1), _REDSHIFT_NODES)
    return table[cell] * (1.0 - t) + table[cell + 1] * t


def mass_quantile(survival: Float[Array, "*g"], z: Float[Array, "*g"]) -> Float[Array, "*g"]:
    """log10 M/Msun above which a fraction `survival` of the galaxies at redshift z lies."""
    table = jnp.asarray(_mass_quantiles())
    rows, columns = table.shape
    i, s = cell_at((z - float(_MASS_Z[0])) * ((rows - 1) / float(_MASS_Z[-1] - _MASS_Z[0])), rows)
    j, t = cell_at(-jnp.log(survival) / _TAIL_STEP, columns)
    flat, start = table.reshape(-1), i * columns + j
    near = flat[start] * (1.0 - t) + flat[start + 1] * t
    far = flat[start + columns] * (1.0 - t) + flat[start + columns + 1] * t
    return near * (1.0 - s) + far * s
