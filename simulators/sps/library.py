"""The SSP table on disk: a library of simple stellar populations and nebular light on the spectral grid.

A table is one .npz file, replaceable by the user (`hosts.ssp_file`); its name and SHA-256 belong to every fingerprint. The packaged one is
BC03-MILES, made by `simulators.sps.build_table`. The choice of library is worth about 0.1 mag: a hundred times the error of the method.
"""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager, nullcontext
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from simulators.sps.grid import WavelengthGrid

__all__ = ["DEFAULT_TABLE", "LUMINOSITY_SCALE", "SspTable", "file_sha256", "read_table", "write_table"]

DEFAULT_TABLE = resources.files("simulators.data") / "ssp_bc03_miles.npz"
LUMINOSITY_SCALE = 1e13  # keeps L_nu of an old solar mass near one, well inside float32


class SspTable(NamedTuple):
    """Light per solar mass formed. L_nu are hat averages on `grid` (see `simulators.sps.grid`), luminosities in units of `lsun_erg_s`."""

    name: str
    source: str
    grid: WavelengthGrid
    lsun_erg_s: float
    age_yr: Float[np.ndarray, " age"]
    metallicity_log10_zsun: Float[np.ndarray, " Z"]
    luminosity: Float[np.ndarray, "Z age pixel"]  # L_nu of the stars, 1e-13 Lsun / Hz
    ionising_photons: Float[np.ndarray, "Z age"]  # hydrogen-ionising photons / s
    nebular_age_yr: Float[np.ndarray, " nebular_age"]
    nebular_metallicity_log10_zsun: Float[np.ndarray, " Zgas"]
    nebular_continuum: Float[np.ndarray, "Zgas nebular_age pixel"]  # L_nu per ionising photon / s, Lsun / Hz; weak lines smeared in
    line_wavelength: Float[np.ndarray, " line"]  # A
    line_luminosity: Float[np.ndarray, "Zgas nebular_age line"]  # Lsun per ionising photon / s


_LOG = ("nebular_continuum", "line_luminosity")  # far below float32's smallest number: kept as natural logarithms


def write_table(table: SspTable, path: Path) -> None:
    """Write a table as a compressed .npz, float32 but for the axes."""
    arrays = {k: np.asarray(v) for k, v in table._asdict().items() if k not in ("grid", *_LOG, "luminosity")}
    arrays |= {f"ln_{k}": np.log(np.maximum(getattr(table, k), 1e-300)).astype(np.float32) for k in _LOG}
    arrays |= {
        "luminosity": np.asarray(table.luminosity, np.float32),
        "grid": np.array([table.grid.ln_start, table.grid.step, table.grid.pixels]),
    }
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


def read_table(path: str | Path | None = None) -> SspTable:
    """Read a table, the packaged one by default. Raises ValueError that says what is wrong with the file."""
    with _file(path) as file, np.load(file) as arrays:
        present = set(arrays.files)
        expected = {f"ln_{k}" if k in _LOG else k for k in SspTable._fields}
        if missing := sorted(expected - present):
            raise ValueError(
                f"SSP table {file}: expected arrays {sorted(expected)}, got none called {missing}; see simulators.sps.library.SspTable"
            )
        start, step, pixels = arrays["grid"]
        values = {k: arrays[k] for k in SspTable._fields if k in present and k != "grid"}
        values |= {k: np.exp(arrays[f"ln_{k}"].astype(float)) for k in _LOG}
    values |= {"name": str(values["name"]), "source": str(values["source"]), "lsun_erg_s": float(values["lsun_erg_s"])}
    return _checked(SspTable(grid=WavelengthGrid(float(start), float(step), int(pixels)), **values), str(file))


def file_sha256(path: str | Path | None = None) -> str:
    """SHA-256 of a file, of the packaged table by default."""
    with _file(path) as file, file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _file(path: str | Path | None) -> AbstractContextManager[Path]:
    """The packaged table for None; raises ValueError for a path without a file."""
    if path is None:
        return resources.as_file(DEFAULT_TABLE)
    if not Path(path).is_file():
        raise ValueError(f"{path}: expected a file, got none; check the path")
    return nullcontext(Path(path))


def _checked(table: SspTable, file: str) -> SspTable:
    shape = (len(table.metallicity_log10_zsun), len(table.age_yr), table.grid.pixels)
    if table.luminosity.shape != shape:
        raise ValueError(f"SSP table {file}: expected luminosity [Z, age, pixel] of shape {shape}, got {table.luminosity.shape}")
    for name in ("age_yr", "metallicity_log10_zsun", "nebular_age_yr", "nebular_metallicity_log10_zsun"):
        if not (np.diff(getattr(table, name)) > 0).all():
            raise ValueError(f"SSP table {file}: expected increasing {name}")
    if not (np.isfinite(table.luminosity).all() and table.age_yr[0] > 0 and table.age_yr[0] < 1e7 < 1e8 < table.age_yr[-1]):
        raise ValueError(f"SSP table {file}: expected finite luminosity and positive ages from below 1e7 to above 1e8 yr")
    return table
