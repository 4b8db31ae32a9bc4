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
import numpy as np
from jax.scipy.special import ndtr
from jaxtyping import Array, Float, Key

from cigars.schema import FIDUCIAL, Globals
from simulators.categorical import draw_index
from simulators.mass_function import MASS_RANGE_LOG10, REDSHIFT_RANGE, galaxies_per_deg2, mass_share, redshift_share
from simulators.observation import draw_variance
from simulators.rates import age_bounds_gyr, ln_bin_ages, ln_rate_per_bin
from simulators.selection import detection_probability, host_efficiency
from simulators.simulator import Simulator, build_simulator, transverse_modulus, unpack
from simulators.supernovae import COLOUR_SD, draw_dust, mean_absolute_magnitude

if TYPE_CHECKING:
    from cigars.config import Config
    from simulators.hosts import HostBank

__all__ = ["ALL_HOSTS_ERROR", "expected_count", "expected_count_of_all_hosts", "sky_rate", "with_exposure"]

SAMPLE = 1 << 17
ALL_HOSTS, ALL_HOSTS_ERROR = 1 << 20, 3e-4  # draws at least, and the relative error then, by the scatter over seeds
SHORT = 0.1  # of the galaxies, in redshift and mass: what a table of others may lack, or a small one by chance
MASSIVE = 11.0  # log M: above are 2 % of the galaxies, but 30 % of the supernovae
SOFTNESS = 0.02  # mag for thresholds, dex for the mass step


@jax.jit(static_argnames=("config", "sample"))
def expected_count(theta: Globals, simulator: Simulator, config: Config, sample: int = SAMPLE) -> Float[Array, ""]:
    """Expected catalogue size at Θ (scalars); the sample's standard error is about 0.5 % at the default size.

    Differentiable in every parameter of Θ. Uses a fixed key, so the error is common to all Θ and cancels in ratios.
    """
    keys = jax.random.split(jax.random.key(0), 4)
    rows = simulator.table[draw_index(keys[0], simulator.cdf, sample)]
    return _number(theta, simulator) * jnp.mean(_detected(theta, rows, keys[1:], simulator, config))


@jax.jit(static_argnames=("config", "least"))
def expected_count_of_all_hosts(
    theta: Globals, simulator: Simulator, config: Config, seed: int = 0, least: int = ALL_HOSTS
) -> Float[Array, ""]:
    """As `expected_count`, by every host of the table as often as the others in place of a sample of them.

    Slower, with an error of `ALL_HOSTS_ERROR`, which is that of light and errors alone: `seed` is of these, `least` of their draws.
    """
    hosts = len(simulator.table)
    draws = hosts * -(-least // hosts)
    places = jnp.arange(-(-draws // SAMPLE) * SAMPLE).reshape(-1, SAMPLE)
    share = jnp.exp(simulator.ln_weight - jax.nn.logsumexp(simulator.ln_weight)) * (hosts / draws)

    def of_block(number: Array, place: Array) -> Array:
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), number), 3)
        weight = jnp.where(place < draws, share[place % hosts], 0.0)
        return jnp.sum(weight * _detected(theta, simulator.table[place % hosts], keys, simulator, config))

    return _number(theta, simulator) * jax.lax.map(lambda block: of_block(*block), (jnp.arange(len(places)), places)).sum()


def _number(theta: Globals, simulator: Simulator) -> Float[Array, ""]:
    """Expected supernovae of all hosts at the fiducial slope, detected or not."""
    return jnp.exp(simulator.ln_total + math.log(10) * theta.dtd_logA)


def _detected(
    theta: Globals, rows: Float[Array, "host column"], keys: Key[Array, "3"], simulator: Simulator, config: Config
) -> Float[Array, "host"]:
    """Rate of catalogued supernovae of each host over its rate at the fiducial slope, by one draw of light and errors an age."""
    dust_key, normal_key, age_key = keys
    h = unpack(rows, len(config.hosts.bands))
    modulus = transverse_modulus(theta, h.z, config.hosts.z_max)
    dust = draw_dust(dust_key, config.supernovae.dust, h.mass_log10_msun, h.dust_tau2, h.dust_index)
    relative = jnp.exp(ln_rate_per_bin(h.ln_mass, ln_bin_ages(h.z), theta.dtd_slope) - h.ln_rate0[:, None])
    young, old = age_bounds_gyr(h.z)
    age = young + (old - young) * jax.random.uniform(age_key, relative.shape)

    x, c, scatter, ln_variance, noise = jax.random.normal(normal_key, (5, *relative.shape))
    c = theta.alpha_c * x + COLOUR_SD * c
    step = theta.mass_step * ndtr((h.mass_log10_msun - theta.mass_step_loc) / SOFTNESS)
    # not `brightness_shift`, which sums in another order: exposures, and with them the surveys of a seed, would be rounded otherwise
    delta_m = (theta.gamma_Z * h.metallicity_log10_zsun + step)[:, None] + theta.gamma_age * age
    extinction = (dust[1] * (1 + 1 / dust[0]) + modulus + 5 * jnp.log10(1 + h.z))[:, None]
    m = mean_absolute_magnitude(theta, delta_m, x, c) + theta.sigma_int * scatter + extinction
    m = m + jnp.sqrt(draw_variance(config.observation.sn_m, m, ln_variance)) * noise

    z = jnp.broadcast_to(h.z[:, None], m.shape)
    seen = jnp.sum(relative * detection_probability(z, m, config.selection, simulator.detection), -1)
    passes = ndtr((h.faintest - modulus) / SOFTNESS) * host_efficiency(h.magnitude + modulus[:, None], config.selection, config.band_names)
    return seen * passes


