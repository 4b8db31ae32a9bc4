r"""Θ of one observed survey by linear regression on the summaries of simulated ones, each of which is left out in turn.

Errors of surveys that a regression has not seen say how far from the truth its estimate for the observed one is, whatever the law of
Θ given its summary: if the observed survey is like the simulated ones, all are exchangeable (Beaumont+02 for regression on summaries;
jackknife+ of Barber+21). With the hat matrix H of a ridge regression the error of survey i by the regression without it
is $e_i / (1 - H_{ii})$.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .standardise import Whitening

__all__ = ["Regressed", "Ridge", "regress", "ridge"]

PENALTY = 30.0  # of a squared coefficient of a whitened component, in units of one survey's squared error


class Ridge(NamedTuple):
    """A linear regression, and truth less prediction of each row by the regression without it."""

    weight: Float[Tensor, "column target"]
    bias: Float[Tensor, "target"]
    errors: Float[Tensor, "row target"]


def ridge(design: Float[Tensor, "row column"], target: Float[Tensor, "row target"], penalty: float = PENALTY) -> Ridge:
    """Ridge regression in float64 with a constant that is not penalised.

    Args:
        design: of which columns have unit variance, or the penalty is not theirs.
        target: what is predicted.
        penalty: of the squared coefficients.
    """
    x, y = design.double(), target.double()
    centre, mean = x.mean(0), y.mean(0)
    x, y = x - centre, y - mean
    inverse = torch.linalg.inv(x.T @ x + penalty * torch.eye(x.shape[1]).to(x))
    weight = inverse @ x.T @ y
    leverage = 1 / len(x) + ((x @ inverse) * x).sum(1)
    return Ridge(weight, mean - centre @ weight, (y - x @ weight) / (1 - leverage)[:, None])


class Regressed(NamedTuple):
    """Estimate of the observed survey's Θ, and truth less estimate of each simulated survey left out of the regression."""

    estimate: Float[Tensor, "parameter"]
    errors: Float[Tensor, "survey parameter"]


def regress(
    summary: Float[Tensor, "survey summary"],
    theta: Float[Tensor, "survey parameter"],
    observed: Float[Tensor, "summary"],
    penalty: float = PENALTY,
) -> Regressed:
    """Regress Θ on the whitened summary, apply that to the observed one, and leave out each simulated survey in turn.

    Args:
        summary: of simulated surveys.
        theta: their parameters.
        observed: summary of the survey in question.
        penalty: of the squared coefficients.

    Raises:
        ValueError: for fewer than three surveys, or numbers that are not finite.
    """
    if len(summary) < 3 or not all(bool(torch.isfinite(t).all()) for t in (summary, theta, observed)):
        raise ValueError(
            f"regression: expected finite summaries of three surveys or more, got {len(summary)}; simulate more, or train anew"
        )
    whitening = Whitening.fit(summary)
    found = ridge(whitening(summary), theta, penalty)
    return Regressed(whitening(observed[None]).double()[0] @ found.weight + found.bias, found.errors)
