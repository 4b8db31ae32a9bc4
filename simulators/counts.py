"""Expected number of catalogued supernovae as a differentiable function of Θ.

    N(Θ) = T 10^{log A} Σ_h (1/p_h) Σ_i R_{hi}(s) ∫ p(detected | h, i, Θ)

The sum over hosts and the integral over light and errors are one fixed quasi-random sample, the same for every Θ, so that
the count is smooth in Θ. Two steps of the model, the host thresholds and the mass step, would make a finite sample
piecewise constant; both are smoothed on a scale (`SOFTNESS`) far below that on which the bank varies.

Hosts pass their thresholds one by one, so that value and slopes of a small sample are rough: see `count_surface` for many objects.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr
from jaxtyping import Array, Float

from cigars.schema import FIDUCIAL, Globals
from simulators.categorical import draw_index
from simulators.observation import draw_variance
from simulators.population import galaxies_per_deg2
from simulators.rates import age_bounds_gyr, ln_bin_ages, ln_rate_per_bin
from simulators.selection import detection_probability, host_efficiency
from simulators.simulator import Simulator, build_simulator, transverse_modulus, unpack
from simulators.supernovae import draw_dust, mean_absolute_magnitude

if TYPE_CHECKING:
    from cigars.config import Config
    from simulators.hosts import HostBank

__all__ = ["expected_count", "sky_rate", "with_exposure"]

SAMPLE = 1 << 17
SOFTNESS = 0.02  # mag for thresholds, dex for the mass step


@jax.jit(static_argnames=("config", "sample"))
def expected_count(theta: Globals, simulator: Simulator, config: Config, sample: int = SAMPLE) -> Float[Array, ""]:
    """Expected catalogue size at Θ (scalars); the sample's standard error is about 0.5 % at the default size.

    Differentiable in every parameter of Θ. Uses a fixed key, so the error is common to all Θ and cancels in ratios.
    """
    host_key, dust_key, normal_key, age_key = jax.random.split(jax.random.key(0), 4)
    h = unpack(simulator.table[draw_index(host_key, simulator.cdf, sample)], len(config.hosts.bands))
    modulus = transverse_modulus(theta, h.z, config.hosts.z_max)
    dust = draw_dust(dust_key, config.supernovae.dust, h.mass_log10_msun, h.dust_tau2, h.dust_index)
    relative = jnp.exp(ln_rate_per_bin(h.ln_mass, ln_bin_ages(h.z), theta.dtd_slope) - h.ln_rate0[:, None])
    young, old = age_bounds_gyr(h.z)
    age = young + (old - young) * jax.random.uniform(age_key, relative.shape)

    x, c, scatter, ln_variance, noise = jax.random.normal(normal_key, (5, *relative.shape))
    c = theta.alpha_c * x + 0.1 * c
    step = theta.mass_step * ndtr((h.mass_log10_msun - theta.mass_step_loc) / SOFTNESS)
    delta_m = (theta.gamma_Z * h.metallicity_log10_zsun + step)[:, None] + theta.gamma_age * age
    extinction = (dust[1] * (1 + 1 / dust[0]) + modulus + 5 * jnp.log10(1 + h.z))[:, None]
    m = mean_absolute_magnitude(theta, delta_m, x, c) + theta.sigma_int * scatter + extinction
    m = m + jnp.sqrt(draw_variance(config.observation.sn_m, m, ln_variance)) * noise

    z = jnp.broadcast_to(h.z[:, None], m.shape)
    seen = jnp.sum(relative * detection_probability(z, m, config.selection, simulator.detection), -1)
    passes = ndtr((h.faintest - modulus) / SOFTNESS) * host_efficiency(h.magnitude + modulus[:, None], config.selection, config.band_names)
    return jnp.exp(simulator.ln_total + math.log(10) * theta.dtd_logA) * jnp.mean(seen * passes)


def with_exposure(simulator: Simulator, config: Config, bank: HostBank) -> Simulator:
    """The simulator of one year, built from the bank, scaled to the configured size.

    By `expected_supernovae` the exposure makes the expected catalogue at the fiducial Θ that large; by area and duration
    it follows from the comoving density of the hosts.
    """
    size = config.size
    if size.area_deg2 is not None and size.duration_yr is not None:
        years = size.area_deg2 * galaxies_per_deg2(config.hosts.z_max) / float(bank.population) * size.duration_yr
    elif size.expected_supernovae is not None:
        default = config.of_default_prior()
        years = size.expected_supernovae / (_yearly(simulator, config) if config == default else _yearly_count(config, bank))
    return simulator._replace(ln_total=simulator.ln_total + math.log(years))


def sky_rate(config: Config, bank: HostBank) -> float:
    """Expected catalogued supernovae per square degree and year at the fiducial Θ."""
    return _yearly_count(config, bank) * galaxies_per_deg2(config.hosts.z_max) / float(bank.population)


def _yearly_count(config: Config, bank: HostBank) -> float:
    """Expected catalogued supernovae of the bank in one year at the fiducial Θ, which is the same in every prior.

    The sample behind an expected count is of the hosts of a simulator, those that its prior shows: of another prior it is another
    sample. With each prior's own, surveys of one size would be exposed up to 2 % longer in one than in another.
    """
    default = config.of_default_prior()
    return _yearly(build_simulator(default, bank), default)


def _yearly(simulator: Simulator, config: Config) -> float:
    return float(expected_count(Globals(*(jnp.asarray(v, jnp.float32) for v in FIDUCIAL)), simulator, config))
