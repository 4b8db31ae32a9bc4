r"""Draws from the exact posterior of one survey, given a fixed bank of hosts, by Hamiltonian Monte Carlo.

$p(\Theta, \{h_i\} \mid d) \propto p(\Theta) \prod_i \lambda(d_i, h_i \mid \Theta)\, e^{-\Lambda(\Theta)}$: Θ with all hosts summed over,
by the no-U-turn sampler (Hoffman & Gelman 14), then the host of each object given each Θ from its conditional distribution.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jaxtyping import Array, Float, Int, Key
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
from numpyro.infer import MCMC, NUTS, init_to_value

from cigars.schema import FIDUCIAL, Globals, Marginal, Observations
from simulators.candidates import Matches, candidates
from simulators.counts import SAMPLE
from simulators.likelihood import draw_hosts, ln_likelihood
from simulators.model import globals_model
from simulators.simulator import Simulator

if TYPE_CHECKING:
    from cigars.config import Config

__all__ = ["ExactPosterior", "sample_exact"]


class ExactPosterior(NamedTuple):
    """Draws of Θ and of every object's host, numpy arrays; `hosts` follows `theta` with its first two axes flattened."""

    theta: Float[np.ndarray, "chain draw parameter"]
    names: tuple[str, ...]
    r_hat: Float[np.ndarray, "parameter"]  # split R̂, 1 where the chains agree
    n_eff: Float[np.ndarray, "parameter"]
    divergences: int
    hosts: Int[np.ndarray, "draw sn"]  # rows of the bank: `simulator.table[hosts]` holds redshifts and masses


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
) -> ExactPosterior:
    """Posterior of the free parameters of `config` and of the hosts, by chains one after the other.

    Args:
        observations: the detected objects of one survey without padding, or what `likelihood.candidates` makes of them.
        simulator: the bank, as `survey.prepare` gives it.
        config: of the same simulator; its prior is that of Θ.
        draws, warmup: kept and adapting steps of each chain.
        exposure: of the survey, relative to the configured size.
        sample: size of the fixed sample behind the expected count.

    Raises:
        ValueError: where `likelihood.candidates` does, and if no parameter is free.
    """
    if not config.marginals:
        raise ValueError("exact posterior: expected at least one free parameter, got none; give one a prior that is not fixed")
    matches = observations if isinstance(observations, Matches) else candidates(observations, simulator, config)
    chain_key, host_key = jax.random.split(jax.random.key(seed))
    kernel = NUTS(functools.partial(_model, config, sample), dense_mass=True, init_strategy=init_to_value(values=_start(config)))
    mcmc = MCMC(
        kernel, num_warmup=warmup, num_samples=draws, num_chains=chains,
        chain_method=functools.partial(functools.partial, jax.lax.map),  # one after the other, compiled once
        progress_bar=False, jit_model_args=True,
    )  # fmt: skip
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # numpyro mixes both
        mcmc.run(chain_key, matches, simulator, exposure, extra_fields=("diverging",))
    drawn = mcmc.get_samples(group_by_chain=True)
    theta = np.stack([np.asarray(drawn[name]) for name in config.marginals], -1)
    return ExactPosterior(
        theta=theta,
        names=tuple(config.marginals),
        r_hat=np.asarray(split_gelman_rubin(theta)),
        n_eff=np.asarray(effective_sample_size(theta)),
        divergences=int(np.sum(mcmc.get_extra_fields()["diverging"])),
        hosts=np.asarray(_draw_hosts(host_key, jnp.asarray(theta.reshape(-1, theta.shape[-1])), matches, config)),
    )


def _model(config: Config, sample: int, matches: Matches, simulator: Simulator, exposure: float) -> None:
    numpyro.factor("survey", ln_likelihood(globals_model(config), matches, simulator, config, exposure, sample))


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
def _draw_hosts(key: Key[Array, ""], theta: Float[Array, "draw parameter"], matches: Matches, config: Config) -> Int[Array, "draw sn"]:
    def one(args: tuple[Array, Array]) -> Int[Array, "sn"]:
        key, free = args
        return draw_hosts(key, _globals(free, config), matches, config)

    return jax.lax.map(one, (jax.random.split(key, len(theta)), theta))


def _globals(free: Float[Array, "parameter"], config: Config) -> Globals:
    values = {**FIDUCIAL._asdict(), **config.fixed, **dict(zip(config.marginals, free, strict=True))}
    if config.supernovae.cosmology != "LCDM":
        values["Ode0"] = 1 - values["Om0"]
    return Globals(**{name: jnp.asarray(value, jnp.float32) for name, value in values.items()})
