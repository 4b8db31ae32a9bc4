r"""Band integrals <L_nu>_b = \int T_b(lambda) L_nu(lambda / (1 + z)) dln lambda / \int T_b dln lambda as sums over the spectral grid.

Photon-counting AB magnitudes (Fukugita et al. 1996; Hogg et al. 2002): T is the throughput per photon. Redshift moves the
throughput along the grid; its weights are tabulated at eight sub-pixel shifts and interpolated linearly between them. An emission line
meets the throughput itself, tabulated against redshift in steps of 1.25e-4 in ln(1 + z) (0.7 A at 5500 A).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from simulators.sps.grid import FINE, WavelengthGrid, dual_weights, fine_points, hat_integrals

__all__ = [
    "Band",
    "BandWeights",
    "band_integrals",
    "band_weights",
    "line_transmissions",
    "load_bands",
    "redshift_range",
    "shifted_weights",
    "throughput_limits",
]

PHASES = 8
LINE_PHASES = 32
Z_LIMIT = 1.6  # largest tabulated redshift
NEGLIGIBLE = 1e-5  # share of a band's throughput that may fall off the grid: 0.01 mmag of a flat spectrum
_MARGIN = 25  # pixels that `dual_weights` needs on either side


class Band(NamedTuple):
    """Throughput per photon at increasing wavelengths in A, linear between them and zero outside."""

    name: str
    wavelength: Float[np.ndarray, " node"]
    transmission: Float[np.ndarray, " node"]


class BandWeights(NamedTuple):
    """Weights of bands at sub-pixel shifts of the grid and their transmissions at the lines, normalised by \\int T dln lambda."""

    phases: Float[Array, "phase band shifted_pixel"]
    lines: Float[Array, "node band line"]
    step: Float[Array, ""]


def load_bands(names: Sequence[str], file: str | None = None) -> tuple[Band, ...]:
    """Bands by speclite name (`lsst2023-g`), or the `{b}_wavelength` (A), `{b}_transmission` arrays of an .npz file.

    In a file, a band is looked up by its full name and then by the part after the last hyphen. Raises ValueError naming what is missing.
    """
    return tuple(_from_speclite(n) for n in names) if file is None else _from_file(names, file)


def throughput_limits(band: Band) -> tuple[float, float]:
    """ln wavelength between which the band's throughput lies, but for `NEGLIGIBLE` of its integral on either side."""
    x = np.log(band.wavelength)
    cumulative = np.concatenate([[0.0], np.cumsum((band.transmission[1:] + band.transmission[:-1]) / 2 * np.diff(x))])
    blue = np.searchsorted(cumulative, NEGLIGIBLE * cumulative[-1], side="right") - 1
    red = np.searchsorted(cumulative, (1 - NEGLIGIBLE) * cumulative[-1])
    return float(x[blue]), float(x[red])


def redshift_range(bands: Sequence[Band], grid: WavelengthGrid) -> tuple[float, float]:
    """Least and greatest redshift at which all bands lie on the grid. Raises ValueError naming a band that never does."""
    for band in bands:
        blue, red = throughput_limits(band)
        if not max(red - grid.ln_wavelength[-1], 0.0) < min(blue - grid.ln_start, np.log1p(Z_LIMIT)):
            ends = f"{np.exp(blue):.0f} to {np.exp(red):.0f} A"
            raise ValueError(
                f"band {band.name}: expected light within {grid.wavelength[0]:.0f} to {grid.wavelength[-1]:.0f} A at z >= 0, got {ends}"
            )
    limits = [throughput_limits(b) for b in bands]
    low = max(0.0, *(np.expm1(red - grid.ln_wavelength[-1]) for _, red in limits))
    high = min(Z_LIMIT, *(np.expm1(blue - grid.ln_start) for blue, _ in limits))
    if not low < high:
        raise ValueError(
            f"bands: expected a redshift at which all are on the spectral grid, got z > {low:.2f} and z < {high:.2f}; drop a band"
        )
    return float(low), float(high)


def band_integrals(bands: Sequence[Band], grid: WavelengthGrid, fine: int = FINE) -> Float[np.ndarray, "band pixel"]:
    """\\int T h_i dln lambda / \\int T dln lambda of each band with each hat of the grid."""
    x = fine_points(grid, fine)
    return np.stack([hat_integrals(_transmission(b, x), grid, fine) / _integral(b) for b in bands])


