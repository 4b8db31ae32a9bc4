r"""Spectrum of a galaxy as the direct sum of simple stellar populations (SSPs), attenuated in two components.

L_nu = e^{-tau_diffuse} [ \sum_{Z, j} w_Z w_j L_nu(Z, t_j) + e^{-tau_birth} (young stars + nebular light) ],

Conroy et al. (2009), Charlot & Fall (2000).

Age weights w_j integrate a constant star-formation rate over each age bin analytically against L_nu linear in log t between SSPs.
The two youngest bins (below 30 and 100 Myr) are the same in every galaxy, so they are templates; five bins remain, one matrix product.

Flux is linear in log Z between the table's metallicities, as in the FSPS engine: BC03 leaves a gap of 1 dex between Z = 0.0004 and 0.004,
where a smooth curve through log flux differs by 0.03 mag in u and neither is known to be nearer the truth; linear weights never overshoot
the two neighbours, are what users of FSPS compare with, and keep the sum one matrix product.

Conventions: "native", the table's own ages and an exact split at 10 Myr; "fsps", what
reproduces the FSPS engine: SSPs sampled at log t = 5 (0.05) 10.3, every one up to 10^7.0 yr young as a whole, Lsun = 3.839e33 erg/s.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cigars.schema import Galaxies
from simulators.constants import LN10
from simulators.sps.attenuation import AttenuationBasis, attenuation_basis, birth_cloud_curve, diffuse_optical_depth
from simulators.sps.bandpass import BandWeights, line_transmissions, shifted_weights
from simulators.sps.library import LUMINOSITY_SCALE, SspTable
from simulators.sps.nebular import nebular_templates
from simulators.star_formation import age_bin_edges_log10_yr, bin_masses_log10, bin_widths_log10_yr

__all__ = ["SspModel", "age_hat_integrals", "band_luminosities", "hat_weights", "spectrum", "ssp_model"]

BIRTH_CLOUD_YR = 1e7
YOUNG_EDGES_YR = (0.0, 3e7, 1e8)  # of the two bins that are templates
FSPS_LOG_AGES = 5.0 + 0.05 * np.arange(107)
FSPS_LSUN = 3.839e33
AGE_UNIT_YR = 1e8  # keeps the float32 integrals near one
_HIGHEST = jax.lax.Precision.HIGHEST  # TF32 would cost 1 mmag rms on a GPU


class SspModel(NamedTuple):
    """Templates on the device, float32, luminosities in 1e-13 Lsun/Hz per solar mass."""

    ln_age: Float[Array, " node"]  # ln(age / 1e8 yr) of the SSPs that bins beyond 100 Myr use
    metallicity: Float[Array, " Z"]
    old: Float[Array, "row pixel"]  # row = (node, then the old part of bin 1, then bin 2) x Z
    gas_metallicity: Float[Array, " Zgas"]
    young: Float[Array, "row pixel"]  # row = Z stars of bin 1 inside birth clouds, then Z x Zgas of nebular continuum
    lines: Float[Array, "row line"]  # Z x Zgas
    dust: AttenuationBasis
    line_dust: AttenuationBasis
    zero_point: Float[Array, ""]  # AB magnitude at 10 pc of L_nu = 1e-13 Lsun/Hz


def ssp_model(table: SspTable, convention: str = "native", nebular: bool = True) -> SspModel:
    """Prepare a table for `spectrum`; raises ValueError for an unknown convention."""
    if convention not in ("native", "fsps"):
        raise ValueError(f"convention: expected 'native' or 'fsps', got {convention!r}")
    ages, light, photons = _sampled(table, convention)
    young, rest, second = _young_weights(ages, convention)
    first = max(int(np.searchsorted(ages, YOUNG_EDGES_YR[2] * (1 + 1e-9), side="right")) - 1, 0)
    old = np.concatenate([light[:, first:], _mixture(light, rest), _mixture(light, second)], axis=1)
    gas = nebular_templates(table, ages, photons, young)
    inside = [_mixture(light, young)[:, 0]] + ([_rows(gas.continuum)] if nebular else [])
    lines = _rows(gas.lines) if nebular else np.zeros((0, len(table.line_wavelength)))
    return SspModel(
        ln_age=_single(np.log(ages[first:] / AGE_UNIT_YR)),
        metallicity=_single(table.metallicity_log10_zsun),
        old=_single(_rows(old.swapaxes(0, 1))),
        gas_metallicity=_single(gas.gas_metallicity_log10_zsun),
        young=_single(np.concatenate(inside)),
        lines=_single(lines),
        dust=attenuation_basis(table.grid.wavelength, convention),
        line_dust=attenuation_basis(table.line_wavelength, convention),
        zero_point=_single(_zero_point(table.lsun_erg_s if convention == "native" else FSPS_LSUN)),
    )


def band_luminosities(galaxies: Galaxies, model: SspModel, weights: BandWeights) -> Float[Array, "galaxy band"]:
    """<L_nu> of each band for galaxies of one solar mass formed, 1e-13 Lsun/Hz (see `simulators.sps.bandpass`)."""
    # The barrier and the products keep XLA from recomputing spectra and gathering weights inside the reduction: 2.5 times faster.
    continuum, lines = jax.lax.optimization_barrier(spectrum(galaxies, model))
    total = _weighted(shifted_weights(galaxies.z, weights, continuum.shape[-1]), continuum)
    return total + _weighted(line_transmissions(galaxies.z, weights), lines) if model.lines.shape[0] else total


def spectrum(galaxies: Galaxies, model: SspModel) -> tuple[Float[Array, "galaxy pixel"], Float[Array, "galaxy line"]]:
    """Attenuated rest-frame light per solar mass formed: L_nu on the grid and lines (their integral over ln nu), 1e-13 Lsun/Hz."""
    share = bin_masses_log10(galaxies._replace(mass_log10_msun=jnp.zeros_like(galaxies.z)))
    metal = hat_weights(galaxies.metallicity_log10_zsun, model.metallicity)
    inside = metal * (10.0 ** share[:, :1])
    gas = _outer(inside, hat_weights(galaxies.gas_metallicity_log10_zsun, model.gas_metallicity))
    nebular = model.young.shape[0] > metal.shape[1]
    old = _matmul(_outer(_age_weights(galaxies.z, share, model.ln_age), metal), model.old)
    young = _matmul(jnp.concatenate([inside, gas], axis=1) if nebular else inside, model.young)
    grid_diffuse, grid_birth = _transmissions(galaxies, model.dust)
    if not nebular:
        return grid_diffuse * (old + grid_birth * young), jnp.zeros((galaxies.z.shape[0], model.lines.shape[1]), old.dtype)
    line_diffuse, line_birth = _transmissions(galaxies, model.line_dust)
    return grid_diffuse * (old + grid_birth * young), line_diffuse * line_birth * _matmul(gas, model.lines)


def hat_weights(x: Float[Array, " galaxy"], nodes: Float[Array, " node"]) -> Float[Array, "galaxy node"]:
    """Weights of linear interpolation between increasing nodes, held at the ends."""
    position = jnp.clip(x[:, None], nodes[:1][None], nodes[-1:][None])
    rising = (position - nodes[None, :-1]) / jnp.diff(nodes)[None]
    edge = jnp.full((x.shape[0], 1), jnp.inf, x.dtype)
    return jnp.clip(jnp.minimum(jnp.concatenate([edge, rising], 1), jnp.concatenate([1.0 - rising, edge], 1)), 0.0, 1.0)


def age_hat_integrals(ln_age, ln_nodes, xp=jnp):  # type: ignore[no-untyped-def]
    """Integrals over age from zero to exp(ln_age) of the hats linear in ln age between nodes: shape [..., node], unit of exp(ln_nodes).

    The first hat is one before the first node and the last after the last, so the sum over nodes is the age itself. With u = ln t - ln a
    above a node a, the integral of u e^u is u expm1(u) - (expm1(u) - u): forms that keep their digits in float32.
    """
    low, high = ln_nodes[:-1], ln_nodes[1:]
    shape = (1,) * ln_age.ndim + low.shape
    width, scale = (high - low).reshape(shape), xp.exp(low).reshape(shape)
    u = xp.clip(ln_age[..., None] - low.reshape(shape), 0.0, width)
    grown = xp.expm1(u)
    rising = scale * (u * grown - (grown - u)) / width
    falling = scale * grown - rising
    age, edge = xp.exp(ln_age)[..., None], xp.exp(ln_nodes)
    before = xp.minimum(age, edge[:1].reshape((1,) * ln_age.ndim + (1,)))
    after = xp.maximum(age - edge[-1:].reshape((1,) * ln_age.ndim + (1,)), 0.0)
    return xp.concatenate([before, rising], axis=-1) + xp.concatenate([falling, after], axis=-1)


def _age_weights(
    z: Float[Array, " galaxy"], share: Float[Array, "galaxy bin"], ln_age: Float[Array, " node"]
) -> Float[Array, "galaxy row"]:
    """Mass at each SSP of the bins beyond 100 Myr, then in bins 1 and 2."""
    unit = np.log10(AGE_UNIT_YR)
    edges = (age_bin_edges_log10_yr(z)[:, 2:] - unit) * LN10
    rate = 10.0 ** (share - bin_widths_log10_yr(z) + unit)[:, 2:]
    nodes = jnp.sum(jnp.diff(age_hat_integrals(edges, ln_age), axis=1) * rate[:, :, None], axis=1)
    return jnp.concatenate([nodes, 10.0 ** share[:, :2]], axis=1)


def _transmissions(galaxies: Galaxies, basis: AttenuationBasis) -> tuple[Float[Array, "galaxy x"], Float[Array, "galaxy x"]]:
    birth = (galaxies.dust_ratio * galaxies.dust_tau2)[:, None] * birth_cloud_curve(basis)[None]
    return jnp.exp(-diffuse_optical_depth(galaxies.dust_tau2, galaxies.dust_index, basis)), jnp.exp(-birth)


def _outer(a: Float[Array, "galaxy a"], b: Float[Array, "galaxy b"]) -> Float[Array, "galaxy ab"]:
    return (a[:, :, None] * b[:, None, :]).reshape(a.shape[0], -1)


def _weighted(weights: Float[Array, "galaxy band x"], light: Float[Array, "galaxy x"]) -> Float[Array, "galaxy band"]:
    return jnp.einsum("gbx,gx->gb", weights, light, precision=_HIGHEST)


def _matmul(a: Float[Array, "galaxy row"], b: Float[Array, "row x"]) -> Float[Array, "galaxy x"]:
    return jnp.matmul(a, b, precision=_HIGHEST)


def _sampled(table: SspTable, convention: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ages (yr) of the SSPs that the convention uses, their L_nu [Z, age, pixel] and ionising photons [Z, age], float64."""
    light, photons = table.luminosity.astype(float), table.ionising_photons.astype(float)
    if convention == "native":
        return table.age_yr, light, photons
    position = np.interp(FSPS_LOG_AGES, np.log10(table.age_yr), np.arange(len(table.age_yr)))
    low = np.minimum(position.astype(int), len(table.age_yr) - 2)
    share = position - low
    between = lambda v, s: v[:, low] * (1 - s) + v[:, low + 1] * s  # noqa: E731
    return 10.0**FSPS_LOG_AGES, between(light, share[:, None]), between(photons, share)


