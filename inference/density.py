r"""Density of the summary of a simulated survey, ln p(s) over the whole prior, learned from the table that the global heads learn from.

A survey of a wrong model can have a summary that no Θ gives: first estimate, Newton step and scores contradict each other. A masked
autoregressive flow (Papamakarios+17) of the whitened components learns how they hang together from all surveys of the training. It knows
nothing of the observed survey, so that one number a survey is left to calibrate (`misspecification.unlikely`). What Θ can absorb it
does not see (`benchmarks/misspecification.md`).
"""

from __future__ import annotations

import zuko
from jaxtyping import Float
from torch import Tensor, nn

from .standardise import Whitening

__all__ = ["SummaryDensity"]


class SummaryDensity(nn.Module):
    """Normalising flow of whitened summaries.

    Args:
        whitening: of the summary.
        transforms, hidden: number of autoregressive transforms, units of both their hidden layers.
    """

    def __init__(self, whitening: Whitening, transforms: int = 3, hidden: int = 128) -> None:
        super().__init__()
        self.whitening = whitening
        self.flow = zuko.flows.MAF(whitening.projection.shape[1], transforms=transforms, hidden_features=(hidden, hidden))

    def forward(self, summary: Float[Tensor, "survey summary"]) -> Float[Tensor, "survey"]:
        """ln p of the whitened components of each survey."""
        return self.flow(None).log_prob(self.whitening(summary))

    def loss(self, summary: Float[Tensor, "survey summary"]) -> Float[Tensor, "survey"]:
        """-ln p."""
        return -self(summary)
