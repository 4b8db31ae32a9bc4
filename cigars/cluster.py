"""Simulation on a Dask cluster: shards of a stream of surveys, the same bit for bit however they are spread.

    with connect(workers=2) as client:
        fill(client, create_store("store", config), first=0, total=6400)

A survey is a function of configuration, seed, stream and number alone, so a task is a range of numbers and nothing is shared
between tasks but the host bank, which each worker loads once (and builds, where its cache does not hold it).
"""

from __future__ import annotations

import enum
import functools
import importlib.metadata
import logging
import platform
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from cigars.config import Config
from cigars.devices import cores
from cigars.files import FileError
from cigars.manifest import Record, numbers
from cigars.progress import Reporter
from cigars.schema import Survey
from cigars.store import Store, open_store
from cigars.surveys import survey_source, trimmed

if TYPE_CHECKING:
    from dask.distributed import Client

__all__ = ["Cluster", "ClusterError", "connect", "farm", "fill", "simulate_shard", "write_shard"]

RETRIES = 2  # of a shard whose file system refuses; one whose worker dies is tried by Dask on another
PACKAGES = ("cigars-sn", "jax", "jaxlib", "numpy", "numpyro", "zarr")  # that a shard can depend on
ENDED_BY_US = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"  # a terminal sends Ctrl-C to workers, too


class Cluster(enum.StrEnum):
    """Where workers come from when no scheduler is named."""

    local = "local"
    slurm = "slurm"


class ClusterError(ValueError):
    """A cluster that cannot be reached or has been lost; the message is one line for people."""


@contextmanager
def connect(scheduler: str | None = None, cluster: Cluster = Cluster.local, workers: int | None = None) -> Iterator[Client]:
    """A Dask client: of a running scheduler, or of a cluster that is started here and ends with the context.

    Args:
        scheduler: address such as tcp://host:8786, whose workers see the same file systems and have this package.
        cluster: what to start where no scheduler is named; slurm takes queue, cores and memory from the configuration of dask-jobqueue.
        workers: processes to start, by default one a core, or one where JAX has an accelerator; or workers in jobs, by default one.

    Raises:
        ClusterError: if the scheduler does not answer, or dask-jobqueue is missing.
    """
    from dask.distributed import Client
    from distributed.utils import silence_logging_cmgr

    # what Dask logs of a lost worker or scheduler is said in one line by `fill`
    with silence_logging_cmgr(logging.CRITICAL), _started(cluster, workers) if not scheduler else nullcontext(scheduler) as address:
        try:
            client = Client(address, timeout="10s", set_as_default=False)
        except (OSError, ValueError) as error:
            raise ClusterError(f"--scheduler: expected a Dask scheduler at {address}, got none: {error}; start it first") from None
        with client:
            yield client


def _started(cluster: Cluster, workers: int | None):
    """A cluster of this machine, or of jobs of its scheduler."""
    import jax
    from dask.distributed import LocalCluster

    if cluster is Cluster.slurm:
        return _slurm(workers or 1)
    folder = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]  # not for jobs, whose processor may be another
    env = _environment() | ({"JAX_COMPILATION_CACHE_DIR": str(folder)} if folder else {})
    options = {"threads_per_worker": 1, "dashboard_address": "127.0.0.1:0", "silence_logs": logging.CRITICAL, "preload": [ENDED_BY_US]}
    return LocalCluster(n_workers=workers or _processes(), env=env, **options)


def _slurm(workers: int):
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError:
        raise ClusterError('--cluster slurm: expected dask-jobqueue, got none; pip install "cigars-sn[cluster]"') from None
    cluster = SLURMCluster(job_script_prologue=[f"export {name}={shlex.quote(value)}" for name, value in _environment().items()])
    cluster.scale(workers)
    return cluster


def _processes() -> int:
    import jax

    return 1 if jax.default_backend() != "cpu" else cores()


