"""Chains of the no-U-turn sampler on a likelihood that torch computes: the arrays cross between the frameworks here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from cigars.progress import Reporter

if TYPE_CHECKING:
    from inference.object_likelihood import ObjectLikelihood

__all__ = ["sample_density"]


def sample_density(
    net: ObjectLikelihood, standardised: Any, exposure: float, begin: np.ndarray, draws: int, warmup: int, chains: int, seed: int,
    report: Reporter,
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, int]]:  # fmt: skip
    """Draws of η by numpyro's sampler, one chain after another; the torch likelihood and its slope are called back from JAX."""
    import jax
    import jax.numpy as jnp
    from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
    from numpyro.infer import MCMC, NUTS

    potential = _potential(net, standardised, exposure)
    size, each = begin.shape[1], -(-draws // chains)
    inverse_mass = jnp.asarray(np.atleast_2d(np.cov(begin.T)), jnp.float32)
    rows = np.random.default_rng(seed).choice(len(begin), chains, replace=False)
    parts, diverged = [], 0
    kernel = NUTS(potential_fn=potential, dense_mass=True, inverse_mass_matrix=inverse_mass)
    mcmc = MCMC(kernel, num_warmup=warmup, num_samples=each, progress_bar=False)  # one for all chains: compiled once
    for chain, row in enumerate(rows):
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # numpyro mixes both
            mcmc.run(
                jax.random.fold_in(jax.random.key(seed), chain),
                init_params=jnp.asarray(begin[row], jnp.float32),
                extra_fields=("diverging",),
            )
        parts.append(np.asarray(mcmc.get_samples(), np.float64).reshape(each, size))
        diverged += int(np.sum(mcmc.get_extra_fields()["diverging"]))
        report("chains", chain + 1, chains)
    eta = np.stack(parts)
    return eta.reshape(-1, size), (np.atleast_1d(split_gelman_rubin(eta)), np.atleast_1d(effective_sample_size(eta)), diverged)


def _potential(net: ObjectLikelihood, standardised: Any, exposure: float) -> Callable[[Any], Any]:
    """-ln of the posterior of η, standard normal under the prior, as a JAX function."""
    import jax
    import jax.numpy as jnp
    import torch

    def host(eta: Any) -> tuple[np.ndarray, np.ndarray]:
        at = torch.tensor(np.array(eta, np.float32), requires_grad=True)
        with torch.enable_grad():
            value = net.ln_likelihood(standardised, at[None], exposure)[0]
            (slope,) = torch.autograd.grad(value, at)
        return value.detach().numpy(), slope.numpy()

    def both(eta: Any) -> tuple[Any, Any]:
        shapes = jax.ShapeDtypeStruct((), jnp.float32), jax.ShapeDtypeStruct(eta.shape, jnp.float32)
        return jax.pure_callback(host, shapes, eta)

    @jax.custom_vjp
    def ln_likelihood(eta: Any) -> Any:
        return both(eta)[0]

    ln_likelihood.defvjp(both, lambda slope, g: (g * slope,))
    return lambda eta: 0.5 * jnp.sum(eta**2) - ln_likelihood(eta)
