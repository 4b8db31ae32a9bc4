r"""Is a posterior calibrated? Ranks, coverage, TARP, redshift scores and pulls.

Simulation-based calibration (Talts+18): ranks of the truth among draws are uniform. Expected coverage: the share of truths
inside the central interval of probability a is a. TARP (Lemos+23) tests all parameters at once with balls around random points.
Redshift scores: $\Delta = (\hat z - z)/(1 + z)$, NMAD = 1.4826 median |Δ - median Δ|.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import stats
from torch import Tensor

__all__ = [
    "Calibration",
    "RedshiftScores",
    "Tarp",
    "calibration",
    "coverage",
    "pit",
    "pulls",
    "rank_band",
    "ranks",
    "redshift_scores",
    "tarp",
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
    """Expected coverage of TARP regions at each credibility, its 99 % bootstrap band, and the largest deviation."""

    credibility: np.ndarray
    coverage: np.ndarray
    low: np.ndarray
    high: np.ndarray
    deviation: float


class RedshiftScores(NamedTuple):
    """Scores of redshift estimates: NMAD, share beyond .15 and median (bias) of Δz/(1+z), of how many objects."""

    nmad: float
    outliers: float
    bias: float
    objects: int


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


class _Drawn:
    """Draws made beforehand, in the clothes of an sbi posterior."""

    def __init__(self, draws: Tensor) -> None:
        self.draws = draws

    def sample_batched(self, sample_shape: Any, x: Tensor, **_: Any) -> Tensor:
        return self.draws[:, x[:, 0].long()]


def tarp(
    draws: Float[Tensor, "draw survey parameter"], truth: Float[Tensor, "survey parameter"], seed: int = 0, resamples: int = 100
) -> Tarp:
    """TARP through sbi, with a band from resampling the surveys.

    Args:
        draws, truth: posterior draws and the parameters that made each survey.
        seed: of the reference points and the resampling.
        resamples: number of bootstrap resamples.
    """
    from sbi.diagnostics.tarp import run_tarp

    bins = 20
    generator = torch.Generator().manual_seed(seed)
    centre, scale = truth.mean(0), truth.std(0)
    draws, truth = ((a - centre) / scale for a in (draws.cpu(), truth.cpu()))
    span = truth.amax(0) - truth.amin(0)
    # on all sides of the truth a shift would cancel out of the average: take the points from the lower half of each axis
    references = truth.amin(0) + 0.5 * span * torch.rand(truth.shape, generator=generator)

    def curve(index: Tensor) -> tuple[np.ndarray, np.ndarray]:
        xs = index[:, None].float()
        ecp, alpha = run_tarp(
            truth[index], xs, _Drawn(draws), references[index], len(draws), show_progress_bar=False, num_bins=bins, z_score_theta=False,
        )  # type: ignore[arg-type]  # fmt: skip
        return ecp.numpy(), alpha.numpy()

    everything = torch.arange(len(truth))
    value, alpha = curve(everything)
    boot = np.stack([curve(torch.randint(len(truth), (len(truth),), generator=generator))[0] for _ in range(resamples)])
    low, high = np.quantile(boot, [0.005, 0.995], axis=0)
    return Tarp(alpha, value, low, high, float(np.abs(value - alpha).max()))


def redshift_scores(
    estimate: Float[Tensor, "object"] | np.ndarray, truth: Float[Tensor, "object"] | np.ndarray, outlier: float = 0.15
) -> RedshiftScores:
    """NMAD, outlier share and bias of point estimates."""
    estimate, truth = np.asarray(estimate, dtype=float), np.asarray(truth, dtype=float)
    delta = (estimate - truth) / (1 + truth)
    middle = np.median(delta)
    return RedshiftScores(
        float(1.4826 * np.median(np.abs(delta - middle))), float((np.abs(delta) > outlier).mean()), float(middle), len(delta)
    )


def pit(draws: Float[Tensor, "draw object"], truth: Float[Tensor, "object"]) -> Float[Tensor, "object"]:
    """Probability integral transform of the truth: its quantile among the draws, uniform if calibrated."""
    return ((draws < truth).sum(0) + 0.5) / (len(draws) + 1)


def pulls(draws: Float[Tensor, "draw *item"], truth: Float[Tensor, "*item"]) -> Float[Tensor, "*item"]:
    """(posterior mean - truth) / posterior sd: mean 0 and sd 1 if calibrated."""
    return (draws.mean(0) - truth) / draws.std(0)
