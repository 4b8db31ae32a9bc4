r"""Conditional flows: q(Θ | summary) on the prior's support and q(ℓ | d, Θ) for each object.

Both are sbi neural spline flows of $\eta$, the parameter made standard normal under its prior, behind one affine layer
$u = (\eta - \mu)/\sigma$ whose μ and ln σ come from the context: $q(\theta) = q_{\rm NSF}(u \mid c)\, |\partial u/\partial\theta|$. That
layer starts at a ridge regression (global) or at the spectroscopic redshift (local), so that the spline models a residual of order one.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import zuko
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import AffineTransform, Transform

from cigars.schema import LOCALS, Latents, Marginal, Observations

from .batches import Packed
from .embedding import ResidualMLP, SetEncoder
from .priors import Prior
from .standardise import Standardiser, Whitening

__all__ = ["GlobalEstimator", "LocalEstimator", "local_marginals", "local_values", "spline_flow"]

LOCAL_LIMITS = {
    "z": (0.0, 1.6), "mass_log10_msun": (8.5, 12.5), "metallicity_log10_zsun": (-1.98, 0.19), "dust_tau2": (0.0, 4.0),
    "dust_index": (-1.0, 0.4), "x_int": (-math.inf, math.inf), "c_int": (-math.inf, math.inf),
}  # fmt: skip
"""Supports of the per-object unknowns (forward model §3); z to the end of the tabulated population."""


class Recentre(zuko.lazy.LazyTransform):
    """u = (η - μ) / σ with μ the first and ln σ the second `features` entries of the context."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features

    def forward(self, c: Tensor | None = None) -> Transform:
        if c is None:
            raise ValueError("recentring: expected a context, got none; condition the flow")
        mean, ln_sd = c[..., : self.features], c[..., self.features : 2 * self.features]
        scale = torch.exp(-ln_sd)
        return zuko.transforms.DependentTransform(AffineTransform(-mean * scale, scale), 1)


def spline_flow(prior: Prior, context: int, hidden: int, transforms: int, bins: int = 8) -> nn.Module:
    """sbi's neural spline flow on the support of a prior, with a recentring layer before the splines.

    Args:
        prior: fixes the support and the Gaussianising map.
        context: length of the condition, at least twice the number of parameters.
        hidden: units of both hidden layers of each transform.
    """
    from sbi.neural_nets import posterior_nn  # seconds to import

    size = len(prior.names)
    build = posterior_nn(
        "zuko_nsf", z_score_theta="transform_to_unconstrained", z_score_x="none", x_dist=prior,
        hidden_features=(hidden, hidden), num_transforms=transforms, num_bins=bins,
    )  # fmt: skip
    flow = build(prior.sample((8,)), torch.zeros(8, context))
    steps = list(flow.net.transform.transforms)
    flow.net.transform.transforms = nn.ModuleList([steps[0], Recentre(size), *steps[1:]])
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
        hidden: int = 128,
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

    def fit_skip(
        self, summary: Float[Tensor, "survey summary"], theta: Float[Tensor, "survey parameter"], penalty: float = 30.0
    ) -> GlobalEstimator:
        """Start μ at the ridge regression of η on the whitened summary, and σ at its residuals; returns itself."""
        w = self.whitening(summary).double()
        eta = self.prior.transform.inv(theta).clamp(-4, 4).double()
        mean = eta.mean(0)
        weight = torch.linalg.solve(w.T @ w + penalty * torch.eye(w.shape[1], dtype=w.dtype, device=w.device), w.T @ (eta - mean))
        residual = eta - mean - w @ weight
        with torch.no_grad():
            self.skip.weight.copy_(weight.T)
            self.skip.bias.copy_(mean)
            self.ln_sd.copy_(residual.std(0).clamp(min=1e-3).log())
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


def local_values(latents: Latents) -> Float[Tensor, "object local"]:
    """The per-object unknowns in the order of `LOCALS`."""
    return torch.stack([getattr(latents, n) for n in LOCALS], -1).float()


def local_marginals(values: Float[Tensor, "object local"]) -> dict[str, Marginal]:
    """Reference density of each local unknown: the normal of the training values on the physical support, widened where they leave it."""
    out = {}
    for name, column in zip(LOCALS, values.double().T, strict=True):
        low, high = LOCAL_LIMITS[name]
        low, high = min(low, float(column.min()) - 1e-3), max(high, float(column.max()) + 1e-3)
        out[name] = Marginal("normal", float(column.mean()), max(float(column.std()), 1e-4), low, high)
    return out


class LocalEstimator(nn.Module):
    """q(ℓ | d, Θ), amortised over objects, over Θ and over what of d is hidden.

    Args:
        prior: reference density of ℓ (`local_marginals`).
        globals_prior: prior of Θ, which standardises it.
        bands: number of host bands.
        width, hidden, transforms: of the trunk and the flow.
    """

    flow: Any

    def __init__(self, prior: Prior, globals_prior: Prior, bands: int, width: int = 128, hidden: int = 64, transforms: int = 3) -> None:
        super().__init__()
        self.prior, self.globals_prior, self.size = prior, globals_prior, len(LOCALS)
        self.standardiser = Standardiser(bands)
        features = 24
        self.trunk = ResidualMLP(self.standardiser.features + len(globals_prior.names), width, 2 * self.size + features)
        self.flow = spline_flow(prior, 2 * self.size + features, hidden, transforms)

    def context(self, observations: Observations, theta: Float[Tensor, "object parameter"]) -> Float[Tensor, "object context"]:
        """(μ, ln σ, features) of each object; μ and σ of the redshift start at the spectroscopic one where there is one."""
        eta = self.globals_prior.transform.inv(theta).clamp(-5, 5)
        out = self.trunk(torch.cat([self.standardiser(observations), eta], -1))
        shift, ln_sd, features = out.split([self.size, self.size, out.shape[-1] - 2 * self.size], -1)
        known, mean, spread = self._spectroscopic(observations)
        base_mean, base_ln = torch.zeros_like(shift), torch.zeros_like(shift)
        base_mean[:, 0], base_ln[:, 0] = torch.where(known, mean, 0.0), torch.where(known, spread.log(), 0.0)
        return torch.cat([base_mean + torch.exp(base_ln) * shift, base_ln + ln_sd.clamp(-7, 2), features], -1)

    def _spectroscopic(self, o: Observations) -> tuple[Tensor, Tensor, Tensor]:
        """Where a redshift is known, and its value and error in η: the reference density's own quantile scale."""
        marginal = self.prior.marginals["z"]
        known = torch.isfinite(o.z_spec)
        z = torch.where(known, o.z_spec, marginal.loc).clamp(marginal.low + 1e-4, marginal.high - 1e-4)
        rows = torch.tensor([m.loc for m in self.prior.marginals.values()], device=z.device).repeat(len(z), 1)
        rows[:, 0] = z
        eta = self.prior.transform.inv(rows)
        slope = torch.exp(-self.prior.transform.log_abs_det_jacobian(eta, rows))[:, 0]
        err = torch.where(known, torch.nan_to_num(o.z_spec_err, nan=1e-3), 1.0).clamp(min=1e-5)
        return known, eta[:, 0], (slope * err).clamp(min=1e-5)

    def loss(self, local: Float[Tensor, "object local"], observations: Observations, theta: Tensor) -> Float[Tensor, "object"]:
        """-ln q(ℓ | d, Θ)."""
        return self.flow.loss(local, condition=self.context(observations, theta))