def _environment() -> dict[str, str]:
    """Variables of a worker: one JAX device each on CPUs."""
    import jax

    found = {"JAX_NUM_CPU_DEVICES": "1", "OMP_NUM_THREADS": "1", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    return found | ({"JAX_PLATFORMS": "cpu"} if jax.default_backend() == "cpu" else {})


def fill(client: Client, store: Store, first: int, total: int, report: Reporter) -> int:
    """Write what a store lacks of surveys first … first + total − 1, one shard a task; returns the number of surveys written.

    Args:
        client: of a cluster whose workers see the store's file system.
        store: to write into; what it has is left as it is.
        first: number of the first survey.
        total: how many; whole shards are written.
        report: progress in surveys.

    Raises:
        ClusterError: if the scheduler is lost, or workers die of a shard again and again.
        ValueError, OSError: if a worker cannot simulate or write a shard; what was written until then stays.
    """
    from concurrent.futures import CancelledError

    from dask.distributed import KilledWorker, as_completed

    starts, shard, done = store.missing(first, total), store.manifest.shard, 0
    present = len(store.grid(first, total)) - len(starts)
    futures = {client.submit(write_shard, store.address, start, retries=RETRIES, pure=False): start for start in starts}
    again = "what has been written stays; the same command continues"
    try:
        for future in as_completed(futures, loop=client.loop):
            future.result()
            done += 1
            report("surveys", (present + done) * shard, (present + len(starts)) * shard)
    except KilledWorker:
        lost = numbers([start for f, start in futures.items() if f.status == "error"], shard)
        raise ClusterError(f"surveys {lost}: their workers died, of memory perhaps; {again} with fewer workers") from None
    except (CancelledError, OSError) as error:
        if any(f.status == "error" for f in futures):  # a task's own, as of a folder that its worker may not read
            raise
        raise ClusterError(f"cluster: lost its scheduler after {done} of {len(starts)} shards ({type(error).__name__}); {again}") from None
    finally:
        client.cancel(list(futures))
    return done * shard


def write_shard(address: str, first: int) -> Record:
    """One task: the shard of a store from survey number `first`, unless another writer has finished it.

    Raises:
        FileError: where this worker has other files than the store was begun with, or cannot write.
    """
    import jax

    from cigars.ragged import join, pack
    from simulators.survey import files_fingerprint

    store = open_store(address)
    if (there := store.recorded(first)) and store.intact(there):
        return there
    m = store.manifest
    if (found := files_fingerprint(m.configuration)) != m.hosts:
        raise FileError(
            f"store {address}: expected hosts and detection {m.hosts}, got {found} on {platform.node()}; "
            "give its workers the files and the version of this package that the store was begun with, or begin another store"
        )
    source, piece = _source(m.configuration.model_dump_json(), m.stream, found), min(m.configuration.training.batch_surveys, m.shard)
    parts = [pack(source(start, min(piece, first + m.shard - start))) for start in range(first, first + m.shard, piece)]
    versions = {name: importlib.metadata.version(name) for name in PACKAGES} | {"device": jax.default_backend()}
    return store.write(first, join(parts), versions)


def farm(client: Client, config: Config, stream: str, first: int, total: int, shard: int = 64, ahead: int = 2) -> Iterator[Survey]:
    """Surveys first … first + total − 1 of a stream in order, `shard` at a time, simulated by the client's workers.

    Args:
        client: a Dask client, of a `LocalCluster` or of a scheduler's address.
        config: what to simulate.
        stream: name of the random stream, see `surveys.survey_source`.
        first: number of the first survey.
        total: how many.
        shard: surveys a task.
        ahead: tasks kept in flight for each worker; bounds the memory of results that wait to be read.

    Yields:
        Batches as numpy arrays [survey, object, …].

    Raises:
        ValueError: for a total or shard below one.
    """
    if total < 1 or shard < 1:
        raise ValueError(f"farm: expected total and shard of at least 1, got {total} and {shard}")
    ranges = [(start, min(shard, first + total - start)) for start in range(first, first + total, shard)]
    flying, text = [], config.model_dump_json()
    for start, count in ranges:
        flying.append(client.submit(simulate_shard, text, stream, start, count, pure=True))
        if len(flying) >= ahead * max(len(client.scheduler_info()["workers"]), 1):
            yield flying.pop(0).result()
    for future in flying:
        yield future.result()


def simulate_shard(config: str, stream: str, first: int, count: int) -> Survey:
    """One task: `count` surveys from number `first`, of a configuration as JSON."""
    from simulators.survey import files_fingerprint

    return trimmed(_source(config, stream, files_fingerprint(Config.model_validate_json(config)))(first, count))


@functools.lru_cache(maxsize=4)
def _source(config: str, stream: str, files: str) -> Callable[[int, int], Survey]:
    """The source of a configuration as JSON; another where the content of the `files` that it names is another."""
    return survey_source(Config.model_validate_json(config), stream)
