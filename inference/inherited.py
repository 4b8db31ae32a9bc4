"""The summary of a finished training, for surveys of another size."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .batches import Packed
from .standardise import Standardiser

__all__ = ["Inherited"]


class Inherited(nn.Module):
    """A summary as it was learned, of surveys whose exposure is relative to another size.

    Args:
        summary: of a training; shared, not copied.
        unit: exposure 1 of the surveys, in units of that of the training.
    """

    def __init__(self, summary: nn.Module, unit: float) -> None:
        super().__init__()
        self.summary, self.unit = summary, unit

    @property
    def standardiser(self) -> Standardiser:
        """Of its inputs."""
        return self.summary.standardiser  # type: ignore[return-value]

    @torch.no_grad()
    def forward(self, packed: Packed) -> Float[Tensor, "survey summary"]:
        """Summary of each survey."""
        return self.summary(packed._replace(exposure=self.unit * packed.exposure))
