"""How fast are shuffled batches read from a store on the local disk?

Expected: at least 200 MB/s of decoded columns with 1,600 objects a survey (some 160 bytes each), memory bounded. The surveys are
simulated once and written again under other numbers, so that a large store costs seconds; values compress as they do. The cache of
the file system is dropped for the store's files before the first reading.

usage: python benchmarks/store_read.py [--preset lsst] [--surveys 4096] [--shard 256] [--folder FOLDER] [--out benchmarks/store_read.json]
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["read", "scaled", "simulated", "written"]

LARGE = 100_000, 1600  # surveys and objects in each of the store that is asked about
TARGET = 200  # MB a second


def simulated(config: Any, shard: int) -> Any:
    """One shard of surveys at the fiducial Θ."""
    from cigars.ragged import join, pack
    from cigars.schema import FIDUCIAL
    from cigars.surveys import survey_source

    source, piece = survey_source(config, "training", FIDUCIAL), min(64, shard)
    return join([pack(source(start, piece)) for start in range(0, shard, piece)])


def written(folder: Path, config: Any, once: Any, surveys: int) -> tuple[Any, dict[str, float]]:
    """A store of `surveys` surveys, a shard over and over, and how fast it was written: encoded, hashed and flushed to disk."""
    from cigars.ragged import columns
    from cigars.store import create_store

    shard, size = len(once.number), sum(column.nbytes for column in columns(once).values())
    store, wall, cpu = create_store(folder, config, shard=shard), time.perf_counter(), time.process_time()
    for first in range(0, surveys, shard):
        store.write(first, once, {})
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    total = size * surveys // shard / 1e6
    return store, {
        "wall_s": round(wall, 2),
        "cpu_s": round(cpu, 2),
        "mb_a_second": round(total / wall),
        "mb_a_cpu_second": round(total / cpu),
    }


def scaled(stored: float, decoded: float, objects: int, rate: float) -> dict[str, float]:
    """Size of the large store, and the seconds to read it at `rate` MB/s of decoded columns."""
    number = LARGE[0] * LARGE[1]
    return {
        "surveys": LARGE[0],
        "objects_a_survey": LARGE[1],
        "stored_gb": round(number * stored / objects / 1e9, 1),
        "decoded_gb": round(number * decoded / objects / 1e9, 1),
        "reading_s": round(number * decoded / objects / 1e6 / rate),
    }


def uncached(folder: Path) -> None:
    """Ask the kernel to forget the files of a folder."""
    for path in folder.rglob("*.zip"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(batches: Iterable[Any]) -> dict[str, float]:
    """Seconds of wall and processor, and decoded bytes, of going through packed batches or padded ones."""
    from cigars.ragged import Ragged, columns

    surveys = objects = size = 0
    wall, cpu = time.perf_counter(), time.process_time()
    for batch in batches:
        surveys, objects = surveys + len(batch.number), objects + int(batch.number.sum())
        if isinstance(batch, Ragged):
            size += sum(column.nbytes for column in columns(batch).values())
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"surveys": surveys, "objects": objects, "bytes": size, "wall_s": round(wall, 2), "cpu_s": round(cpu, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--preset", default="lsst")
    parser.add_argument("--effective", type=float, default=1e5, help="effective number of hosts in the bank")
    parser.add_argument("--surveys", type=int, default=4096)
    parser.add_argument("--shard", type=int, default=256)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--folder", help="where to write the store for a while; the folder of temporary files by default")
    parser.add_argument("--out", default="benchmarks/store_read.json")
    args = parser.parse_args()

    from common import write_result

    from cigars.config import load_config
    from cigars.devices import Device, use_device
    from cigars.store_reader import padded, shuffled

    use_device(Device.cpu)
    config = load_config(args.preset, **{"hosts.effective_hosts": args.effective})
    once = simulated(config, args.shard)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        store, writing = written(Path(folder), config, once, args.surveys)
        stored = sum(r.size for r in store.finished().values())
        before, cases, decoded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, {}, 0.0
        for name in ("cold", "warm", "warm again", "padded"):
            if name == "cold":
                uncached(Path(folder))
            batches = shuffled(store, args.batch, seed=0)
            cases[name] = read(padded(batches) if name == "padded" else batches)
            decoded = cases[name].pop("bytes") or decoded
            cases[name]["mb_a_second"] = round(decoded / 1e6 / cases[name]["wall_s"])
            print(f"{name}: {cases[name]}")
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    numbers = {
        "preset": args.preset,
        "surveys_a_shard": args.shard,
        "surveys_a_batch": args.batch,
        "decoded_mb": round(decoded / 1e6),
        "stored_mb": round(stored / 1e6),
        "target_mb_a_second": TARGET,
        "writing": writing,
        "peak_memory_grew_by_mb": round(grown / 1e3),
        "cases": cases,
        "large_store": scaled(stored, decoded, cases["cold"]["objects"], cases["cold"]["mb_a_second"]),
    }
    write_result(
        args.out, "How fast are shuffled batches read from a store on the local disk? At least 200 MB/s of decoded columns.", numbers
    )


if __name__ == "__main__":
    main()
