"""Catalogues of supernovae with their hosts, and the truth of mocks, in files: one row an object (forward model §7).

Columns are `schema.CATALOGUE` with `mag_{band}`, `mag_err_{band}` for the configured bands, and `schema.LATENTS` for a truth,
whose header holds Θ under the names of `schema.GLOBALS`. Formats: FITS, Parquet, ECSV, CSV (`cigars.tables`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from cigars import tables
from cigars.catalogue_checks import CatalogueError, check_columns, check_ids, check_values, column_names
from cigars.schema import CATALOGUE, Globals, Latents, Observations, Survey, column

__all__ = [
    "Catalogue",
    "CatalogueError",
    "Truth",
    "catalogue_from_survey",
    "read_catalogue",
    "read_truth",
    "select",
    "truth_from_survey",
    "validated",
    "write_catalogue",
    "write_truth",
]


class Catalogue(NamedTuple):
    """Objects with identifiers (text, [sn]), observations (float32, [sn] and [sn, band]) and P(Ia) ([sn], None where unknown)."""

    id: ndarray
    observations: Observations
    p_ia: ndarray | None = None


class Truth(NamedTuple):
    """Identifiers and latents ([sn], float32) of a mock, the Θ that made it (floats), and the `target_hash` of its catalogue, if known."""

    id: ndarray
    latents: Latents
    theta: Globals
    catalogue: str = ""


def read_catalogue(path: str | Path, bands: Sequence[str]) -> Catalogue:
    """The validated catalogue in a file, float32; absent covariances are zero, absent redshifts NaN, absent P(Ia) None.

    Args:
        path: a .fits, .parquet, .ecsv or .csv file; units other than the schema's are converted, none means the schema's.
        bands: short names, in the order of the configuration (`Config.band_names`).

    Raises:
        CatalogueError: one line on what is wrong with the file, its columns or its values.
    """
    table = tables.read_table(path)
    try:
        return _from_table(table, bands)
    except CatalogueError as error:
        raise CatalogueError(f"{path}: {error}") from None


def write_catalogue(
    path: str | Path, catalogue: Catalogue, bands: Sequence[str], meta: Mapping[str, Any] | None = None, overwrite: bool = False
) -> None:
    """Write a catalogue with units and metadata (text or numbers, e.g. the configuration's fingerprint); atomic.

    Raises:
        CatalogueError: the catalogue would not be readable again.
        FileError: the file exists and `overwrite` is false, or it cannot be written.
    """
    catalogue = validated(catalogue, bands)
    values: dict[str, Any] = {"id": catalogue.id, "p_ia": catalogue.p_ia}
    for name, array in catalogue.observations._asdict().items():
        if name in ("mag", "mag_err"):
            values.update({f"{name}_{band}": array[:, k] for k, band in enumerate(bands)})
        else:
            values[name] = array
    entries = {c.name.format(band=band): c for c in CATALOGUE for band in bands}
    columns = {n: (values[n], entries[n]) for n in column_names(bands) if values[n] is not None}
    tables.write_table(path, columns, meta or {}, overwrite)


def write_truth(
    path: str | Path,
    ids: ndarray,
    latents: Latents,
    theta: Globals | Mapping[str, float],
    meta: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Write the latents of a mock's objects, Θ in the header; a CSV has no header and is refused."""
    if Path(path).suffix.lower() == ".csv":
        raise CatalogueError(f"{path}: CSV has no header for the parameters; use .fits, .parquet or .ecsv")
    given = theta._asdict() if isinstance(theta, tuple) else dict(theta)
    header = {name: float(given[name]) for name in Globals._fields if name in given}
    columns = {"id": (np.asarray(ids, dtype=np.str_), column("id"))}
    columns |= {n: (np.asarray(v, dtype=np.float32), column(n)) for n, v in latents._asdict().items()}
    tables.write_table(path, columns, {**header, **(meta or {})}, overwrite)


def read_truth(path: str | Path) -> Truth:
    """The truth in a file that `write_truth` made; Θ that the header lacks is NaN, a `catalogue` that it lacks is empty."""
    table = tables.read_table(path)
    absent = [n for n in ("id", *Latents._fields) if n not in table.colnames]
    if absent:
        raise CatalogueError(f"{path}: columns: expected {', '.join(absent)} of a truth, got only {', '.join(table.colnames) or 'none'}")
    try:
        ids = tables.texts(table, "id")
        latents = Latents(*(tables.numbers(table, n, column(n).unit).astype(np.float32) for n in Latents._fields))
        header = {str(k).lower(): v for k, v in table.meta.items()}  # FITS has capital keys only
        theta = Globals(*(float(header.get(n.lower(), np.nan)) for n in Globals._fields))
    except CatalogueError as error:
        raise CatalogueError(f"{path}: {error}") from None
    except (TypeError, ValueError):
        raise CatalogueError(f"{path}: the header does not hold the parameters as numbers") from None
    return Truth(ids, latents, theta, str(header.get("catalogue", "")))


def catalogue_from_survey(survey: Survey, ids: Sequence[str] | None = None) -> Catalogue:
    """Catalogue of one survey (no batch axis): its observed rows, named `ids` or by their number."""
    rows = _observed_rows(survey)
    observations = Observations(*(np.asarray(v)[rows].astype(np.float32) for v in survey.observations))
    return Catalogue(_names(ids, len(rows)), observations, None)


def truth_from_survey(survey: Survey, ids: Sequence[str] | None = None) -> Truth:
    """Truth of one survey (no batch axis), row by row that of `catalogue_from_survey`."""
    rows = _observed_rows(survey)
    latents = Latents(*(np.asarray(v)[rows].astype(np.float32) for v in survey.latents))
    return Truth(_names(ids, len(rows)), latents, Globals(*(float(np.asarray(v)) for v in survey.theta)))


def select(catalogue: Catalogue, rows: ndarray) -> Catalogue:
    """The catalogue of some rows, a mask or indices."""
    observations = Observations(*(np.asarray(v)[rows] for v in catalogue.observations))
    return Catalogue(catalogue.id[rows], observations, None if catalogue.p_ia is None else catalogue.p_ia[rows])


def validated(catalogue: Catalogue, bands: Sequence[str]) -> Catalogue:
    """The catalogue in single precision if it is usable; raises CatalogueError where it is not."""
    ids = np.asarray(catalogue.id).astype(np.str_)
    check_ids(ids)
    with np.errstate(all="ignore"):  # what does not fit becomes infinite or zero, and is refused as such
        observations = Observations(*(np.asarray(v).astype(np.float32) for v in catalogue.observations))
        p_ia = None if catalogue.p_ia is None else np.asarray(catalogue.p_ia).astype(np.float32)
    _check_shapes(observations, p_ia, len(ids), len(bands))
    check_values(observations, p_ia, bands)
    return Catalogue(ids, observations, p_ia)


def _from_table(table: Any, bands: Sequence[str]) -> Catalogue:
    check_columns(table.colnames, bands)
    ids = tables.texts(table, "id")
    check_ids(ids)
    size = len(ids)

    def values(name: str) -> Float[ndarray, " sn"]:
        if name in table.colnames:
            return tables.numbers(table, name, column(name).unit)
        return np.full(size, 0.0 if name.startswith("cov_") else np.nan)

    def per_band(name: str) -> Float[ndarray, "sn band"]:
        return np.stack([tables.numbers(table, f"{name}_{b}", column(name + "_{band}").unit) for b in bands], -1)

    observations = Observations(*(per_band(n) if n in ("mag", "mag_err") else values(n) for n in Observations._fields))
    p_ia = values("p_ia") if "p_ia" in table.colnames else None
    return validated(Catalogue(ids, observations, p_ia), bands)


def _check_shapes(observations: Observations, p_ia: ndarray | None, size: int, bands: int) -> None:
    for name, values in [*observations._asdict().items(), *([("p_ia", p_ia)] if p_ia is not None else [])]:
        expected = (size, bands) if name in ("mag", "mag_err") else (size,)
        if np.shape(values) != expected:
            raise CatalogueError(f"{name}: expected shape {expected}, got {np.shape(values)}; one row an object")


def _observed_rows(survey: Survey) -> Int[ndarray, " sn"]:
    observed = np.asarray(survey.observed)
    if observed.ndim != 1:
        raise ValueError(f"survey: expected one survey, got a batch of shape {observed.shape[:-1]}; take one with its index")
    return np.flatnonzero(observed)


def _names(ids: Sequence[str] | None, size: int) -> ndarray:
    if ids is None:
        return np.array([f"SN{i:06d}" for i in range(1, size + 1)], dtype="<U16")
    if len(ids) != size:
        raise ValueError(f"ids: expected {size}, one an object of the survey, got {len(ids)}")
    return np.asarray(ids, dtype=np.str_)
