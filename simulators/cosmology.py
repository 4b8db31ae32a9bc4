"""Distances of curved dark-energy cosmologies, differentiable through zero curvature.

E^2(z) = Om (1+z)^3 + Ok (1+z)^2 + Ode exp(3 [(1 + w0 + wa) ln(1+z) - wa z/(1+z)]),  Ok = 1 - Om - Ode,
d_M = (c/H0) I S(Ok I^2),  I = int_0^z dz'/E,  mu = 5 log10[(1+z) d_M / 10 pc]  (Hogg 1999; Chevallier & Polarski 2001; Linder 2003).

S(x) is sinh(sqrt x)/sqrt x, 1 or sin(sqrt -x)/sqrt -x in the open, flat and closed case: one entire function, so its power
series replaces the three branches and every derivative is finite at zero curvature. Radiation is neglected.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cigars.schema import FIDUCIAL, HUBBLE_DISTANCE_MPC, DistanceTable, Globals
from simulators.small_matrices import product

__all__ = [
    "comoving_volume_element",
    "curvature_factor",
    "distance_modulus",
    "distance_modulus_transverse",
    "expansion_squared",
    "fiducial_distance_table",
    "interpolate_uniform",
    "transverse_distance",
    "transverse_distance_table",
]

EXPANSION_FLOOR = 1e-4  # below the smallest value of the flat prior at z <= 2, 7.6e-4
_GAUSS_NODE = 0.5 / math.sqrt(3.0)
_LEGENDRE = np.polynomial.legendre.leggauss(16)


def expansion_squared(cosmology: Globals, z: Float[Array, "*z"]) -> Float[Array, "*z"]:
    """E^2(z) = (H/H0)^2 of a cosmology given by the scalars `Om0`, `Ode0`, `w0`, `wa` of a `Globals`.

    E^2 >= 1 for z >= 0 in all of 0 <= Om0, Ode0 <= 1 with w0 = -1, and E^2 > 0 when flat. Outside (Ode0 > 1 with little matter:
    no Big Bang) it is floored at 1e-4, so that distances stay finite where they have no meaning.
    """
    a = 1.0 + z
    curvature = 1.0 - cosmology.Om0 - cosmology.Ode0
    dark_energy = cosmology.Ode0 * jnp.exp(3.0 * ((1.0 + cosmology.w0 + cosmology.wa) * jnp.log1p(z) - cosmology.wa * z / a))
    return jnp.maximum(a * a * (cosmology.Om0 * a + curvature) + dark_energy, EXPANSION_FLOOR)


def curvature_factor(x: Float[Array, "*x"]) -> Float[Array, "*x"]:
    """S(x) = sum_n x^n / (2n+1)!, to float32 for |x| < 20 (the default prior at z <= 2 reaches |x| = 1.21, where it is empty)."""
    total = jnp.ones_like(x)
    for n in range(12, 0, -1):
        total = 1.0 + total * x / (2 * n * (2 * n + 1))
    return total


def transverse_distance(cosmology: Globals, z: Float[Array, "*z"]) -> Float[Array, "*z"]:
    """Transverse comoving distance d_M in Mpc by 16 Gauss-Legendre points between 0 and each z: for a few redshifts a cosmology."""
    node, weight = (jnp.asarray(a, jnp.float32) for a in _LEGENDRE)
    points = jnp.multiply.outer(0.5 * z, 1.0 + node)
    line_of_sight = 0.5 * z * product(jax.lax.rsqrt(expansion_squared(cosmology, points)), weight)
    curvature = 1.0 - cosmology.Om0 - cosmology.Ode0
    return HUBBLE_DISTANCE_MPC * line_of_sight * curvature_factor(curvature * line_of_sight**2)


def transverse_distance_table(cosmology: Globals, z_max: float, nodes: int = 1024) -> Float[Array, " node"]:
    """Transverse comoving distance d_M in Mpc on `linspace(0, z_max, nodes)`, for `interpolate_uniform`.

    The integral runs cell by cell with two Gauss-Legendre points (error of order step^4). One cosmology; `vmap` for a batch.
    """
    step = z_max / (nodes - 1)
    middle = (np.arange(nodes - 1) + 0.5) * step
    points = jnp.asarray(np.stack([middle - _GAUSS_NODE * step, middle + _GAUSS_NODE * step]), dtype=jnp.float32)
    cells = 0.5 * step * jnp.sum(jax.lax.rsqrt(expansion_squared(cosmology, points)), axis=0)
    line_of_sight = jnp.concatenate([jnp.zeros(1, cells.dtype), jnp.cumsum(cells)])
    curvature = 1.0 - cosmology.Om0 - cosmology.Ode0
    return HUBBLE_DISTANCE_MPC * line_of_sight * curvature_factor(curvature * line_of_sight**2)


def interpolate_uniform(table: Float[Array, " node"], z: Float[Array, "*z"], z_max: float) -> Float[Array, "*z"]:
    """Value at redshifts `z` of a table on `linspace(0, z_max, node)`: the cubic through the four nearest nodes (Lagrange).

    Linear interpolation would miss 1e-5 of d_M below z = 0.02. Beyond [0, z_max] the end cubics continue.
    """
    u = z * ((table.shape[0] - 1) / z_max)
    start = jnp.clip(jnp.floor(u).astype(jnp.int32) - 1, 0, table.shape[0] - 4)
    t = u - start.astype(u.dtype)  # 1 <= t <= 2 inside the table, less or more in its first and last cells
    y0, y1, y2, y3 = (table[start + k] for k in range(4))
    left, right = t * (t - 1.0), (t - 2.0) * (t - 3.0)
    return y1 * t * right / 2.0 - y2 * left * (t - 3.0) / 2.0 - y0 * (t - 1.0) * right / 6.0 + y3 * left * (t - 2.0) / 6.0


def distance_modulus_transverse(d_m_mpc: Float[Array, "*z"]) -> Float[Array, "*z"]:
    """5 log10(d_M / 10 pc): what turns a template magnitude, which already holds its (1+z)^2, into an apparent one (§4)."""
    return 5.0 * jnp.log10(d_m_mpc) + 25.0


def distance_modulus(d_m_mpc: Float[Array, "*z"], z: Float[Array, "*z"]) -> Float[Array, "*z"]:
    """Luminosity-distance modulus mu = 5 log10[(1+z) d_M / 10 pc] from d_M in Mpc."""
    return distance_modulus_transverse(d_m_mpc) + (5.0 / math.log(10.0)) * jnp.log1p(z)


def comoving_volume_element(cosmology: Globals, d_m_mpc: Float[Array, "*z"], z: Float[Array, "*z"]) -> Float[Array, "*z"]:
    """dV/dz per steradian, (c/H0) d_M^2 / E, in Mpc^3 / sr."""
    return HUBBLE_DISTANCE_MPC * d_m_mpc**2 * jax.lax.rsqrt(expansion_squared(cosmology, z))


def fiducial_distance_table(z_min: float = 1e-3, z_max: float = 2.0, nodes: int = 2048) -> DistanceTable:
    """Fiducial mu(z) as numpy arrays on a geometric grid, on which linear interpolation is good to 1e-5 mag."""
    z = np.geomspace(z_min, z_max, nodes).astype(np.float32)
    d_m = interpolate_uniform(transverse_distance_table(FIDUCIAL, z_max), jnp.asarray(z), z_max)
    return DistanceTable(z=z, mu=np.asarray(distance_modulus(d_m, jnp.asarray(z))))
