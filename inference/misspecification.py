r"""Does an observed survey look like simulated ones? Statistics of whole surveys, and the typicality of single objects.

Simulated are surveys at draws of the observed survey's own posterior. A posterior has already bent towards the data, so that a plain
posterior predictive p-value is too kind; here a statistic T is instead predicted by a linear regression on what the posterior says of its
survey, the same for the observed and for each simulated one, and only the residual is judged: with normal residuals its t is exact. What
the parameters can explain, they have explained. Hotelling's T² of all residuals has the law that simulated surveys show, each left out in
turn, because the networks' summary is far from normal: its F law would reject too few surveys in the middle of the prior and too many
elsewhere (`benchmarks/misspecification.md`).

Of the networks' summary there is besides the density that the training learned from all its surveys (`density`): one number a survey, of
which a low value is judged, by the law of the simulated ones.

An object is typical if objects as far from their neighbours are common among simulated ones. Distances are to the k-th simulated
neighbour. Beyond the largest simulated distance their rank says no more: there the tail of the distances is continued by a power law
(Hill 75), else one odd object among many could never be told from chance.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats
from scipy.spatial import cKDTree

from .checks import BAND, Check, Family

__all__ = [
    "Given",
    "Typicality",
    "column_statistics",
    "comparable",
    "distance_p_values",
    "false_discoveries",
    "given",
    "law_at",
    "odd_share",
    "predictive_checks",
    "shares",
    "typicality",
    "unlikely",
    "whitening",
]

QUANTILES = (0.05, 0.5, 0.95)
NEIGHBOURS = 10
ODD = 0.01  # p-value of an object below which it counts as odd in `odd_share`
TAIL, FEWEST = 0.0025, 20  # share of the simulated distances, and fewest of them, that say how their tail falls
FAR = 4.0  # times the mean leverage: beyond, a simulated survey is not like the others
LEAST = 0.3  # of the mean spread, however far in the middle
ROUNDING = 1e-6  # of the scatter of a column: relative rank of what is a combination of others


class Typicality(NamedTuple):
    """Of each object: p-value; for odd ones the input without which it would be most ordinary, and the p-value that it has then."""

    p_value: Float[np.ndarray, "object"]
    reason: np.ndarray
    relief: Float[np.ndarray, "object"]


class Given(NamedTuple):
    """What a linear regression of statistics on what is known of each survey leaves, and how far each survey pulls its own fit."""

    residuals: Float[np.ndarray, "survey statistic"]
    residual: Float[np.ndarray, "statistic"]  # of the observed survey, which took no part in the fit
    leverages: Float[np.ndarray, "survey"]
    leverage: float  # of the observed survey


def column_statistics(columns: Float[np.ndarray, "object column"], names: Sequence[str]) -> dict[str, float]:
    """Mean, sd and quantiles of every column over the objects that have it; nan where fewer than two do."""
    out = {}
    for name, values in zip(names, columns.T, strict=True):
        seen = values[np.isfinite(values)].astype(np.float64)
        enough = len(seen) > 1
        out[f"{name}: mean"] = float(seen.mean()) if enough else np.nan
        out[f"{name}: sd"] = float(seen.std()) if enough else np.nan
        for q, value in zip(QUANTILES, np.quantile(seen, QUANTILES) if enough else [np.nan] * len(QUANTILES), strict=True):
            out[f"{name}: {q:.0%} quantile"] = float(value)
    return out


def shares(values: Float[np.ndarray, "object"], edges: Float[np.ndarray, "edge"], name: str) -> dict[str, float]:
    """Share of the objects in each bin; those beyond the outer edges belong to the outer bins."""
    counts = np.bincount(np.searchsorted(edges[1:-1], values), minlength=len(edges) - 1)
    labels = [f"{name}: bin {k}, {a:.2f} to {b:.2f}" for k, (a, b) in enumerate(itertools.pairwise(edges), start=1)]
    return dict(zip(labels, (counts / max(len(values), 1)).tolist(), strict=True))


def given(
    simulated: Float[np.ndarray, "survey statistic"],
    known: Float[np.ndarray, "survey parameter"],
    observed: Float[np.ndarray, "statistic"],
    observed_known: Float[np.ndarray, "parameter"],
) -> Given:
    """Regression of the simulated statistics on what is known of their surveys, applied to the observed one; arguments as below."""
    centre, scale = known.mean(0), known.std(0) + 1e-12
    design = np.concatenate([np.ones((len(known), 1)), (known - centre) / scale], 1)
    at = np.concatenate([[1.0], (observed_known - centre) / scale])
    inverse = np.linalg.pinv(design.T @ design)
    weight = inverse @ design.T @ simulated
    leverages = np.einsum("si,ij,sj->s", design, inverse, design)
    return Given(simulated - design @ weight, observed - at @ weight, leverages, float(at @ inverse @ at))


def predictive_checks(
    names: Sequence[str],
    simulated: Float[np.ndarray, "survey statistic"],
    known: Float[np.ndarray, "survey parameter"],
    observed: Float[np.ndarray, "statistic"],
    observed_known: Float[np.ndarray, "parameter"],
) -> tuple[Family, Family]:
    """Each statistic of the observed survey given what its posterior says (test "statistics"), and all at once ("all statistics").

    Args:
        names: of the statistics.
        simulated: statistics of surveys simulated at draws of the observed posterior.
        known: posterior means of the same surveys.
        observed, observed_known: of the observed survey.

    Raises:
        ValueError: if there are not enough surveys for the regression, or a statistic is not finite.
    """
    surveys, parameters = known.shape
    if not np.isfinite(simulated).all() or not np.isfinite(observed).all():
        bad = [n for n, s, o in zip(names, simulated.T, observed, strict=True) if not (np.isfinite(s).all() and np.isfinite(o))]
        raise ValueError(
            f"statistics: expected finite values in every survey, got others for {', '.join(bad[:4])}; leave these columns out"
        )
    freedom = surveys - parameters - 1
    if freedom <= len(names) + 1:
        raise ValueError(
            f"surveys: expected more than {len(names) + parameters + 2} to judge {len(names)} statistics, got {surveys}; simulate more"
        )
    found = given(simulated, known, observed, observed_known)
    squares = (found.residuals**2).sum(0)
    spread = np.sqrt(squares / freedom * (1 + found.leverage))
    value = found.residual / np.where(spread > 0, spread, 1.0)
    edge = float(stats.t.ppf(0.5 + BAND / 2, freedom))
    p = 2 * stats.t.sf(np.abs(value), freedom)
    checks = [Check("statistics", name, float(v), -edge, edge, float(q)) for name, v, q in zip(names, value, p, strict=True)]
    # of simulated surveys, each left out of regression and scatter
    inside = found.residuals**2 / np.maximum(1 - found.leverages, 1e-3)[:, None]
    left_out = np.sqrt(inside * (freedom - 1) / np.maximum(squares - inside, 1e-12 * squares + 1e-300))
    return Family(checks, 2 * stats.t.sf(left_out, freedom - 1)), _hotelling(found, freedom)


def comparable(known: Float[np.ndarray, "survey parameter"], observed_known: Float[np.ndarray, "parameter"]) -> Bool[np.ndarray, "survey"]:
    """Which simulated surveys are where the observed one is; the estimate of Θ runs away in a few, to where the model is another.

    What a regression leaves there is tens of times what it leaves of others, so that one such survey would make any observed one ordinary.
    Left out are those with more than FAR times the mean leverage, unless the observed survey is as far out.
    """
    centre = known.mean(0)
    deviation, at = known - centre, observed_known - centre
    inverse = np.linalg.pinv(deviation.T @ deviation, rcond=1e-12)
    leverages, leverage = np.einsum("si,ij,sj->s", deviation, inverse, deviation), at @ inverse @ at
    return np.asarray(leverages <= max(FAR * leverages.mean(), leverage))


def law_at(values: Float[np.ndarray, "survey"], found: Given, leverage: float | np.ndarray) -> stats.rv_frozen:
    """Law of a number for surveys so far from the middle of the simulated ones, from those of surveys left out in turn.

    What the regression leaves grows towards its edge, where surveys are not as linear, and the observed survey is in the middle of those
    at its posterior: mean and spread are linear in the leverage. The law about the mean is a gamma law with the skewness of the values in
    units of that spread.
    """
    x = found.leverages - found.leverages.mean()

    def slope(of: np.ndarray) -> float:
        return float(x @ of / max(x @ x, 1e-12))

    rest = values - values.mean() - slope(values) * x
    growth = slope(np.abs(rest)) / max(np.abs(rest).mean(), 1e-300)

    def at(leverage: float | np.ndarray) -> tuple[float | np.ndarray, float | np.ndarray]:
        further = leverage - found.leverages.mean()
        return values.mean() + slope(values) * further, np.maximum(1 + growth * further, LEAST)

    scaled, (centre, spread) = rest / at(found.leverages)[1], at(leverage)
    return stats.pearson3(max(float(stats.skew(scaled)), 1e-3), centre, scaled.std(ddof=3) * spread)


def unlikely(
    simulated: Float[np.ndarray, "survey"],
    known: Float[np.ndarray, "survey parameter"],
    observed: float,
    observed_known: Float[np.ndarray, "parameter"],
) -> Family:
    """Is the ln density of the observed summary low, given what its posterior says (test "summary density")?

    Args:
        simulated, observed: ln densities; others as in `predictive_checks`. The check's value is in nats below what is expected.
    """
    found = given(-simulated.astype(np.float64)[:, None], known, np.array([-observed]), observed_known)
    values = found.residuals[:, 0] / np.sqrt(np.maximum(1 - found.leverages, 1e-3))
    value = float(found.residual[0] / np.sqrt(1 + found.leverage))
    law, laws = (law_at(values, found, leverage) for leverage in (found.leverage, found.leverages))
    low = min(float(values.min()), value)  # a summary cannot be too likely
    check = Check("summary density", "nats below expected", value, low, float(law.ppf(BAND)), float(law.sf(value)))
    return Family([check], laws.sf(values)[:, None])


def _hotelling(found: Given, freedom: int) -> Family:
    """Hotelling's T² of the residual, along the directions in which simulated surveys scatter."""
    scale = np.sqrt((found.residuals**2).sum(0) / freedom)
    scale = np.where(scale > 0, scale, 1.0)
    power, direction = np.linalg.eigh((found.residuals / scale).T @ (found.residuals / scale) / freedom)
    kept = power > ROUNDING * power.max()
    frame, size = direction[:, kept] / np.sqrt(power[kept]), int(kept.sum())
    inside = (((found.residuals / scale) @ frame) ** 2).sum(1) / np.maximum(1 - found.leverages, 1e-3)
    # left out of regression and covariance, a survey has (Sherman & Morrison 1950)
    left_out = inside * (freedom - 1) / np.maximum(freedom - inside, 1e-3)
    squared = float((((found.residual / scale) @ frame) ** 2).sum() / (1 + found.leverage))
    logs = np.log(np.maximum(left_out, 1e-300))
    law, laws = (law_at(logs, found, leverage) for leverage in (found.leverage, found.leverages))
    p = float(law.sf(np.log(max(squared, 1e-300))))
    check = Check("all statistics", f"{size} directions", squared / size, 0.0, float(np.exp(law.ppf(BAND))) / size, p)
    return Family([check], laws.sf(logs)[:, None])


