"""Draws of an index with probability proportional to fixed weights: by alias for many draws, by inversion of a two-level cumulative sum.

An alias table (Walker 1977) splits the unit mass of 2^k equal slots each between two indices, so that a draw is k random bits, one
comparison and one look-up whatever the number of weights. A flat float32 cumulative sum over 10⁶ weights is not monotone and leaves
some indices undrawable; in two levels, of rows and inside each row, both sums are short and float32 resolves every weight. The
inversion remains for the fixed sample behind `counts.expected_count`, whose draws set the exposure of every configuration.
Both are built in float64 with numpy.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt32

__all__ = ["AliasTable", "BlockedCdf", "alias_table", "blocked_cdf", "draw_alias", "draw_index"]

UNIT = 2.0**32


class AliasTable(NamedTuple):
    """Slots of equal probability, a power of two of them: threshold in 2⁻³² below which a slot stands for itself, and its alias."""

    slots: UInt32[Array, "slot 2"]


class BlockedCdf(NamedTuple):
    """Cumulative weights: of whole rows, `rows` [row], and inside each row, `columns` [row, column], both ending at 1."""

    rows: Float[Array, "row"]
    columns: Float[Array, "row column"]


def _checked(weights: np.ndarray) -> np.ndarray:
    weights = np.asarray(weights, np.float64)
    if weights.ndim != 1 or not weights.size or not np.all(np.isfinite(weights)) or weights.min() < 0 or not weights.sum() > 0:
        raise ValueError(
            f"weights: expected a non-empty vector of finite, non-negative numbers with a positive sum, got shape {weights.shape}"
        )
    return weights


def alias_table(weights: np.ndarray) -> AliasTable:
    """Alias table of non-negative weights [n]; raises ValueError if none is positive or one is not finite.

    Slots of less than the mean are filled up from those of more, in order (Hübschle-Schneider & Sanders 2019): a heavy slot whose
    excess is used up is itself filled by the next heavy one. Sums of deficits and excesses say where, without a loop.
    """
    weights = _checked(weights)
    size = 2 ** max(1, math.ceil(math.log2(weights.size)))
    share = np.zeros(size)
    share[: weights.size] = weights * (size / weights.sum())
    light, heavy = np.nonzero(share <= 1)[0], np.nonzero(share > 1)[0]
    threshold, alias = np.minimum(share, 1.0), np.arange(size)
    if len(heavy):
        deficit, excess = np.cumsum(1 - share[light]), np.cumsum(share[heavy] - 1)
        alias[light] = heavy[np.minimum(np.searchsorted(excess, deficit - (1 - share[light]), side="right"), len(heavy) - 1)]
        spent = np.searchsorted(deficit, excess[:-1], side="right")  # the light slot at which a heavy one falls below the mean
        whole = spent == len(light)  # by rounding alone
        threshold[heavy[:-1]] = np.where(whole, 1.0, 1 - (deficit[np.minimum(spent, len(light) - 1)] - excess[:-1]))
        alias[heavy[:-1]] = heavy[1:]
    alias = np.where(threshold >= 1, np.arange(size), alias)
    levels = np.clip(np.round(threshold * UNIT), 0, UNIT - 1).astype(np.uint32)
    return AliasTable(jnp.asarray(np.stack([levels, alias.astype(np.uint32)], -1)))


def draw_alias(key: Key[Array, ""], table: AliasTable, number: int) -> Int[Array, "draw"]:
    """Indices drawn with probability proportional to the weights, shape [number]."""
    pick, part = jax.random.bits(key, (2, number), jnp.uint32)
    slot = pick >> (32 - int(math.log2(table.slots.shape[0])))
    entry = table.slots[slot]
    return jnp.where(part < entry[:, 0], slot, entry[:, 1]).astype(jnp.int32)


def blocked_cdf(weights: np.ndarray) -> BlockedCdf:
    """Two-level cumulative sum of non-negative weights [n]; raises ValueError if none is positive or one is not finite."""
    weights = _checked(weights)
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
