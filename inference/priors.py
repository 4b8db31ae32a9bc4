r"""Independent priors as one torch distribution, and the map that makes them standard normal.

Each parameter has the density of its `Marginal`: uniform, or normal truncated to [low, high]. The map
$\eta = \Phi^{-1}(F(\theta))$, with $F$ the prior's distribution function, takes the prior's support onto the real line and
the prior onto a standard normal. A flow over θ has the same support by what `Prior.given` says of each parameter (`truncated_normal`).

A prior cut to a region has edges that are oblique. Where each direction of the region bounds one parameter given those before it
(`cigars.truncation`), the support is still known one parameter at a time, $a_k(\theta_{<k}) < \theta_k < b_k(\theta_{<k})$, and the same
map, of a uniform density between both, takes it onto the real line (Rosenblatt 1952).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributions import Distribution, IndependentTransform, Transform, biject_to, constraints
from torch.quasirandom import SobolEngine
from torch.special import erfc, ndtri

from cigars.schema import Marginal

if TYPE_CHECKING:
    from cigars.config import Region

__all__ = ["GaussianisingTransform", "Given", "Prior", "RegionPrior", "SequentialTransform", "prior_within"]

STEPS = 4  # of float32, nearer than which an edge is as good as reached
EDGE = 1e-5  # of the width of a region: nearer than that float32 does not tell an edge from what is beyond
FAR = 50.0  # standard deviations of a prior without an edge: where a flow has one
TINY = 1e-30  # smallest tail probability: 11 sd, where float32 still resolves its logarithm
LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


def _log_normal(u: Tensor) -> Tensor:
    return -0.5 * u**2 - LOG_SQRT_2PI


def _ndtr(u: Tensor) -> Tensor:
    """Standard normal distribution function; torch's own is a difference from one, without digits beyond 4 sd and zero beyond 5.5."""
    return 0.5 * erfc(-u * math.sqrt(0.5))


def _mass(low: Tensor, high: Tensor) -> Tensor:
    """Standard normal probability between two limits, by the tail that both are nearer to."""
    turn = torch.where(low + high > 0, -1.0, 1.0)
    return turn * (_ndtr(turn * high) - _ndtr(turn * low))


class Given(NamedTuple):
    """Parameters of a prior given those before them: finite limits, how near is as good as at these, a middle and a unit."""

    low: Tensor
    high: Tensor
    edge: Tensor
    middle: Tensor
    unit: Tensor


