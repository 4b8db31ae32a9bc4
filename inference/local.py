r"""Conditional density q(ℓ | d, Θ) of one object's unknowns, built to be drawn from millions of times.

Autoregressive in $\eta$, the unknowns made standard normal under their reference density: in
$q(\eta \mid d, \Theta) = \prod_j q_j(\eta_j \mid \eta_{<j}, d, \Theta)$ a monotone rational-quadratic spline (Durkan+19) makes
$(\eta_j - \mu_j)/\sigma_j$ standard normal; μ, σ and the spline come from a small network, whose first layer is
$a_j(d) + b_j(\Theta) + P_j\,[p(d) \odot q(\Theta)] + C_j\,\eta_{<j}$. What is costly is thus computed once an object or once a Θ, not once
a pair of them. The product, of low rank, carries what d and Θ say only together, such as the distance of ẑ(d) in the cosmology Θ.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from zuko.transforms import MonotonicRQSTransform

from cigars.schema import LOCALS, Latents, Marginal, Observations

from .embedding import ResidualMLP
from .priors import Prior
from .splines import invert_spline
from .standardise import Standardiser

__all__ = ["LocalEstimator", "local_marginals", "local_values"]

LOCAL_LIMITS = {
    "z": (0.0, 1.6), "mass_log10_msun": (8.5, 12.5), "metallicity_log10_zsun": (-1.98, 0.19), "dust_tau2": (0.0, 4.0),
    "dust_index": (-1.0, 0.4), "x_int": (-math.inf, math.inf), "c_int": (-math.inf, math.inf), "age_gyr": (0.0, 13.8),
}  # fmt: skip
"""Supports of the per-object unknowns (forward model §3); z to the end of the tabulated population."""


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


class Conditions(NamedTuple):
    """What the data of objects say before Θ is known.

    Attributes:
        hidden: first layer of every factor, [object, unknown * hidden + rank].
        mean, ln_sd: of the redshift in η, where a spectroscopic one is known; else 0, [object].
    """

    hidden: Tensor
    mean: Tensor
    ln_sd: Tensor


class LocalEstimator(nn.Module):
    """q(ℓ | d, Θ), amortised over objects, over Θ and over what of d is hidden.

    Args:
        prior: reference density of ℓ (`local_marginals`).
        globals_prior: prior of Θ, which standardises it.
        bands: number of host bands.
        width: of the network that reads an object.
        hidden: units of both layers of each factor.
        bins: of each spline.
        rank: of the product of d and Θ.
    """

    def __init__(
        self, prior: Prior, globals_prior: Prior, bands: int, width: int = 128, hidden: int = 64, bins: int = 8, rank: int = 8
    ) -> None:
        super().__init__()
        self.prior, self.globals_prior, self.size = prior, globals_prior, len(prior.names)
        self.hidden, self.bins, self.rank = hidden, bins, rank
        self.standardiser = Standardiser(bands)
        first, last = self.size * hidden + rank, 2 + 3 * bins - 1
        self.objects = ResidualMLP(self.standardiser.features, width, first)
        self.globals = ResidualMLP(len(globals_prior.names), 64, first, blocks=1)
        self.product = nn.Parameter(torch.randn(self.size, rank, hidden) / rank**0.5)
        self.before = nn.Parameter(torch.randn(self.size, self.size, hidden) / self.size**0.5)
        self.second = nn.Parameter(torch.randn(self.size, hidden, hidden) / hidden**0.5)
        self.second_bias = nn.Parameter(torch.zeros(self.size, 1, hidden))
        self.last = nn.Parameter(0.1 * torch.randn(self.size, hidden, last) / hidden**0.5)
        self.last_bias = nn.Parameter(torch.zeros(self.size, 1, last))
        self.causal: Tensor
        self.register_buffer("causal", torch.ones(self.size, self.size).tril(-1)[..., None], persistent=False)

    def conditions(self, observations: Observations) -> Conditions:
        """What is computed once an object; μ and σ of the redshift start at the spectroscopic one where there is one."""
        known, mean, spread = self._spectroscopic(observations)
        zero = torch.zeros_like(mean)
        hidden = self.objects(self.standardiser(observations))
        return Conditions(hidden, torch.where(known, mean, zero), torch.where(known, spread.log(), zero))

    def _of_theta(self, theta: Float[Tensor, "draw parameter"]) -> Tensor:
        return self.globals(self.globals_prior.transform.inv(theta).clamp(-5, 5))

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

    def _split(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """First layers [unknown, row, hidden] and factors of the product [row, rank]."""
        layers = hidden[:, : -self.rank].unflatten(-1, (self.size, self.hidden)).transpose(0, 1)
        return layers, hidden[:, -self.rank :]

    def _factors(self, first: Tensor) -> Tensor:
        """Outputs [unknown, row, 2 + 3 bins - 1] of the factors from their first layers."""
        h = nn.functional.silu(first)
        h = nn.functional.silu(torch.baddbmm(self.second_bias, h, self.second))
        return torch.baddbmm(self.last_bias, h, self.last)

    def _spline(self, out: Tensor) -> MonotonicRQSTransform:
        k = self.bins
        return MonotonicRQSTransform(out[..., 2 : 2 + k], out[..., 2 + k : 2 + 2 * k], out[..., 2 + 2 * k :])

    def log_prob(
        self, local: Float[Tensor, "object local"], observations: Observations, theta: Float[Tensor, "object parameter"]
    ) -> Float[Tensor, "object"]:
        """ln q(ℓ | d, Θ), row by row."""
        eta = self.prior.transform.inv(local)
        given, of_theta = self.conditions(observations), self._of_theta(theta)
        (layers, p), (shifts, q) = self._split(given.hidden), self._split(of_theta)
        first = layers + shifts + torch.matmul(p * q, self.product) + torch.matmul(eta, self.before * self.causal)
        out = self._factors(first)
        mean, ln_sd = out[..., 0].T, out[..., 1].T.clamp(-7, 2)
        mean, ln_sd = self._recentred(mean, ln_sd, given)
        normal, ln_slope = self._spline(out.transpose(0, 1)).call_and_ladj((eta - mean) * torch.exp(-ln_sd))
        ln_normal = -0.5 * normal**2 - 0.5 * math.log(2 * math.pi)
        return (ln_normal + ln_slope - ln_sd - self.prior.transform.log_abs_det_jacobian(eta, local)).sum(-1)

    @staticmethod
    def _recentred(mean: Tensor, ln_sd: Tensor, given: Conditions) -> tuple[Tensor, Tensor]:
        """μ and ln σ of every unknown [object, unknown], those of the redshift in units of the spectroscopic error."""
        z_mean, z_ln_sd = given.mean + torch.exp(given.ln_sd) * mean[:, 0], given.ln_sd + ln_sd[:, 0]
        return torch.cat([z_mean[:, None], mean[:, 1:]], 1), torch.cat([z_ln_sd[:, None], ln_sd[:, 1:]], 1)

    def loss(self, local: Float[Tensor, "object local"], observations: Observations, theta: Tensor) -> Float[Tensor, "object"]:
        """-ln q(ℓ | d, Θ)."""
        return -self.log_prob(local, observations, theta)

    @torch.no_grad()
    def sample(
        self, given: Conditions, theta: Float[Tensor, "draw parameter"], noise: Float[Tensor, "draw object local"] | None = None
    ) -> Float[Tensor, "draw object local"]:
        """One draw of every object at each Θ, from standard normal `noise`, or else from torch's random state."""
        draws, objects, rank = len(theta), len(given.mean), self.rank
        (layers, p), (shifts, q) = self._split(given.hidden), self._split(self._of_theta(theta))
        normal = torch.randn(draws * objects, self.size, device=p.device) if noise is None else noise.flatten(0, 1)
        # at one Θ all that a first layer adds to that of the object is linear in p(d), 1 and the unknowns so far
        known = torch.cat([p, p.new_ones(objects, 1), p.new_empty(objects, self.size)], 1).repeat(draws, 1, 1)
        eta = known[..., rank + 1 :]
        for j in range(self.size):
            of_theta = torch.cat([q[..., None] * self.product[j], shifts[j][:, None], self.before[j, :j].expand(draws, -1, -1)], 1)
            first = torch.baddbmm(layers[j].expand(draws, -1, -1), known[..., : rank + 1 + j], of_theta).flatten(0, 1)
            h = nn.functional.silu(first, inplace=True)
            h = nn.functional.silu(torch.addmm(self.second_bias[j], h, self.second[j]), inplace=True)
            out = torch.addmm(self.last_bias[j].T, self.last[j].T, h.T)  # a parameter a row, as `invert_spline` wants them
            u, mean, ln_sd = invert_spline(out[2:], normal[:, j]), out[0], out[1].clamp(-7, 2)
            value = mean + ln_sd.exp() * u
            if j == 0:
                value = given.mean.repeat(draws) + given.ln_sd.exp().repeat(draws) * value
            eta[..., j] = value.view(draws, objects)
        return self.prior.transform(eta.contiguous())
