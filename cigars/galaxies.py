"""Template magnitudes of a user's table of galaxies: the tool behind `cigars hosts magnitudes`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cigars import tables
from cigars.config import HostConfig
from cigars.schema import Column

__all__ = ["add_magnitudes", "expand_bands"]


def expand_bands(bands: str) -> tuple[str, ...]:
    """Band names from a comma-separated list, or all bands of a speclite group such as `lsst2023`.

    Raises ValueError for a name that is neither.
    """
    import speclite.filters

    names = tuple(b.strip() for b in bands.split(",") if b.strip())
    if len(names) == 1 and "-" not in names[0]:
        try:
            return tuple(speclite.filters.load_filters(f"{names[0]}-*").names)
        except (ValueError, RuntimeError):
            raise ValueError(f"--bands: expected a speclite group or bands such as lsst2023-g, got {names[0]!r}") from None
    return names


def add_magnitudes(
    table: Path,
    output: Path,
    bands: str = "lsst2023",
    bands_file: str | None = None,
    backend: str = "ssp",
    emulator_file: str | None = None,
    convention: str = "native",
    nebular: bool = True,
    overwrite: bool = False,
    progress: Callable[[float, float], None] | None = None,
) -> int:
    """Read galaxies, write them with a column `M_{band}` for each band, and return their number.

    Raises ValueError for a table without the parameter columns or with columns of these names, and FileError where a file
    cannot be read or written; warns of other columns that the output has no place for.
    """
    from simulators.sps.photometry import load_photometry, template_magnitudes
    from simulators.sps.tables import galaxies_from_table

    names = tuple(b.strip() for b in bands.split(",")) if bands_file else expand_bands(bands)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"--bands: expected different bands, got {bands!r}")
    ssp = backend == "ssp"
    unread = {
        "--emulator-file": emulator_file is not None and backend != "emulator",
        "--convention": convention != "native" and not ssp,
        "--no-nebular": not nebular and not ssp,
    }
    for option, given in unread.items():
        if given:
            raise ValueError(f"{option}: expected another --backend than {backend!r}, which does not read it; leave it out")
    config = HostConfig.model_validate(
        {
            "bands": names,
            "bands_file": bands_file,
            "backend": backend,
            "emulator_file": emulator_file,
            "convention": convention,
            "nebular": nebular,
        }
    )
    rows = tables.read_table(table)
    if taken := [f"M_{b}" for b in config.band_names if f"M_{b}" in rows.colnames]:
        raise ValueError(f"{table}: expected no columns {taken}, which hold the result, got them; rename or drop them")
    if not len(rows):
        raise ValueError(f"{table}: expected at least one galaxy, got none")
    columns = {n: (c, Column(n, str(c.unit or ""), "", "")) for n, c in tables.writable(output, rows).columns.items()}
    magnitudes = template_magnitudes(galaxies_from_table(rows), load_photometry(config), progress=progress)
    for i, (name, short) in enumerate(zip(names, config.band_names, strict=True)):
        columns[f"M_{short}"] = (magnitudes[:, i], Column(f"M_{short}", "mag(AB)", f"template absolute magnitude in {name}", ""))
    meta = {"backend": backend, "convention": convention, "nebular": nebular}
    tables.write_table(output, columns, meta, overwrite=overwrite)
    return len(rows)
