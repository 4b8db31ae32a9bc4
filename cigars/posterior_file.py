"""The NetCDF file of a joint posterior, in the layout of ArviZ InferenceData: written whole, or block by block of objects.

The draws of the objects are chunked by blocks of them, so that one object is read without the others. What does not fit, on disk
or in memory, is refused before the work begins: HDF5 ends the whole process where a disk fills up while it writes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import psutil

from cigars.config import Config
from cigars.files import FileError, replacing
from cigars.schema import LOCALS

if TYPE_CHECKING:
    import arviz

__all__ = ["Writing", "check_memory", "check_room", "read_posterior", "save_posterior", "writing"]

BLOCK = 64  # objects a chunk
CHUNK = 4096  # draws a chunk
MARGIN = 1.05, 64 * 1024**2  # factor on the draws, and bytes for all else


def _bytes(draws: int, objects: int) -> int:
    return int(draws * objects * len(LOCALS) * 4 * MARGIN[0]) + MARGIN[1]


def _size(number: float) -> str:
    unit = next((u for u in ("GB", "MB") if number >= {"GB": 1e9, "MB": 1e6}[u]), "kB")
    return f"{number / {'GB': 1e9, 'MB': 1e6, 'kB': 1e3}[unit]:.3g} {unit}"


def _refuse(what: str, draws: int, objects: int, free: int, remedy: str) -> None:
    need = _bytes(draws, objects)
    if need <= free:
        return
    most = max(int((free - MARGIN[1]) / max(_bytes(1, objects) - MARGIN[1], 1)), 0)
    fewer = f"ask for at most {most:,} draws, or " if most else ""
    raise FileError(f"{what}: {draws:,} draws of {objects:,} objects need {_size(need)}, but {_size(free)} are free; {fewer}{remedy}")


def check_room(path: str | Path, draws: int, objects: int) -> None:
    """Raise FileError, with the size, where the disk has no room for a posterior."""
    _refuse(str(path), draws, objects, shutil.disk_usage(Path(path).parent).free, "name another disk")


def check_memory(draws: int, objects: int) -> None:
    """Raise FileError, with the size, where a posterior does not fit into memory."""
    _refuse(
        "memory",
        draws,
        objects,
        psutil.virtual_memory().available,
        "write to a file block by block: infer(..., output=PATH), or `cigars infer`",
    )


class Writing(NamedTuple):
    """A posterior that is being written: put(rows, [draw, block, unknown]) adds draws, note(name, value) an attribute."""

    put: Callable[[slice, np.ndarray], None]
    note: Callable[[str, float], None]


@contextmanager
def writing(path: str | Path, shell: arviz.InferenceData, draws: int, overwrite: bool = False) -> Iterator[Writing]:
    """Write a posterior without its objects' draws, then those by blocks.

    The file appears once it is whole. Raises FileError if it exists or cannot be written.
    """
    import h5netcdf

    with replacing(path, overwrite) as temporary:
        temporary.write_bytes(_whole(shell))
        with h5netcdf.File(temporary, "r+") as file:
            group, objects = file["posterior"], shell["posterior"].sizes["object"]
            shape = (1, max(min(draws, CHUNK), 1), max(min(objects, BLOCK), 1))
            variables = [
                group.create_variable(name, ("chain", "draw", "object"), "f4", chunks=shape, fillvalue=np.float32(np.nan))
                for name in LOCALS
            ]

            def put(rows: slice, block: np.ndarray) -> None:
                for k, variable in enumerate(variables):
                    variable[0, :, rows] = block[..., k]

            def note(name: str, value: float) -> None:
                file.attrs[name] = group.attrs[name] = value

            yield Writing(put, note)


def save_posterior(path: str | Path, posterior: arviz.InferenceData, *, overwrite: bool = False) -> Path:
    """Write a posterior as NetCDF, atomically; raises FileError if the file exists or cannot be written."""
    with replacing(path, overwrite) as temporary:
        temporary.write_bytes(_whole(posterior))
    return Path(path)


def _whole(posterior: arviz.InferenceData) -> bytes:
    import xarray

    groups = {"/": xarray.Dataset(attrs=posterior.attrs), **{name: posterior[name] for name in posterior.groups()}}
    return bytes(xarray.DataTree.from_dict(groups).to_netcdf(engine="h5netcdf"))


def read_posterior(path: str | Path) -> arviz.InferenceData:
    """A posterior in a file, its draws read when they are needed; raises FileError where the file is not one."""
    import arviz
    import h5py

    try:
        with h5py.File(path) as file:  # what this refuses, h5netcdf would leave half open and complain of when it is collected
            file.attrs.get("_nc3_strict")
        data = arviz.from_netcdf(str(path))
        Config.model_validate_json(data.posterior.attrs["config"])
    except FileNotFoundError:
        raise FileError(f"{path}: expected a posterior that `cigars infer` wrote, found no such file; see its name and folder") from None
    except Exception as error:  # HDF5 raises whatever a damaged file makes of it
        raise FileError(f"{path}: expected a posterior that `cigars infer` wrote, got something else ({type(error).__name__})") from None
    return data
