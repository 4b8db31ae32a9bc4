"""The summary of a trained run and the physics moments behind it, end to end: for questions that the run was not trained for."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .batches import Packed
from .score import OneStep
from .standardise import Standardiser
from .summaries import size_columns

__all__ = ["JoinedSummary"]


class JoinedSummary(nn.Module):
    """A run's summary; of a one-step score also the moments, which know of more than its parameters.

    Args:
        summary: of a trained run.
    """

    def __init__(self, summary: nn.Module) -> None:
        super().__init__()
        self.summary = summary

    @property
    def standardiser(self) -> Standardiser:
        """Of its inputs."""
        return self.summary.standardiser  # type: ignore[return-value]

    @torch.no_grad()
    def forward(self, packed: Packed) -> Float[Tensor, "survey column"]:
        """Summary of each survey, ln(1 + N) and the log exposure last."""
        parts = [self.summary(packed)]
        if isinstance(self.summary, OneStep):
            parts.append(self.summary.moments(packed))
        return torch.cat([*parts, size_columns(packed)], 1)