def _young_weights(ages: np.ndarray, convention: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mass at each SSP of one solar mass formed in bin 1 inside birth clouds, in bin 1 outside them, and in bin 2."""
    until = lambda t: age_hat_integrals(np.log(np.array(t)), np.log(ages), np)  # noqa: E731
    first, second = (until(b) - (until(a) if a else 0.0) for a, b in pairwise(YOUNG_EDGES_YR))
    nodes = np.where(ages < BIRTH_CLOUD_YR * (1 + 1e-9), first, 0.0)
    young = until(BIRTH_CLOUD_YR) if convention == "native" else nodes
    return young / first.sum(), (first - young) / first.sum(), second / second.sum()


def _mixture(light: np.ndarray, weights: np.ndarray) -> Float[np.ndarray, "Z 1 pixel"]:
    return np.einsum("zax,a->zx", light, weights)[:, None]


def _rows(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, values.shape[-1])


def _single(values: np.ndarray | float) -> Float[Array, "..."]:
    return jnp.asarray(values, jnp.float32)


def _zero_point(lsun_erg_s: float) -> float:
    ten_parsec = 3.0856775814913673e19  # cm
    return -2.5 * np.log10(lsun_erg_s / LUMINOSITY_SCALE / (4 * np.pi * ten_parsec**2)) - 48.6
