r"""Draws from the exact posterior of one survey, given a fixed bank of hosts, by Hamiltonian Monte Carlo.

$p(\Theta, \{h_i\} \mid d) \propto p(\Theta) \prod_i \lambda(d_i, h_i \mid \Theta)\, e^{-\Lambda(\Theta)}$: Θ with all hosts summed over,
by the no-U-turn sampler (Hoffman & Gelman 14), then the host of each object given each Θ from its conditional distribution.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, Key
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
from numpyro.distributions import biject_to
from numpyro.infer import MCMC, NUTS, init_to_value

from cigars.schema import FIDUCIAL, Globals, Marginal, Observations
from simulators.candidates import Matches, candidates
from simulators.count_surface import CountSurface
from simulators.counts import SAMPLE
from simulators.likelihood import draw_hosts, ln_likelihood
from simulators.model import globals_model
from simulators.priors import distribution
from simulators.simulator import Simulator

if TYPE_CHECKING:
    from cigars.config import Config

__all__ = ["ExactPosterior", "sample_exact", "stacked"]


class ExactPosterior(NamedTuple):
    """Draws of Θ and of every object's host, numpy arrays; `hosts` follows `theta` with its first two axes flattened."""

    theta: Float[np.ndarray, "chain draw parameter"]
    names: tuple[str, ...]
    r_hat: Float[np.ndarray, "parameter"]  # split R̂, 1 where the chains agree
    n_eff: Float[np.ndarray, "parameter"]
    divergences: int
    hosts: Int[np.ndarray, "draw sn"]  # rows of `Simulator.table`, which holds redshifts and masses


def sample_exact(
    observations: Observations | Matches,
    simulator: Simulator,
    config: Config,
    *,
    draws: int = 500,
    warmup: int = 500,
    chains: int = 2,
    seed: int = 0,
    exposure: float = 1.0,
    sample: int = SAMPLE,
    surface: CountSurface | None = None,
    pilot: ExactPosterior | None = None,
    target_accept: float = 0.8,
) -> ExactPosterior:
    """Posterior of the free parameters of `config` and of the hosts, by chains each on a device of its own or one after the other.

    Args:
        observations: the detected objects of one survey without padding, or what `candidates.candidates` makes of them.
        simulator: the bank, as `survey.prepare` gives it.
        config: of the same simulator; its prior is that of Θ.
        draws, warmup: kept and adapting steps of each chain.
        exposure: of the survey, relative to the configured size.
        sample: size of the fixed sample behind the expected count.
        surface: of the expected count, in the place of the sample.
        pilot: an earlier posterior near this one: chains begin at draws of it, with steps of its shape; by default at the fiducial Θ.
        target_accept: acceptance probability that steps are adapted to; nearer to 1 they are shorter, against divergences.

    Raises:
        ValueError: where `likelihood.candidates` does, and if no parameter is free.
    """
    if not config.marginals:
        raise ValueError("exact posterior: expected at least one free parameter, got none; give one a prior that is not fixed")
    matches = observations if isinstance(observations, Matches) else candidates(observations, simulator, config)
    chain_key, host_key, start_key = jax.random.split(jax.random.key(seed), 3)
    begin = _from_pilot(start_key, pilot, config, chains) if pilot is not None else _Begin(None, None)
    kernel = NUTS(
        functools.partial(_model, config, sample), dense_mass=True, init_strategy=init_to_value(values=_start(config)),
        inverse_mass_matrix=begin.inverse_mass, target_accept_prob=target_accept,
    )  # fmt: skip
    apart = chains > 1 and jax.local_device_count() >= chains
    mcmc = MCMC(
        kernel, num_warmup=warmup, num_samples=draws, num_chains=chains,
        chain_method="parallel" if apart else functools.partial(functools.partial, jax.lax.map),  # compiled once
        progress_bar=False, jit_model_args=True,
    )  # fmt: skip
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # numpyro mixes both
        mcmc.run(chain_key, matches, simulator, exposure, surface, extra_fields=("diverging",), init_params=begin.parameters)
    drawn = mcmc.get_samples(group_by_chain=True)
    theta = np.stack([np.asarray(drawn[name]) for name in config.marginals], -1)
    return ExactPosterior(
        theta=theta,
        names=tuple(config.marginals),
        r_hat=np.asarray(split_gelman_rubin(theta)),
        n_eff=np.asarray(effective_sample_size(theta)),
        divergences=int(np.sum(mcmc.get_extra_fields()["diverging"])),
        hosts=np.asarray(_draw_hosts(host_key, stacked(theta, config), matches, config)),
    )


