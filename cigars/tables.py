"""Tables as files: FITS, Parquet, ECSV and CSV through astropy, units and descriptions in the metadata where the format has any.

A table is read whole from memory, so that a file which is cut short or damaged ends in one clear line.
"""

from __future__ import annotations

import csv
import io
import itertools
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units
from astropy.io import fits
from astropy.table import Column as TableColumn
from astropy.table import Table
from astropy.units import UnitsError, UnrecognizedUnit

from cigars.catalogue_checks import CatalogueError, TargetWarning, rows
from cigars.files import check_writable, replacing
from cigars.schema import Column

__all__ = ["check_table", "check_texts", "numbers", "read_table", "texts", "writable", "write_table"]

FORMATS = {".fits": "fits", ".fit": "fits", ".parquet": "parquet", ".pq": "parquet", ".ecsv": "ascii.ecsv", ".csv": "ascii.csv"}


def format_of(path: Path) -> str:
    """Astropy's name of the format that the extension means."""
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        raise CatalogueError(f"{path}: expected an extension of {', '.join(FORMATS)}, got {path.suffix!r}") from None


def check_table(path: str | Path, overwrite: bool = False) -> None:
    """Raise FileError where a table could not be written, before the work that it shall hold, or CatalogueError for its extension."""
    format_of(Path(path))
    check_writable(path, overwrite)


def check_texts(path: str | Path, values: np.ndarray) -> None:
    """Raise CatalogueError where the format of a file to write cannot hold these texts: FITS knows ASCII alone."""
    odd = [str(v) for v in values if not str(v).isascii()]
    if odd and format_of(Path(path)) == "fits":
        raise CatalogueError(f"{path}: expected ASCII text, as FITS holds no other, got {odd[0][:40]!r}; name a .parquet or .ecsv file")


def writable(path: str | Path, table: Table) -> Table:
    """The columns of a table that the format of a file to write can hold: numbers and text, in CSV one a row; raises as `check_texts`.

    Warns:
        TargetWarning: of other columns, such as times, which are left out.
    """
    deepest = 1 if format_of(Path(path)) == "ascii.csv" else np.inf
    held = [n for n, c in table.columns.items() if isinstance(c, np.ndarray) and c.dtype.kind in "biufUS" and c.ndim <= deepest]
    for name in held:
        if table[name].dtype.kind == "U":
            check_texts(path, table[name].ravel())
    if other := [name for name in table.colnames if name not in held]:
        said = f"{path}: expected numbers or text as columns, got others in {', '.join(other)}, which are left out"
        warnings.warn(f"{said}; give them as numbers or text to keep them", TargetWarning, stacklevel=2)
    return table[held]