def typicality(
    observed: Float[np.ndarray, "object input"],
    simulated: Float[np.ndarray, "simulated input"],
    judged: Float[np.ndarray, "judged input"],
    names: Sequence[str],
    suspects: float = ODD,
) -> Typicality:
    """How ordinary each observed object is among simulated ones, and which input makes it odd.

    Args:
        observed: standardised inputs; all arrays without missing values.
        simulated: objects that neighbours are looked for among.
        judged: other simulated objects, whose distances give the p-values.
        names: of the inputs.
        suspects: p-value below which the reason is looked for; others have none.
    """
    every = list(range(len(names)))
    distance, others = _distances(simulated, every, observed, judged)
    p = distance_p_values(distance, others)
    reason, relief = np.full(len(observed), "", dtype=object), np.zeros(len(observed))
    odd = np.flatnonzero(p < suspects)
    if len(odd):
        # each input left out in turn, for the odd ones alone; how common a distance is depends on what is left
        ranks = []
        for k in every:
            near, others = _distances(simulated, every[:k] + every[k + 1 :], observed[odd], judged)
            ranks.append((others[:, None] >= near).mean(0))
        reason[odd], relief[odd] = np.asarray(names, dtype=object)[np.argmax(ranks, 0)], np.max(ranks, 0)
    return Typicality(p, reason, relief)


