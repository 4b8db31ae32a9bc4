"""What is observed: host magnitudes and supernova (m, x, c) with their errors (forward model §7).

Host errors are constant, or those of LSST coadds, σ² = σ_sys² + (0.04 − γ) X + γ X², X = 10^{0.4(m − m5)} (Ivezić+19,
equation 5), or a fitted log-normal of the magnitude. Supernova variances are log-normal across objects; their Gaussian
errors may be correlated. Variances are evaluated at the true magnitude.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from cigars.schema import Observations
from simulators.small_matrices import product

if TYPE_CHECKING:
    from cigars.config import ErrorModel, ObservationConfig

__all__ = [
    "catalogue_rows",
    "draw_variance",
    "host_errors",
    "observe_hosts",
    "observe_peak",
    "observe_redshifts",
    "observe_supernovae",
]


def draw_variance(model: ErrorModel, magnitude: Array, standard_normal: Array) -> Array:
    """Variance exp(offset + slope (mag − pivot) + scatter n) + floor², n a standard normal of the same shape."""
    mean = model.offset + model.slope * (magnitude - model.pivot)
    return jnp.exp(mean + model.scatter * standard_normal) + model.floor**2


def host_errors(key: Key[Array, ""], magnitude: Float[Array, "sn band"], config: ObservationConfig) -> Float[Array, "sn band"]:
    """Standard deviations of host magnitudes, mag."""
    if config.host_errors == "constant":
        return jnp.full_like(magnitude, config.host_sigma)
    if config.host_errors == "lsst":
        depth, gamma = (jnp.asarray(v, magnitude.dtype)[None] for v in (config.host_depths, config.host_gamma))
        x = jnp.exp(0.4 * math.log(10) * (magnitude - depth))
        return jnp.sqrt(config.host_sigma_sys**2 + (0.04 - gamma) * x + gamma * x**2)
    normal = _by_band(jax.random.normal, key, magnitude)
    columns = [draw_variance(model, magnitude[:, b], normal[:, b]) for b, model in enumerate(config.host_fitted)]
    return jnp.sqrt(jnp.stack(columns, -1))


def _by_band(draw: Callable[..., Array], key: Key[Array, ""], magnitude: Float[Array, "sn band"]) -> Float[Array, "sn band"]:
    """Draws of the shape of the magnitudes, laid out by band: with bands last they take four times as long on a CPU."""
    return draw(key, magnitude.shape[::-1]).T


def observe_hosts(key: Key[Array, ""], magnitude: Float[Array, "sn band"], config: ObservationConfig) -> tuple[Array, Array]:
    """Noisy host magnitudes and their standard deviations [sn, band]; NaN in both where a band is missing."""
    error_key, noise_key, missing_key = jax.random.split(key, 3)
    error = host_errors(error_key, magnitude, config)
    noisy = magnitude + error * _by_band(jax.random.normal, noise_key, magnitude)
    probability = np.asarray(config.missing_probability, np.float32)  # of all bands, or [band]
    if not probability.any():
        return noisy, error
    missing = _by_band(jax.random.uniform, missing_key, magnitude) < jnp.broadcast_to(probability, magnitude.shape)
    # an object keeps one band: a host without any photometry has no place in the catalogue
    missing = missing & ~(jnp.all(missing, -1, keepdims=True) & (jnp.arange(magnitude.shape[-1]) == 0)[None])
    return jnp.where(missing, jnp.nan, noisy), jnp.where(missing, jnp.nan, error)


def observe_peak(normals: Float[Array, "2 sn"], m: Float[Array, "sn"], model: ErrorModel) -> tuple[Array, Array]:
    """Noisy peak magnitude and its variance, from standard normals for the variance and for the error."""
    variance = draw_variance(model, m, normals[0])
    return m + jnp.sqrt(variance) * normals[1], variance


def observe_supernovae(
    peak: Float[Array, "2 sn"], others: Float[Array, "4 sn"], m: Array, x: Array, c: Array, config: ObservationConfig
) -> dict[str, Array]:
    """Noisy m, x, c with their variances and covariances, each [sn], under their catalogue names.

    Args:
        peak: the standard normals of `observe_peak`, which alone decide on the detection.
        others: two for the variances of x and c, two for their errors.
        m: true peak magnitudes; x, c: true stretch and colour with dust.
        config: error models and the correlation of the errors.
    """
    ln_variance, error = jnp.stack([peak[0], *others[:2]]), jnp.stack([peak[1], *others[2:]])
    models = (config.sn_m, config.sn_x, config.sn_c)
    variance = jnp.stack([draw_variance(model, m, normal) for model, normal in zip(models, ln_variance, strict=True)])
    correlation, cholesky = config.sn_correlation, _cholesky(config.sn_correlation)
    noise = product(jnp.asarray(cholesky, m.dtype), error.reshape(3, -1)).reshape(error.shape)
    sd = jnp.sqrt(variance)
    observed = jnp.stack([m, x, c]) + sd * noise
    covariance = {f"cov_{a}": correlation[i] * sd[j] * sd[k] for i, (a, j, k) in enumerate((("mx", 0, 1), ("mc", 0, 2), ("xc", 1, 2)))}
    names = ("m", "x", "c", "var_m", "var_x", "var_c")
    return dict(zip(names, (*observed, *variance), strict=True)) | covariance


def _cholesky(correlation: tuple[float, float, float]) -> np.ndarray:
    mx, mc, xc = correlation
    return np.linalg.cholesky(np.array([[1, mx, mc], [mx, 1, xc], [mc, xc, 1]]))


def observe_redshifts(key: Key[Array, ""], z: Float[Array, "sn"], config: ObservationConfig) -> tuple[Array, Array]:
    """Spectroscopic redshifts and their errors, [sn], NaN for objects without one."""
    if config.spectroscopic_fraction == 0:
        none = jnp.full_like(z, jnp.nan)
        return none, none
    have_key, noise_key = jax.random.split(key)
    have = jax.random.uniform(have_key, z.shape) < config.spectroscopic_fraction
    normal, noise = jax.random.normal(noise_key, (2, *z.shape))
    error = config.z_spec_err * jnp.exp(config.z_spec_err_scatter * normal)
    return jnp.where(have, z + error * noise, jnp.nan), jnp.where(have, error, jnp.nan)


def catalogue_rows(mag: Array, mag_err: Array, supernova: dict[str, Array], z_spec: Array, z_spec_err: Array) -> Observations:
    """The observed columns in schema order."""
    return Observations(mag=mag, mag_err=mag_err, z_spec=z_spec, z_spec_err=z_spec_err, **supernova)
