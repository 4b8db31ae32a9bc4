r"""Independent priors as one torch distribution, and the map that makes them standard normal.

Each parameter has the density of its `Marginal`: uniform, or normal truncated to [low, high]. The map
$\eta = \Phi^{-1}(F(\theta))$, with $F$ the prior's distribution function, takes the prior's support onto the real line and
the prior onto a standard normal; a flow over $\eta$ can therefore leak no probability outside the prior.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, IndependentTransform, Transform, biject_to, constraints
from torch.special import ndtr, ndtri

from cigars.schema import Marginal

__all__ = ["GaussianisingTransform", "Prior"]

TINY = 1e-30  # smallest tail probability: 11 sd, where float32 still resolves its logarithm
LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


def _log_normal(u: Tensor) -> Tensor:
    return -0.5 * u**2 - LOG_SQRT_2PI


class _PriorSupport(constraints.Constraint):
    """Support of a `Prior`; carries the prior so that `biject_to`, which sbi calls, finds its Gaussianising map."""

    event_dim = 1

    def __init__(self, prior: Prior) -> None:
        self.prior = prior
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        return ((value >= self.prior.low) & (value <= self.prior.high)).all(-1)


class GaussianisingTransform(Transform):
    r"""From $\eta \in \mathbb{R}$ to $\theta = F^{-1}(\Phi(\eta))$, element by element.

    Both tails are computed from their own side, so that float32 resolves the neighbourhood of either edge.

    Args:
        uniform: True where the marginal is uniform, shape [parameter].
        loc, scale: location and scale of the normal ones (0 and 1 where uniform).
        low, high: edges of the support.
    """

    domain = constraints.real
    codomain = constraints.real
    bijective = True
    sign = +1

    def __init__(self, uniform: Tensor, loc: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> None:
        super().__init__()
        self.uniform, self.loc, self.scale, self.low, self.high = uniform, loc, scale, low, high

    def __eq__(self, other: object) -> bool:
        names = ("uniform", "loc", "scale", "low", "high")
        return isinstance(other, GaussianisingTransform) and all(torch.equal(getattr(self, n), getattr(other, n)) for n in names)

    def _edges(self) -> tuple[Tensor, Tensor, Tensor]:
        """Probability below `low`, above `high` and between, of the untruncated normal."""
        below, above = ndtr((self.low - self.loc) / self.scale), ndtr((self.loc - self.high) / self.scale)
        return below, above, 1 - below - above

    def _tails(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        below, above, mass = self._edges()
        t = (theta - self.loc) / self.scale
        width = torch.where(self.uniform, self.high - self.low, torch.ones_like(self.low))
        left = torch.where(self.uniform, (theta - self.low) / width, (ndtr(t) - below) / mass)
        right = torch.where(self.uniform, (self.high - theta) / width, (ndtr(-t) - above) / mass)
        return left.clamp(TINY, 1), right.clamp(TINY, 1)

    def _call(self, eta: Tensor) -> Tensor:
        below, above, mass = self._edges()
        side = torch.where(eta < 0, 1.0, -1.0)
        tail = ndtr(-eta.abs())  # probability between theta and the nearer edge
        edge = torch.where(eta < 0, self.low, self.high)
        width = torch.where(self.uniform, self.high - self.low, torch.zeros_like(self.low))
        outside = torch.where(eta < 0, below, above)
        normal = self.loc + side * self.scale * ndtri((outside + tail * mass).clamp(TINY, 1))
        theta = torch.where(self.uniform, torch.where(self.uniform, edge, 0.0) + side * width * tail, normal)
        return torch.minimum(torch.maximum(theta, self.low), self.high)  # rounding must not leave the support

    def _inverse(self, theta: Tensor) -> Tensor:
        left, right = self._tails(theta)
        return torch.where(left < right, ndtri(left), -ndtri(right))

    def log_abs_det_jacobian(self, eta: Tensor, theta: Tensor) -> Tensor:
        """ln dθ/dη of each parameter: ln φ(η) - ln p(θ)."""
        _, _, mass = self._edges()
        width = torch.where(self.uniform, self.high - self.low, torch.ones_like(self.low))
        log_normal = _log_normal((theta - self.loc) / self.scale) - torch.log(self.scale * mass)
        return _log_normal(eta) - torch.where(self.uniform, -torch.log(width), log_normal)


@biject_to.register(_PriorSupport)
def _biject(constraint: _PriorSupport) -> Transform:
    return IndependentTransform(constraint.prior.transform, 1)  # determinants summed over parameters


class Prior(Distribution):
    """Joint prior of independent parameters, as sbi wants it: event shape [parameter], with `support`, `mean` and `stddev`.

    Args:
        marginals: prior of each free parameter, in the order of the parameter vector.
        device: where its tensors live.

    Raises:
        ValueError: for a kind of marginal that is not uniform or normal, or no parameter at all.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (the type that torch declares)

    def __init__(self, marginals: Mapping[str, Marginal], device: str | torch.device = "cpu") -> None:
        wrong = {k: m.kind for k, m in marginals.items() if m.kind not in ("uniform", "normal")}
        if wrong or not marginals:
            raise ValueError(f"prior: expected uniform or normal marginals, got {wrong or 'none'}; fix the others in the configuration")
        self.names = tuple(marginals)
        self.marginals = {k: Marginal(*m) for k, m in marginals.items()}
        rows = list(self.marginals.values())
        uniform = torch.tensor([m.kind == "uniform" for m in rows], device=device)
        self.low, self.high = (torch.tensor([float(getattr(m, a)) for m in rows], device=device) for a in ("low", "high"))
        loc, scale = (torch.tensor([float(getattr(m, a)) for m in rows], device=device) for a in ("loc", "scale"))
        loc, scale = torch.where(uniform, 0.0, loc), torch.where(uniform, 1.0, scale)
        self.transform = GaussianisingTransform(uniform, loc, scale, self.low, self.high)
        super().__init__(torch.Size(), torch.Size([len(rows)]), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return _PriorSupport(self)

    def sample(self, sample_shape: Any = torch.Size(), generator: torch.Generator | None = None) -> Float[Tensor, "*sample parameter"]:  # noqa: B008
        """Draws of the prior, shape [*sample_shape, parameter]."""
        shape = torch.Size(sample_shape) + self.event_shape
        return self.transform(torch.randn(shape, generator=generator, device=self.low.device))

    def log_prob(self, value: Float[Tensor, "*sample parameter"]) -> Float[Tensor, "*sample"]:
        """Log density, -inf outside the support."""
        t = self.transform
        mass = t._edges()[2]
        normal = _log_normal((value - t.loc) / t.scale) - torch.log(t.scale * mass)
        density = torch.where(t.uniform, -torch.log(torch.where(t.uniform, self.high - self.low, 1.0)), normal)
        inside = (value >= self.low) & (value <= self.high)
        return torch.where(inside, density, -torch.inf).sum(-1)

    def _quantile_grid(self) -> Tensor:
        p = (torch.arange(2001, dtype=torch.float32, device=self.low.device) + 0.5) / 2001
        return self.transform(ndtri(p)[:, None].expand(-1, len(self.names)))

    @property
    def mean(self) -> Tensor:
        """Mean of each parameter, by quadrature over its quantiles."""
        return self._quantile_grid().double().mean(0).float()

    @property
    def variance(self) -> Tensor:
        """Variance of each parameter, by the same quadrature."""
        return self._quantile_grid().double().var(0).float()

    def to(self, device: str | torch.device) -> None:
        """Move in place, as sbi's own priors do."""
        self.__init__(self.marginals, device)  # type: ignore[misc]
