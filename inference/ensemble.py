"""Global estimators of one shape trained side by side: their weights stacked, one vectorised pass for all.

Members differ in their first weights and in the order of their batches. What one learns of the noise of the training surveys the others
do not, so that together they are both sharper and less overconfident than any (Lakshminarayanan+17; Hermans+22 for posteriors); `posterior`
puts them together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from .estimators import GlobalEstimator

__all__ = ["Ensemble"]


class _Head(nn.Module):
    """A member without its encoder, as a function of Θ and stored summaries."""

    def __init__(self, member: GlobalEstimator) -> None:
        super().__init__()
        self.member = member

    def forward(self, theta: Tensor, summary: Tensor) -> Tensor:
        return self.member.head_loss(theta, summary)


class Ensemble(nn.Module):
    """Stacked weights of some members.

    Small matrices cost more to call than to multiply: on a CPU eight members take as long as two or three.

    Args:
        members: of one shape.
    """

    heads: list[_Head]
    fixed: dict[str, Any]

    def __init__(self, members: Sequence[GlobalEstimator]) -> None:
        super().__init__()
        heads = [_Head(member) for member in members]
        weights, buffers = stack_module_state(heads)  # type: ignore[arg-type]
        self.names = tuple(weights)
        self.weights = nn.ParameterList(nn.Parameter(weights[name].detach().clone()) for name in self.names)
        self.heads, self.fixed = heads, buffers  # in plain containers: no submodules, whose weights would be trained beside the stacked

    def losses(
        self, theta: Float[Tensor, "member survey parameter"], summary: Float[Tensor, "member survey column"]
    ) -> Float[Tensor, "member survey"]:
        """-ln q of every member on surveys of its own."""
        shape = self.heads[0].train(self.training)

        def one(weights: dict[str, Tensor], buffers: dict[str, Tensor], theta: Tensor, summary: Tensor) -> Tensor:
            return functional_call(shape, (weights, buffers), (theta, summary))

        return vmap(one, randomness="different")(self._stacked(), self.fixed, theta, summary)

    def loss(self, theta: Tensor, summary: Tensor) -> Float[Tensor, "survey"]:
        """Mean over the members of `losses`."""
        return self.losses(theta, summary).mean(0)

    def mixture_loss(self, theta: Float[Tensor, "survey parameter"], summary: Float[Tensor, "survey column"]) -> Float[Tensor, "survey"]:
        """-ln of the mean density of the members on the same surveys."""
        size = len(self.heads)
        each = self.losses(theta.expand(size, *theta.shape), summary.expand(size, *summary.shape))
        return math.log(size) - torch.logsumexp(-each, 0)

    def write_back(self) -> None:
        """Copy the weights into the members."""
        with torch.no_grad():
            for name, stacked in zip(self.names, self.weights, strict=True):
                for head, value in zip(self.heads, stacked, strict=True):
                    head.get_parameter(name).copy_(value)

    def _stacked(self) -> dict[str, Tensor]:
        return dict(zip(self.names, self.weights, strict=True))
