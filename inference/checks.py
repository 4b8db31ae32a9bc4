r"""Checks of a posterior on fresh surveys, each with the p-value that it has for an exact one; which failed, at a family-wise level.

With u the rank of the truth among L draws, randomised within its cell, $u = (r + U) / (L + 1)$ is uniform for an exact posterior whatever
its shape (Talts+18), and its normal score $\Phi^{-1}(u)$ standard normal: mean and variance of the scores over surveys have exact tests.
Rows of one test share their surveys and so depend on one another: its p-value is the least one times their number (Bonferroni), which
no dependence invalidates; over the tests Holm's step-down rule keeps the chance of any false alarm below the level. Where simulated surveys
were tested in the same way they show the dependence, and `judge_among` corrects for no more than there is.

Which test sees what, of 500 surveys, was measured: `benchmarks/diagnostics_power.json`. In short, `ranks` and `shift` see displacement,
`width` a wrong width, `error vs width` errors that grow otherwise than the stated widths, `correlations` and `joint coverage` wrong
correlations, to which all tests of single parameters are blind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy import special, stats
from torch import Tensor

from .diagnostics import calibration, ranks, tarp

__all__ = [
    "Check",
    "Family",
    "Judged",
    "effective_number",
    "holm",
    "joint_checks",
    "joint_ranks",
    "judge",
    "judge_among",
    "marginal_checks",
    "normal_scores",
    "whitened",
]

BAND = 0.99
FLOOR = 1e-9  # least variance of a posterior, of that over all surveys
CLIP = 4.0  # standard deviations
TAIL, FEWEST = 0.05, 40  # share and number of simulated surveys, those with the least p-values, which fix how many checks are independent
LEVELS = (0.5, 0.68, 0.9, 0.95)


class Check(NamedTuple):
    """One number of a test: of which parameter or level, its value, the band that holds 99 % of the values of exact posteriors, p-value."""

    test: str
    of: str
    value: float
    low: float
    high: float
    p_value: float


class Judged(NamedTuple):
    """A test: its most extreme check, p-value corrected for its checks, then for all tests, and whether it passed.

    `single` is the p-value below which one check, whatever the others are, makes its test fail.
    """

    worst: Check
    checks: int
    p_value: float
    adjusted: float
    passed: bool
    single: float


class Family(NamedTuple):
    """The checks of one test, and the p-values that simulated surveys have in the place of the observed one: no row for none."""

    checks: list[Check]
    null: Float[np.ndarray, "survey check"]


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's adjusted p-values (Holm 1979): those at most α are rejected at the family-wise level α."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return adjusted


def judge(checks: Sequence[Check], level: float) -> list[Judged]:
    """Each test of `checks`, in their order, at the family-wise level."""
    groups = {test: [c for c in checks if c.test == test] for test in dict.fromkeys(c.test for c in checks)}
    worst = [min(group, key=lambda c: c.p_value) for group in groups.values()]
    p = [min(w.p_value * len(group), 1.0) for w, group in zip(worst, groups.values(), strict=True)]
    rows = zip(worst, groups.values(), p, holm(p).tolist(), strict=True)
    return [Judged(w, len(group), one, adjusted, adjusted > level, level / len(group) / len(p)) for w, group, one, adjusted in rows]


def judge_among(families: Sequence[Family], level: float) -> list[Judged]:
    """Each test at the family-wise level, with Šidák's correction for as many checks, and tests, as are independent.

    The number is an estimate, so that the level holds to some tenths of itself, where Bonferroni and Holm never exceed it. Tests without
    simulated surveys count as independent of all others. All that have some must have the same, in the same order.
    """
    worst = [min(family.checks, key=lambda c: c.p_value) for family in families]
    numbers = [effective_number(family.null) for family in families]
    p = [float(_sidak(w.p_value, n)) for w, n in zip(worst, numbers, strict=True)]
    known = [_sidak(family.null.min(1), n) for family, n in zip(families, numbers, strict=True) if len(family.null)]
    together = (effective_number(np.stack(known, 1)) if known else 0.0) + len(families) - len(known)
    rows = zip(
        worst, families, p, _sidak(np.array(p), together).tolist(), _sidak(level, 1 / together / np.array(numbers)).tolist(), strict=True
    )
    return [Judged(w, len(family.checks), one, adjusted, adjusted > level, single) for w, family, one, adjusted, single in rows]


def effective_number(p_values: Float[np.ndarray, "survey check"]) -> float:
    """How many independent checks have a least p-value with the law of these; all of them where there are no surveys.

    The least of n independent p-values has the law Beta(1, n), and that of dependent ones nearly so (Dudbridge & Gusnanto 2008). As n grows
    towards small p-values, which matter, it is fitted to the smallest: maximum likelihood with the others censored.
    """
    surveys, checks = p_values.shape
    if not surveys:
        return float(checks)
    exponential = np.sort(-np.log1p(-p_values.min(1).clip(1e-12, 1 - 1e-12)))  # of rate n
    few = min(max(int(TAIL * surveys), FEWEST), surveys)
    rate = few / (exponential[:few].sum() + (surveys - few) * exponential[few - 1])
    return float(np.clip(rate, 1, checks))


def _sidak(p_value: float | np.ndarray, number: float | np.ndarray) -> np.ndarray:
    """Chance that the least of so many independent p-values is below this one."""
    with np.errstate(divide="ignore"):  # at p = 1
        return -np.expm1(number * np.log1p(-np.clip(p_value, 0, 1)))


def normal_scores(
    draws: Float[Tensor, "draw survey parameter"], truth: Float[Tensor, "survey parameter"], seed: int = 0
) -> Float[np.ndarray, "survey parameter"]:
    """Φ⁻¹ of the randomised ranks of the truth: exactly standard normal for an exact posterior; positive where the truth is above."""
    r = ranks(draws, truth).cpu().numpy()
    return special.ndtri((r + np.random.default_rng(seed).uniform(size=r.shape)) / (len(draws) + 1))


def marginal_checks(
    draws: Float[Tensor, "draw survey parameter"],
    truth: Float[Tensor, "survey parameter"],
    names: Sequence[str],
    prefix: str = "",
    seed: int = 0,
) -> list[Check]:
    """Per parameter: uniform ranks (sbi's test), shift and width in units of the posterior's sd, errors independent of the stated width.

    Args:
        draws, truth: posterior draws and what made each survey, independent between surveys.
        names: of the parameters.
        prefix: of the names of the tests.
        seed: of the randomisation of ranks.
    """
    count, score = len(truth), normal_scores(draws, truth, seed)
    spread, sbc = draws.std(0).cpu().numpy(), calibration(draws, truth).p_value
    out = {"ranks": [], "shift": [], "width": [], "error vs width": []}  # type: dict[str, list[Check]]
    for k, name in enumerate(names):
        z = score[:, k]
        distance = stats.kstest(special.ndtr(z), "uniform").statistic
        out["ranks"].append(_distance(f"{prefix}ranks", name, distance, count, float(sbc[k])))
        out["shift"].append(_normal(f"{prefix}shift", name, -z.mean(), count**-0.5))
        out["width"].append(_width(f"{prefix}width", name, z))
        # ranks of both: no tail of either decides, and the null distribution holds for every law of the widths
        follows = stats.spearmanr(np.abs(z), spread[:, k])
        edge = stats.norm.ppf(0.5 + BAND / 2) * (count - 1) ** -0.5
        out["error vs width"].append(Check(f"{prefix}error vs width", name, float(follows.statistic), -edge, edge, float(follows.pvalue)))
    return [check for rows in out.values() for check in rows]


def joint_checks(
    draws: Float[Tensor, "draw survey parameter"],
    truth: Float[Tensor, "survey parameter"],
    log_q_draws: Float[Tensor, "draw survey"],
    log_q_truth: Float[Tensor, "survey"],
    seed: int = 0,
) -> list[Check]:
    """All parameters at once: expected coverage of central intervals and of highest-density regions, TARP, correlations.

    Coverage of intervals: the share of a survey's parameters inside is averaged over surveys, whose scatter gives the error, because the
    parameters of one survey are not independent.

    Args:
        draws, truth: posterior draws and what made each survey.
        log_q_draws, log_q_truth: log density of the posterior at them.
        seed: of the randomisation of ranks and of TARP's reference points.
    """
    count = len(truth)
    inside = np.abs(special.ndtr(normal_scores(draws, truth, seed)) - 0.5)
    shares = [(inside <= level / 2).mean(1) for level in LEVELS]
    joint, regions = stats.kstest(joint_ranks(log_q_draws, log_q_truth, seed), "uniform"), tarp(draws, truth, seed, resamples=1)
    return [
        *(_coverage(level, share, truth.shape[1]) for level, share in zip(LEVELS, shares, strict=True)),
        _distance("joint coverage", "all", joint.statistic, count, float(joint.pvalue)),
        _distance("TARP", "all", regions.deviation, count, regions.p_value),
        *([_correlations(draws, truth)] if truth.shape[1] > 1 else []),
    ]


def joint_ranks(
    log_q_draws: Float[Tensor, "draw survey"], log_q_truth: Float[Tensor, "survey"], seed: int = 0
) -> Float[np.ndarray, "survey"]:
    """Credibility of the highest-density region that just holds the truth: uniform for an exact posterior (Hermans+22)."""
    above = (log_q_draws > log_q_truth).sum(0).cpu().numpy()
    return (above + np.random.default_rng(seed).uniform(size=above.shape)) / (len(log_q_draws) + 1)


def whitened(
    values: Float[Tensor, "*draw survey parameter"], draws: Float[Tensor, "draw survey parameter"]
) -> Float[Tensor, "*draw survey parameter"]:
    """Values in the frame where the draws of each survey have mean 0 and covariance 1.

    Raises:
        ValueError: if there are not more draws than parameters.
    """
    if len(draws) <= draws.shape[-1]:
        raise ValueError(f"draws: expected more than the {draws.shape[-1]} parameters, got {len(draws)}; draw more")
    centre = draws.double().mean(0)
    delta = (draws.double() - centre).transpose(0, 1)
    covariance = delta.transpose(1, 2) @ delta / (len(draws) - 1)
    # draws that all lie at an edge of the prior have no width
    floor = FLOOR * draws.double().flatten(0, 1).var(0)
    factor = torch.linalg.cholesky(covariance + torch.diag(floor))
    return torch.linalg.solve_triangular(factor, (values.double() - centre)[..., None], upper=False)[..., 0]


def _correlations(draws: Tensor, truth: Tensor) -> Check:
    r"""Root mean square correlation of whitened truths, zero but for noise if the stated correlations are right.

    The statistic $\sum_{i<j} \langle w_i w_j \rangle^2$ of the truths is compared with those of single draws in their place, which are
    exchangeable with the truth of an exact posterior: all are whitened by the other half of the draws. p from a gamma distribution with
    the mean and variance of these.
    """
    half, count = len(draws) // 2, len(truth)
    w = torch.cat([whitened(truth[None], draws[half:]), whitened(draws[:half], draws[half:])])
    w = w.clamp(-CLIP, CLIP).cpu()  # single outliers, of long tails, would drown the rest; the same for truths and draws
    row, column = np.triu_indices(truth.shape[1], 1)
    means = torch.stack([(one.T @ one / count)[row, column] for one in w]).numpy()
    squares = (means**2).mean(1)
    null = stats.gamma(squares[1:].mean() ** 2 / squares[1:].var(), scale=squares[1:].var() / squares[1:].mean())
    return Check("correlations", "all", float(squares[0] ** 0.5), 0.0, float(null.ppf(BAND) ** 0.5), float(null.sf(squares[0])))


def _distance(test: str, of: str, distance: float, count: int, p_value: float) -> Check:
    """Kolmogorov-Smirnov distance from uniform."""
    return Check(test, of, float(distance), 0.0, float(stats.kstwo.ppf(BAND, count)), p_value)


def _normal(test: str, of: str, value: float, error: float) -> Check:
    """A mean that is normal around zero with a known error."""
    edge = float(stats.norm.ppf(0.5 + BAND / 2) * error)
    return Check(test, of, float(value), -edge, edge, float(2 * stats.norm.sf(abs(value) / error)))


def _width(test: str, of: str, score: np.ndarray) -> Check:
    """Sd of normal scores, 1 if widths are right, more where too narrow; its square is χ² distributed."""
    freedom, value = len(score) - 1, float(score.std(ddof=1))
    low, high = np.sqrt(stats.chi2.ppf([0.5 - BAND / 2, 0.5 + BAND / 2], freedom) / freedom)
    tails = stats.chi2.cdf(freedom * value**2, freedom), stats.chi2.sf(freedom * value**2, freedom)
    return Check(test, of, value, float(low), float(high), float(min(2 * min(tails), 1.0)))


def _coverage(level: float, share: np.ndarray, parameters: int) -> Check:
    """Mean over surveys of the share of parameters inside the central interval of a level.

    Its scatter is not taken to be less than that of independent parameters, below which it is by chance: inside or not is never
    negatively correlated between normal ones (Šidák 1967), and where nearly all are inside a sample says little of it.
    """
    freedom = len(share) - 1
    error = max(float(share.std(ddof=1)), (level * (1 - level) / parameters) ** 0.5) * len(share) ** -0.5
    edge = float(stats.t.ppf(0.5 + BAND / 2, freedom) * error)
    p_value = float(2 * stats.t.sf(abs(share.mean() - level) / error, freedom))
    return Check("coverage", f"{level:.0%}", float(share.mean()), level - edge, level + edge, p_value)
