r"""The first layer of the global flow: each parameter normal, and truncated where the prior ends.

A posterior is nearly normal in Θ but for the edges of the prior, and in the region that truncation leaves of it nearly every simulated
survey has some of them within its errors. Given those before it, parameter k is drawn from the normal law of mean $m_k$ and standard
deviation $s_k$ between its limits $a_k$ and $b_k$, which those before it may move (`Prior.given`), so that

$$z_k = \Phi^{-1}\left[\frac{\Phi((\theta_k - m_k)/s_k) - \Phi((a_k - m_k)/s_k)}{\Phi((b_k - m_k)/s_k) - \Phi((a_k - m_k)/s_k)}\right]$$

is standard normal (Rosenblatt 1952), and the splines behind are left with what is not normal. Tails are taken from the nearer side.
"""

from __future__ import annotations

import torch
import zuko
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Transform, constraints
from torch.special import ndtri

from .priors import TINY, Given, Prior, _log_normal, _mass, _ndtr

__all__ = ["TruncatedNormal", "TruncatedNormalLayer"]

BEYOND = 3.0  # standard deviations beyond a limit at which a mean is kept: farther off a truncated law changes little, and its mass is lost


class TruncatedNormal(Transform):
    """From Θ to z, one parameter after another.

    Args:
        prior: whose support it is on.
        mean: less the middle that the prior gives each parameter, in its unit.
        ln_sd: ln of the standard deviation in that unit.
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, prior: Prior, mean: Float[Tensor, "*row parameter"], ln_sd: Float[Tensor, "*row parameter"]) -> None:
        super().__init__()
        self.prior, self.mean, self.ln_sd = prior, mean, ln_sd

    def _law(self, theta: Tensor, k: int | slice = slice(None)) -> tuple[Given, Tensor, Tensor, Tensor, Tensor]:
        """Limits, mean and sd of parameters k given those before them, and both limits in units of sd from the mean."""
        given = self.prior.given(theta, k)
        sd = given.unit * torch.exp(self.ln_sd[..., k])
        mean = given.middle + given.unit * self.mean[..., k]
        mean = torch.minimum(torch.maximum(mean, given.low - BEYOND * sd), given.high + BEYOND * sd)
        return given, mean, sd, (given.low - mean) / sd, (given.high - mean) / sd

    def call_and_ladj(self, theta: Float[Tensor, "*row parameter"]) -> tuple[Float[Tensor, "*row parameter"], Float[Tensor, "*row"]]:
        """z and ln |dz/dΘ|."""
        given, mean, sd, low, high = self._law(theta)
        t = (torch.minimum(torch.maximum(theta, given.low + given.edge), given.high - given.edge) - mean) / sd
        mass = _mass(low, high).clamp(min=TINY)
        below, above = _mass(low, t) / mass, _mass(t, high) / mass
        left = below < above
        z = torch.where(left, 1.0, -1.0) * ndtri(torch.where(left, below, above).clamp(TINY, 0.5))
        return z, (_log_normal(t) - torch.log(sd * mass) - _log_normal(z)).sum(-1)

    def _call(self, theta: Tensor) -> Tensor:
        return self.call_and_ladj(theta)[0]

    def log_abs_det_jacobian(self, theta: Tensor, _: Tensor) -> Tensor:
        """ln |dz/dΘ|."""
        return self.call_and_ladj(theta)[1]

    def _inverse(self, z: Tensor) -> Tensor:
        theta = torch.zeros_like(z)  # a parameter is asked for those before it alone
        for k in range(z.shape[-1]):
            given, mean, sd, low, high = self._law(theta, k)
            near, mass = _ndtr(-z[..., k].abs()), _mass(low, high).clamp(min=TINY)
            below, above = torch.where(z[..., k] < 0, near, 1 - near), torch.where(z[..., k] < 0, 1 - near, near)
            left, right = _ndtr(low) + below * mass, _ndtr(-high) + above * mass  # probability on either side, without truncation
            t = torch.where(left < right, 1.0, -1.0) * ndtri(torch.minimum(left, right).clamp(TINY, 0.5))
            theta[..., k] = torch.minimum(torch.maximum(mean + sd * t, given.low + given.edge), given.high - given.edge)
        return theta


class TruncatedNormalLayer(zuko.lazy.LazyTransform):
    """Means and ln sd are the first and the second entries of the context, as many as there are parameters."""

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.prior, self.size = prior, len(prior.names)

    def forward(self, c: Tensor | None = None) -> Transform:
        if c is None:
            raise ValueError("truncated normal: expected a context, got none; condition the flow")
        return TruncatedNormal(self.prior, c[..., : self.size], c[..., self.size : 2 * self.size])
