"""Reading a store: shuffled batches within bounded memory, or surveys by number as the live simulator gives them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from cigars.config import Config
from cigars.files import FileError
from cigars.manifest import numbers
from cigars.ragged import Ragged, gather, join, pad
from cigars.schema import Survey
from cigars.store import Store, open_store, plan

__all__ = ["check_surveys", "padded", "shuffled", "store_source", "training_source"]

KEPT = 2  # shards in memory for reading by number: a batch overlaps two


def shuffled(store: Store, size: int, seed: int, buffer: int = 2) -> Iterator[Ragged]:
    """Every survey of a store once, in random batches; the last may be smaller.

    Shards come in random order, and surveys are drawn at random from `buffer` shards at a time, while other threads read the next as
    many and gather the next batch: twice `buffer` shards and two batches are in memory, however large the store.

    Args:
        store: an opened store.
        size: surveys a batch.
        seed: of the order; another one for each epoch.
        buffer: shards that are mixed.

    Raises:
        ValueError: for a size or buffer below one.
        FileError: for a damaged shard.
    """
    if size < 1 or buffer < 1:
        raise ValueError(f"shuffled: expected size and buffer of at least 1, got {size} and {buffer}")
    with ThreadPoolExecutor(buffer) as readers, ThreadPoolExecutor(1) as gatherer:  # hashing, decoding and copying release the interpreter
        flying = None
        for call in _batches(store, size, np.random.default_rng(seed), buffer, readers):
            following = gatherer.submit(call)
            if flying:
                yield flying.result()
            flying = following
        if flying:
            yield flying.result()


def _batches(store: Store, size: int, rng: np.random.Generator, buffer: int, readers: Executor) -> Iterator[Callable[[], Ragged]]:
    """What gathers each batch of `shuffled`; what is left of some shards is mixed with the next."""
    records, left = list(store.finished().values()), list[Ragged]()
    order = [records[i] for i in rng.permutation(len(records))]
    groups = [order[start : start + buffer] for start in range(0, len(order), buffer)]
    ahead = [readers.submit(store.read, record) for record in groups[0]] if groups else []
    for number in range(len(groups)):
        parts = [*left, *(future.result() for future in ahead)]
        ahead = [readers.submit(store.read, record) for record in next(iter(groups[number + 1 : number + 2]), [])]
        picks = [(part, survey) for part, surveys in enumerate(parts) for survey in range(len(surveys.number))]
        picks = [picks[i] for i in rng.permutation(len(picks))]
        whole = len(picks) // size * size
        for start in range(0, whole, size):
            yield partial(gather, parts, picks[start : start + size])
        left = [gather(parts, picks[whole:])] if whole < len(picks) else []
    yield from (partial(join, [rest]) for rest in left)


def padded(batches: Iterator[Ragged], capacity: int | None = None) -> Iterator[Survey]:
    """Batches as `Survey`, each with `capacity` rows, by default as many as its largest survey."""
    return (pad(batch, capacity) for batch in batches)


def check_surveys(store: Store, first: int, total: int) -> None:
    """Raise FileError, naming them, where a store lacks some of the surveys first … first + total − 1."""
    if missing := store.missing(first, total):
        m = store.manifest
        raise FileError(
            f"store {store.url}: expected surveys {first}-{first + total - 1}, missing or truncated are {numbers(missing, m.shard)}; "
            f"write them: cigars simulate … --store {store.url} --stream {m.stream} --shard {m.shard} --first {first} --surveys {total}"
        )


def store_source(store: Store) -> Callable[[int, int], Survey]:
    """`source(first, count)` as `surveys.survey_source` gives it, bit for bit, from what a store holds.

    Raises:
        FileError: when asked for a survey that is missing or damaged.
    """
    records, kept = store.finished(), OrderedDict[int, Ragged]()

    def read(start: int) -> Ragged:
        if start not in kept:
            if start not in records:
                check_surveys(store, start, store.manifest.shard)
            while len(kept) >= KEPT:
                kept.popitem(last=False)
            kept[start] = store.read(records[start])
        kept.move_to_end(start)
        return kept[start]

    def source(first: int, count: int) -> Survey:
        starts, shard = store.grid(first, count), store.manifest.shard
        parts = [read(start) for start in starts]
        return pad(gather(parts, [((i // shard) - (starts[0] // shard), i % shard) for i in range(first, first + count)]))

    return source


def training_source(url: str | Path, config: Config, total: int) -> Callable[[int, int], Survey]:
    """`store_source` of the store at `url`, once it is known to hold surveys 0 … total − 1 of the training stream of a configuration.

    Raises:
        FileError: for a store of other surveys, or one that lacks some of these.
    """
    store, expected = open_store(url), plan(config).fingerprint
    if store.manifest.fingerprint != expected:
        m = store.manifest
        raise FileError(
            f"store {url}: expected fingerprint {expected} of the training stream of this configuration, got {m.fingerprint} of the stream "
            f"{m.stream!r} of {m.configuration.name!r} with seed {m.configuration.seed}; train with the configuration it was simulated with"
        )
    check_surveys(store, 0, total)
    return store_source(store)