def distance_p_values(distance: Float[np.ndarray, "object"], judged: Float[np.ndarray, "judged"]) -> Float[np.ndarray, "object"]:
    r"""Chance that a simulated object is as far from its neighbours: by rank, and beyond all judged ones by the tail of those.

    The excess e of ln distance over a threshold is exponential in a power-law tail. The excess of a new object, in units of the mean of
    M judged ones, then has $P(> t) = (1 + t/M)^{-M}$, which counts that the mean is uncertain too. Of simulated supernovae the mean
    falls from 0.13 at one in 100 to 0.07 at one in 50,000: they fall faster than a power law, and these p-values are rather too large.
    """
    ordered = np.sort(judged)
    count = len(ordered)
    p = (count - np.searchsorted(ordered, distance, side="left") + 1) / (count + 1)
    largest = min(max(int(TAIL * count), FEWEST), count - 1)
    beyond = distance > ordered[-1]
    if largest < 1 or ordered[-largest - 1] <= 0 or not beyond.any():
        return np.asarray(p)
    excess = np.log(ordered[-largest:] / ordered[-largest - 1])
    new = np.log(distance[beyond] / ordered[-largest - 1]) / max(float(excess.mean()), 1e-12)
    # (largest + 1) / (count + 1) is the chance of an excess
    p[beyond] = np.minimum(p[beyond], (largest + 1) / (count + 1) * (1 + new / largest) ** -float(largest))
    return np.asarray(p)


