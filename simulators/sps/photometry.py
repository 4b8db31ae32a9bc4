"""Template magnitudes of host galaxies by one of the back-ends: m_b = M_b + 5 log10(d_M / 10 pc), whatever the cosmology.

M_b = -2.5 log10[ <L_nu>_b / ((1 + z) 4 pi (10 pc)^2) ] - 48.60, L_nu in erg/s/Hz: the AB magnitude at 10 pc in place of the transverse
comoving distance d_M, with the (1 + z)^2 of the luminosity distance absorbed (forward model, section 4).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cigars.schema import Galaxies
from simulators.sps.bandpass import BandWeights, band_weights, load_bands, redshift_range
from simulators.sps.emulator import EmulatorModel, emulator_fluxes, load_emulator
from simulators.sps.library import file_sha256, read_table
from simulators.sps.ssp import SspModel, band_luminosities, ssp_model

if TYPE_CHECKING:
    from cigars.config import HostConfig

__all__ = [
    "DirectSum",
    "Photometry",
    "check_galaxies",
    "galaxy_magnitudes",
    "load_photometry",
    "photometry_fingerprint",
    "template_magnitudes",
]

CHUNK = 1024  # galaxies computed at a time: 30 MB of weights and spectra
EMULATOR_CHUNK = 256  # 70 MB

Limits = dict[str, tuple[float, float]]


class DirectSum(NamedTuple):
    """SSP templates and the weights of the bands on their grid."""

    model: SspModel
    weights: BandWeights


class Photometry(NamedTuple):
    """A back-end ready for use: what it is, where it holds, and its arrays (a pytree for `galaxy_magnitudes`)."""

    bands: tuple[str, ...]
    source: str
    limits: Limits  # range of each galaxy parameter, by name
    engine: DirectSum | EmulatorModel


def load_photometry(hosts: HostConfig) -> Photometry:
    """Back-end of a host configuration. Raises ValueError for an unknown band or file, or a band off the spectral grid."""
    if hosts.backend == "table":
        raise ValueError("hosts.backend: expected 'ssp' or 'emulator' to compute magnitudes, got 'table'; its file already holds them")
    bands = load_bands(hosts.bands, hosts.bands_file)
    if hosts.backend == "emulator":
        if hosts.emulator_file is None:
            raise ValueError("hosts.emulator_file: expected a file for backend = 'emulator', got none")
        network, reach = load_emulator(hosts.emulator_file, bands)
        return Photometry(tuple(hosts.bands), f"emulator {file_sha256(hosts.emulator_file)}", {"z": reach}, network)
    table = read_table(hosts.ssp_file)
    limits = {"z": redshift_range(bands, table.grid), "metallicity_log10_zsun": _ends(table.metallicity_log10_zsun)}
    if hosts.nebular:
        limits["gas_metallicity_log10_zsun"] = _ends(table.nebular_metallicity_log10_zsun)
    model = ssp_model(table, hosts.convention, hosts.nebular)
    weights = band_weights(bands, table.grid, table.line_wavelength)
    return Photometry(tuple(hosts.bands), f"{table.name} {file_sha256(hosts.ssp_file)}", limits, DirectSum(model, weights))


def photometry_fingerprint(hosts: HostConfig) -> str:
    """What the magnitudes of a configuration depend on besides its own fields: the contents of its files."""
    files = {"ssp": hosts.ssp_file, "emulator": hosts.emulator_file, "table": hosts.table_file}
    if hosts.backend != "ssp" and files[hosts.backend] is None:
        raise ValueError(f"hosts.{hosts.backend}_file: expected a file for backend = {hosts.backend!r}, got none")
    main = f"{hosts.backend} {file_sha256(files[hosts.backend])}"
    return main if hosts.bands_file is None else f"{main} bands {file_sha256(hosts.bands_file)}"


def template_magnitudes(
    galaxies: Galaxies, photometry: Photometry, *, chunk: int | None = None, progress: Callable[[float, float], None] | None = None
) -> Float[np.ndarray, "galaxy band"]:
    """Template absolute magnitudes of galaxies (leaves of shape [galaxy], SFR ratios [galaxy, 6]) as a float32 numpy array.

    Computed in padded chunks, so any number fits in memory; `progress` is called with the number done and the total.
    Inside `jit` or `grad` use `galaxy_magnitudes`. Raises ValueError for galaxies outside the range of the back-end.
    """
    host = Galaxies(*(np.asarray(v, np.float32) for v in galaxies))
    check_galaxies(host, photometry)
    number = len(host.z)
    out = np.empty((number, len(photometry.bands)), np.float32)
    largest = chunk or (EMULATOR_CHUNK if isinstance(photometry.engine, EmulatorModel) else CHUNK)
    size = min(largest, 1 << max(3, (number - 1).bit_length()))
    for start in range(0, number, size):
        rows = np.minimum(np.arange(start, start + size), number - 1)  # the last chunk repeats the last galaxy
        part = _jitted(Galaxies(*(v[rows] for v in host)), photometry.engine)
        out[start : start + size] = np.asarray(part)[: number - start]
        if progress:
            progress(min(start + size, number), number)
    return out


def galaxy_magnitudes(galaxies: Galaxies, engine: DirectSum | EmulatorModel) -> Float[Array, "galaxy band"]:
    """The same without checks or chunks: a pure function of `Photometry.engine`, to jit and differentiate."""
    dimming = 2.5 * jnp.log10(1.0 + galaxies.z) - 2.5 * galaxies.mass_log10_msun
    if isinstance(engine, EmulatorModel):
        return dimming[:, None] - 2.5 * jnp.log10(emulator_fluxes(galaxies, engine))
    return (engine.model.zero_point + dimming)[:, None] - 2.5 * jnp.log10(band_luminosities(galaxies, engine.model, engine.weights))


_jitted = jax.jit(galaxy_magnitudes)


def check_galaxies(galaxies: Galaxies, photometry: Photometry) -> None:
    """Raise ValueError naming the first parameter that is not finite or outside the range of the back-end: nothing is clipped."""
    for name, values in zip(Galaxies._fields, galaxies, strict=True):
        if not np.isfinite(values).all():
            raise ValueError(
                f"galaxies.{name}: expected finite values, got {int((~np.isfinite(values)).sum())} others; drop those galaxies"
            )
    for name, (low, high) in photometry.limits.items():
        values = np.asarray(getattr(galaxies, name))
        bad = ~((values >= low - 1e-5) & (values <= high + 1e-5))
        if bad.any():
            remedy = "choose bands within reach of the table" if name == "z" else "use another table or narrow the population"
            raise ValueError(f"galaxies.{name}: expected values in [{low:.4g}, {high:.4g}], got {values[bad].flat[0]:.4g}; {remedy}")


def _ends(nodes: np.ndarray) -> tuple[float, float]:
    return float(nodes[0]), float(nodes[-1])
