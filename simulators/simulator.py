"""A host bank prepared for drawing surveys: one table of host columns, what draws hosts by their rates, and the detection table."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cigars.schema import COSMOLOGY, FIDUCIAL, Globals
from simulators.categorical import AliasTable, BlockedCdf, alias_table, blocked_cdf
from simulators.cosmology import distance_modulus_transverse, interpolate_uniform, transverse_distance_table
from simulators.hosts import HostBank, fiducial_rate
from simulators.rates import ln_bin_ages
from simulators.selection import DetectionTable, faintest_modulus, read_detection_table

if TYPE_CHECKING:
    from cigars.config import Config

__all__ = ["SCALARS", "Hosts", "Simulator", "build_simulator", "transverse_modulus", "unpack"]

SCALARS = ("z", "mass_log10_msun", "metallicity_log10_zsun", "dust_tau2", "dust_index", "dust_ratio", "gas_metallicity_log10_zsun")


class Hosts(NamedTuple):
    """Hosts as drawn, each [sn] or [sn, bin or band]."""

    z: Array
    mass_log10_msun: Array
    metallicity_log10_zsun: Array
    dust_tau2: Array
    dust_index: Array
    dust_ratio: Array
    gas_metallicity_log10_zsun: Array
    faintest: Array  # largest μ_M at which every threshold is passed, mag
    ln_rate0: Array  # rate per unit amplitude at the fiducial slope
    ln_mass: Array
    magnitude: Array


class Simulator(NamedTuple):
    """Arrays behind a configured survey; `table` packs the columns of `Hosts` so that a draw touches one place in memory."""

    table: Float[Array, "host column"]
    alias: AliasTable  # draws hosts of surveys by R⁰/p
    cdf: BlockedCdf  # and those of the sample behind `counts.expected_count`
    ln_weight: Float[Array, "host"]  # ln of R⁰/p, what hosts are drawn by
    ln_total: Float[Array, ""]  # ln of the expected number of supernovae over the bank for log A = 0 at the fiducial slope
    ln_age_range: Float[Array, "2"]
    detection: DetectionTable


def build_simulator(config: Config, bank: HostBank) -> Simulator:
    """Prepare a bank for drawing, for an exposure of one year: hosts that no cosmology of the prior shows are dropped.

    Raises ValueError if the thresholds leave no host. `counts.with_exposure` sets the configured survey size.
    """
    rate = fiducial_rate(bank)
    faintest = np.asarray(faintest_modulus(jnp.asarray(bank.magnitude), config.selection.host_thresholds))
    visible = faintest > _nearest_modulus(config, bank.z)
    if not visible.any():
        raise ValueError("selection.host_thresholds: expected hosts brighter than them, got none in the bank; relax the thresholds")
    weight = rate[visible] / bank.keep_probability[visible]
    columns = [getattr(bank, name)[visible] for name in SCALARS] + [faintest[visible], np.log(rate[visible])]
    table = np.column_stack([*columns, bank.ln_mass[visible], bank.magnitude[visible]]).astype(np.float32)
    ages = np.asarray(ln_bin_ages(jnp.asarray([bank.z.min(), bank.z.max()])))
    return Simulator(
        table=jnp.asarray(table),
        alias=alias_table(weight),
        cdf=blocked_cdf(weight),
        ln_weight=jnp.asarray(np.log(weight), jnp.float32),
        ln_total=jnp.asarray(math.log(weight.sum()), jnp.float32),
        ln_age_range=jnp.array([ages.min(), ages.max()], jnp.float32),
        detection=read_detection_table(config.selection.detection_file if config.selection.detection == "table" else None),
    )


def _nearest_modulus(config: Config, z: np.ndarray) -> np.ndarray:
    """Smallest μ_M(z) over the corners of the prior box; −∞ where a cosmological parameter is unbounded."""
    bounds = [config.limits(name) for name in COSMOLOGY]
    if not np.all(np.isfinite(bounds)):
        return np.full(z.shape, -np.inf, np.float32)
    corners = np.array(np.meshgrid(*bounds)).reshape(4, -1)
    if config.flat:
        corners[1] = 1 - corners[0]
    thetas = [FIDUCIAL._replace(**dict(zip(COSMOLOGY, c, strict=True))) for c in np.unique(corners.astype(np.float32), axis=1).T]
    # one after the other: JAX would keep what a vmap outside jit makes of a function, of every call
    return np.min([np.asarray(transverse_modulus(theta, jnp.asarray(z), config.hosts.z_max)) for theta in thetas], 0) - 1e-3


def transverse_modulus(theta: Globals, z: Array, z_max: float) -> Array:
    """μ_M(z) = 5 log10(d_M / 10 pc) at redshifts up to z_max, for one Θ."""
    return distance_modulus_transverse(interpolate_uniform(transverse_distance_table(theta, z_max), z, z_max))


def unpack(rows: Float[Array, "sn column"], bands: int) -> Hosts:
    """Named columns of rows of `Simulator.table`."""
    scalars = len(Hosts._fields) - 2
    named = {name: rows[:, i] for i, name in enumerate(Hosts._fields[:scalars])}
    return Hosts(**named, ln_mass=rows[:, scalars:-bands], magnitude=rows[:, -bands:])
