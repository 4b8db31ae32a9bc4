"""Distances in cosmologies of a posterior: μ(z) = 5 log10[(1+z) d_M / 10 pc] (Hogg 1999), H_0 = 70 km/s/Mpc (degenerate with M_0)."""

from __future__ import annotations

import numpy as np

from cigars.schema import HUBBLE_DISTANCE_MPC

__all__ = ["distance_modulus"]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)


def distance_modulus(z: np.ndarray, Om0: np.ndarray, Ode0: np.ndarray, w0: np.ndarray, wa: np.ndarray) -> np.ndarray:
    """Distance modulus [mag] at redshifts `z` [z] in cosmologies given by arrays [cosmology]; shape [cosmology, z].

    E²(z) = Om0 (1+z)³ + Ok0 (1+z)² + Ode0 (1+z)^{3(1+w0+wa)} exp(−3 wa z/(1+z)), no radiation; the comoving integral by
    24-point Gauss-Legendre quadrature (relative error below 1e-6 for z ≤ 2). NaN where E² is not positive on the way, as in a
    universe of much dark energy and little matter, which had no Big Bang, or where z lies beyond the antipode.
    """
    Om0, Ode0, w0, wa = (np.atleast_1d(np.asarray(p, dtype=np.float64))[:, None, None] for p in (Om0, Ode0, w0, wa))
    z = np.atleast_1d(np.asarray(z, dtype=np.float64))
    Ok0 = 1.0 - Om0 - Ode0
    zq = z[:, None] * (_NODES + 1) / 2
    dark = (1 + zq) ** (3 * (1 + w0 + wa)) * np.exp(-3 * wa * zq / (1 + zq))
    squared = Om0 * (1 + zq) ** 3 + Ok0 * (1 + zq) ** 2 + Ode0 * dark
    comoving = (_WEIGHTS / np.sqrt(np.where(squared > 0, squared, np.nan))).sum(-1) * z / 2
    transverse = _curved(comoving, Ok0[..., 0])
    transverse = np.where(transverse > 0, transverse, np.nan)
    return 5 * np.log10((1 + z) * transverse * HUBBLE_DISTANCE_MPC) + 25


def _curved(comoving: np.ndarray, Ok0: np.ndarray) -> np.ndarray:
    """Transverse from line-of-sight comoving distance, both in Hubble distances: sinh, identity or sin."""
    root = np.sqrt(np.abs(Ok0))
    safe = np.where(root > 1e-6, root, 1.0)
    bent = np.where(Ok0 > 0, np.sinh(safe * comoving), np.sin(safe * comoving)) / safe
    return np.where(root > 1e-6, bent, comoving)
