"""What is written down about a store: its manifest, a record a shard, and the numbers of surveys in words.

Both are JSON, read by pydantic: unknown keys are refused, and no key is a path.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cigars.config import Config, TrainingConfig, fingerprint
from cigars.files import FileError
from cigars.schema import RANDOM_STREAM

__all__ = ["Manifest", "Record", "numbers", "parsed", "spans"]


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Manifest(_Stored):
    """What a store holds; `hosts` is the fingerprint of the host bank and of the files that the configuration names."""

    schema_version: Literal[1] = 1
    configuration: Config
    hosts: str
    stream: str
    shard: int = Field(ge=1)  # surveys a shard
    fingerprint: str

    @property
    def expected_fingerprint(self) -> str:
        """Identity of the surveys, the simulator's random stream included; a configuration's name and its training do not change them."""
        simulated = self.configuration.model_copy(update={"name": "", "training": TrainingConfig()})
        return fingerprint(simulated, self.hosts, self.stream, RANDOM_STREAM)


class Record(_Stored):
    """That a shard is finished: its first survey, what it holds, the bytes of its file, and the versions that simulated it."""

    fingerprint: str
    first: int = Field(ge=0)
    count: int = Field(ge=1)
    objects: int = Field(ge=0)
    size: int = Field(ge=0)
    sha256: str
    versions: dict[str, str]


Kind = TypeVar("Kind", bound=_Stored)


def spans(firsts: Iterable[int], shard: int) -> list[tuple[int, int]]:
    """First and last survey of each run of adjacent shards."""
    edges: list[tuple[int, int]] = []
    for first in sorted(firsts):
        low = edges.pop()[0] if edges and edges[-1][1] == first - 1 else first
        edges.append((low, first + shard - 1))
    return edges


def numbers(firsts: Iterable[int], shard: int) -> str:
    """Numbers of the surveys in shards as text: "0-511, 1024-1279"."""
    return ", ".join(f"{low}-{high}" for low, high in spans(firsts, shard)) or "none"


def parsed(kind: type[Kind], name: str, content: bytes) -> Kind:
    """A manifest or record from its JSON; raises FileError that names the file."""
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise FileError(f"{name}: expected a {kind.__name__.lower()} of a store, got {where or 'another file'}: {first['msg']}") from None