def read_table(path: str | Path) -> Table:
    """The table in a file; raises CatalogueError if it is missing, damaged, cut short, of another format, or one of several."""
    path = Path(path)
    kind = format_of(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CatalogueError(f"{path}: cannot read: {error.strerror}") from None
    if not data.strip():
        raise CatalogueError(f"{path}: the file is empty")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            table = _parse(data, kind)
        except CatalogueError as error:
            raise CatalogueError(f"{path}: {error}") from None
        except Exception as error:  # whatever a reader raises on damaged input, the user needs to know that the file is bad
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise CatalogueError(f"{path}: not a readable {kind.removeprefix('ascii.').upper()} table: {reason[0][:160]}") from None
    if any("truncated" in str(w.message).lower() for w in caught):
        raise CatalogueError(f"{path}: the file is cut short; copy it again")
    return table


def write_table(path: str | Path, columns: Mapping[str, tuple[Any, Column]], meta: Mapping[str, Any], overwrite: bool = False) -> None:
    """Write columns, each an array with its schema entry, and plain metadata (text and numbers); atomic, see `replacing`."""
    path = Path(path)
    kind = format_of(path)
    for values, _ in columns.values():
        if np.asarray(values).dtype.kind == "U":
            check_texts(path, np.asarray(values))
    table = Table({name: v if isinstance(v, np.ma.MaskedArray) else np.asarray(v) for name, (v, _) in columns.items()})
    for name, (_, entry) in columns.items():
        table[name].unit = entry.unit or None
        table[name].description = entry.meaning
    with replacing(path, overwrite) as temporary:
        if kind == "fits":
            _write_fits(temporary, table, meta)
        else:
            table.meta.update({k: _plain(v) for k, v in meta.items()})
            table.write(temporary, format=kind, overwrite=True)


def numbers(table: Table, name: str, unit: str) -> np.ndarray:
    """A column as float64 in `unit`, NaN where masked; converts what astropy can and refuses the rest."""
    given = table[name]
    if np.all(_masked(given)):
        return np.full(len(given), np.nan)
    if given.ndim != 1:
        raise CatalogueError(f"{name}: expected one number a row, got an array of shape {given.shape[1:]}")
    if given.dtype.kind not in "fiu":
        raise CatalogueError(f"{name}: expected numbers, got {_example(given)}")
    with np.errstate(all="ignore"):  # signalling NaN, overflow: what comes of them is for the validation to judge
        values = np.where(_masked(given), np.nan, np.ma.getdata(given).astype(np.float64))
        return _convert(values, given.unit, unit, name)


def texts(table: Table, name: str) -> np.ndarray:
    """A column as text; numbers must be integers, and nothing may be masked."""
    given = table[name]
    if given.ndim != 1:
        raise CatalogueError(f"{name}: expected one value a row, got an array of shape {given.shape[1:]}")
    if np.any(_masked(given)):
        raise CatalogueError(f"{name}: {rows(_masked(given))} missing; give every object one")
    if given.dtype.kind not in "UOSiu":
        raise CatalogueError(f"{name}: expected text or integers, got {_example(given)}")
    plain = np.array(np.ma.getdata(given), subok=False).tolist()  # astropy would decode bytes, and fail on damaged ones
    return np.array([v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in plain], dtype=np.str_)


def _parse(data: bytes, kind: str) -> Table:
    if kind == "fits":
        with fits.open(io.BytesIO(data), character_as_bytes=True) as hdus:
            _check_alone(hdus)
            return Table.read(hdus, format="fits", unit_parse_strict="silent")
    if kind == "parquet":
        return _parse_parquet(data)
    text = data.decode("utf-8-sig")
    lines = text.splitlines()
    if kind == "ascii.ecsv":
        return Table.read(lines, format=kind, guess=False)
    rows = list(itertools.dropwhile(lambda line: line.startswith("#"), lines))  # comments before the header
    _check_lengths(rows, len(lines) - len(rows))
    return Table.read(rows, format=kind, guess=False, converters={"id": [_as_text()]})  # so that 007 stays 007


def _parse_parquet(data: bytes) -> Table:
    """The table as astropy reads it, which knows neither categories nor nested types, nor texts that are missing or none at all."""
    import pyarrow as pa
    import pyarrow.parquet

    given, plain = pyarrow.parquet.read_table(io.BytesIO(data)), io.BytesIO()
    columns = [_plain_column(column) for column in given.itercolumns()]
    pyarrow.parquet.write_table(pa.Table.from_arrays(columns, given.column_names, metadata=given.schema.metadata), plain)
    return Table.read(plain, format="parquet", schema_only=not len(given))


def _plain_column(column: Any) -> Any:
    """A column of Arrow whose numbers and bytes are as they were and whose other types, categories decoded, are text, empty for missing."""
    import pyarrow as pa

    kind, known = column.type, pa.types
    if known.is_dictionary(kind):
        return _plain_column(column.cast(kind.value_type))
    listed = (known.is_list(kind) or known.is_fixed_size_list(kind)) and not column.null_count
    value = kind.value_type if listed else kind
    if known.is_integer(value) or known.is_floating(value) or known.is_boolean(value) or known.is_null(value):
        return column
    if known.is_binary(kind) or known.is_large_binary(kind) or known.is_fixed_size_binary(kind):
        return column.cast(pa.binary()).fill_null(b"")
    return pa.array(["" if value is None else str(value) for value in column.to_pylist()], pa.string())


def _check_alone(hdus: fits.HDUList) -> None:
    """A file of several tables is refused: whichever was read, the objects of the others would be lost."""
    names = [f"{k} ({hdu.name})" if hdu.name else str(k) for k, hdu in enumerate(hdus) if isinstance(hdu, fits.BinTableHDU | fits.TableHDU)]
    if len(names) > 1:
        said = f"expected one table, got {len(names)}, in extensions {', '.join(names)}"
        raise CatalogueError(f"{said}; write the one that is meant, or the rows of all, as a file of its own")


def _check_lengths(lines: list[str], before: int) -> None:
    """Astropy fills short rows up, so that a file cut short, or a lost comma, gives values that are not there, or in other columns, and
    takes one of two columns of a name."""
    reader = csv.reader(lines)
    header = [name.strip() for name in next(reader, ())]
    if repeated := sorted({name for name in header if header.count(name) > 1}):
        raise CatalogueError(f"header: expected columns of different names, got {', '.join(repeated)} more than once; remove the copies")
    expected = len(header)
    for row in reader:
        if 0 < len(row) < expected:
            said = f"line {before + reader.line_num}: expected {expected} values, as in the header, got {len(row)}"
            raise CatalogueError(f"{said}; correct it, or copy the file again")


def _as_text() -> tuple[Any, Any]:
    from astropy.io.ascii import convert_numpy

    return convert_numpy(np.str_)


def _write_fits(path: Path, table: Table, meta: Mapping[str, Any]) -> None:
    for column in table.columns.values():
        if isinstance(column.unit, units.function.FunctionUnitBase):  # not in the FITS standard: mag stays, the comment says of what
            column.description += f" [{column.unit}]"
            column.unit = units.mag if column.unit.function_unit == units.mag else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fits.verify.VerifyWarning)  # names beyond eight characters become HIERARCH cards
        written = io.BytesIO()
        table.write(written, format="fits")  # astropy reads descriptions from comments of its own, others from the cards added here
        with fits.open(io.BytesIO(written.getvalue())) as hdus:
            for index, column in enumerate(table.columns.values(), 1):
                hdus[1].header[f"TCOMM{index}"] = column.description
            for key, value in meta.items():
                _set_card(hdus[1].header, key, _plain(value))
            hdus.writeto(path, overwrite=True)


