"""Does memory grow, or do files stay open, while one process simulates and trains over and over?

Expected: after a warm-up, less than 1 MB a minute (slope of a straight line through the resident memory at the end of each round) and
as many open files as at its beginning. The first round, which compiles, comes before the clock starts. A round is what a person asks
of the package, at a small size and with a seed of its own: a mock, a training with its checkpoints and calibration, a posterior of the
mock written to a file and read back, and every third time a shard of a store written and read. The slope's standard error takes its
scatter as independent from round to round.

usage: nice python benchmarks/soak.py [--minutes 30] [--warm-up 5] [--out benchmarks/soak.json]
"""

from __future__ import annotations

import argparse
import gc
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

__all__ = ["growth", "soak"]

SMALL = {
    "hosts.effective_hosts": 2000.0, "size.expected_supernovae": 60.0, "size.capacity": 1024, "training.surveys": 64,
    "training.pilot_surveys": 32, "training.validation_surveys": 16, "training.calibration_surveys": 20, "training.objects": 6000,
    "training.batch_surveys": 32, "training.flow_epochs": 2, "training.local_epochs": 1,
}  # fmt: skip
SHARD, EVERY = 32, 3
TARGET = 1.0  # MB a minute


def growth(minutes: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Slope of a straight line through values over minutes, and its standard error."""
    (slope, _), covariance = np.polyfit(minutes, values, 1, cov=True)
    return float(slope), float(np.sqrt(covariance[0, 0]))


def one_round(number: int, folder: Path) -> None:
    """A mock, a training, a posterior; every third time a shard of a store as well."""
    import cigars
    from cigars.cluster import write_shard
    from cigars.store import create_store
    from cigars.store_reader import shuffled

    config = cigars.load_config("demo", **SMALL, seed=number)
    mock, _ = cigars.simulate(config)
    cigars.train(config, folder / "run")
    cigars.infer(folder / "run", mock, draws=50, drop_outside=True, output=folder / "posterior.nc")
    cigars.load_posterior(folder / "posterior.nc").summary()
    if number % EVERY == 0:
        store = create_store(folder / "store", config, shard=SHARD)
        write_shard(store.address, 0)
        for _ in shuffled(store, 8, seed=0):
            pass


def state(process: psutil.Process) -> dict[str, float]:
    """Resident and unique memory in MB, open files and sockets, threads; after the garbage has been collected."""
    gc.collect()
    memory = process.memory_full_info()
    return {"rss_mb": memory.rss / 1e6, "uss_mb": memory.uss / 1e6, "handles": process.num_fds(), "threads": process.num_threads()}


def soak(seconds: float, folder: Path) -> list[dict[str, float]]:
    """The state of this process after each round, for as long as was asked; the clock starts with the second."""
    process, begin, samples = psutil.Process(), time.monotonic(), list[dict[str, float]]()
    while len(samples) < 2 or time.monotonic() - begin < seconds:
        work = folder / str(len(samples))
        work.mkdir()
        one_round(len(samples), work)
        shutil.rmtree(work)
        begin = begin if samples else time.monotonic()
        samples.append({"minute": (time.monotonic() - begin) / 60} | state(process))
        print({k: round(v, 2) for k, v in samples[-1].items()}, flush=True)
    return samples


def summary(samples: list[dict[str, float]], warm_up: float) -> dict[str, Any]:
    """Slopes of what was measured after the warm-up, in minutes."""
    after = {name: np.array([s[name] for s in samples if s["minute"] > warm_up]) for name in samples[0]}
    slopes = {name: growth(after["minute"], after[name]) for name in ("rss_mb", "uss_mb")}
    return {
        "rounds": len(samples),
        "rounds_after_warm_up": len(after["minute"]),
        "slope_mb_a_minute": {name: round(slope, 3) for name, (slope, _) in slopes.items()},
        "standard_error": {name: round(error, 3) for name, (_, error) in slopes.items()},
        "target_mb_a_minute": TARGET,
        "handles_after_warm_up": [int(after["handles"].min()), int(after["handles"].max())],
        "threads_after_warm_up": [int(after["threads"].min()), int(after["threads"].max())],
        "samples": [{k: round(v, 2) for k, v in s.items()} for s in samples],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--warm-up", type=float, default=5.0, help="minutes after the first round that do not count: caches fill")
    parser.add_argument("--out", default="benchmarks/soak.json")
    args = parser.parse_args()

    from common import write_result

    from cigars.devices import Device, use_device

    use_device(Device.cpu)
    with tempfile.TemporaryDirectory() as folder:
        samples = soak(60 * args.minutes, Path(folder))
    numbers = {"minutes": args.minutes, "warm_up_minutes": args.warm_up} | summary(samples, args.warm_up)
    print({k: v for k, v in numbers.items() if k != "samples"})
    question = (
        "Does memory grow by less than 1 MB a minute, and do open files stay as many, while one process simulates and trains over and over?"
    )
    write_result(args.out, question, numbers)


if __name__ == "__main__":
    main()
