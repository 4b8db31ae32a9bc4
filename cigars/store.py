"""A store of surveys: shards of a random stream in a folder or object store, for trainings that share their simulations.

    store.json                 what is simulated: configuration, fingerprint, stream, surveys a shard
    shards/0000000256.zarr.zip surveys 256 … 256 + shard − 1, see `cigars.shards`
    shards/0000000256.json     written after it: objects, size, SHA-256 and the versions that made it

A survey depends on configuration, seed, stream and number alone, and shards lie on a fixed grid. So a shard is the same whoever
writes it, and the store is the same however the work is split, stopped, resumed or done twice. What has a record is finished;
no two writers share a file that could differ. File names follow from numbers: no path is ever read from a store.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from cigars.config import Config
from cigars.files import FileError
from cigars.manifest import Manifest, Record, numbers, parsed
from cigars.ragged import Ragged
from cigars.remote import asked, file_system, put
from cigars.shards import decode, encode

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

__all__ = ["Store", "begin_store", "create_store", "open_store", "plan"]

MANIFEST, FOLDER = "store.json", "shards"
RECORD = re.compile(r"\d{10}\.json")
REMEDY = "cigars store verify --discard removes what is damaged, cigars simulate --store writes it again"


class Store:
    """An opened store; `url` is a folder or any address that fsspec knows."""

    def __init__(self, url: str, fs: AbstractFileSystem, root: str, manifest: Manifest) -> None:
        self.url, self.fs, self.root, self.manifest = url, fs, root, manifest

    @property
    def address(self) -> str:
        """The same store from any working directory."""
        return self.root if "file" in self.fs.protocol else self.fs.unstrip_protocol(self.root)

    def path(self, first: int, suffix: str = ".zarr.zip") -> str:
        """Path of a shard, or with the suffix `.json` of its record, in the file system of the store."""
        return f"{self.root}/{FOLDER}/{first:010d}{suffix}"

    def files(self) -> dict[str, int]:
        """Size of every file in the folder of shards, by name."""
        self.fs.invalidate_cache()
        found = asked(self.url, self.fs.find, f"{self.root}/{FOLDER}", maxdepth=1, detail=True)
        return {path.rsplit("/", 1)[-1]: entry["size"] for path, entry in found.items()}

    def finished(self) -> dict[int, Record]:
        """Records of the shards that are there, by first survey, in order; a missing or truncated shard counts as unfinished.

        Raises:
            FileError: for a record that cannot be read, or of another store.
        """
        sizes = self.files()
        names = sorted(name for name in sizes if RECORD.fullmatch(name))
        paths = [f"{self.root}/{FOLDER}/{name}" for name in names]
        contents = asked(self.url, self.fs.cat_ranges, paths, None, None, on_error="raise")  # whole: `cat` takes names for patterns
        records = (self._record(name, content) for name, content in zip(names, contents, strict=True))
        return {r.first: r for r in records if sizes.get(f"{r.first:010d}.zarr.zip") == r.size}

    def intact(self, record: Record) -> bool:
        """Whether the file of a shard is there in the recorded size."""
        path = self.path(record.first)
        return bool(asked(self.url, self.fs.exists, path)) and asked(self.url, self.fs.size, path) == record.size

    def recorded(self, first: int) -> Record | None:
        """Record of the shard from survey `first`, None where there is none; raises FileError as `finished`."""
        path = self.path(first, ".json")
        return self.record(path.rsplit("/", 1)[-1]) if asked(self.url, self.fs.exists, path) else None

    def record(self, name: str) -> Record:
        """The record in the file `name` of the folder of shards; raises FileError."""
        return self._record(name, asked(self.url, self.fs.cat_file, f"{self.root}/{FOLDER}/{name}"))

    def _record(self, name: str, content: bytes) -> Record:
        record, m = parsed(Record, f"{self.url}/{FOLDER}/{name}", content), self.manifest
        if (record.fingerprint, name, record.count, record.first % m.shard) != (m.fingerprint, f"{record.first:010d}.json", m.shard, 0):
            raise FileError(f"{self.url}/{FOLDER}/{name}: expected a record of this store, got another; see cigars store verify")
        return record

    def grid(self, first: int, total: int) -> range:
        """First surveys of the shards that hold surveys first … first + total − 1."""
        shard = self.manifest.shard
        return range(first // shard * shard, first + total, shard)

    def missing(self, first: int, total: int) -> list[int]:
        """First surveys of the shards that are needed for surveys first … first + total − 1 and are not finished."""
        finished = self.finished()
        return [start for start in self.grid(first, total) if start not in finished]

    def write(self, first: int, surveys: Ragged, versions: dict[str, str]) -> Record:
        """Write a shard, then its record.

        Args:
            first: number of its first survey.
            surveys: as many as a shard holds.
            versions: of the packages that simulated them.

        Raises:
            ValueError: for a range off the grid of shards.
            FileError: if the file system refuses, or another writer has left other surveys under these numbers.
        """
        m, content = self.manifest, encode(surveys)
        if first % m.shard or len(surveys.number) != m.shard:
            raise ValueError(f"store: expected {m.shard} surveys from a multiple of it, got {len(surveys.number)} from {first}")
        digest, objects = hashlib.sha256(content).hexdigest(), int(surveys.offsets[-1])
        record = Record(
            fingerprint=m.fingerprint, first=first, count=m.shard, objects=objects, size=len(content), sha256=digest, versions=versions
        )  # fmt: skip
        self.put(record, content)
        return record

    def put(self, record: Record, content: bytes) -> None:
        """Write the bytes of a shard and then its record; as `write`."""
        before = self.recorded(record.first)
        if before and before.sha256 != record.sha256:
            raise FileError(
                f"{self.url}: surveys {numbers([record.first], record.count)}: expected those recorded, made with {before.versions}, "
                f"got others, made with {record.versions}; use the versions that began the store, or begin another"
            )
        put(self.fs, self.path(record.first), content)
        if before is None:
            put(self.fs, self.path(record.first, ".json"), record.model_dump_json(indent=1).encode())

    def content(self, record: Record) -> bytes:
        """Bytes of a finished shard; raises FileError where they are not those recorded."""
        path = self.path(record.first)
        name = f"{self.url}/{FOLDER}/{path.rsplit('/', 1)[-1]}"
        content = asked(name, self.fs.cat_file, path)
        if len(content) != record.size:
            raise FileError(f"{name}: expected {record.size} bytes, got {len(content)}; {REMEDY}")
        if hashlib.sha256(content).hexdigest() != record.sha256:
            raise FileError(f"{name}: its SHA-256 is not the one recorded; {REMEDY}")
        return content

    def read(self, record: Record) -> Ragged:
        """Surveys of a finished shard; raises FileError where they are not those recorded."""
        surveys = decode(self.content(record), self.path(record.first))
        if (len(surveys.number), int(surveys.offsets[-1])) != (record.count, record.objects):
            raise FileError(f"{self.path(record.first)}: expected {record.count} surveys of {record.objects} objects, got others; {REMEDY}")
        return surveys


def create_store(url: str | Path, config: Config, stream: str = "training", shard: int = 256) -> Store:
    """Begin a store, or open the one that is there if it holds the same surveys on the same grid.

    Args:
        url: folder, or an address such as s3://bucket/name (whose file system, here s3fs, must be installed).
        config: what to simulate.
        stream: name of the random stream, see `surveys.survey_source`.
        shard: surveys a file.

    Raises:
        FileError: if another store is there, or the file system refuses.
    """
    return begin_store(url, plan(config, stream, shard))


def plan(config: Config, stream: str = "training", shard: int = 256) -> Manifest:
    """The manifest of a store of a configuration."""
    from simulators.survey import files_fingerprint

    manifest = Manifest(configuration=config, hosts=files_fingerprint(config), stream=stream, shard=shard, fingerprint="")
    return manifest.model_copy(update={"fingerprint": manifest.expected_fingerprint})


def begin_store(url: str | Path, manifest: Manifest) -> Store:
    """As `create_store`, for a manifest."""
    fs, root = file_system(url)
    path = f"{root}/{MANIFEST}"
    if not asked(str(url), fs.exists, path):
        put(fs, path, manifest.model_dump_json(indent=1).encode())
    found = open_store(url).manifest  # whoever wrote last: two may begin at once
    if (found.fingerprint, found.shard) != (manifest.fingerprint, manifest.shard):
        raise FileError(
            f"store {url}: expected fingerprint {manifest.fingerprint} with {manifest.shard} surveys a shard, got {found.fingerprint} with "
            f"{found.shard}; continue with the configuration, seed, stream and shard it began with, or name another store"
        )
    return Store(str(url), fs, root, found)


def open_store(url: str | Path) -> Store:
    """The store at a folder or address; raises FileError where there is none, or one that cannot be trusted."""
    fs, root = file_system(url)
    path = f"{root}/{MANIFEST}"
    if not asked(str(url), fs.exists, path):
        raise FileError(f"store {url}: expected {MANIFEST}, got none; make a store with cigars simulate --store")
    if "file" in fs.protocol and Path(root, FOLDER).is_symlink():
        raise FileError(f"{url}/{FOLDER}: expected a folder, got a link, which could lead anywhere; link the whole store instead")
    manifest = parsed(Manifest, f"{url}/{MANIFEST}", asked(str(url), fs.cat_file, path))
    if manifest.fingerprint != manifest.expected_fingerprint:
        raise FileError(
            f"{url}/{MANIFEST}: expected fingerprint {manifest.expected_fingerprint} of its configuration, got {manifest.fingerprint}; "
            "it was changed by hand or by another version: begin another store"
        )
    return Store(str(url), fs, root, manifest)
