r"""Conditional flow q(Θ | summary) on the prior's support.

Normal laws truncated at the prior's edges (`truncated_normal`), whose means and spreads come from the context and start at a ridge
regression, and behind them an sbi neural spline flow of what is left, which is of order one:
$q(\theta) = q_{\rm NSF}(z \mid c)\, |\partial z/\partial\theta|$.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
import zuko
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Transform
from zuko.flows.autoregressive import MaskedAutoregressiveTransform

from .batches import Packed
from .embedding import SetEncoder
from .priors import Prior
from .regression import ridge
from .splines import invert_spline
from .standardise import Whitening
from .truncated_normal import TruncatedNormalLayer

__all__ = ["GlobalEstimator", "spline_flow"]


class OneByOne(zuko.transforms.AutoregressiveTransform):
    """An autoregressive transform of which the inverse asks for the spline of one parameter at a time.

    Parameter i needs its own spline alone once those before it are known; zuko evaluates all of them in each of as many passes.
    """

    def __init__(self, layer: Autoregressive, context: Tensor) -> None:
        super().__init__(partial(layer.meta, context), layer.passes)
        self.layer, self.context = layer, context

    def _inverse(self, y: Tensor) -> Tensor:
        layer, size = self.layer, y.shape[-1]
        first, *middle, last = layer.hyper
        weight = first.mask * first.weight
        of_context = F.linear(self.context, weight[:, size:], first.bias)  # the same in all passes
        masked = last.mask * last.weight
        x = torch.zeros_like(y)
        for i in layer.order.argsort().tolist():
            h = F.linear(x, weight[:, :size]) + of_context
            for module in middle:
                h = module(h)
            own = slice(i * layer.total, (i + 1) * layer.total)
            knots = F.linear(h, masked[own], last.bias[own]).flatten(0, -2).T
            x[..., i] = invert_spline(knots, y[..., i].flatten()).view(y.shape[:-1])
        return x


class Autoregressive(MaskedAutoregressiveTransform):
    """A fully autoregressive layer of zuko with a faster inverse."""

    @classmethod
    def of(cls, layer: zuko.lazy.LazyTransform) -> zuko.lazy.LazyTransform:
        """The layer with its own weights; that of a single parameter, which is no autoregressive one, as it is."""
        if not isinstance(layer, MaskedAutoregressiveTransform):
            return layer
        faster = object.__new__(cls)
        faster.__dict__ = layer.__dict__
        return faster

    def forward(self, c: Tensor | None = None) -> Transform:
        if c is None:
            raise ValueError("flow: expected a context, got none; condition the flow")
        return OneByOne(self, c)


def spline_flow(prior: Prior, context: int, hidden: int, transforms: int, bins: int = 8) -> nn.Module:
    """sbi's neural spline flow behind normal laws on the support of a prior.

    Args:
        prior: fixes the support.
        context: length of the condition, at least twice the number of parameters.
        hidden: units of both hidden layers of each transform.
        transforms, bins: number of transforms, and bins of their splines.
    """
    from sbi.neural_nets import posterior_nn  # seconds to import

    build = posterior_nn(
        "zuko_nsf", z_score_theta="none", z_score_x="none", hidden_features=(hidden, hidden), num_transforms=transforms, num_bins=bins
    )
    flow = build(prior.sample((8,)).cpu(), torch.zeros(8, context))  # shapes alone count
    splines = map(Autoregressive.of, flow.net.transform.transforms)
    flow.net.transform.transforms = nn.ModuleList([TruncatedNormalLayer(prior), *splines])
    return flow


class GlobalEstimator(nn.Module):
    """q(Θ | survey) from a fixed summary, and beside it a learned encoder of the set if there is one.

    Args:
        prior: of the free parameters.
        whitening: of the fixed summary.
        encoder: learned set encoder, or None.
        hidden, transforms: of the flow.
        dropout: on the whitened components, before the small network.
    """

    flow: Any

    def __init__(
        self,
        prior: Prior,
        whitening: Whitening,
        encoder: SetEncoder | None = None,
        hidden: int = 64,
        transforms: int = 3,
        dropout: float = 0.15,
    ) -> None:
        super().__init__()
        self.prior, self.whitening, self.encoder = prior, whitening, encoder
        size, components, features = len(prior.names), whitening.projection.shape[1], 24
        learned = encoder.outputs if encoder else 0
        self.size = size
        self.skip = nn.Linear(components, size)
        self.drop = nn.Dropout(dropout)
        self.mlp = nn.Sequential(nn.Linear(components + learned, 128), nn.SiLU(), nn.LayerNorm(128), nn.Linear(128, 128), nn.SiLU())
        self.features = nn.Linear(128, features)
        self.correction = nn.Linear(128, 2 * size)
        self.ln_sd = nn.Parameter(torch.zeros(size))
        self.flow = spline_flow(prior, 2 * size + features, hidden, transforms)
        nn.init.zeros_(self.correction.weight)
        nn.init.zeros_(self.correction.bias)

    def fit_skip(self, summary: Float[Tensor, "survey summary"], theta: Float[Tensor, "survey parameter"]) -> GlobalEstimator:
        """Start means at the ridge regression of Θ on the whitened summary, sd at errors of surveys left out of it; returns itself."""
        given = self.prior.given(theta)
        found = ridge(self.whitening(summary), (theta - given.middle) / given.unit)
        with torch.no_grad():
            self.skip.weight.copy_(found.weight.T)
            self.skip.bias.copy_(found.bias)
            self.ln_sd.copy_(found.errors.std(0).clamp(min=1e-3).log())
        return self

    def _condition(self, summary: Tensor, learned: Tensor | None) -> Tensor:
        w = self.whitening(summary)
        h = self.mlp(self.drop(w) if learned is None else torch.cat([self.drop(w), learned], -1))
        shift, stretch = self.correction(h).chunk(2, -1)
        return torch.cat([self.skip(w) + torch.exp(self.ln_sd) * shift, self.ln_sd + stretch.clamp(-4, 4), self.features(h)], -1)

    def context(self, summary: Float[Tensor, "survey summary"], packed: Packed | None = None) -> Float[Tensor, "survey context"]:
        """What conditions the flow: (μ, ln σ, features), the fixed-length vector that sbi sees.

        Raises:
            ValueError: if the estimator has a learned encoder and no objects are given.
        """
        if self.encoder is not None and packed is None:
            raise ValueError("global estimator: expected the objects for the learned encoder, got none; pass the packed survey")
        return self._condition(summary, None if self.encoder is None else self.encoder(packed))

    def loss(self, theta: Float[Tensor, "survey parameter"], summary: Tensor, packed: Packed | None = None) -> Float[Tensor, "survey"]:
        """-ln q(Θ | survey)."""
        return self.flow.loss(theta, condition=self.context(summary, packed))

    def head_loss(self, theta: Float[Tensor, "survey parameter"], summary: Float[Tensor, "survey summary"]) -> Float[Tensor, "survey"]:
        """-ln q with the learned summary at zero: trains the head on stored summaries, before the encoder joins."""
        learned = None if self.encoder is None else torch.zeros(len(summary), self.encoder.outputs, device=summary.device)
        return self.flow.loss(theta, condition=self._condition(summary, learned))
