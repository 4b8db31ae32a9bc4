"""Occurrence of type Ia supernovae by a power-law delay-time distribution (DTD).

R_{hi} = 10^{log A} M_{hi} / (1 + z_h) (t_i / 1 Gyr)^s   SNe / yr, observer frame   (forward model §5; Maoz & Graur 17, Wiseman+21),

with M_{hi} the mass formed in age bin i of host h and t_i the bin's centre in log age. Bins younger than 100 Myr host none. Rates are
handled as logarithms per unit amplitude, in arrays whose last axis runs over the five bins that do.
"""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from simulators.constants import LN10
from simulators.star_formation import age_bin_edges_log10_yr

__all__ = ["FIRST_BIN", "age_bounds_gyr", "draw_age", "ln_bin_ages", "ln_rate_per_bin", "ln_slope_bound", "ln_total_rate"]

FIRST_BIN = 2
"""The two age bins before it, below 100 Myr, host no type Ia supernovae."""


def _edges_ln_gyr(z: Float[Array, "*h"]) -> Float[Array, "*h 6"]:
    return LN10 * (age_bin_edges_log10_yr(z)[..., FIRST_BIN:] - 9.0)


def ln_bin_ages(z: Float[Array, "*h"]) -> Float[Array, "*h 5"]:
    """ln(t_i / 1 Gyr) of the bin centres in log age, for hosts at redshift z."""
    edges = _edges_ln_gyr(z)
    return 0.5 * (edges[..., 1:] + edges[..., :-1])


def age_bounds_gyr(z: Float[Array, "*h"]) -> tuple[Float[Array, "*h 5"], Float[Array, "*h 5"]]:
    """Youngest and oldest age in each bin, Gyr."""
    edges = jnp.exp(_edges_ln_gyr(z))
    return edges[..., :-1], edges[..., 1:]


def ln_rate_per_bin(
    ln_mass_over_1pz: Float[Array, "*h 5"], ln_age: Float[Array, "*h 5"], slope: Float[Array, ""] | float
) -> Float[Array, "*h 5"]:
    """ln of R_{hi} per unit amplitude: ln[M_{hi} / (1+z)] (M in Msun) + s ln(t_i / 1 Gyr)."""
    return ln_mass_over_1pz + slope * ln_age


def ln_slope_bound(
    slope: Float[Array, ""] | float, fiducial_slope: Float[Array, ""] | float, ln_age_range: Float[Array, " 2"]
) -> Float[Array, ""]:
    """ln B(s), the least bound of R_h(s) / R_h(s0) over all hosts whose bin ages lie in `ln_age_range` (ln Gyr).

    The ratio is a weighted mean of t_i^(s - s0), which is monotonic in t: its maximum is at one end of the range, and a host
    that formed all its mass there attains it.
    """
    return jnp.max((slope - fiducial_slope) * ln_age_range)


def _running_rates(ln_rate: Float[Array, "*h 5"]) -> tuple[Float[Array, "*h"], list[Float[Array, "*h"]]]:
    """ln of the largest rate, and the running sums of rates in units of it; bin by bin, as an axis of five does not vectorise."""
    bins = [ln_rate[..., i] for i in range(ln_rate.shape[-1])]
    largest = functools.reduce(jnp.maximum, bins)
    return largest, list(itertools.accumulate(jnp.exp(rate - largest) for rate in bins))


def ln_total_rate(ln_rate: Float[Array, "*h 5"]) -> Float[Array, "*h"]:
    """ln of the rate summed over bins."""
    largest, running = _running_rates(ln_rate)
    return largest + jnp.log(running[-1])


def draw_age(key: Key[Array, ""], ln_rate: Float[Array, "*h 5"], z: Float[Array, "*h"]) -> Float[Array, "*h"]:
    """Age of the progenitor in Gyr: a bin with probability proportional to its rate, then uniform in linear age within it."""
    choose, place = jax.random.uniform(key, (2, *ln_rate.shape[:-1]))
    running, edges = _running_rates(ln_rate)[1], _edges_ln_gyr(z)
    young, old = edges[..., 0], edges[..., 1]
    for i, before in enumerate(running[:-1], start=1):
        later = before <= choose * running[-1]
        young, old = jnp.where(later, edges[..., i], young), jnp.where(later, edges[..., i + 1], old)
    young, old = jnp.exp(young), jnp.exp(old)
    return young + (old - young) * place
