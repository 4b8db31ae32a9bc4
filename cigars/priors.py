"""The prior of one parameter as a distribution, and in words."""

from __future__ import annotations

import math

from scipy import stats

from cigars.schema import Marginal

__all__ = ["prior_distribution", "prior_text"]


def prior_distribution(marginal: Marginal) -> stats.rv_continuous:
    """The prior of one parameter as a frozen scipy distribution; a fixed parameter has none (ValueError)."""
    if marginal.kind == "uniform":
        return stats.uniform(marginal.low, marginal.high - marginal.low)
    if marginal.kind == "normal":
        low, high = ((edge - marginal.loc) / marginal.scale for edge in (marginal.low, marginal.high))
        return stats.truncnorm(low, high, loc=marginal.loc, scale=marginal.scale)
    raise ValueError(f"prior: expected uniform or normal, got {marginal.kind!r}; leave fixed parameters out")


def prior_text(marginal: Marginal) -> str:
    """The prior as the forward model writes it: U(0, 1), N(−1.34, 0.2), TN(0.3, 0.1; 0, 1)."""
    number = "{:.5g}".format
    if marginal.kind == "uniform":
        text = f"U({number(marginal.low)}, {number(marginal.high)})"
    elif math.isinf(marginal.low) and math.isinf(marginal.high):
        text = f"N({number(marginal.loc)}, {number(marginal.scale)})"
    else:
        text = f"TN({number(marginal.loc)}, {number(marginal.scale)}; {number(marginal.low)}, {number(marginal.high)})"
    return text.replace("-", "−").replace("inf", "∞")
