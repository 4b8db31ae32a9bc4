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

__all__ = ["Regressed", "regress"]

PENALTY = 30.0  # of a squared coefficient of a whitened component, in units of one survey's squared error


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
    design = whitening(summary).double()
    centre, target = design.mean(0), theta.double()
    design, mean = design - centre, target.mean(0)
    inverse = torch.linalg.inv(design.T @ design + penalty * torch.eye(design.shape[1]).to(design))
    weight = inverse @ design.T @ (target - mean)
    leverage = 1 / len(design) + ((design @ inverse) * design).sum(1)
    errors = (target - mean - design @ weight) / (1 - leverage)[:, None]
    return Regressed(mean + (whitening(observed[None]).double()[0] - centre) @ weight, errors)
