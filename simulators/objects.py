"""Supernovae of a survey in two steps: candidates as far as their detection, and everything else about those detected.

Of the candidates a third or a quarter is detected, so all that the detection does not ask for (host magnitudes, stretch and colour as
observed, redshifts) waits for the second step, where nothing is computed in vain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from cigars.schema import Globals, Latents, Observations
from simulators.categorical import draw_alias
from simulators.cosmology import distance_modulus_transverse, interpolate_uniform
from simulators.observation import catalogue_rows, observe_hosts, observe_peak, observe_redshifts, observe_supernovae
from simulators.rates import draw_age, ln_bin_ages, ln_rate_per_bin, ln_total_rate
from simulators.selection import detection_probability, host_efficiency
from simulators.simulator import SCALARS, Simulator, unpack
from simulators.supernovae import brightness_shift, draw_dust, draw_light

if TYPE_CHECKING:
    from cigars.config import Config

__all__ = ["Candidates", "SurveyState", "draw_candidates", "observe"]


class SurveyState(NamedTuple):
    """What all objects of a survey share: Θ, its table of distances (Mpc), and ln B(s), the bound of R_h(s)/R⁰_h."""

    theta: Globals
    distances: Float[Array, "node"]
    ln_bound: Float[Array, ""]


class Candidates(NamedTuple):
    """Supernovae and all that their detection depends on, each [sn]."""

    host: Int[Array, "sn"]  # row of `Simulator.table`
    age_gyr: Float[Array, "sn"]
    R_V: Float[Array, "sn"]
    A_V: Float[Array, "sn"]
    x_int: Float[Array, "sn"]
    c_int: Float[Array, "sn"]
    m: Float[Array, "sn"]  # true peak magnitude
    ln_variance: Float[Array, "sn"]  # standard normals: of the variance of m, and of its error
    error: Float[Array, "sn"]


def draw_candidates(
    key: Key[Array, ""], size: int, state: SurveyState, simulator: Simulator, config: Config
) -> tuple[Candidates, Bool[Array, "sn"]]:
    """`size` candidates, and which of them are in the catalogue: visible host, kept by thinning, and detected."""
    keys = dict(zip(("host", "age", "dust", "light", "peak", "accept"), jax.random.split(key, 6), strict=True))
    thin, detect = jax.random.uniform(keys["accept"], (2, size))
    host = draw_alias(keys["host"], simulator.alias, size)
    h, theta = unpack(simulator.table[host], len(config.hosts.bands)), state.theta
    modulus = _modulus(state, h.z, config)
    ln_rates = ln_rate_per_bin(h.ln_mass, ln_bin_ages(h.z), theta.dtd_slope)
    thinned = jnp.log(thin) + state.ln_bound + h.ln_rate0 < ln_total_rate(ln_rates)

    age = draw_age(keys["age"], ln_rates, h.z)
    delta_m = brightness_shift(theta, h.mass_log10_msun, h.metallicity_log10_zsun, age)
    dust = draw_dust(keys["dust"], config.supernovae.dust, h.mass_log10_msun, h.dust_tau2, h.dust_index)
    light = draw_light(keys["light"], theta, delta_m, dust)
    m = light.absolute_magnitude + modulus + 5 * jnp.log10(1 + h.z)
    normals = jax.random.normal(keys["peak"], (2, size))
    observed, _ = observe_peak(normals, m, config.observation.sn_m)

    probability = detection_probability(h.z, observed, config.selection, simulator.detection)
    probability = probability * host_efficiency(h.magnitude + modulus[:, None], config.selection, config.band_names)
    detected = (modulus < h.faintest) & thinned & (detect < probability)
    return Candidates(host, age, light.R_V, light.A_V, light.x_int, light.c_int, m, *normals), detected


def observe(
    key: Key[Array, ""], found: Candidates, state: SurveyState, simulator: Simulator, config: Config
) -> tuple[Observations, Latents]:
    """What is observed of detected candidates, and their truth."""
    host_key, other_key, z_key = jax.random.split(key, 3)
    h = unpack(simulator.table[found.host], len(config.hosts.bands))
    others = jax.random.normal(other_key, (4, *found.m.shape))
    colour = found.c_int + found.A_V / found.R_V
    peak = jnp.stack([found.ln_variance, found.error])
    supernova = observe_supernovae(peak, others, found.m, found.x_int, colour, config.observation)
    mag, mag_err = observe_hosts(host_key, h.magnitude + _modulus(state, h.z, config)[:, None], config.observation)
    latents = Latents(
        **{name: getattr(h, name) for name in SCALARS},
        **{name: getattr(found, name) for name in ("age_gyr", "R_V", "A_V", "x_int", "c_int")},
        delta_M=brightness_shift(state.theta, h.mass_log10_msun, h.metallicity_log10_zsun, found.age_gyr),
    )
    return catalogue_rows(mag, mag_err, supernova, *observe_redshifts(z_key, h.z, config.observation)), latents


def _modulus(state: SurveyState, z: Float[Array, "sn"], config: Config) -> Float[Array, "sn"]:
    return distance_modulus_transverse(interpolate_uniform(state.distances, z, config.hosts.z_max))
