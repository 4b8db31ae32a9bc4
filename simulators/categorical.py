"""Draws of an index with probability proportional to fixed weights, by inverting a two-level cumulative sum.

A flat float32 cumulative sum over 10⁶ weights is not monotone and leaves some indices undrawable. Here the weights are
laid out in rows: a first uniform picks a row from the cumulative sum of row totals, a second picks the entry inside the
row. Both sums are short, so float32 resolves every weight. Built in float64 with numpy, drawn in float32 with JAX.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

__all__ = ["BlockedCdf", "blocked_cdf", "draw_index"]


class BlockedCdf(NamedTuple):
    """Cumulative weights: of whole rows, `rows` [row], and inside each row, `columns` [row, column], both ending at 1."""

    rows: Float[Array, "row"]
    columns: Float[Array, "row column"]


def blocked_cdf(weights: np.ndarray) -> BlockedCdf:
    """Two-level cumulative sum of non-negative weights [n]; raises ValueError if none is positive or one is not finite."""
    weights = np.asarray(weights, np.float64)
    if weights.ndim != 1 or not weights.size or not np.all(np.isfinite(weights)) or weights.min() < 0 or not weights.sum() > 0:
        raise ValueError(
            f"weights: expected a non-empty vector of finite, non-negative numbers with a positive sum, got shape {weights.shape}"
        )
    width = math.ceil(math.sqrt(weights.size))
    table = np.zeros((math.ceil(weights.size / width), width))
    table.flat[: weights.size] = weights
    totals = table.sum(1)
    inside = np.cumsum(table, 1) / np.where(totals > 0, totals, 1)[:, None]
    return BlockedCdf(
        jnp.asarray(_ending_at_one(np.cumsum(totals) / totals.sum()), jnp.float32), jnp.asarray(_ending_at_one(inside), jnp.float32)
    )


def _ending_at_one(cdf: np.ndarray) -> np.ndarray:
    """Entries that reach the last value are set to exactly 1, so that trailing zero weights are never drawn."""
    return np.where(cdf >= cdf[..., -1:], 1.0, cdf)


def draw_index(key: Key[Array, ""], cdf: BlockedCdf, number: int) -> Int[Array, "draw"]:
    """Indices drawn with probability proportional to the weights, shape [number]."""
    pick_row, pick_column = jax.random.uniform(key, (2, number))
    row = jnp.searchsorted(cdf.rows, pick_row, side="right", method="scan_unrolled")
    return row * cdf.columns.shape[1] + _search_rows(cdf.columns, row, pick_column)


def _search_rows(columns: Float[Array, "row column"], row: Int[Array, "draw"], u: Float[Array, "draw"]) -> Int[Array, "draw"]:
    """First column whose cumulative weight exceeds u, by bisection in the flat table (one gather a step)."""
    width = columns.shape[1]
    flat = columns.reshape(-1)
    low, high = jnp.zeros_like(row), jnp.full_like(row, width - 1)
    for _ in range(max(1, math.ceil(math.log2(width)))):
        middle = (low + high) // 2
        above = flat[row * width + middle] > u
        low, high = jnp.where(above, low, middle + 1), jnp.where(above, middle, high)
        low = jnp.minimum(low, high)
    return high
