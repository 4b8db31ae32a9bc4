"""Is a posterior calibrated? Ranks, coverage and TARP.

Simulation-based calibration (Talts+18): ranks of the truth among draws are uniform. Expected coverage: the share of truths
inside the central interval of probability a is a. TARP (Lemos+23) tests all parameters at once with balls around random points.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import stats
from torch import Tensor

__all__ = [
    "Calibration",
    "Tarp",
    "calibration",
    "coverage",
    "rank_band",
    "ranks",
    "tarp",
    "tarp_references",
    "tarp_shares",
]

LEVELS = np.linspace(0.05, 0.95, 19)


class Calibration(NamedTuple):
    """Rank histogram per parameter with its band, and what it says.

    `counts` [parameter, bin]; `low`, `high` the 99 % band of a uniform bin; `p_value` of the Kolmogorov-Smirnov test; `spread`, sd of the
    ranks in units of the draws (.289 calibrated, more: too narrow, less: too wide); `coverage` [parameter, level] at `levels`.
    """

    counts: np.ndarray
    low: float
    high: float
    p_value: np.ndarray
    spread: np.ndarray
    levels: np.ndarray
    coverage: np.ndarray


class Tarp(NamedTuple):
    """Expected coverage of TARP regions at each credibility, its 99 % bootstrap band, largest deviation and Kolmogorov-Smirnov p-value."""

    credibility: np.ndarray
    coverage: np.ndarray
    low: np.ndarray
    high: np.ndarray
    deviation: float
    p_value: float


def ranks(draws: Float[Tensor, "draw survey parameter"], truth: Float[Tensor, "survey parameter"]) -> Int[Tensor, "survey parameter"]:
    """Number of draws below the truth, per survey and parameter."""
    return (draws < truth).sum(0)


def rank_band(surveys: int, bins: int, level: float = 0.99) -> tuple[float, float]:
    """Central binomial interval of the count in one of `bins` equal bins."""
    low, high = stats.binom.interval(level, surveys, 1 / bins)
    return float(low), float(high)


def calibration(draws: Float[Tensor, "draw survey parameter"], truth: Float[Tensor, "survey parameter"], bins: int = 20) -> Calibration:
    """Ranks, coverage and their test of uniformity (sbi's) for every parameter."""
    from sbi.diagnostics.sbc import check_uniformity_frequentist

    total = len(draws)
    r = ranks(draws, truth).cpu()
    p_value = check_uniformity_frequentist(r.float() + 0.5, total + 1).numpy()
    counts = np.stack([np.histogram(column.numpy(), bins, (-0.5, total + 0.5))[0] for column in r.T])
    low, high = rank_band(len(truth), bins)
    return Calibration(counts, low, high, p_value, r.double().std(0).numpy() / (total + 1), LEVELS, coverage(draws, truth))


def coverage(
    draws: Float[Tensor, "draw survey parameter"], truth: Float[Tensor, "survey parameter"], levels: np.ndarray = LEVELS
) -> np.ndarray:
    """Share of truths inside the central interval of each level, [parameter, level]."""
    u = (ranks(draws, truth).cpu().numpy() + 0.5) / (len(draws) + 1)
    return (np.abs(u - 0.5)[..., None] <= np.asarray(levels) / 2).mean(0)


def tarp(
    draws: Float[Tensor, "draw survey parameter"], truth: Float[Tensor, "survey parameter"], seed: int = 0, resamples: int = 1000
) -> Tarp:
    """TARP, with a band from resampling the surveys.

    sbi's `run_tarp` puts its credibilities between the least and the largest share it finds, so that curves of resampled surveys are on
    different grids; here the shares themselves are kept. The two agree on sbi's grid.

    Args:
        draws, truth: posterior draws and the parameters that made each survey.
        seed: of the reference points and the resampling.
        resamples: number of bootstrap resamples.
    """
    share = tarp_shares(draws, truth, seed)
    credibility = np.linspace(0, 1, 21)
    below = share[:, None] < credibility
    again = np.random.default_rng(seed).multinomial(len(share), np.full(len(share), 1 / len(share)), size=resamples)
    low, high = np.quantile(again @ below / len(share), [0.005, 0.995], axis=0)
    test = stats.kstest(share, "uniform")
    return Tarp(credibility, below.mean(0), low, high, float(test.statistic), float(test.pvalue))


def tarp_shares(draws: Float[Tensor, "draw survey parameter"], truth: Float[Tensor, "survey parameter"], seed: int = 0) -> np.ndarray:
    """Share of each survey's draws that are nearer to its reference point than the truth is: uniform if calibrated, [survey]."""
    centre, scale = truth.mean(0), truth.std(0)
    draws, truth = ((a - centre) / scale for a in (draws.cpu(), truth.cpu()))
    references = tarp_references(truth, seed)
    nearer = torch.linalg.vector_norm(draws - references, dim=-1) < torch.linalg.vector_norm(truth - references, dim=-1)
    return (nearer.sum(0).numpy() + 0.5) / (len(draws) + 1)


def tarp_references(truth: Float[Tensor, "survey parameter"], seed: int) -> Float[Tensor, "survey parameter"]:
    """A random point for each survey, from the lower half of every axis: on all sides of the truth a shift would cancel out."""
    generator = torch.Generator().manual_seed(seed)
    span = truth.amax(0) - truth.amin(0)
    return truth.amin(0) + 0.5 * span * torch.rand(truth.shape, generator=generator)