def _model(config: Config, sample: int, matches: Matches, simulator: Simulator, exposure: float, surface: CountSurface | None) -> None:
    numpyro.factor("survey", ln_likelihood(globals_model(config), matches, simulator, config, exposure, sample, surface))


class _Begin(NamedTuple):
    """Where chains begin, in the unbounded coordinates of the sampler: parameters [chain] by name, and their covariance."""

    parameters: dict[str, Array] | None
    inverse_mass: Float[Array, "parameter parameter"] | None


def _from_pilot(key: Key[Array, ""], pilot: ExactPosterior, config: Config, chains: int) -> _Begin:
    flat = jnp.asarray(pilot.theta.reshape(-1, len(pilot.names)), jnp.float32)
    free = {name: _unbounded(flat[:, k], config.marginals[name]) for k, name in enumerate(pilot.names)}
    columns = np.asarray(jax.vmap(lambda one: ravel_pytree(one)[0])(free), np.float64)  # as numpyro lays parameters out
    row = jax.random.choice(key, len(flat), (chains,), replace=False)
    begin = {name: values[row] if chains > 1 else values[row[0]] for name, values in free.items()}
    return _Begin(begin, jnp.asarray(np.atleast_2d(np.cov(columns.T)), jnp.float32))


def _unbounded(values: Float[Array, "draw"], marginal: Marginal) -> Float[Array, "draw"]:
    """Values in the coordinates of the sampler, where an edge of the prior, to which single precision rounds, would be infinitely far."""
    edges = np.array([marginal.low, marginal.high], np.float32)
    step = 8 * np.spacing(np.abs(edges[np.isfinite(edges)]).max(initial=0))
    return biject_to(distribution(marginal).support).inv(jnp.clip(values, edges[0] + step, edges[1] - step))


def _start(config: Config) -> dict[str, Array]:
    """The fiducial Θ where the prior holds it well inside, else the prior's middle."""
    return {name: jnp.asarray(_middle(marginal, getattr(FIDUCIAL, name)), jnp.float32) for name, marginal in config.marginals.items()}


def _middle(marginal: Marginal, fiducial: float) -> float:
    low, high = marginal.low, marginal.high
    if marginal.kind == "normal":
        low, high = max(low, marginal.loc - 3 * marginal.scale), min(high, marginal.loc + 3 * marginal.scale)
    margin = 0.01 * (high - low)
    return fiducial if low + margin < fiducial < high - margin else 0.5 * (low + high)


@jax.jit(static_argnames=("config",))
def _draw_hosts(key: Key[Array, ""], theta: Globals, matches: Matches, config: Config) -> Int[Array, "draw sn"]:
    keys = jax.random.split(key, len(theta.Om0))
    return jax.lax.map(lambda args: draw_hosts(args[0], args[1], matches, config), (keys, theta))


def stacked(theta: Float[np.ndarray, "*draws parameter"], config: Config) -> Globals:
    """Draws of the free parameters as whole Θ, leaves [draw], with what the configuration fixes or the cosmology implies."""
    free = dict(zip(config.marginals, np.asarray(theta, np.float32).reshape(-1, len(config.marginals)).T, strict=True))
    number = math.prod(np.shape(theta)[:-1])
    return Globals(*(jnp.broadcast_to(jnp.asarray(value, jnp.float32), (number,)) for value in config.globals_of(free)))
