r"""Nebular templates: light of the gas around the young stars of one stellar and one gas metallicity, per solar mass of the youngest bin.

N(Z, Z_gas) = \sum_j w_j Q(Z, t_j) n(Z_gas, t_j), Q the ionising photons of an SSP, n the light per photon at log U = -2
(Byler et al. 2017). n is interpolated linearly in its logarithm, in log age and log Z_gas, and held at the ends, as the FSPS engine does.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from simulators.sps.library import LUMINOSITY_SCALE, SspTable

__all__ = ["NebularTemplates", "nebular_templates"]

SPACING = 0.1  # dex: linear interpolation between nodes is then within 5 mmag of that in the logarithm, 0.7 mmag rms


class NebularTemplates(NamedTuple):
    """Continuum (1e-13 Lsun/Hz) and lines (L lambda / c, the integral of L_nu over ln nu, in the same unit) per solar mass."""

    gas_metallicity_log10_zsun: Float[np.ndarray, " Zgas"]
    continuum: Float[np.ndarray, "Z Zgas pixel"]
    lines: Float[np.ndarray, "Z Zgas line"]


def nebular_templates(
    table: SspTable, age_yr: Float[np.ndarray, " node"], photons: Float[np.ndarray, "Z node"], weights: Float[np.ndarray, " node"]
) -> NebularTemplates:
    """Templates of a population that is the sum of SSPs at ages `age_yr` with mass `weights`, which emit ionising `photons`."""
    gas = _refined(table.nebular_metallicity_log10_zsun)
    used = weights > 0
    rate = photons[:, used] * weights[used]
    per_photon = (_per_photon(values, table, gas, age_yr[used]) for values in (table.nebular_continuum, table.line_luminosity))
    continuum, lines = (np.einsum("za,gax->zgx", rate, n) * LUMINOSITY_SCALE for n in per_photon)
    speed = 2.99792458e18  # A/s
    return NebularTemplates(gas, continuum, lines * table.line_wavelength / speed)


def _refined(nodes: np.ndarray) -> np.ndarray:
    """The table's own nodes with equal steps of at most `SPACING` between them."""
    parts = [np.linspace(a, b, int(np.ceil((b - a) / SPACING)) + 1)[:-1] for a, b in pairwise(nodes)]
    return np.append(np.concatenate(parts), nodes[-1])


def _per_photon(values: np.ndarray, table: SspTable, gas: np.ndarray, ages: np.ndarray) -> Float[np.ndarray, "Zgas age x"]:
    ln = np.log(np.maximum(values, 1e-300))
    ln = _interpolate(ln, table.nebular_metallicity_log10_zsun, gas)
    return np.exp(_interpolate(ln.swapaxes(0, 1), np.log(table.nebular_age_yr), np.log(ages)).swapaxes(0, 1))


def _interpolate(values: np.ndarray, nodes: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Linear along the first axis, held at the ends."""
    position = np.interp(x, nodes, np.arange(len(nodes)))
    low = np.minimum(position.astype(int), len(nodes) - 2)
    share = (position - low).reshape(-1, *(1,) * (values.ndim - 1))
    return values[low] * (1 - share) + values[low + 1] * share