def band_weights(bands: Sequence[Band], grid: WavelengthGrid, lines: Float[np.ndarray, " line"], phases: int = PHASES) -> BandWeights:
    """Weights of each band for a spectrum given by its hat averages on `grid`, and for delta functions at `lines` (A)."""
    pixels = grid.pixels + int(np.ceil(np.log1p(Z_LIMIT) / grid.step)) + 2
    weights = np.empty((phases, len(bands), pixels), np.float32)
    for p in range(phases):
        start = grid.ln_start + grid.step * (p / phases - _MARGIN)
        shifted = WavelengthGrid(start, grid.step, pixels + 2 * _MARGIN)
        weights[p] = dual_weights(band_integrals(bands, shifted))[:, _MARGIN:-_MARGIN]
    step = grid.step / LINE_PHASES
    x = np.log(lines) + step * np.arange(int(np.log1p(Z_LIMIT) / step) + 2)[:, None]
    at_lines = np.stack([_transmission(b, x) / _integral(b) for b in bands], axis=1)
    return BandWeights(jnp.asarray(weights, jnp.float32), jnp.asarray(at_lines, jnp.float32), jnp.float32(grid.step))


def shifted_weights(z: Float[Array, " galaxy"], weights: BandWeights, pixels: int) -> Float[Array, "galaxy band pixel"]:
    """Weights of each band on the rest-frame grid of galaxies at redshift z."""
    phases, bands, _ = weights.phases.shape
    node, share = _locate(jnp.log1p(z) / weights.step * phases)

    def window(k):
        start = (k % phases, jnp.zeros_like(k), k // phases)
        return jax.lax.dynamic_slice(weights.phases, start, (1, bands, pixels))[0]

    low, high = jax.vmap(window)(node), jax.vmap(window)(node + 1)
    return low + share[:, None, None] * (high - low)


def line_transmissions(z: Float[Array, " galaxy"], weights: BandWeights) -> Float[Array, "galaxy band line"]:
    """Transmission of each band at the redshifted lines, over \\int T dln lambda."""
    node, share = _locate(jnp.log1p(z) / weights.step * LINE_PHASES)
    low, high = weights.lines[node], weights.lines[node + 1]
    return low + share[:, None, None] * (high - low)


def _locate(position: Float[Array, " galaxy"]) -> tuple[Array, Array]:
    node = jnp.floor(position).astype(jnp.int32)
    return node, position - node.astype(position.dtype)


def _transmission(band: Band, ln_wavelength: np.ndarray) -> np.ndarray:
    return np.interp(np.exp(ln_wavelength), band.wavelength, band.transmission, left=0.0, right=0.0)


def _integral(band: Band) -> float:
    """\\int T dln lambda of the piecewise linear throughput, exactly."""
    low, high = band.wavelength[:-1], band.wavelength[1:]
    slope = np.diff(band.transmission) / (high - low)
    return float(np.sum(slope * (high - low) + (band.transmission[:-1] - slope * low) * np.log(high / low)))


def _from_speclite(name: str) -> Band:
    from speclite.filters import load_filter

    try:
        response = load_filter(name)
    except ValueError:
        raise ValueError(f"bands: expected a speclite filter such as lsst2023-g, decam2014-g or sdss2010-r, got {name!r}") from None
    return _checked(name, response.wavelength, response.response)


def _from_file(names: Sequence[str], file: str) -> tuple[Band, ...]:
    with np.load(file) as arrays:
        known = sorted(k.removesuffix("_transmission") for k in arrays.files if k.endswith("_transmission"))
        keys = [n if n in known else n.rsplit("-", 1)[-1] for n in names]
        missing = [n for n, k in zip(names, keys, strict=True) if k not in known or f"{k}_wavelength" not in arrays.files]
        if missing:
            raise ValueError(
                f"{file}: expected {{b}}_wavelength and {{b}}_transmission of bands {missing}, got bands {known}; name some of those"
            )
        return tuple(_checked(n, arrays[f"{k}_wavelength"], arrays[f"{k}_transmission"]) for n, k in zip(names, keys, strict=True))


def _checked(name: str, wavelength: np.ndarray, transmission: np.ndarray) -> Band:
    band = Band(name, np.asarray(wavelength, float), np.asarray(transmission, float))
    if band.wavelength.ndim != 1 or band.wavelength.shape != band.transmission.shape or not (np.diff(band.wavelength) > 0).all():
        shapes = f"{band.wavelength.shape} and {band.transmission.shape}"
        raise ValueError(f"band {name}: expected two equally long arrays with increasing wavelength, got {shapes}")
    if not (np.isfinite(band.transmission).all() and band.transmission.max() > 0):
        raise ValueError(f"band {name}: expected a finite, somewhere positive transmission")
    return band
