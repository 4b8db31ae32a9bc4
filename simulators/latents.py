r"""Draws of each supernova's unknowns given its host and Θ, from their exact conditional distribution.

Given host, age and dust the light v is linear and Gaussian (`simulators.likelihood`): with $r = C^{-1/2}(v - \kappa h)$ before dust and
$g = C^{-1/2}[(1 + 1/R_V) h + e/R_V]$,

$p({\rm age}, R_V \mid v) \propto R_i(s)\, p(R_V)\, \sqrt{2\pi/a}\, e^{(t^2 - q)/2}\, \Phi(t)$ with $q = r^2$, $a = g^2$,
$t = (g r - 1/\tau)/\sqrt a$,

$A_V \mid {\rm age}, R_V$ is normal with mean $t/\sqrt a$ and variance $1/a$ above zero, and stretch and colour are normal given all these.
Age and R_V are drawn by importance resampling of one proposal in each cell of a grid that is uniform in their prior: exact as the
cells shrink. x_int and c_int follow by Matheron's rule, $n = n_0 + M^T C^{-1} (\delta - M n_0 - \epsilon)$ (Doucet 10).
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr
from jaxtyping import Array, Float, Int, Key

from cigars.schema import LOCALS, Globals
from simulators.candidates import Matches
from simulators.likelihood import light_model
from simulators.rates import age_bounds_gyr, ln_bin_ages, ln_rate_per_bin
from simulators.simulator import Hosts, Simulator, transverse_modulus, unpack
from simulators.small_matrices import cholesky, cholesky_solve, product, solve_lower
from simulators.supernovae import A_V_MEAN, COLOUR_SD, R_V_LOW, R_V_MEAN, R_V_SD, brightness_shift, host_dust, truncated_normal

if TYPE_CHECKING:
    from cigars.config import Config

__all__ = ["draw_latents"]

AGES, R_VS = 8, 8  # cells of each age bin, and of R_V
FAR = 8.0  # σ below zero at which a truncated normal is an exponential


@jax.jit(static_argnames=("config",))
def draw_latents(
    key: Key[Array, ""],
    theta: Globals,
    hosts: Int[Array, "draw sn"],
    matches: Matches,
    simulator: Simulator,
    config: Config,
) -> Float[Array, "draw sn unknown"]:
    """One draw of `schema.LOCALS`, in that order, of every object given each Θ (leaves [draw]) and host (row of `Simulator.table`)."""

    def one(args: tuple[Array, Globals, Array]) -> Array:
        key, theta, rows = args
        h = unpack(simulator.table[rows], len(config.hosts.bands))
        age, x, c = _light_given_host(key, theta, h, matches, config)
        values = {**h._asdict(), "x_int": x, "c_int": c, "age_gyr": age}
        return jnp.stack([values[name] for name in LOCALS], -1)

    return jax.lax.map(one, (jax.random.split(key, len(hosts)), theta, hosts))


class _Cells(NamedTuple):
    """Proposals, [sn, cell]."""

    age_gyr: Array
    r_v: Array
    ln_weight: Array


def _light_given_host(key: Key[Array, ""], theta: Globals, h: Hosts, matches: Matches, config: Config) -> tuple[Array, Array, Array]:
    """Age, stretch and intrinsic colour of each object, [sn]."""
    cell_key, choice_key, dust_key, light_key = jax.random.split(key, 4)
    mixing, slopes, reddening = light_model(theta, config)
    root = cholesky(matches.noise + product(mixing, mixing.T)[None])
    cells = _cells(cell_key, theta, h)
    bright = theta.M0 + transverse_modulus(theta, h.z, config.hosts.z_max) + 5 * jnp.log10(1 + h.z) - matches.m
    shift = brightness_shift(theta, h.mass_log10_msun[:, None], h.metallicity_log10_zsun[:, None], cells.age_gyr)
    offset = bright[:, None] + shift  # κ before dust less m, [sn, cell]
    white = functools.partial(solve_lower, root)
    residual = white(matches.light[..., None] - slopes[None, :, None] * offset[:, None])
    if config.supernovae.dust == "independent":
        of_h, of_e = (white(jnp.broadcast_to(v, matches.light.shape)[..., None]) for v in (slopes, reddening))
        g = of_h * (1 + 1 / cells.r_v[:, None]) + of_e / cells.r_v[:, None]
        a = jnp.sum(g * g, 1)
        t = (jnp.sum(g * residual, 1) - 1 / A_V_MEAN) / jnp.sqrt(a)
        ln_light = 0.5 * (t**2 - jnp.sum(residual**2, 1) - jnp.log(a)) + log_ndtr(t)
        pick = _chosen(choice_key, cells.ln_weight + ln_light)
        r_v, scale = pick(cells.r_v), 1 / jnp.sqrt(pick(a))
        a_v = scale * _positive(jax.random.uniform(dust_key, r_v.shape), pick(t))
    else:
        r_v, a_v = host_dust(h.dust_tau2, h.dust_index)
        g = white(slopes[None, :, None] * (1 + 1 / r_v)[:, None, None] + reddening[None, :, None] / r_v[:, None, None])
        pick = _chosen(choice_key, cells.ln_weight - 0.5 * jnp.sum((residual - g * a_v[:, None, None]) ** 2, 1))
    true = slopes[None] * (pick(offset) + a_v * (1 + 1 / r_v))[:, None] + reddening[None] * (a_v / r_v)[:, None]
    x, c = _stretch_and_colour(light_key, theta, matches.light - true, mixing, matches.noise, root)
    return pick(cells.age_gyr), x, c


def _cells(key: Key[Array, ""], theta: Globals, h: Hosts) -> _Cells:
    """A place drawn in each cell: ages by bin, R_V by its quantiles."""
    size, bins = len(h.z), h.ln_mass.shape[-1]
    u = jax.random.uniform(key, (2, size, bins, AGES, R_VS))
    young, old = (edge[..., None, None] for edge in age_bounds_gyr(h.z))
    age = young + (old - young) * (jnp.arange(AGES, dtype=u.dtype)[None, None, :, None] + u[0]) / AGES
    r_v = truncated_normal((jnp.arange(R_VS, dtype=u.dtype)[None, None, None] + u[1]) / R_VS, R_V_MEAN, R_V_SD, R_V_LOW)
    ln_rate = ln_rate_per_bin(h.ln_mass, ln_bin_ages(h.z), theta.dtd_slope)
    ln_rate = jnp.broadcast_to(ln_rate[..., None, None], age.shape)
    return _Cells(*(leaf.reshape(size, -1) for leaf in (age, r_v, ln_rate)))


def _chosen(key: Key[Array, ""], ln_weight: Float[Array, "sn cell"]):
    """Takes from each row of an array the cell that was drawn by the weights."""
    cell = jax.random.categorical(key, ln_weight, -1)[:, None]
    return lambda values: jnp.take_along_axis(values, cell, 1)[:, 0]


def _positive(u: Float[Array, "sn"], mean: Float[Array, "sn"]) -> Float[Array, "sn"]:
    """Normal(mean, 1) above zero, at the uniform u; with a mean far below zero an exponential of the same mean."""
    far = jnp.maximum(-mean, FAR)
    return jnp.where(mean > -FAR, truncated_normal(u, jnp.maximum(mean, -FAR), 1.0, 0.0), -jnp.log1p(-u) / (far + 2 / far))


def _stretch_and_colour(
    key: Key[Array, ""], theta: Globals, residual: Float[Array, "sn v"], mixing: Float[Array, "v 3"], noise: Array, root: Array
) -> tuple[Array, Array]:
    normal_key, noise_key = jax.random.split(key)
    n = jax.random.normal(normal_key, (len(residual), mixing.shape[1]))
    error = product(cholesky(noise), jax.random.normal(noise_key, (*residual.shape, 1)))
    missed = (residual - product(n, mixing.T))[..., None] - error
    n = n + product(cholesky_solve(root, missed)[..., 0], mixing)
    return n[:, 0], theta.alpha_c * n[:, 0] + COLOUR_SD * n[:, 1]
