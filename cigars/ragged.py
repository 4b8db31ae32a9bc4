"""Surveys of different sizes without padding: the objects of survey s are rows offsets[s] … offsets[s + 1] − 1 of every column."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from cigars.schema import Globals, Latents, Observations, Survey

__all__ = ["Ragged", "columns", "from_columns", "gather", "join", "pack", "pad", "take"]

OBJECTS = {*Observations._fields, *Latents._fields, "host"}  # columns with a row an object


class Ragged(NamedTuple):
    """Surveys end to end, numpy arrays.

    `theta` and `exposure` have shape [survey], `offsets` [survey + 1]; `observations`, `latents` and `host` [object] (`mag` and
    `mag_err` [object, band]).
    """

    theta: Globals
    exposure: np.ndarray
    offsets: np.ndarray
    observations: Observations
    latents: Latents
    host: np.ndarray

    @property
    def number(self) -> np.ndarray:
        """Objects of each survey."""
        return np.diff(self.offsets)


def pack(survey: Survey) -> Ragged:
    """A batch of surveys, leaves [survey, capacity, …], without its padding."""
    observed = np.asarray(survey.observed)
    offsets = np.concatenate([[0], np.cumsum(observed.sum(1))]).astype(np.int64)
    rows = _over(lambda leaf: np.asarray(leaf)[observed])
    theta = Globals(*(np.asarray(leaf) for leaf in survey.theta))
    return Ragged(theta, np.asarray(survey.exposure), offsets, rows(survey.observations), rows(survey.latents), rows(survey.host))


def pad(ragged: Ragged, capacity: int | None = None) -> Survey:
    """The inverse of `pack`: leaves [survey, capacity, …], zero where there is no object.

    Args:
        ragged: surveys.
        capacity: rows of each, by default those of the largest.

    Raises:
        ValueError: if a survey has more objects than `capacity`.
    """
    number = ragged.number.astype(np.int32)
    most = max(int(number.max(initial=0)), 1)
    capacity = most if capacity is None else capacity
    if most > capacity:
        raise ValueError(f"surveys: expected at most capacity = {capacity} objects, got {most}; raise the capacity")
    observed = np.arange(capacity) < number[:, None]

    def spread(leaf: np.ndarray) -> np.ndarray:
        out = np.zeros((*observed.shape, *leaf.shape[1:]), leaf.dtype)
        out[observed] = leaf
        return out

    rows = _over(spread)
    objects = rows(ragged.observations), rows(ragged.latents), observed, rows(ragged.host)
    return Survey(ragged.theta, *objects, number, ragged.exposure)


def take(ragged: Ragged, index: Sequence[int] | np.ndarray) -> Ragged:
    """The surveys of an index, in its order."""
    return gather([ragged], [(0, int(survey)) for survey in index])


def gather(parts: Sequence[Ragged], picks: Sequence[tuple[int, int]]) -> Ragged:
    """The surveys named by (part, survey in it), in order; the objects of parts as a whole are never copied."""
    found, out = [columns(part) for part in parts], {}
    offsets, before = [part.offsets.tolist() for part in parts], np.cumsum([0, *(len(part.number) for part in parts)])
    spans = [(part, offsets[part][survey], offsets[part][survey + 1]) for part, survey in picks]
    surveys = np.array([before[part] + survey for part, survey in picks], np.int64)
    for name, first in found[0].items():
        if name in OBJECTS:
            out[name] = np.concatenate([found[part][name][a:b] for part, a, b in spans] or [first[:0]])
        elif name != "offsets":
            out[name] = np.concatenate([part[name] for part in found])[surveys]
    out["offsets"] = np.cumsum([0, *(b - a for _, a, b in spans)], dtype=np.int64)
    return from_columns(out)


def join(parts: Sequence[Ragged]) -> Ragged:
    """Surveys of several parts, in order."""
    if len(parts) == 1:
        return parts[0]
    found = [columns(part) for part in parts]
    joined = {name: np.concatenate([part[name] for part in found]) for name in found[0]}
    return from_columns(joined | {"offsets": np.concatenate([[0], np.cumsum(np.concatenate([p.number for p in parts]))])})


def columns(ragged: Ragged) -> dict[str, np.ndarray]:
    """Every column by its name in the schema; the names of the three tables differ."""
    plain = {"exposure": ragged.exposure, "offsets": ragged.offsets, "host": ragged.host}
    return plain | ragged.theta._asdict() | ragged.observations._asdict() | ragged.latents._asdict()


def from_columns(found: dict[str, np.ndarray]) -> Ragged:
    """The inverse of `columns`."""
    table = lambda kind: kind(*(found[name] for name in kind._fields))  # noqa: E731
    return Ragged(table(Globals), found["exposure"], found["offsets"], table(Observations), table(Latents), found["host"])


def _over(function: Callable[[Any], np.ndarray]) -> Callable[[Any], Any]:
    return lambda tree: type(tree)(*map(function, tree)) if isinstance(tree, tuple) else function(tree)
