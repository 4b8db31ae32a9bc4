"""Checking a store against its records, and joining stores of the same surveys."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cigars.files import FileError
from cigars.manifest import Record, numbers
from cigars.progress import Reporter, silent
from cigars.store import RECORD, Store, begin_store, open_store

__all__ = ["Verdict", "merge", "verify"]

# shards, records, and the temporary files of both (`cigars.files.replacing`): what else lies there belongs to somebody
OWN = re.compile(r"\d{10}\.(zarr\.zip|json)|\.\d{10}\.(zarr\.zip\.\w+\.partial\.zip|json\.\w+\.partial\.json)")


class Verdict(NamedTuple):
    """Shards that are as recorded; what is wrong, one line each; names of files without a record, which an interrupted writer left."""

    sound: dict[int, Record]
    faults: list[str]
    leftovers: list[str]


def verify(store: Store, discard: bool = False, report: Reporter = silent) -> Verdict:
    """Compare the SHA-256 of every recorded shard with its record.

    Args:
        store: an opened store.
        discard: remove damaged shards, their records and leftovers, so that the missing shards can be written again; nobody may
            be writing meanwhile. Files of other names are left alone.
        report: progress in shards.
    """
    files = sorted(name for name in store.files() if OWN.fullmatch(name))
    names = [name for name in files if RECORD.fullmatch(name)]
    sound, faults, damaged = {}, [], set()
    for done, name in enumerate(names, 1):
        try:
            record = store.record(name)
            store.read(record)
            sound[record.first] = record
        except FileError as error:
            faults.append(str(error))
            damaged.add(name.removesuffix(".json"))
        report("shards", done, len(names))
    recorded = {name.removesuffix(".json") for name in names}
    leftovers = [name for name in files if name.removesuffix(".json").removesuffix(".zarr.zip") not in recorded]
    if discard:
        for name in [*leftovers, *(n for n in files if n.removesuffix(".json").removesuffix(".zarr.zip") in damaged)]:
            store.fs.rm_file(store.path(0).rsplit("/", 1)[0] + "/" + name)
    return Verdict(sound, faults, leftovers)


def merge(sources: Sequence[str | Path], destination: str | Path, report: Reporter = silent) -> Store:
    """Copy the shards of several stores of the same surveys into one, which is begun unless it is there.

    Args:
        sources: stores of one fingerprint and shard, without a survey in common.
        destination: store to write; what it has already is left as it is, so that an interrupted merge can be repeated.
        report: progress in shards.

    Raises:
        FileError: for stores of different surveys, for a survey in two of them, and for a damaged shard.
    """
    stores = [open_store(url) for url in sources]
    owner: dict[int, tuple[Store, Record]] = {}
    for store in stores:
        first, here = stores[0].manifest, store.manifest
        if (here.fingerprint, here.shard) != (first.fingerprint, first.shard):
            raise FileError(
                f"store {store.url}: expected fingerprint {first.fingerprint} with {first.shard} surveys a shard, as in {stores[0].url}, "
                f"got {here.fingerprint} with {here.shard}; merge stores of one configuration, seed, stream and shard"
            )
        records = store.finished()
        if twice := [start for start in records if start in owner]:
            raise FileError(
                f"store {store.url}: expected no survey of {owner[twice[0]][0].url}, got {numbers(twice, here.shard)} in both; "
                "leave one of the two out"
            )
        owner |= {start: (store, record) for start, record in records.items()}
    target = begin_store(destination, stores[0].manifest)
    have = target.finished()
    for done, (start, (store, record)) in enumerate(sorted(owner.items()), 1):
        if start not in have or have[start].sha256 != record.sha256:  # then `put` refuses
            target.put(record, store.content(record))
        report("shards", done, len(owner))
    return target