def with_exposure(simulator: Simulator, config: Config, bank: HostBank) -> Simulator:
    """The simulator of one year, built from the bank, scaled to the configured size.

    By `expected_supernovae` the exposure makes the expected catalogue at the fiducial Θ that large; by area and duration
    it follows from the comoving density of the hosts. Raises ValueError by area for a table of hosts that lacks a part of the population.
    """
    size = config.size
    if size.area_deg2 is not None and size.duration_yr is not None:
        years = size.area_deg2 * galaxies_per_deg2(config.hosts.z_max) / _population(config, bank) * size.duration_yr
    elif size.expected_supernovae is not None:
        default = config.of_default_prior()
        years = size.expected_supernovae / (_yearly(simulator, config) if config == default else _yearly_count(config, bank))
    return simulator._replace(ln_total=simulator.ln_total + math.log(years))


def _population(config: Config, bank: HostBank) -> float:
    """Galaxies that the bank stands for, of those that `galaxies_per_deg2` counts."""
    if config.hosts.backend != "table":
        return float(bank.population)
    (least, most), (first, _) = MASS_RANGE_LOG10, REDSHIFT_RANGE
    counted = (bank.mass_log10_msun >= least) & (bank.mass_log10_msun <= most) & (bank.z >= first)
    weight = counted / bank.keep_probability.astype(np.float64)
    _check_whole(bank, weight, config.hosts.z_max)
    return float(weight.sum())


def _check_whole(bank: HostBank, weight: np.ndarray, z_max: float) -> None:
    """Refuse a table that is visibly less than the population whose galaxies a square degree has: it would be taken for all of them."""
    got = [] if np.max(bank.mass_log10_msun, where=weight > 0, initial=0) >= MASSIVE else [f"none above log M = {MASSIVE:g}"]
    for name, values, share in (("log M", bank.mass_log10_msun, mass_share), ("z", bank.z, redshift_share)):
        order = np.argsort(values)
        own, right = np.cumsum(weight[order]) / max(weight.sum(), 1.0), share(values[order], z_max)
        worst = np.argmax(np.abs(own - right))
        if abs(own[worst] - right[worst]) > SHORT:
            got.append(f"{100 * own[worst]:.0f} % in place of {100 * right[worst]:.0f} % of them below {name} = {values[order][worst]:.3g}")
    if got:
        (least, most), first = MASS_RANGE_LOG10, REDSHIFT_RANGE[0]
        raise ValueError(
            f"size.area_deg2: expected a host table of the whole population, all galaxies with log M from {least:g} to {most:g} and z from "
            f"{first:g} to {z_max:g}, got {' and '.join(got)}; give size.expected_supernovae in place of an area"
        )


def sky_rate(config: Config, bank: HostBank) -> float:
    """Expected catalogued supernovae per square degree and year at the fiducial Θ; raises ValueError as by area in `with_exposure`."""
    density = "volume" if config.hosts.backend == "table" else config.hosts.redshift_density
    skies = galaxies_per_deg2(config.hosts.z_max, density) / _population(config, bank)  # first: what is refused costs no count
    return _yearly_count(config, bank) * skies


def _yearly_count(config: Config, bank: HostBank) -> float:
    """Expected catalogued supernovae of the bank in one year at the fiducial Θ, which is the same in every prior.

    Light and errors are drawn anew for the hosts of another prior, those that it shows. With each prior's own count, surveys of one
    size would be exposed longer in one than in another, by as much as the counts are off.
    """
    default = config.of_default_prior()
    return _yearly(build_simulator(default, bank), default)


def _yearly(simulator: Simulator, config: Config) -> float:
    fiducial = Globals(*(jnp.asarray(v, jnp.float32) for v in FIDUCIAL))
    number = float(expected_count_of_all_hosts(fiducial, simulator, config, least=SAMPLE))
    if not number > 0:
        raise ValueError("selection: expected some supernova to be detected at the fiducial Θ, got none; let fainter ones pass")
    return number
