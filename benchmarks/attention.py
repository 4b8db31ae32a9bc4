r"""A set summary by attention with inducing points (Lee+19), for recipes.py alone until it is shown to gain anything.

Learned queries attend to the objects of a survey, then the objects to those, and the mean over the objects is the summary.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from inference.batches import Packed
from inference.embedding import SetEncoder

__all__ = ["AttentionEncoder"]


class AttentionEncoder(SetEncoder):
    """`SetEncoder` whose objects see each other through a few inducing points.

    Args:
        inducing: number of them.
        heads: of both attentions.
    """

    def __init__(self, *arguments: object, inducing: int = 16, heads: int = 4, **named: object) -> None:
        super().__init__(*arguments, **named)  # type: ignore[arg-type]
        self.inducing = nn.Parameter(torch.randn(1, inducing, self.outputs))
        self.gather, self.spread = (nn.MultiheadAttention(self.outputs, heads, batch_first=True) for _ in range(2))
        self.norm = nn.LayerNorm(self.outputs)

    def forward(self, packed: Packed) -> Float[Tensor, "survey output"]:
        """Pooled summary of each packed survey."""
        lengths = packed.lengths.tolist()
        objects = nn.utils.rnn.pad_sequence(torch.split(self._objects(packed.observations), lengths), batch_first=True)
        padding = torch.arange(objects.shape[1], device=objects.device) >= packed.lengths[:, None]
        points, _ = self.gather(self.inducing.expand(len(objects), -1, -1), objects, objects, key_padding_mask=padding, need_weights=False)
        seen, _ = self.spread(objects, points, points, need_weights=False)
        objects = self.norm(objects + seen).masked_fill(padding[..., None], 0.0)
        return objects.sum(1) / packed.lengths.clamp(min=1)[:, None]