def _distances(simulated: np.ndarray, inputs: list[int], *rows: np.ndarray) -> list[np.ndarray]:
    """Distance of rows to their k-th simulated neighbour, in units in which the simulated objects have covariance 1."""
    among = simulated[:, inputs].astype(np.float64)
    frame = whitening(among)
    tree = cKDTree(among @ frame)
    return [np.asarray(tree.query(some[:, inputs].astype(np.float64) @ frame, NEIGHBOURS)[0])[:, -1] for some in rows]


def whitening(objects: Float[np.ndarray, "object input"]) -> Float[np.ndarray, "input direction"]:
    """Linear map to directions in which objects have covariance 1; combinations of other inputs have none."""
    power, direction = np.linalg.eigh(np.cov(objects.astype(np.float64).T))
    kept = power > ROUNDING * power.max()
    return direction[:, kept] / np.sqrt(power[kept])


def odd_share(p_values: Float[np.ndarray, "object"], judged: int) -> Check:
    """Share of objects with p below 1 % (test "odd objects"): given Θ the objects are independent.

    Args:
        p_values: of `typicality`.
        judged: number of simulated objects that they are ranks among. Where their first per cent ends is uncertain, so that the count is
            not binomial but beta-binomial.
    """
    odd, count = int((p_values < ODD).sum()), len(p_values)
    law = stats.betabinom(count, max(ODD * judged, 1), (1 - ODD) * judged)
    low, high = law.interval(BAND)
    p = min(2 * min(law.cdf(odd), law.sf(odd - 1)), 1.0)
    return Check("odd objects", f"p < {ODD:g}", odd / count, low / count, high / count, float(p))


def false_discoveries(p_values: Float[np.ndarray, "object"], share: float) -> Bool[np.ndarray, "object"]:
    """Which to call odd so that on average at most this share of those called are ordinary (Benjamini & Hochberg 1995)."""
    order = np.argsort(p_values)
    passed = p_values[order] <= share * np.arange(1, len(p_values) + 1) / len(p_values)
    called = np.zeros(len(p_values), bool)
    if passed.any():
        called[order[: int(np.flatnonzero(passed).max()) + 1]] = True
    return called
