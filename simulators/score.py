r"""The joint score $t = \partial \ln p(d, \ell \mid \Theta) / \partial\Theta$ of catalogued objects, by differentiating the simulator.

Of one object's joint density only four factors depend on Θ: the rate of its age bin, the intrinsic colour, the light, and the
distance of its host. With the intrinsic scatter integrated out,

$\ln p = \ln 10 \log A + s \ln t_i + \ln N(c_{\rm int}; \alpha_c x, 0.1) + \ln N(m; \bar m, \sigma_0^2 + W_m) + \ldots$ with
$\bar m = M_0 + \delta M + \alpha x + \beta c_{\rm int} + A_V (1 + 1/R_V) + \mu(z)$.

Its conditional mean E[t | d, Θ] is the score of the marginal density (Fisher's identity), which a regression on simulated pairs
therefore learns (Brehmer+20, PNAS 117, 5242, "mining gold").

The dependence of a host's magnitudes on distance is not smooth enough to be learned so: with errors of 0.01 mag the joint score has a
scatter of hundreds. A grey shift of all magnitudes by ε ~ N(0, s²) makes them a distance indicator of scatter s, whose joint score
ε/s² ∂μ/∂Θ is small; the score so found is that of photometry with this common error added.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cigars.schema import Globals, Latents, Observations
from simulators.constants import LN10
from simulators.cosmology import distance_modulus, transverse_distance
from simulators.rates import age_bounds_gyr, ln_bin_ages
from simulators.small_matrices import cholesky, cholesky_solve, product
from simulators.supernovae import COLOUR_SD, brightness_shift, mean_absolute_magnitude

if TYPE_CHECKING:
    from cigars.config import Config

__all__ = ["MASS_STEP_WIDTH", "host_score", "joint_score"]

MASS_STEP_WIDTH = 0.15  # dex: a sharp step has no score; this is the error of log M


def joint_score(
    theta: Float[Array, "sn parameter"], observations: Observations, latents: Latents, config: Config
) -> Float[Array, "sn parameter"]:
    """Score of each object's joint density, its host's magnitudes left out, at a Θ of its own.

    Args:
        theta: free parameters in the order of `config.marginals`.
        observations, latents: what was observed and the truth behind it, leaves [sn].
        config: names the free parameters and fixes the others.
    """
    return _scores(theta, (observations, latents), config)


def host_score(theta: Float[Array, "sn parameter"], z: Float[Array, "sn"], config: Config) -> Float[Array, "sn parameter"]:
    """∂μ(z)/∂Θ in mag: times ε/s², the score of host photometry with a grey shift ε of scatter s."""
    return _moduli(theta, z, config)


@jax.jit(static_argnames=("config",))
def _scores(theta: Array, data: tuple[Observations, Latents], config: Config) -> Array:
    return jax.vmap(jax.grad(_ln_density), in_axes=(0, 0, None))(theta, data, config)


@jax.jit(static_argnames=("config",))
def _moduli(theta: Array, z: Array, config: Config) -> Array:
    return jax.vmap(jax.grad(lambda t, z: _modulus(_globals(t, config), z)), in_axes=(0, 0))(theta, z)


def _globals(free: Float[Array, "parameter"], config: Config) -> Globals:
    theta = config.globals_of(dict(zip(config.marginals, free, strict=True)))
    return Globals(*(jnp.asarray(value, jnp.float32) for value in theta))


def _modulus(theta: Globals, z: Array) -> Array:
    return distance_modulus(transverse_distance(theta, z), z)


def _ln_density(free: Float[Array, "parameter"], data: tuple[Observations, Latents], config: Config) -> Float[Array, ""]:
    """ln of the factors of one object's joint density that depend on Θ; constants are dropped.

    Two are left out, by which the score of `des5yr` would know Ω_m to 1 % better and all else to .4 %: that of `host_efficiency`, and what
    variances that grow with magnitude say of the magnitude. What a score without them is on average is taken off as of any (`centring`).
    """
    o, latent = data
    theta = _globals(free, config)
    young, _ = age_bounds_gyr(latent.z)
    age_bin = jnp.clip(jnp.sum(latent.age_gyr >= young) - 1, 0, len(young) - 1)
    rate = LN10 * theta.dtd_logA + theta.dtd_slope * ln_bin_ages(latent.z)[age_bin]
    colour = _ln_normal(latent.c_int - theta.alpha_c * latent.x_int, COLOUR_SD**2)

    host = latent.mass_log10_msun, latent.metallicity_log10_zsun, latent.age_gyr
    sharp, smooth = (brightness_shift(theta, *host, width) for width in (None, MASS_STEP_WIDTH))
    delta_m = smooth + jax.lax.stop_gradient(sharp - smooth)  # the value of the sharp step, the slope of the smooth one
    dust = latent.A_V * (1 + 1 / latent.R_V)
    mean = mean_absolute_magnitude(theta, delta_m, latent.x_int, latent.c_int) + dust + _modulus(theta, latent.z)

    noise = jnp.array([o.x - latent.x_int, o.c - latent.c_int - latent.A_V / latent.R_V])
    shift, variance = _given_stretch_and_colour(o, noise)
    return rate + colour + _ln_normal(o.m - mean - shift, theta.sigma_int**2 + variance)


def _given_stretch_and_colour(o: Observations, noise: Float[Array, "2"]) -> tuple[Array, Array]:
    """Mean and variance of the error of m given those of x and c, with which it may be correlated."""
    covariance = jnp.array([[o.var_x, o.cov_xc], [o.cov_xc, o.var_c]])
    shared = jnp.array([o.cov_mx, o.cov_mc])
    weight = cholesky_solve(cholesky(covariance), shared[:, None])[:, 0]
    return product(weight, noise), o.var_m - product(weight, shared)


def _ln_normal(residual: Array, variance: Array | float) -> Array:
    return -0.5 * (residual**2 / variance + jnp.log(jnp.asarray(variance)))
