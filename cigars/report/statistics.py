"""Numbers that say whether a posterior is right: redshift quality, pulls, probability integral transforms and ranks.

With Δ = (ẑ − z) / (1 + z): NMAD = 1.4826 · median|Δ − median Δ|, outliers = fraction with |Δ| > 0.15, bias = median Δ
(Ilbert et al. 2006; Brammer et al. 2008). Ranks and transforms of a calibrated posterior are uniform (Talts et al. 2018).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats

from cigars.report.inputs import FEWEST_RANKS

__all__ = [
    "OUTLIER",
    "BinnedRanks",
    "RedshiftStatistics",
    "bin_ranks",
    "error_ratio",
    "pit",
    "pulls",
    "rank_p_values",
    "redshift_statistics",
]

OUTLIER = 0.15
"""|Δz| / (1 + z) beyond which a redshift is an outlier."""


class RedshiftStatistics(NamedTuple):
    """Quality of point redshifts, all of Δz / (1 + z): scatter, fraction of outliers, median offset."""

    nmad: float
    outliers: float
    bias: float


class BinnedRanks(NamedTuple):
    """Histogram of ranks relative to uniform, with the band that holds a uniform bin with the stated probability; edges in [0, 1]."""

    edges: np.ndarray
    ratio: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p_value: float


def redshift_statistics(z_hat: np.ndarray, z_true: np.ndarray) -> RedshiftStatistics:
    """NMAD, outlier fraction and bias of estimates `z_hat` [object] of redshifts `z_true` [object].

    Raises:
        ValueError: shapes differ, nothing to compare, or a value is not finite.
    """
    z_hat, z_true = np.asarray(z_hat, dtype=np.float64), np.asarray(z_true, dtype=np.float64)
    if z_hat.shape != z_true.shape or z_hat.ndim != 1 or z_hat.size == 0:
        raise ValueError(
            f"redshifts: expected two equal, non-empty 1-d arrays, got shapes {z_hat.shape} and {z_true.shape}; pair them by object"
        )
    if not (np.isfinite(z_hat).all() and np.isfinite(z_true).all()):
        raise ValueError("redshifts: expected finite numbers, got NaN or infinity; drop the objects without a redshift first")
    delta = (z_hat - z_true) / (1.0 + z_true)
    bias = np.median(delta)
    return RedshiftStatistics(
        nmad=float(1.4826 * np.median(np.abs(delta - bias))), outliers=float(np.mean(np.abs(delta) > OUTLIER)), bias=float(bias)
    )


def pulls(draws: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(posterior mean − truth) / posterior standard deviation, from draws [draw, object] and truth [object].

    Objects whose draws are all the same, as where a bank holds one host that is like them, have no pull and are left out.
    """
    wide = draws.max(0) > draws.min(0)
    return (draws[:, wide].mean(0, dtype=np.float64) - truth[wide]) / draws[:, wide].std(0, ddof=1, dtype=np.float64)


def error_ratio(draws: np.ndarray, truth: np.ndarray) -> float:
    """rms error of the posterior means over the rms of the widths that draws [draw, object] state: 1 where they are right.

    That holds for any law and number of draws n, Σ (mean − truth)² = (1 + 1/n) Σ var in the mean, where pulls, which divide by the width
    that happens to be drawn of each object, scatter by more than 1 if posteriors have long tails. NaN where no object has a width.
    """
    squared = (draws.mean(0, dtype=np.float64) - truth) ** 2
    stated = draws.var(0, ddof=1, dtype=np.float64).mean() * (1 + 1 / len(draws))
    return float(np.sqrt(squared.mean() / stated)) if stated > 0 else float("nan")


def pit(draws: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Rank of the truth [object] among its draws [draw, object]: the number below it, 0 … draws; at random among those equal to it."""
    ties = (draws == truth).sum(0)
    return (draws < truth).sum(0) + np.random.default_rng(0).integers(0, ties, endpoint=True)


def bin_ranks(ranks: np.ndarray, draws: int, probability: float = 0.99) -> BinnedRanks:
    """Histogram of integer ranks in 0 … `draws`, divided by what uniform ranks give, with binomial bands and a χ² p-value.

    The number of bins follows the number of ranks (ten or more a bin, at most 20), and each bin's expectation counts
    the integers in it, so unequal bins do not look like miscalibration.

    Raises:
        ValueError: a rank outside 0 … draws, or too few ranks (`FEWEST_RANKS`).
    """
    ranks = np.asarray(ranks)
    if ranks.size < FEWEST_RANKS or ranks.min() < 0 or ranks.max() > draws:
        got = f"{ranks.size} ranks" + (f" in [{ranks.min()}, {ranks.max()}]" if ranks.size else "")
        raise ValueError(
            f"ranks: expected at least {FEWEST_RANKS} integers in 0 … {draws}, got {got}; give sbc_draws as the number of draws ranked"
        )
    edges = np.unique(np.round(np.linspace(0, draws + 1, int(np.clip(ranks.size // 10, 2, 20)) + 1)))
    share = np.diff(edges) / (draws + 1)
    counts = np.histogram(ranks, edges - 0.5)[0]
    expected = share * ranks.size
    tail = (1 - probability) / 2
    low, high = (stats.binom.ppf(q, ranks.size, share) / expected for q in (tail, 1 - tail))
    return BinnedRanks(edges / (draws + 1), counts / expected, low, high, float(stats.chisquare(counts, expected).pvalue))


def rank_p_values(ranks: np.ndarray, draws: int) -> np.ndarray:
    """χ² p-value of uniformity of each column of ranks [survey, parameter]."""
    return np.array([bin_ranks(column, draws).p_value for column in np.asarray(ranks).T])
