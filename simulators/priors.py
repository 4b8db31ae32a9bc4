"""Priors of the global parameters Θ: independent marginals, each uniform, (truncated) normal or fixed (forward model §1).

ln p(Θ) = sum_k ln p_k(θ_k). In flat cosmologies the dark-energy density is not a parameter but 1 - Om0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Bool, Float, Key
from numpyro.distributions.util import validate_sample

from cigars.schema import Globals, Marginal
from simulators.small_matrices import product

if TYPE_CHECKING:
    from cigars.config import Region

__all__ = ["distribution", "inside", "log_prior", "sample_globals"]

AT_ONCE, MOST = 64, 1 << 14  # draws at a time until one is in a region, and how often


def distribution(marginal: Marginal) -> dist.Distribution:
    """The numpyro distribution of one parameter.

    Raises:
        ValueError: for a kind other than uniform, normal or fixed.
    """
    if marginal.kind == "uniform":
        return dist.Uniform(marginal.low, marginal.high)
    if marginal.kind == "fixed":
        return dist.Delta(jnp.asarray(marginal.loc, jnp.float32))
    if marginal.kind == "normal":
        free = math.isinf(marginal.low) and math.isinf(marginal.high)
        return dist.Normal(marginal.loc, marginal.scale) if free else _TruncatedNormal(marginal)
    raise ValueError(f"prior: expected kind 'uniform', 'normal' or 'fixed', got {marginal.kind!r}; change the marginal's kind")


class _TruncatedNormal(dist.TwoSidedTruncatedDistribution):
    """numpyro's, with the probability inside the limits in float64: numpyro's own cancels above the mean and mixes dtypes."""

    pytree_aux_fields = ("ln_inside",)

    def __init__(self, marginal: Marginal) -> None:
        super().__init__(dist.Normal(marginal.loc, marginal.scale), marginal.low, marginal.high)
        self.ln_inside = _ln_inside((marginal.low - marginal.loc) / marginal.scale, (marginal.high - marginal.loc) / marginal.scale)

    @validate_sample
    def log_prob(self, value: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return self.base_dist.log_prob(value) - self.ln_inside


def _ln_inside(a: float, b: float) -> float:
    """ln[Phi(b) - Phi(a)], from the tail that both limits share."""
    if a > 0:
        a, b = -b, -a
    return math.log(0.5 * (math.erfc(-b / math.sqrt(2.0)) - math.erfc(-a / math.sqrt(2.0))))


def sample_globals(
    key: Key[Array, ""], marginals: Mapping[str, Marginal], fixed: Mapping[str, float], flat: bool, region: Region | None = None
) -> Globals:
    """Draw Θ (float32 scalars) from the prior.

    Every parameter has its own key, from its place in `Globals`: fixing or narrowing one leaves the others' draws as they were.

    Args:
        key: random key.
        marginals: priors of the free parameters, by name.
        fixed: values of the others; `Ode0` may be left out where space is flat and is ignored there.
        flat: whether Ode0 is 1 - Om0.
        region: that draws have to be in; some at a time are drawn until one is. One that holds nothing gives NaN.

    Raises:
        ValueError: for a parameter with neither prior nor value, or with a name that Θ does not have.
    """
    needed = [name for name in Globals._fields if not (flat and name == "Ode0")]
    missing = [name for name in needed if name not in marginals and name not in fixed]
    unknown = [name for name in (*marginals, *fixed) if name not in Globals._fields]
    if missing or unknown:
        raise ValueError(f"prior: expected one of {needed} each, got missing {missing}, unknown {unknown}; list each once")

    def draw(key: Key[Array, ""]) -> Globals:
        keys = dict(zip(Globals._fields, jax.random.split(key, len(Globals._fields)), strict=True))
        values = {name: _draw(keys[name], marginals.get(name), fixed.get(name)) for name in needed}
        return Globals(**{"Ode0": 1.0 - values["Om0"], **values})

    return draw(key) if region is None else _first_inside(key, draw, region)


def inside(theta: Globals, region: Region) -> Bool[Array, ""]:
    """Whether one Θ (scalars) is in a region."""
    centre, directions, limits = (jnp.asarray(v, jnp.float32) for v in (region.centre, region.directions, region.limits))
    place = product(directions, jnp.stack([getattr(theta, name) for name in region.names]) - centre)
    return jnp.all((place > limits[:, 0]) & (place < limits[:, 1]))


def _first_inside(key: Key[Array, ""], draw: Callable[[Key[Array, ""]], Globals], region: Region) -> Globals:
    def step(state: tuple) -> tuple:
        tried, *_ = state
        some = jax.vmap(draw)(jax.random.split(jax.random.fold_in(key, tried), AT_ONCE))
        ok = jax.vmap(lambda theta: inside(theta, region))(some)
        first = jnp.argmax(ok)
        return tried + 1, jnp.any(ok), jax.tree.map(lambda leaf: leaf[first], some)

    nothing = Globals(*[jnp.float32(jnp.nan)] * len(Globals._fields))
    _, found, theta = jax.lax.while_loop(lambda state: ~state[1] & (state[0] < MOST), step, (jnp.int32(0), jnp.array(False), nothing))
    return jax.tree.map(lambda leaf: jnp.where(found, leaf, jnp.nan), theta)


def _draw(key: Key[Array, ""], marginal: Marginal | None, value: float | None) -> Float[Array, ""]:
    drawn = distribution(marginal).sample(key) if marginal is not None else value
    return jnp.asarray(drawn, jnp.float32)


def log_prior(theta: Globals, marginals: Mapping[str, Marginal]) -> Float[Array, "*survey"]:
    """ln prior density of the free parameters at Θ, shape of its leaves; minus infinity outside the support."""
    total = jnp.zeros_like(jnp.asarray(theta.Om0, jnp.float32))
    for name, marginal in marginals.items():
        prior, value = distribution(marginal), jnp.asarray(getattr(theta, name), jnp.float32)
        inside = prior.support(value)
        feasible = jnp.where(inside, value, prior.support.feasible_like(value))  # numpyro warns of values outside
        total = total + jnp.where(inside, prior.log_prob(feasible), -jnp.inf)
    return total