def _set_card(header: fits.Header, key: str, value: Any) -> None:
    if isinstance(value, str):
        value = value.encode("ascii", "backslashreplace").decode().replace("\n", "\\n")
    if isinstance(value, str) and len(key) > 8 and len(key) + len(value) > 60:  # a HIERARCH card cannot be continued
        header.add_comment(f"{key} = {value}")
    else:
        header[key if len(key) <= 8 else f"HIERARCH {key}"] = value


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0) else value
    return value if isinstance(value, str | bool | int | float) else str(value)


def _masked(column: TableColumn) -> np.ndarray:
    mask = np.ma.getmaskarray(column)
    if column.dtype.kind == "O":
        mask = mask | np.array([v is None for v in np.ma.getdata(column).ravel()], bool).reshape(mask.shape)
    return mask


def _example(column: TableColumn) -> str:
    first = np.flatnonzero(~_masked(column))[0]
    return f"{column.dtype.name} ({str(np.ma.getdata(column)[first])[:40]!r} in row {first + 1})"


def _convert(values: np.ndarray, given: Any, expected: str, name: str) -> np.ndarray:
    if given is None or str(given) == "":
        return values
    if isinstance(given, UnrecognizedUnit):
        raise CatalogueError(f"{name}: expected unit {expected or 'none'!r}, got {str(given)!r}, which astropy does not know")
    wanted = units.Unit(expected)
    try:
        if isinstance(given, units.function.FunctionUnitBase) or isinstance(wanted, units.function.FunctionUnitBase):
            return _logarithmic(values, given, wanted)
        return np.asarray(units.Quantity(values, given).to_value(wanted))
    except (UnitsError, TypeError):
        raise CatalogueError(f"{name}: expected unit {expected or 'none'!r}, got {str(given)!r}, which cannot be converted") from None


def _logarithmic(values: np.ndarray, given: Any, wanted: Any) -> np.ndarray:
    """Plain mag stands for mag(AB) and plain dex for dex(Msun), since FITS knows no other; fluxes become AB magnitudes."""
    inner = getattr(wanted, "function_unit", wanted)
    if not isinstance(given, units.function.FunctionUnitBase) and given.is_equivalent(inner):
        return np.asarray(units.Quantity(values, given).to_value(inner))
    if not isinstance(wanted, units.function.FunctionUnitBase):
        return np.asarray(units.Quantity(values, given.function_unit).to_value(wanted))
    quantity = given.physical_unit if isinstance(given, units.function.FunctionUnitBase) else given
    if not quantity.is_equivalent(wanted.physical_unit):
        raise UnitsError("not the same physical quantity")
    return np.asarray(given.to(wanted, values))
