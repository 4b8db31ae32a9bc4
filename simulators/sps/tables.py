"""Tables of host galaxies: parameters to compute magnitudes for, or hosts whose magnitudes were computed elsewhere.

Columns are the fields of `cigars.schema.Galaxies` (SFR ratios as `sfr_ratios_log10_1` .. `_6`, or one column of six), or the names that
Prospector uses (`zred`, `logmass`, `logsfr_ratios1`, ...); `M_{band}` are template magnitudes, m = M + 5 log10(d_M / 10 pc).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from cigars.schema import Galaxies

__all__ = ["galaxies_from_table", "read_host_table"]

PROSPECTOR = {
    "z": "zred",
    "mass_log10_msun": "logmass",
    "metallicity_log10_zsun": "logzsol",
    "sfr_ratios_log10": "logsfr_ratios",
    "dust_tau2": "dust2",
    "dust_index": "dust_index",
    "dust_ratio": "dust_ratio",
    "gas_metallicity_log10_zsun": "gas_logz",
    "agn_fraction_ln": "ln_fagn",
    "agn_tau_ln": "ln_agn_tau",
}
NO_AGN = {"agn_fraction_ln": np.log(1e-5), "agn_tau_ln": np.log(5.0)}  # the ends of the prior where an AGN is faintest
LOG_U = -2.0
# wider than any galaxy: what lies beyond is in another unit, or a code for "missing"
POSSIBLE = {
    "z": (0.0, 20.0),
    "mass_log10_msun": (4.0, 14.0),
    "metallicity_log10_zsun": (-5.0, 2.0),
    "sfr_ratios_log10": (-20.0, 20.0),
    "dust_tau2": (0.0, 50.0),
    "dust_index": (-5.0, 5.0),
    "dust_ratio": (0.0, 20.0),
    "gas_metallicity_log10_zsun": (-5.0, 2.0),
}
RATIOS = 6
MAGNITUDES = -40.0, 30.0  # absolute ones of galaxies, and many more


def galaxies_from_table(table: Any) -> Galaxies:
    """Galaxies of an astropy Table (or anything with named columns), float32 numpy leaves.

    The AGN columns are optional; `gas_logu`, where present, must be -2, the value of the nebular templates.
    Raises ValueError that lists the columns that are missing and those that are there, or names the one whose values no galaxy has.
    """
    names = [str(n) for n in getattr(table, "colnames", None) or table.keys()]
    missing: list[str] = []
    columns = {field: _field(table, names, field, missing) for field in Galaxies._fields}
    if missing:
        raise ValueError(f"host table: expected columns {missing}, got {names}; add them, or rename those that mean the same")
    if "gas_logu" in names and (other := _plain(table, "gas_logu") - LOG_U)[abs(other) > 1e-3].size:
        got = LOG_U + other[abs(other) > 1e-3][0]
        raise ValueError(f"host table: expected gas_logu = {LOG_U:g}, the value of the nebular templates, got {got:g}; drop the column")
    for field, values in columns.items():
        if not np.isfinite(values).all():
            raise ValueError(
                f"host table: expected finite {field}, got {int((~np.isfinite(values)).sum())} missing values; drop those rows"
            )
    for field, (low, high) in POSSIBLE.items():
        beyond = columns[field][(columns[field] < low) | (columns[field] > high)]
        if beyond.size:
            said = f"expected values in [{low:g}, {high:g}], got {beyond[0]:.4g}"
            raise ValueError(f"host table: {field}: {said}; convert the column to this quantity, or drop those rows")
    return Galaxies(**columns)


def read_host_table(path: str | Path, bands: Sequence[str]) -> tuple[Galaxies, Float[np.ndarray, "host band"], Float[np.ndarray, " host"]]:
    """Hosts with template magnitudes from a Parquet, FITS, ECSV or CSV file: galaxies, M_b, and the probability each was kept with.

    The last is the column `keep_probability`, 1 where absent (a table drawn from the population itself).
    """
    table = _read(Path(path))
    absent = [f"M_{b}" for b in bands if f"M_{b}" not in table.colnames]
    if absent:
        raise ValueError(
            f"{path}: expected columns {absent}, got {table.colnames}; template magnitudes M = m - 5 log10(d_M / 10 pc), one a band"
        )
    magnitudes = np.stack([_plain(table, f"M_{b}") for b in bands], axis=-1).astype(np.float32)
    weighted = "keep_probability" in table.colnames
    keep = _plain(table, "keep_probability").astype(np.float32) if weighted else np.ones(len(table), np.float32)
    if not np.isfinite(magnitudes).all():
        missing = int((~np.isfinite(magnitudes)).sum())
        raise ValueError(f"{path}: expected finite magnitudes, got {missing} missing values; drop those rows")
    low, high = MAGNITUDES
    for band, values in zip(bands, magnitudes.T, strict=True):
        if (odd := values[(values < low) | (values > high)]).size:
            said = f"expected absolute magnitudes in [{low:g}, {high:g}], got {odd[0]:.4g}, a code for a missing one?"
            raise ValueError(f"{path}: M_{band}: {said} drop those rows")
    if not ((keep > 0) & (keep <= 1)).all():
        raise ValueError(f"{path}: expected keep_probability in (0, 1], got {keep.min():g} to {keep.max():g}")
    galaxies = galaxies_from_table(table)
    if not (galaxies.z > 0).all():
        raise ValueError(f"{path}: expected hosts at redshifts above 0, got {int((galaxies.z <= 0).sum())} at 0; drop those rows")
    return galaxies, magnitudes, keep


def _read(path: Path) -> Any:
    from astropy.io import fits
    from astropy.table import Table

    formats = {".parquet": "parquet", ".fits": "fits", ".fit": "fits", ".ecsv": "ascii.ecsv", ".csv": "ascii.csv"}
    if path.suffix.lower() not in formats:
        raise ValueError(f"{path}: expected a file that ends in {', '.join(formats)}, got {path.suffix or 'no suffix'!r}")
    if not path.is_file():
        raise ValueError(f"{path}: expected a file, got none; check the path")
    if path.suffix.lower() in (".fits", ".fit"):
        with fits.open(path) as hdus:
            count = sum(isinstance(hdu, fits.BinTableHDU | fits.TableHDU) for hdu in hdus)
        if count > 1:  # the hosts of all but the first would be lost
            raise ValueError(f"{path}: expected one table, got {count}; write the hosts of all as a file of its own")
    return Table.read(path, format=formats[path.suffix.lower()])


def _field(table: Any, names: list[str], field: str, missing: list[str]) -> np.ndarray:
    if field == "sfr_ratios_log10":
        return _ratios(table, names, missing)
    for name in (field, PROSPECTOR[field]):
        if name in names:
            return _plain(table, name).astype(np.float32)
    if field not in NO_AGN:
        missing.append(PROSPECTOR[field] if "zred" in names else field)
    rows = len(table[names[0]]) if names else 0
    return np.full(rows, NO_AGN.get(field, 0.0), np.float32)


def _ratios(table: Any, names: list[str], missing: list[str]) -> np.ndarray:
    styles = [[f"{stem}{i}" for i in range(1, RATIOS + 2)] for stem in ("logsfr_ratios", "sfr_ratios_log10_")]
    whole = _plain(table, "sfr_ratios_log10") if "sfr_ratios_log10" in names else np.zeros((0, RATIOS))
    more = [style[-1] for style in styles if style[-1] in names]
    if more or whole.shape[1:] != (RATIOS,):
        got = more[0] if more else f"shape {whole.shape}"
        raise ValueError(f"host table: expected {RATIOS} SFR ratios a galaxy, between {RATIOS + 1} bins of age, got {got}; fit these bins")
    if "sfr_ratios_log10" in names:
        return whole.astype(np.float32)
    best = max((style[:-1] for style in styles), key=lambda style: sum(n in names for n in style))
    absent = [n for n in best if n not in names]
    missing.extend(absent)
    return np.zeros((0, RATIOS), np.float32) if absent else np.stack([_plain(table, n) for n in best], axis=-1).astype(np.float32)


def _plain(table: Any, name: str) -> np.ndarray:
    """A column as float64, masked values as NaN, in the byte order of the machine."""
    column = table[name]
    values = np.ma.filled(np.ma.asarray(column, dtype=float), np.nan) if np.ma.isMaskedArray(column) else np.asarray(column)
    return np.array(values, dtype=np.float64)
