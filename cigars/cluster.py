"""Simulation on a Dask cluster: shards of a stream of surveys, the same bit for bit however they are spread.

A survey is a function of configuration, seed, stream and number alone, so a task is a range of numbers and nothing is shared
between tasks but the host bank, which each worker loads once (and builds, where its cache does not hold it).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from cigars.config import Config
from cigars.schema import Survey

if TYPE_CHECKING:
    from dask.distributed import Client

__all__ = ["farm"]


def farm(client: Client, config: Config, stream: str, first: int, total: int, shard: int = 64, ahead: int = 2) -> Iterator[Survey]:
    """Surveys first … first + total − 1 of a stream in order, `shard` at a time, simulated by the client's workers.

    Args:
        client: a Dask client, of a `LocalCluster` or of a scheduler's address.
        config: what to simulate.
        stream: name of the random stream, see `pipeline.survey_source`.
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
    return _source(config, stream)(first, count)


@functools.lru_cache(maxsize=4)
def _source(config: str, stream: str) -> Callable[[int, int], Survey]:
    from cigars.pipeline import survey_source

    return survey_source(Config.model_validate_json(config), stream)
