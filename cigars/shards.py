"""A shard of a store: surveys as a Zarr v3 group in one zip file, the same bytes for the same surveys.

The file is what `zarr.storage.ZipStore` opens. Its entries are not compressed (the chunks are) and carry no time, and a chunk is
compressed by one thread, so that content alone decides the bytes. One file a shard makes a write atomic on every file system.

Reading executes nothing that the file names: layout and codecs are compared with those that are written here before any is decoded.
"""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from cigars.files import FileError
from cigars.ragged import Ragged, columns, from_columns
from cigars.schema import Globals, Latents, Observations

__all__ = ["decode", "encode"]

ROWS = 1 << 20  # rows of a chunk: Blosc takes at most 2 GB, and chunks are decoded apart
CODECS = ["bytes", "blosc"]
MOST_COMPRESSED = 256  # values a byte: beyond is not data but a way to fill the memory
BLOSC_SIZES = (4, 12)  # where the header of a chunk has its sizes before and after compression (README_CHUNK_FORMAT.rst of Blosc)
HEADER = 30  # bytes of a local header of a zip file before the name (APPNOTE.TXT 4.3.7)
EARLIEST = (1980, 1, 1, 0, 0, 0)  # of a zip file
ENTRY = re.compile(r"zarr\.json|\w+/(zarr\.json|c(/\d+)+)")
DTYPES = {"offsets": "int64", "host": "int32"}  # the others are float32
NAMES = ("exposure", "offsets", "host", *Globals._fields, *Observations._fields, *Latents._fields)


def encode(ragged: Ragged) -> bytes:
    """Surveys as the bytes of a shard."""
    import zarr
    from zarr.codecs import BloscCodec

    entries: dict[str, Any] = {}
    group = zarr.create_group(zarr.storage.MemoryStore(entries), zarr_format=3)
    for name, values in columns(ragged).items():
        data = np.ascontiguousarray(values, DTYPES.get(name, "float32"))
        chunks = (min(max(len(data), 1), ROWS), *data.shape[1:])
        compressor = BloscCodec(cname="lz4", clevel=5, shuffle="shuffle", typesize=data.itemsize)
        group.create_array(name, data=data, chunks=chunks, compressors=compressor)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(entries):
            archive.writestr(zipfile.ZipInfo(name, EARLIEST), entries[name].to_bytes())
    return buffer.getvalue()


def decode(content: bytes, name: str = "shard") -> Ragged:
    """The inverse of `encode`.

    Args:
        content: bytes of a shard.
        name: of the file, for messages.

    Raises:
        FileError: for anything that `encode` does not write.
    """
    try:
        entries = _entries(content)
        found = _check(entries, len(content))
        return from_columns({column: _column(entries, column, found[column]) for column in NAMES})
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, zipfile.BadZipFile) as error:
        raise FileError(f"{name}: cannot read this shard: {error}; see cigars store verify") from None


def _column(entries: Mapping[str, memoryview], name: str, array: Mapping[str, Any]) -> np.ndarray:
    """Values of a column from its chunks, by Blosc alone: through Zarr's loop of events it takes three times as long."""
    shape, rows = array["shape"], _chunks(array)[0]
    ends = "/0" * (len(shape) - 1)
    dtype = np.dtype(DTYPES.get(name, "float32"))
    parts = [_chunk(entries.get(f"{name}/c/{k}{ends}"), (rows, *shape[1:]), dtype) for k in range(-(-shape[0] // rows))]
    return (parts[0] if len(parts) == 1 else np.concatenate([np.empty((0, *shape[1:]), dtype), *parts]))[: shape[0]]


def _chunk(content: memoryview | None, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    from numcodecs import blosc

    if content is None:  # a chunk of zeros alone is not stored
        return np.zeros(shape, dtype)
    out = np.empty(shape, dtype)
    sizes = [int.from_bytes(content[at : at + 4], "little") for at in BLOSC_SIZES]
    if sizes != [out.nbytes, len(content)]:
        raise ValueError(f"expected a chunk of {out.nbytes} bytes in {len(content)}, got {sizes[0]} in {sizes[1]}")
    blosc.decompress(content, out)
    return out


def _entries(content: bytes) -> dict[str, memoryview]:
    """Entries of a zip file without compression, by name, none of them copied: where each begins is in its local header."""
    view, found = memoryview(content), {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for entry in archive.infolist():
            at = entry.header_offset
            name, extra = (int.from_bytes(view[at + k : at + k + 2], "little") for k in (26, 28))
            begin = at + HEADER + name + extra
            if (
                entry.compress_type != zipfile.ZIP_STORED
                or entry.compress_size != entry.file_size
                or begin + entry.file_size > len(content)
            ):
                raise ValueError("expected entries of a zip file without compression")
            found[entry.filename] = view[begin : begin + entry.file_size]
    return found


def _check(entries: Mapping[str, memoryview], size: int) -> dict[str, Any]:
    """The metadata of each column if they are those of a shard of `size` bytes; raises ValueError, LookupError or TypeError."""
    if unknown := [key for key in entries if not ENTRY.fullmatch(key) or key.split("/")[0] not in ("zarr.json", *NAMES)]:
        raise ValueError(f"expected the columns of the schema, got {unknown[:3]}")
    found = {name: json.loads(bytes(entries[f"{name}/zarr.json"])) for name in NAMES}
    surveys, objects, values = found["exposure"]["shape"][0], found["host"]["shape"][0], 0
    for name, array in found.items():
        codecs, dtype, shape = [codec["name"] for codec in array["codecs"]], array["data_type"], array["shape"]
        if array["zarr_format"] != 3 or array["node_type"] != "array" or codecs != CODECS or array["storage_transformers"]:
            raise ValueError(f"{name}: expected a Zarr v3 array of codecs {CODECS}, got format {array['zarr_format']} with {codecs}")
        expected = surveys + 1 if name == "offsets" else surveys if name in ("exposure", *Globals._fields) else objects
        if dtype != DTYPES.get(name, "float32") or shape[0] != expected or len(shape) != 1 + (name in ("mag", "mag_err")):
            raise ValueError(f"{name}: expected {expected} rows of {DTYPES.get(name, 'float32')}, got {dtype!r} of shape {shape}")
        plain = array["fill_value"], array["codecs"][0]["configuration"], array["chunk_key_encoding"]["name"]
        if plain != (0, {"endian": "little"}, "default") or _chunks(array) != [min(max(expected, 1), ROWS), *shape[1:]]:
            raise ValueError(f"{name}: expected little-endian chunks of at most {ROWS} rows, got {_chunks(array)} of {plain}")
        values += math.prod(shape)
    if values > MOST_COMPRESSED * size:
        raise ValueError(f"expected at most {MOST_COMPRESSED} values a byte, got {values} in {size} bytes")
    return found


def _chunks(array: Mapping[str, Any]) -> list[int]:
    return list(array["chunk_grid"]["configuration"]["chunk_shape"])
