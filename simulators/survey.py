"""Surveys of detected supernovae, exactly and in O(N): thinning of a Poisson process over the host bank.

Candidates K ~ Poisson(T 10^{log A} B(s) Σ R⁰_h/p_h) pick hosts from the fixed cumulative sum of R⁰_h/p_h, and stay if the
host passes its thresholds at this cosmology and if u B(s) R⁰_h < R_h(s), B(s) an upper bound of R_h(s)/R⁰_h. What is
left is a Poisson sample of the full rates; age, light, errors and detection follow (forward model §§5-8).

Candidates are processed in blocks, so nothing but the catalogue has a capacity. The key of survey i is fold_in(key, i).
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Key

from cigars.schema import FIDUCIAL, Globals, Latents, Observations, Survey
from simulators.categorical import draw_index
from simulators.cosmology import distance_modulus_transverse, interpolate_uniform, transverse_distance_table
from simulators.counts import with_exposure
from simulators.hosts import HostBank, load_bank
from simulators.observation import catalogue_rows, observe_hosts, observe_redshifts, observe_supernovae
from simulators.priors import sample_globals
from simulators.rates import draw_age, ln_bin_ages, ln_rate_per_bin, ln_slope_bound
from simulators.selection import detection_probability, host_efficiency
from simulators.simulator import SCALARS, Simulator, build_simulator, unpack
from simulators.supernovae import brightness_shift, draw_dust, draw_light

if TYPE_CHECKING:
    from cigars.config import Config

__all__ = ["SurveyOverflow", "draw_surveys", "load_simulator", "prepare", "simulate"]

LARGEST_BLOCK = 4096  # candidates at a time


class SurveyOverflow(ValueError):
    """More objects were drawn than a survey can hold."""


def simulate(key: Key[Array, ""], index: Int[Array, "survey"], config: Config, theta: Globals | None = None) -> Survey:
    """Surveys number `index` of the stream `key`, as numpy arrays of shape [survey, capacity, …].

    Loads (or builds and caches) the host bank of the configuration. Θ is drawn from the prior unless given, as scalars
    or arrays over surveys. Raises SurveyOverflow if a survey has more objects than `size.capacity`.
    """
    survey = draw_surveys(key, jnp.asarray(index), load_simulator(config), config, theta)
    return jax.device_get(survey)


@functools.lru_cache(maxsize=4)
def load_simulator(config: Config) -> Simulator:
    """The simulator of a configuration on its cached bank; the last few are kept in memory."""
    return prepare(config, load_bank(config.hosts))


def prepare(config: Config, bank: HostBank) -> Simulator:
    """The simulator of a configuration on a bank, exposed for as long as its survey size asks."""
    return with_exposure(build_simulator(config, bank), config, float(bank.population))


def draw_surveys(
    key: Key[Array, ""], index: Int[Array, "survey"], simulator: Simulator, config: Config, theta: Globals | None = None
) -> Survey:
    """As `simulate`, on arrays that are already on the devices; leaves stay there, shared over all local devices."""
    devices = jax.local_devices()
    count, padded = len(index), -(-len(index) // len(devices)) * len(devices)
    # padding repeats the last survey: any split of the index range computes every row by the same program
    index = jnp.concatenate([index, jnp.broadcast_to(index[-1:], (padded - count,))])
    if theta is not None:
        theta = Globals(*(jnp.broadcast_to(jnp.asarray(v, jnp.float32), (count,)) for v in theta))
        theta = Globals(*(jnp.concatenate([v, jnp.broadcast_to(v[-1:], (padded - count,))]) for v in theta))
    survey = _sharded(key, index, simulator, theta, config, Mesh(np.array(devices), ("survey",)))
    survey = jax.tree.map(lambda leaf: leaf[:count], survey) if padded != count else survey
    most = int(survey.number.max())
    if most > config.size.capacity:
        raise SurveyOverflow(
            f"survey: expected at most size.capacity = {config.size.capacity} objects, drew {most}; set size.capacity above it"
        )
    return survey


@jax.jit(static_argnames=("config", "mesh"))
def _sharded(key: Key[Array, ""], index: Array, simulator: Simulator, theta: Globals | None, config: Config, mesh: Mesh) -> Survey:
    surveys, everywhere = PartitionSpec("survey"), PartitionSpec()

    def local(index: Array, theta: Globals | None, simulator: Simulator) -> Survey:
        one = lambda args: _survey(key, args[0], args[1], simulator, config)  # noqa: E731
        # one survey after the other on a CPU, so that each loops over its own number of blocks; many at once elsewhere
        return jax.lax.map(one, (index, theta)) if mesh.devices.flat[0].platform == "cpu" else jax.vmap(one)((index, theta))

    sharded = jax.shard_map(local, mesh=mesh, in_specs=(surveys, surveys, everywhere), out_specs=surveys, check_vma=False)
    return sharded(index, theta, simulator)


def _survey(key: Key[Array, ""], index: Array, theta: Globals | None, simulator: Simulator, config: Config) -> Survey:
    theta_key, number_key, object_key = jax.random.split(jax.random.fold_in(key, index), 3)
    if theta is None:
        theta = sample_globals(theta_key, config.marginals, config.fixed, config.supernovae.cosmology)
    distances = transverse_distance_table(theta, config.hosts.z_max)
    bound = ln_slope_bound(theta.dtd_slope, FIDUCIAL.dtd_slope, simulator.ln_age_range)
    exposure = _exposure(jax.random.fold_in(number_key, 1), config.size.exposure)
    expected = exposure * jnp.exp(simulator.ln_total + math.log(10) * theta.dtd_logA + bound)
    candidates = jax.random.poisson(number_key, expected)
    capacity, size = config.size.capacity, _block_size(config.size.capacity)

    def draw(block: Array) -> tuple[tuple, Bool[Array, "sn"]]:
        return _candidates(jax.random.fold_in(object_key, block), size, theta, distances, bound, simulator, config)

    def step(state: tuple) -> tuple:
        block, filled, rows = state
        new, detected = draw(block)
        detected = detected & (block * size + jnp.arange(size) < candidates)
        first = jnp.nonzero(detected, size=size, fill_value=0)[0]  # detected rows to the front
        put = lambda buffer, value: jax.lax.dynamic_update_slice_in_dim(buffer, value[first], filled, 0)  # noqa: E731
        return block + 1, filled + jnp.sum(detected), jax.tree.map(put, rows, new)

    shapes = jax.eval_shape(draw, jnp.int32(0))[0]
    empty = jax.tree.map(lambda leaf: jnp.zeros((capacity + size, *leaf.shape[1:]), leaf.dtype), shapes)
    blocks = (candidates + size - 1) // size
    _, number, rows = jax.lax.while_loop(lambda state: state[0] < blocks, step, (jnp.int32(0), jnp.int32(0), empty))
    observed = jnp.arange(capacity) < number
    observations, latents, host = jax.tree.map(lambda leaf: _masked(leaf[:capacity], observed), rows)
    return Survey(theta, observations, latents, observed, host, number, exposure)


def _exposure(key: Key[Array, ""], limits: tuple[float, float]) -> Float[Array, ""]:
    """Exposure of a survey relative to the configured size, log-uniform within the limits."""
    low, high = (math.log(v) for v in limits)
    return jnp.exp(low + (high - low) * jax.random.uniform(key, dtype=jnp.float32))


def _block_size(capacity: int) -> int:
    """Candidates at a time: few enough blocks that their overhead is small, and not so large that most of one is waste."""
    return min(max(capacity // 4, 1), LARGEST_BLOCK)


def _masked(leaf: Array, observed: Bool[Array, "sn"]) -> Array:
    """Padding is zero, so that equal surveys are equal bit for bit."""
    return jnp.where(observed.reshape(-1, *(1,) * (leaf.ndim - 1)), leaf, jnp.zeros((), leaf.dtype))


def _candidates(
    key: Key[Array, ""], size: int, theta: Globals, distances: Array, ln_bound: Array, simulator: Simulator, config: Config
) -> tuple[tuple[Observations, Latents, Array], Bool[Array, "sn"]]:
    """One block of candidates: everything about them, and which are in the catalogue."""
    keys = dict(zip(("host", "age", "dust", "light", "sn", "hosts", "z", "accept"), jax.random.split(key, 8), strict=True))
    thin, detect = jax.random.uniform(keys["accept"], (2, size))
    host = draw_index(keys["host"], simulator.cdf, size)
    h = unpack(simulator.table[host], len(config.hosts.bands))
    modulus = distance_modulus_transverse(interpolate_uniform(distances, h.z, config.hosts.z_max))
    ln_rates = ln_rate_per_bin(h.ln_mass, ln_bin_ages(h.z), theta.dtd_slope)
    thinned = jnp.log(thin) + ln_bound + h.ln_rate0 < jax.nn.logsumexp(ln_rates, axis=-1)

    age = draw_age(keys["age"], ln_rates, h.z)
    delta_m = brightness_shift(theta, h.mass_log10_msun, h.metallicity_log10_zsun, age)
    dust = draw_dust(keys["dust"], config.supernovae.dust, h.mass_log10_msun, h.dust_tau2, h.dust_index)
    light = draw_light(keys["light"], theta, delta_m, dust)
    m = light.absolute_magnitude + modulus + 5 * jnp.log10(1 + h.z)
    supernova = observe_supernovae(keys["sn"], m, light.x_int, light.colour, config.observation)
    magnitude = h.magnitude + modulus[:, None]

    probability = detection_probability(h.z, supernova["m"], config.selection, simulator.detection)
    probability = probability * host_efficiency(magnitude, config.selection, config.band_names)
    detected = (modulus < h.faintest) & thinned & (detect < probability)
    mag, mag_err = observe_hosts(keys["hosts"], magnitude, config.observation)
    observations = catalogue_rows(mag, mag_err, supernova, *observe_redshifts(keys["z"], h.z, config.observation))
    latents = Latents(
        **{name: getattr(h, name) for name in SCALARS},
        age_gyr=age,
        R_V=light.R_V,
        A_V=light.A_V,
        x_int=light.x_int,
        c_int=light.c_int,
        delta_M=delta_m,
    )
    return (observations, latents, host), detected
