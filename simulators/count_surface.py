r"""The expected count as a polynomial of Θ around one point, fitted to a large sample.

Posteriors of thousands of supernovae need ln Λ to some 1e-4 where Θ moves within them, in every direction. Samples that can be afforded at
every step of a chain are too rough for that: hosts pass their thresholds one by one, so that value and slopes of a sample of 2^13 are off
by several units of N ln Λ within one posterior (`counts.expected_count`). ln Λ itself is smooth.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cigars.schema import Globals
from simulators.counts import expected_count
from simulators.simulator import Simulator
from simulators.small_matrices import product

if TYPE_CHECKING:
    from cigars.config import Config

__all__ = ["CountSurface", "fit_count_surface", "ln_expected"]

CUBIC = tuple(Globals._fields.index(name) for name in ("Om0", "Ode0", "dtd_slope", "M0"))  # what moves the count far: terms to degree 3
HELD = 8  # every how manieth point the error is measured on
_ORDERS = [
    tuple(np.array(list(itertools.combinations_with_replacement(among, degree))).T)
    for degree, among in ((1, range(len(Globals._fields))), (2, range(len(Globals._fields))), (3, CUBIC))
]


class CountSurface(NamedTuple):
    """ln Λ for an exposure of 1: weights of the monomials of (Θ − centre) / scale, and its error, rms over points it was not fitted to."""

    centre: Float[Array, "parameter"]
    scale: Float[Array, "parameter"]
    weight: Float[Array, "term"]
    error: float


def ln_expected(theta: Globals, surface: CountSurface) -> Float[Array, ""]:
    """ln Λ at one Θ (scalars)."""
    u = (jnp.stack([jnp.asarray(value, jnp.float32) for value in theta]) - surface.centre) / surface.scale
    return product(_monomials(u), surface.weight)


def fit_count_surface(points: Globals, simulator: Simulator, config: Config, sample: int) -> CountSurface:
    """Fit ln Λ at given Θ, each by the same sample.

    Args:
        points: leaves [point], some hundreds around the Θ of interest; what is the same in all is held fixed.
        simulator: as `survey.prepare` gives it.
        config: of the same simulator.
        sample: its size; the error of N ln Λ is that of its differences over the points, about 1.5 for N = 1,600 and 2^16, as 1/√sample.

    Raises:
        ValueError: for fewer points than twice the terms that they determine.
    """
    rows = np.stack([np.asarray(leaf, np.float64) for leaf in points], -1)
    scale = rows.std(0)
    scale = np.where(scale > 1e-6 * (1 + np.abs(rows).max(0)), scale, np.inf)
    table = np.asarray(_monomials(jnp.asarray(((rows - rows.mean(0)) / scale).T, jnp.float32))).T.astype(np.float64)
    if len(rows) < 2 * (terms := int(np.abs(table).max(0).astype(bool).sum())):
        raise ValueError(f"count surface: expected at least {2 * terms} points for {terms} terms, got {len(rows)}; give more")
    ln_count = np.array([np.log(float(expected_count(Globals(*row), simulator, config, sample))) for row in rows.astype(np.float32)])
    held = np.arange(len(rows)) % HELD == 0
    missed = ln_count[held] - table[held] @ np.linalg.lstsq(table[~held], ln_count[~held])[0]
    weight = np.linalg.lstsq(table, ln_count)[0]
    as_array = lambda values: jnp.asarray(values, jnp.float32)  # noqa: E731
    return CountSurface(as_array(rows.mean(0)), as_array(scale), as_array(weight), float(np.sqrt(np.mean(missed**2))))


def _monomials(u: Float[Array, "parameter *point"]) -> Float[Array, "term *point"]:
    parts = [jnp.prod(jnp.stack([u[np.asarray(which)] for which in order]), 0) for order in _ORDERS]
    return jnp.concatenate([jnp.ones_like(u[:1]), *parts])
