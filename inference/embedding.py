r"""Learned summary of a set: the mean over its objects of a residual network φ (Zaheer+17).

$s = \left(\frac1N\sum_i \varphi(d_i),\ \frac1N\sum_i d_i,\ \frac1N\sum_i d_i^2,\ \ln(1 + N)\right)$ with $d_i$ the standardised inputs.
Invariant to the order of the objects; objects may be processed in chunks, whose sums add.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cigars.schema import Observations

from .batches import Packed, segment_mean
from .standardise import Standardiser
from .summaries import size_columns

__all__ = ["FeatureMoments", "ResidualMLP", "SetEncoder"]


class ResidualMLP(nn.Module):
    """Linear map to `width`, then residual blocks with layer normalisation, then a linear map.

    Args:
        inputs, width, outputs: sizes.
        blocks: number of residual blocks.
    """

    def __init__(self, inputs: int, width: int, outputs: int, blocks: int = 2) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(blocks)
        )
        self.last = nn.Sequential(nn.SiLU(), nn.Linear(width, outputs))

    def forward(self, inputs: Float[Tensor, "row input"]) -> Float[Tensor, "row output"]:
        """Outputs of each row."""
        h = self.first(inputs)
        for block in self.blocks:
            h = h + block(h)
        return self.last(h)


class FeatureMoments(nn.Module):
    """First and second moments of the standardised inputs, ln(1 + N) and the log exposure: the part of the set summary without weights.

    Args:
        standardiser: fitted on the training objects.
    """

    def __init__(self, standardiser: Standardiser) -> None:
        super().__init__()
        self.standardiser = standardiser

    @torch.no_grad()
    def forward(self, packed: Packed) -> Float[Tensor, "survey moment"]:
        """Moments of each packed survey."""
        u = self.standardiser(packed.observations)
        return torch.cat([segment_mean(torch.cat([u, u**2], -1), packed.lengths), size_columns(packed)], -1)


class SetEncoder(nn.Module):
    """Mean over the set of a per-object residual network.

    Args:
        standardiser: fitted on the training objects; kept fixed.
        outputs: length of the pooled summary.
        width, blocks: of the per-object network.
        chunk: objects processed at a time when no gradient is asked for.
    """

    def __init__(self, standardiser: Standardiser, outputs: int = 32, width: int = 64, blocks: int = 2, chunk: int = 65536) -> None:
        super().__init__()
        self.standardiser, self.outputs, self.chunk = standardiser, outputs, chunk
        self.network = ResidualMLP(standardiser.features, width, outputs, blocks)

    def _objects(self, observations: Observations) -> Float[Tensor, "object output"]:
        return self.network(self.standardiser(observations))

    def forward(self, packed: Packed) -> Float[Tensor, "survey output"]:
        """Pooled summary of each packed survey; an empty one gives zeros."""
        o, total = packed.observations, len(packed.observations.m)
        if torch.is_grad_enabled() or total <= self.chunk:
            return segment_mean(self._objects(o), packed.lengths)
        owner = torch.repeat_interleave(torch.arange(len(packed.lengths), device=o.m.device), packed.lengths, output_size=total)
        pooled = torch.zeros(len(packed.lengths), self.outputs, device=o.m.device)
        for start in range(0, total, self.chunk):
            rows = slice(start, start + self.chunk)
            pooled.index_add_(0, owner[rows], self._objects(Observations(*(leaf[rows] for leaf in o))))
        return pooled / packed.lengths.clamp(min=1)[:, None]
