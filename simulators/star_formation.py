"""Non-parametric star-formation histories of Prospector-beta: seven age bins of constant rate and the six ratios between them.

log M_i = log M + l_i - log10 sum_j 10^l_j,   l_i = -sum_{j<i} log(SFR_j/SFR_{j+1}) + log Delta t_i     (Wang+23, Leja+19).

Ages are lookback times before observation. The expected ratios follow the cosmic star-formation history of Behroozi+19 in a universe
whose log age is shifted by -0.2 + (clip(log M, 9, 12) - 9)/3, so they are one table in the shifted age.
"""

from __future__ import annotations

import functools
import math
from importlib import resources

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cigars.schema import Galaxies
from simulators.constants import LN10
from simulators.grids import cell_at

__all__ = [
    "AGE_BINS",
    "age_bin_edges_log10_yr",
    "bin_masses_log10",
    "bin_widths_log10_yr",
    "expected_sfr_ratios",
    "prior_table",
    "youngest_sfr_log10",
]

AGE_BINS = 7
_YOUNG_EDGES_LOG10_YR = (0.0, math.log10(3e7), 8.0)  # 1 yr (stands for 0), 30 Myr, 100 Myr
_MIDDLE_BINS = 4
_OLDEST_START = 0.85  # in units of the age of the universe


@functools.cache
def prior_table(name: str) -> np.ndarray:
    """One array of `data/prospector_beta.npz` (see `simulators.build_population_tables`), read once."""
    with resources.files("simulators.data").joinpath("prospector_beta.npz").open("rb") as file, np.load(file) as arrays:
        return arrays[name]


def _age_universe_log10_gyr(z: Float[Array, "*g"]) -> Float[Array, "*g"]:
    """Of the age in Gyr at 0 <= z <= 2 in the cosmology of the population, WMAP9 (Hinshaw+13), good to 3e-6 of the age."""
    x = jnp.log1p(z)
    total = jnp.zeros_like(x)
    for coefficient in prior_table("age_polynomial")[::-1]:
        total = total * x + float(coefficient)
    return total


def age_bin_edges_log10_yr(z: Float[Array, "*g"]) -> Float[Array, "*g 8"]:
    """Edges of the age bins in log10 yr: 0, log 3e7, five equally spaced from 8 to log 0.85 t_U, log t_U (§3)."""
    oldest = 9.0 + _age_universe_log10_gyr(z)
    step = _middle_step(oldest)
    young = [jnp.full_like(z, edge) for edge in _YOUNG_EDGES_LOG10_YR]
    middle = [_YOUNG_EDGES_LOG10_YR[-1] + k * step for k in range(1, _MIDDLE_BINS + 1)]
    return jnp.stack([*young, *middle, oldest], axis=-1)


def _middle_step(oldest: Float[Array, "*g"]) -> Float[Array, "*g"]:
    return (oldest + (math.log10(_OLDEST_START) - _YOUNG_EDGES_LOG10_YR[-1])) / _MIDDLE_BINS


def _widths(z: Float[Array, "*g"]) -> list[Float[Array, "*g"]]:
    """log10 widths in years, each in closed form: differences of powers would lose digits in float32."""
    oldest = 9.0 + _age_universe_log10_gyr(z)
    step = _middle_step(oldest)
    relative = jnp.log10(jnp.expm1(LN10 * step))
    young = [jnp.full_like(z, math.log10(3e7 - 1.0)), jnp.full_like(z, math.log10(7e7))]
    middle = [_YOUNG_EDGES_LOG10_YR[-1] + k * step + relative for k in range(_MIDDLE_BINS)]
    return [*young, *middle, oldest + math.log10(1.0 - _OLDEST_START)]


def bin_widths_log10_yr(z: Float[Array, "*g"]) -> Float[Array, "*g 7"]:
    """log10 of the widths of the age bins in years."""
    return jnp.stack(_widths(z), axis=-1)


def _relative_masses(z: Float[Array, "*g"], sfr_ratios: Float[Array, "*g 6"]) -> tuple[list[Float[Array, "*g"]], Float[Array, "*g"]]:
    """log10 of the mass formed in each bin, and of their sum, for an SFR of 1 Msun/yr in the youngest bin.

    Unrolled over the bins, which XLA fuses into one pass; the largest term is taken out of the sum, so nothing overflows.
    """
    terms = _widths(z)
    sfr = jnp.zeros_like(z)
    for i in range(1, AGE_BINS):
        sfr = sfr - sfr_ratios[..., i - 1]
        terms[i] = terms[i] + sfr
    largest = functools.reduce(jnp.maximum, terms)
    total = functools.reduce(jnp.add, [jnp.exp(LN10 * (term - largest)) for term in terms])
    return terms, largest + jnp.log10(total)


def bin_masses_log10(galaxies: Galaxies) -> Float[Array, "*g 7"]:
    """log10 of the stellar mass formed in each age bin in Msun, youngest first; the masses sum to the galaxy's."""
    terms, total = _relative_masses(galaxies.z, galaxies.sfr_ratios_log10)
    return jnp.stack([galaxies.mass_log10_msun + (term - total) for term in terms], axis=-1)


def youngest_sfr_log10(z: Float[Array, "*g"], mass_log10_msun: Float[Array, "*g"], sfr_ratios: Float[Array, "*g 6"]) -> Float[Array, "*g"]:
    """log10 of the star-formation rate in the youngest bin, Msun/yr."""
    return mass_log10_msun - _relative_masses(z, sfr_ratios)[1]


def expected_sfr_ratios(z: Float[Array, "*g"], mass_log10_msun: Float[Array, "*g"]) -> Float[Array, "*g 6"]:
    """Expected log10(SFR_i / SFR_{i+1}) of Prospector-beta, to 2e-4 of `prospect.models.priors_beta.expe_logsfr_ratios`."""
    ages = prior_table("ratio_age_log10_gyr")
    table = jnp.asarray(prior_table("ratio_log10"))
    shift = -0.2 + (jnp.clip(mass_log10_msun, 9.0, 12.0) - 9.0) / 3.0
    step = float(ages[-1] - ages[0]) / (len(ages) - 1)
    cell, place = cell_at((_age_universe_log10_gyr(z) + shift - float(ages[0])) / step, len(ages))
    fraction = place[..., None]
    return table[cell] * (1.0 - fraction) + table[cell + 1] * fraction
