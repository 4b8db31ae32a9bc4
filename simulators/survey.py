"""Surveys of detected supernovae, exactly and in O(N): thinning of a Poisson process over the host bank.

Candidates K ~ Poisson(T 10^{log A} B(s) Σ R⁰_h/p_h) pick hosts by the fixed weights R⁰_h/p_h, and stay if the
host passes its thresholds at this cosmology and if u B(s) R⁰_h < R_h(s), B(s) an upper bound of R_h(s)/R⁰_h. What is
left is a Poisson sample of the full rates; age, light, errors and detection follow (forward model §§5-8).

Candidates are processed in blocks, so nothing but the catalogue has a capacity, and that grows where one survey needs it. The key of
survey i is fold_in(key, i).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Key

from cigars.config import fingerprint
from cigars.schema import FIDUCIAL, Globals, Latents, Observations, Survey
from simulators.cosmology import transverse_distance_table
from simulators.counts import with_exposure
from simulators.hosts import HostBank, bank_fingerprint, load_bank
from simulators.objects import Candidates, SurveyState, draw_candidates, observe
from simulators.priors import sample_globals
from simulators.rates import ln_slope_bound
from simulators.selection import detection_fingerprint
from simulators.simulator import Simulator, build_simulator

if TYPE_CHECKING:
    from cigars.config import Config

__all__ = ["SurveyOverflow", "detected_first", "draw_surveys", "files_fingerprint", "load_simulator", "prepare"]

LARGEST_BLOCK = 4096  # candidates at a time
ROOM = 8  # times the configured capacity that a survey may have of objects

Most = Callable[[Array], Array]


class SurveyOverflow(ValueError):
    """More objects were drawn than a survey can hold."""


def files_fingerprint(config: Config) -> str:
    """Identity of what surveys depend on besides a configuration and a seed: the bank of hosts, and the detection table if there is one."""
    bank, detection = bank_fingerprint(config.hosts), detection_fingerprint(config.selection)
    return fingerprint(bank, detection) if detection else bank


@functools.lru_cache(maxsize=4)
def load_simulator(config: Config) -> Simulator:
    """The simulator of a configuration on its cached bank; the last few are kept in memory."""
    return prepare(config, load_bank(config.hosts))


def prepare(config: Config, bank: HostBank) -> Simulator:
    """The simulator of a configuration on a bank, exposed for as long as its survey size asks."""
    return with_exposure(build_simulator(config, bank), config, bank)


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
    mesh, in_turn = Mesh(np.array(devices), ("survey",)), devices[0].platform == "cpu"
    configured = capacity = config.size.capacity
    survey = _sharded(key, index, simulator, theta, config, capacity, mesh, in_turn)
    while (most := int(survey.number.max())) > capacity:
        # numbers over a prior have a long tail: room for its end in every survey would cost more than to draw these again
        if most > ROOM * configured:
            raise SurveyOverflow(
                f"survey: expected at most {ROOM} times size.capacity = {configured} objects, drew {most}; set size.capacity above it, "
                "or make the prior of the rate narrower"
            )
        capacity *= 2
        survey = _sharded(key, index, simulator, theta, config, capacity, mesh, in_turn)
    return jax.tree.map(lambda leaf: leaf[:count], survey) if padded != count else survey


@jax.jit(static_argnames=("config", "capacity", "mesh", "in_turn"))
def _sharded(
    key: Key[Array, ""], index: Array, simulator: Simulator, theta: Globals | None, config: Config, capacity: int, mesh: Mesh, in_turn: bool
) -> Survey:
    surveys, everywhere = PartitionSpec("survey"), PartitionSpec()

    def local(index: Array, theta: Globals | None, simulator: Simulator) -> Survey:
        one = functools.partial(_survey, key, simulator=simulator, config=config, capacity=capacity)
        if in_turn:  # as on a CPU: each loops over its own number of blocks
            return jax.lax.map(lambda args: one(*args, most=lambda number: number), (index, theta))
        # many at once, all for the largest number of blocks: a loop whose end differs copies every buffer in every step
        return jax.vmap(functools.partial(one, most=lambda number: jax.lax.pmax(number, "batch")), axis_name="batch")(index, theta)

    sharded = jax.shard_map(local, mesh=mesh, in_specs=(surveys, surveys, everywhere), out_specs=surveys, check_vma=False)
    return sharded(index, theta, simulator)


def _survey(
    key: Key[Array, ""], index: Array, theta: Globals | None, simulator: Simulator, config: Config, capacity: int, most: Most
) -> Survey:
    """One survey with room for `capacity` objects; `most` is the largest of a number over the surveys that are computed in step."""
    theta_key, number_key, object_key, exposure_key = jax.random.split(jax.random.fold_in(key, index), 4)
    if theta is None:
        theta = sample_globals(theta_key, config.marginals, config.fixed, config.flat, config.prior.region)
    bound = ln_slope_bound(theta.dtd_slope, FIDUCIAL.dtd_slope, simulator.ln_age_range)
    state = SurveyState(theta, transverse_distance_table(theta, config.hosts.z_max), bound)
    exposure = _exposure(exposure_key, config.size.exposure)
    expected = exposure * jnp.exp(simulator.ln_total + math.log(10) * theta.dtd_logA + bound)
    candidates = jax.random.poisson(number_key, expected)
    candidate_key, observe_key = jax.random.split(object_key)
    found, number = _detected(candidate_key, candidates, state, simulator, config, capacity, most)
    rows = _observed(observe_key, found, number, state, simulator, config, capacity, most)
    observed = jnp.arange(capacity) < number
    return Survey(theta, *rows, observed, jnp.where(observed, found.host[:capacity], 0), number, exposure)


def _detected(
    key: Key[Array, ""], candidates: Array, state: SurveyState, simulator: Simulator, config: Config, capacity: int, most: Most
) -> tuple[Candidates, Int[Array, ""]]:
    """The detected ones of a number of candidates, at the front of a buffer longer than the capacity, and how many."""
    size = _block_size(config.size.capacity)

    def draw(block: Array) -> tuple[Candidates, Bool[Array, "sn"]]:
        return draw_candidates(jax.random.fold_in(key, block), size, state, simulator, config)

    def step(loop: tuple) -> tuple:
        block, filled, buffer = loop
        new, detected = draw(block)
        detected = detected & (block * size + jnp.arange(size) < candidates)
        first = detected_first(detected)
        put = lambda column, value: jax.lax.dynamic_update_slice_in_dim(column, value[first], filled, 0)  # noqa: E731
        return block + 1, filled + jnp.sum(detected), jax.tree.map(put, buffer, new)

    shapes = jax.eval_shape(draw, jnp.int32(0))[0]
    empty = jax.tree.map(lambda leaf: jnp.zeros((capacity + size,), leaf.dtype), shapes)
    blocks = most((candidates + size - 1) // size)
    _, number, found = jax.lax.while_loop(lambda loop: loop[0] < blocks, step, (jnp.int32(0), jnp.int32(0), empty))
    return found, number


def detected_first(detected: Bool[Array, "sn"]) -> Int[Array, "sn"]:
    """Indices of the detected rows in order, and zeros after them."""
    size = detected.shape[0]
    place = jnp.where(detected, jnp.cumsum(detected) - 1, size + jnp.arange(size))
    return jnp.zeros(size, jnp.int32).at[place].set(jnp.arange(size), mode="drop", unique_indices=True)


def _observed(
    key: Key[Array, ""],
    found: Candidates,
    number: Array,
    state: SurveyState,
    simulator: Simulator,
    config: Config,
    capacity: int,
    most: Most,
) -> tuple[Observations, Latents]:
    """Observations and latents of the detected, [capacity, …]; padding is zero, so that equal surveys are equal bit for bit."""
    size = _block_size(config.size.capacity)

    def fill(block: Array, start: Array) -> tuple[Observations, Latents]:
        some = jax.tree.map(lambda column: jax.lax.dynamic_slice_in_dim(column, start, size), found)
        return observe(jax.random.fold_in(key, block), some, state, simulator, config)

    def step(loop: tuple) -> tuple:
        block, rows = loop
        start = block * size
        real = start + jnp.arange(size) < number
        put = lambda leaf, new: jax.lax.dynamic_update_slice_in_dim(leaf, _masked(new, real), start, 0)  # noqa: E731
        return block + 1, jax.tree.map(put, rows, fill(block, start))

    shapes = jax.eval_shape(fill, jnp.int32(0), jnp.int32(0))
    whole = -(-capacity // size) * size
    empty = jax.tree.map(lambda leaf: jnp.zeros((whole, *leaf.shape[1:]), leaf.dtype), shapes)
    blocks = most((jnp.minimum(number, capacity) + size - 1) // size)
    _, rows = jax.lax.while_loop(lambda loop: loop[0] < blocks, step, (jnp.int32(0), empty))
    return jax.tree.map(lambda leaf: leaf[:capacity], rows)


def _exposure(key: Key[Array, ""], limits: tuple[float, float]) -> Float[Array, ""]:
    """Exposure of a survey relative to the configured size, log-uniform within the limits."""
    low, high = (math.log(v) for v in limits)
    return jnp.exp(low + (high - low) * jax.random.uniform(key, dtype=jnp.float32))


def _block_size(capacity: int) -> int:
    """Candidates at a time, by the configured capacity: few enough blocks that their overhead is small, and not so large that most of one
    is waste."""
    return min(max(capacity // 4, 1), LARGEST_BLOCK)


def _masked(leaf: Array, observed: Bool[Array, "sn"]) -> Array:
    return jnp.where(observed.reshape(-1, *(1,) * (leaf.ndim - 1)), leaf, jnp.zeros((), leaf.dtype))
