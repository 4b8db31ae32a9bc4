r"""L-C2ST: is the posterior right at the observed survey? (Linhart, Gramfort & Rodrigues 2023, with sbi's statistic)

A classifier learns to tell the truths of fresh surveys from posterior draws, given what is known of each survey; where it can at
the observed one, the posterior is wrong there. Two steps make it sharp with 500 surveys. Parameters are whitened survey by survey with
the posterior's own mean and covariance: an invertible map for each survey, which leaves the null hypothesis as it is, and in which an exact
posterior has no mean, unit variances and no correlations wherever it is. And the survey enters by its posterior mean, the learned summary
of a few numbers that matters, not by all columns of the summary. The classifier is logistic in products of degree two, which see shift,
width and correlation, and how the shift changes from survey to survey.

The null hypothesis is that truth and draws of a survey may be exchanged, so they are, at random in each survey. sbi permutes over all
surveys instead, which tears truth and draws of a survey apart: surveys then differ between the classes, which an
exact posterior's do not, its null statistics come out too large and the test too seldom rejects.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from .checks import BAND, Check, whitened

__all__ = ["local_check"]

TRIALS = 100
AGAINST = 4  # draws that each truth is told from
STRENGTH = 0.01  # inverse of the ridge penalty: as many products as surveys are fitted


def local_check(
    draws: Float[Tensor, "draw survey parameter"],
    truth: Float[Tensor, "survey parameter"],
    observed: Float[Tensor, "draw parameter"],
    seed: int = 0,
    trials: int = TRIALS,
) -> Check:
    """L-C2ST statistic at an observed survey; p from a gamma distribution with mean and variance of the trials.

    Args:
        draws, truth: posterior draws and what made each of many surveys.
        observed: posterior draws of the observed survey.
        seed: of the exchanges.
        trials: of the null hypothesis.
    """
    draws, truth, observed = draws.cpu(), truth.cpu(), observed.cpu()
    means = draws.mean(0)
    place, scale = means.mean(0), means.std(0)
    # draws that are compared are not among those that whiten them, as the truth is not
    some = whitened(torch.cat([truth[None], draws[:AGAINST]]), draws[AGAINST:])
    known, here = ((a - place) / scale for a in (means.double(), observed.double().mean(0)[None]))
    half = len(observed) // 2
    at = whitened(observed[:half, None], observed[half:, None])[:, 0]
    places = np.random.default_rng(seed).integers(len(some), size=(trials, len(truth)))
    value, *others = (_statistic(some, torch.as_tensor(p), known, at, here) for p in [np.zeros(len(truth), int), *places])
    null = np.array(others)
    law = stats.gamma(null.mean() ** 2 / null.var(), scale=null.var() / null.mean())
    return Check("L-C2ST", "catalogue", value, 0.0, float(law.ppf(BAND)), float(law.sf(value)))


def _statistic(some: Tensor, place: Tensor, known: Tensor, at: Tensor, here: Tensor) -> float:
    """Mean of (p - 1/2)² over draws at the observed survey, p the classifier's; `place` says which of `some` is the truth."""
    from sbi.diagnostics.lc2st import LC2ST
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    steps = [
        ("products", PolynomialFeatures(2, include_bias=False)), ("scale", StandardScaler()), ("logistic", LogisticRegression(C=STRENGTH)),
    ]  # fmt: skip
    surveys, rest = torch.arange(len(place)), len(some) - 1
    others = (place + torch.arange(1, rest + 1)[:, None]) % len(some)
    true, drawn = some[place, surveys].repeat(rest, 1), some[others, surveys].flatten(0, 1)
    test = LC2ST(true, known.repeat(rest, 1), drawn, classifier=Pipeline, classifier_kwargs={"steps": steps})
    return float(test.train_on_observed_data(verbosity=0).get_statistic_on_observed_data(theta_o=at, x_o=here))
