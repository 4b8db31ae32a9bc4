r"""Spectra from a Speculator-format network and their band fluxes (Alsing et al. 2020).

ln L_nu = ((h W + b) s_pca + m_pca) B s + m in each wavelength segment, h a chain of dense layers on whitened parameters with
the activation x (beta + (1 - beta) / (1 + e^{-alpha x})). L_nu is per solar mass formed, in maggies at 10 pc.

The basis is resampled once to a uniform grid in ln lambda of step 1.5e-4, as fine as the MILES library in the optical, so that
redshift is a shift of the band weights; between nodes L_nu is linear and the band's throughput is integrated against it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cigars.schema import Galaxies
from simulators.sps.bandpass import Z_LIMIT, Band, band_integrals, redshift_range, throughput_limits
from simulators.sps.grid import WavelengthGrid

__all__ = ["EMULATOR_PARAMETERS", "EmulatorModel", "Segment", "emulator_fluxes", "load_emulator", "network_inputs"]

STEP = 1.5e-4
EMULATOR_PARAMETERS = (
    "logzsol",
    *(f"logsfr_ratios{i}" for i in range(1, 7)),
    "sqrt_dust2",
    "dust_index",
    "dust_ratio",
    "logfagn",
    "logagn_tau",
    "gas_logz",
    "zred",
)
_BATCH = 8
_HIGHEST = jax.lax.Precision.HIGHEST


class Layer(NamedTuple):
    """Dense layer and its activation."""

    weight: Float[Array, "input output"]
    bias: Float[Array, " output"]
    alpha: Float[Array, " output"]
    beta: Float[Array, " output"]


class Segment(NamedTuple):
    """Network of one range of wavelengths: whitening, layers, and the affine decoder from its last layer to ln L_nu on the grid."""

    shift: Float[Array, " parameter"]
    scale: Float[Array, " parameter"]
    hidden: tuple[Layer, ...]
    last: tuple[Float[Array, "input component"], Float[Array, " component"]]  # with the scale and shift of the PCA folded in
    basis: Float[Array, "component node"]
    offset: Float[Array, " node"]


class EmulatorModel(NamedTuple):
    """Segments in order of wavelength and the integrals of the bands against the hats of the grid, over \\int T dln lambda."""

    segments: tuple[Segment, ...]
    throughput: Float[Array, "band shifted_node"]
    step: Float[Array, ""]


def load_emulator(file: str | Path, bands: Sequence[Band]) -> tuple[EmulatorModel, tuple[float, float]]:
    """Network of an .npz file prepared for bands, and the range of redshifts that its wavelengths cover.

    Raises ValueError for a file of another format, parameters in another order, or a band out of reach at every redshift.
    """
    try:
        with np.load(file) as arrays:
            raw = {k: np.asarray(arrays[k]) for k in arrays.files}
    except (OSError, ValueError) as error:
        raise ValueError(f"emulator {file}: expected an .npz file of plain arrays, got {error}") from None
    names, number = _required(raw, file, "param_names", "n_subs")
    if tuple(str(n) for n in names) != EMULATOR_PARAMETERS:
        raise ValueError(
            f"emulator {file}: expected the parameters {list(EMULATOR_PARAMETERS)} in this order, got {[str(n) for n in names]}"
        )
    parts = [_part(raw, k, file) for k in range(int(number))]
    ends = np.log([parts[0]["wavelengths"][0], parts[-1]["wavelengths"][-1]])
    reach = redshift_range(bands, WavelengthGrid(float(ends[0]), STEP, int((ends[1] - ends[0]) / STEP) + 1))
    limits = [throughput_limits(b) for b in bands]
    first = max(parts[0]["wavelengths"][0], np.exp(min(blue for blue, _ in limits)) / (1 + Z_LIMIT))
    last = min(parts[-1]["wavelengths"][-1], np.exp(max(red for _, red in limits)))
    grid = WavelengthGrid(float(np.log(first)), STEP, int(np.log(last / first) / STEP) + 1)
    longer = grid._replace(pixels=grid.pixels + int(np.ceil(np.log1p(reach[1]) / STEP)) + 2)
    model = EmulatorModel(_segments(parts, grid), _single(band_integrals(bands, longer, fine=8)), _single(STEP))
    return model, reach


def emulator_fluxes(galaxies: Galaxies, model: EmulatorModel) -> Float[Array, "galaxy band"]:
    """<L_nu> of each band per solar mass formed, in maggies at 10 pc (before the factor 1 / (1 + z) of `galaxy_magnitudes`)."""
    inputs = network_inputs(galaxies)
    light = jnp.exp(jnp.concatenate([_ln_luminosity(inputs, s) for s in model.segments], axis=1) + _LN_SCALE)
    position = jnp.log1p(galaxies.z) / model.step
    node = jnp.floor(position).astype(jnp.int32)
    size = (model.throughput.shape[0], light.shape[1] + 1)

    def integrate(row):
        spectrum, first, share = row
        window = jax.lax.dynamic_slice(model.throughput, (jnp.zeros_like(first), first), size)
        # moving the weights by a fraction of a node is moving the light the other way
        moved = (1.0 - share) * jnp.pad(spectrum, (0, 1)) + share * jnp.pad(spectrum, (1, 0))
        return jnp.matmul(window, moved, precision=_HIGHEST)

    # a few galaxies at a time: the windows of a whole chunk would leave the cache, 7 times slower
    rows = (jax.lax.optimization_barrier(light), node, position - node.astype(position.dtype))
    return jax.lax.map(integrate, rows, batch_size=min(_BATCH, light.shape[0])) * math.exp(-_LN_SCALE)


def network_inputs(galaxies: Galaxies) -> Float[Array, "galaxy parameter"]:
    """Parameters in the order of `EMULATOR_PARAMETERS`; the root of tau_2 starts at 1e-6 so that its derivative is finite."""
    return jnp.concatenate(
        [
            galaxies.metallicity_log10_zsun[:, None],
            galaxies.sfr_ratios_log10,
            jnp.sqrt(galaxies.dust_tau2 + 1e-12)[:, None],
            *(v[:, None] for v in (galaxies.dust_index, galaxies.dust_ratio, galaxies.agn_fraction_ln, galaxies.agn_tau_ln)),
            galaxies.gas_metallicity_log10_zsun[:, None],
            galaxies.z[:, None],
        ],
        axis=1,
    )


_LN_SCALE = 20.0  # L_nu of a solar mass is 1e-9 maggies and below: keep sums and derivatives well inside float32


def _ln_luminosity(inputs: Float[Array, "galaxy parameter"], segment: Segment) -> Float[Array, "galaxy node"]:
    h = (inputs - segment.shift[None]) / segment.scale[None]
    for layer in segment.hidden:
        h = _affine(h, layer.weight, layer.bias)
        h = h * (layer.beta[None] + (1.0 - layer.beta)[None] * jax.nn.sigmoid(layer.alpha[None] * h))
    return _affine(_affine(h, *segment.last), segment.basis, segment.offset)


def _affine(h: Float[Array, "galaxy a"], weight: Float[Array, "a b"], bias: Float[Array, " b"]) -> Float[Array, "galaxy b"]:
    return jnp.matmul(h, weight, precision=_HIGHEST) + bias[None]


def _segments(parts: list[dict[str, np.ndarray]], grid: WavelengthGrid) -> tuple[Segment, ...]:
    """Networks with their decoder resampled to the grid; each node belongs to the nearest segment."""
    ends = [(a["wavelengths"][-1] + b["wavelengths"][0]) / 2 for a, b in pairwise(parts)]
    owner = np.searchsorted(ends, grid.wavelength)
    return tuple(_segment(p, grid.ln_wavelength[owner == k]) for k, p in enumerate(parts) if (owner == k).any())


def _segment(part: dict[str, np.ndarray], ln_wavelength: np.ndarray) -> Segment:
    nodes = np.log(part["wavelengths"])
    decoder = (*(part["pca_transform_matrix"] * part["log_spectrum_scale"]), part["log_spectrum_shift"])
    resampled = np.stack([np.interp(ln_wavelength, nodes, row) for row in decoder])
    hidden = int(part["n_layers"]) - 1
    return Segment(
        _single(part["parameters_shift"]),
        _single(part["parameters_scale"]),
        tuple(Layer(*(_single(part[f"{name}{n}"]) for name in ("W", "b", "alpha", "beta"))) for n in range(hidden)),
        (_single(part[f"W{hidden}"] * part["pca_scale"]), _single(part[f"b{hidden}"] * part["pca_scale"] + part["pca_shift"])),
        _single(resampled[:-1]),
        _single(resampled[-1]),
    )


def _part(raw: Mapping[str, np.ndarray], k: int, file: str | Path) -> dict[str, np.ndarray]:
    """Arrays of segment k in float64, without the prefix."""
    (layers,) = _required(raw, file, f"sub{k}_n_layers")
    names = ["wavelengths", "n_layers", *(f"{n}_{end}" for n in ("parameters", "pca", "log_spectrum") for end in ("scale", "shift"))]
    names += ["pca_transform_matrix", *(f"{n}{i}" for n in "Wb" for i in range(int(layers)))]
    names += [f"{n}{i}" for n in ("alpha", "beta") for i in range(int(layers) - 1)]
    values = _required(raw, file, *(f"sub{k}_{n}" for n in names))
    return dict(zip(names, (np.asarray(v, float) for v in values), strict=True))


def _required(raw: Mapping[str, np.ndarray], file: str | Path, *names: str) -> list[np.ndarray]:
    if missing := [n for n in names if n not in raw]:
        raise ValueError(
            f"emulator {file}: expected arrays {missing}, got {sorted(raw)[:8]} ...; see simulators.sps.emulator for the format"
        )
    return [raw[n] for n in names]


def _single(values: np.ndarray | float) -> Float[Array, "..."]:
    return jnp.asarray(values, jnp.float32)