class _PriorSupport(constraints.Constraint):
    """Support of a `Prior`; carries the prior so that `biject_to`, which posteriors of sbi ask, finds its map."""

    event_dim = 1

    def __init__(self, prior: Prior) -> None:
        self.prior = prior
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        return self.prior.inside(value)


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

    def _edges(self) -> tuple[Tensor, Tensor, Tensor]:
        """`low` and `high` in standard deviations of the untruncated normal, and its probability between."""
        a, b = (self.low - self.loc) / self.scale, (self.high - self.loc) / self.scale
        return a, b, _mass(a, b)

    def _tails(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        a, b, mass = self._edges()
        t = (theta - self.loc) / self.scale
        width = torch.where(self.uniform, self.high - self.low, torch.ones_like(self.low))
        left = torch.where(self.uniform, (theta - self.low) / width, _mass(a, t) / mass)
        right = torch.where(self.uniform, (self.high - theta) / width, _mass(t, b) / mass)
        return left.clamp(TINY, 1), right.clamp(TINY, 1)

    def _call(self, eta: Tensor) -> Tensor:
        a, b, mass = self._edges()
        side = torch.where(eta < 0, 1.0, -1.0)
        tail = _ndtr(-eta.abs())  # probability between theta and the nearer edge
        edge = torch.where(eta < 0, self.low, self.high)
        width = torch.where(self.uniform, self.high - self.low, torch.zeros_like(self.low))
        start = side * torch.where(eta < 0, a, b)
        turn = torch.where(start > 0, -1.0, 1.0)  # from an edge beyond the mean towards what is farther: by the tail there
        normal = self.loc + side * turn * self.scale * ndtri((_ndtr(turn * start) + turn * tail * mass).clamp(TINY, 1))
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
        self._given: Given | None = None

    @property
    def support(self) -> constraints.Constraint:
        return _PriorSupport(self)

    def sample(self, sample_shape: Any = torch.Size(), generator: torch.Generator | None = None) -> Float[Tensor, "*sample parameter"]:  # noqa: B008
        """Draws of the prior, shape [*sample_shape, parameter]."""
        shape = torch.Size(sample_shape) + self.event_shape
        return self.transform(torch.randn(shape, generator=generator, device=self.low.device))

    def inside(self, theta: Float[Tensor, "*sample parameter"]) -> Bool[Tensor, "*sample"]:
        """Which θ are in the support, edges included."""
        return ((theta >= self.low) & (theta <= self.high)).all(-1)

    def log_prob(self, value: Float[Tensor, "*sample parameter"]) -> Float[Tensor, "*sample"]:
        """Log density, -inf outside the support."""
        return self._ln_density(value, self.transform)

    def _ln_density(self, value: Tensor, t: GaussianisingTransform) -> Tensor:
        mass = t._edges()[2]
        normal = _log_normal((value - t.loc) / t.scale) - torch.log(t.scale * mass)
        density = torch.where(t.uniform, -torch.log(torch.where(t.uniform, self.high - self.low, 1.0)), normal)
        inside = (value >= self.low) & (value <= self.high)
        return torch.where(inside, density, -torch.inf).sum(-1)

    def given(self, theta: Float[Tensor, "*sample parameter"], k: int | slice = slice(None)) -> Given:
        """Where parameters k can be if those before them are as in `theta`; here the same whatever these are."""
        if self._given is None:
            mean, sd = self.mean, self.stddev
            low, high = (torch.where(edge.isfinite(), edge, mean + side * FAR * sd) for edge, side in ((self.low, -1), (self.high, 1)))
            self._given = Given(low, high, STEPS * torch.finfo(low.dtype).eps * torch.maximum(low.abs(), high.abs()), mean, sd)
        return Given(*(value[k] for value in self._given))

    def _quantile_grid(self) -> Tensor:
        p = (torch.arange(2001, dtype=torch.float32, device=self.low.device) + 0.5) / 2001
        return self.transform(ndtri(p)[:, None].expand(-1, len(self.names)))

    @property
    def mean(self) -> Tensor:
        """Mean of each parameter, by quadrature over quantiles."""
        return self._quantile_grid().double().mean(0).float()

    @property
    def variance(self) -> Tensor:
        """Variance of each parameter, by the same quadrature."""
        return self._quantile_grid().double().var(0).float()

    def to(self, device: str | torch.device) -> None:
        """Move in place, as sbi's own priors do."""
        self.__init__(self.marginals, device)  # type: ignore[misc]


class SequentialTransform(Transform):
    r"""From $\eta$ to θ, the k-th uniform between limits that depend on those before it, element by element.

    $\theta_k = a_k + (b_k - a_k)\,\Phi(\eta_k)$ with $a_k$ and $b_k$ where a region and a box both end. Parameters are in the order of
    the region, whose directions are lower triangular. Where nothing is left between the two, which no θ of the region leads to, a
    parameter is at the edge of the box.

    Args:
        low, high: edges of the box.
        region: of the same parameters.
    """

    domain = constraints.real
    codomain = constraints.real
    bijective = True
    sign = +1

    def __init__(self, low: Tensor, high: Tensor, region: Region) -> None:
        super().__init__()
        directions, limits = (torch.tensor(v, dtype=torch.float64) for v in (region.directions, region.limits))
        scale = directions.diagonal()[:, None]
        self.low, self.high = low, high
        self.centre = torch.tensor(region.centre).to(low)
        self.slope = -(directions / scale).tril(-1).to(low)
        self.below, self.above = (limits / scale).to(low).T
        self.unit = (1 / scale[:, 0]).to(low)
        self.edge = EDGE * (self.above - self.below)

    def given(self, theta: Tensor, k: int | slice = slice(None)) -> Given:
        """Limits of parameters k given those before them, and where the region has its middle, in units of what those leave open."""
        middle, edge = self.centre[k] + (theta - self.centre) @ self.slope.T[:, k], self.edge[k]
        low = torch.minimum(torch.maximum(self.low[k], middle + self.below[k]), self.high[k] - 4 * edge)
        high = torch.maximum(torch.minimum(self.high[k], middle + self.above[k]), low + 4 * edge)
        return Given(low, high, edge, middle, self.unit[k])

    @staticmethod
    def _between(low: Tensor, high: Tensor) -> GaussianisingTransform:
        zero = torch.zeros_like(low)
        return GaussianisingTransform(torch.ones_like(low, dtype=torch.bool), zero, zero + 1, low, high)

    def _at(self, theta: Tensor) -> tuple[GaussianisingTransform, Tensor]:
        """The map between the limits at θ, and θ off their edges."""
        low, high, *_ = self.given(theta)
        return self._between(low, high), torch.minimum(torch.maximum(theta, low + self.edge), high - self.edge)

    def _call(self, eta: Tensor) -> Tensor:
        theta = self.centre.expand(eta.shape).clone()
        for k in range(eta.shape[-1]):
            theta[..., k] = self._between(*self.given(theta, k)[:2])(eta[..., k])
        return theta

    def _inverse(self, theta: Tensor) -> Tensor:
        between, off_edge = self._at(theta)
        return between.inv(off_edge)

    def log_abs_det_jacobian(self, eta: Tensor, theta: Tensor) -> Tensor:
        """ln ∂θ_k/∂η_k of each parameter, whose sum is that of the determinant, since ∂θ/∂η is triangular."""
        between, off_edge = self._at(theta)
        return between.log_abs_det_jacobian(eta, off_edge)


class RegionPrior(Prior):
    """A prior cut to a region whose directions bound one parameter each, given those before it; see `prior_within`.

    Its density is that of the prior without the region, as everywhere: what the region cuts changes the normalisation alone. `transform`
    makes standard normal not it but what is uniform between the limits of each parameter given those before; `sample` draws that.
    """

    def __init__(self, marginals: Mapping[str, Marginal], region: Region, device: str | torch.device = "cpu") -> None:
        super().__init__(marginals, device)
        self.region, self._plain = region, self.transform
        self.transform = SequentialTransform(self.low, self.high, region)  # type: ignore[assignment]

    def inside(self, theta: Float[Tensor, "*sample parameter"]) -> Bool[Tensor, "*sample"]:
        """Which θ are in box and region, edges included."""
        low, high, *_ = self.given(theta)
        return ((theta >= low) & (theta <= high)).all(-1)

    def log_prob(self, value: Float[Tensor, "*sample parameter"]) -> Float[Tensor, "*sample"]:
        """Log density of the prior without the region, -inf outside of it."""
        return torch.where(self.inside(value), self._ln_density(value, self._plain), -torch.inf)

    def given(self, theta: Float[Tensor, "*sample parameter"], k: int | slice = slice(None)) -> Given:
        """Where parameters k can be in box and region if those before them are as in `theta`."""
        return self.transform.given(theta, k)  # type: ignore[attr-defined,no-any-return]

    def _quantile_grid(self) -> Tensor:
        points = SobolEngine(len(self.names), scramble=True, seed=0).draw(4096).to(self.low.device)
        return self.transform(ndtri(points.clamp(EDGE, 1 - EDGE)))

    def to(self, device: str | torch.device) -> None:
        """Move in place, as sbi's own priors do."""
        self.__init__(self.marginals, self.region, device)  # type: ignore[misc]


def prior_within(marginals: Mapping[str, Marginal], region: Region | None, device: str | torch.device = "cpu") -> Prior:
    """The prior of a flow: on the support of a prior and a region where that is known parameter by parameter, else on the prior's.

    Of a region of another form the flow gives some to what is outside.
    """
    names = tuple(marginals)
    if region is None or region.names != names or len(region.directions) != len(names):
        return Prior(marginals, device)
    directions = torch.tensor(region.directions, dtype=torch.float64)
    triangular = bool((directions.triu(1) == 0).all()) and bool((directions.diagonal() > 0).all())
    return RegionPrior(marginals, region, device) if triangular else Prior(marginals, device)
