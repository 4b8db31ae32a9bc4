"""Truncation of a prior to where the posterior of one target has its mass, and the record that a truncated run keeps.

A round cuts every marginal of its posterior at the quantiles TAIL and 1 − TAIL, pads what is left by PAD of its width on both
sides and never beyond the old support; the next round simulates inside. Within the box the posterior is the same but
for its normalisation, so what is inferred differs by the mass that was cut, at most 2 TAIL a marginal and round.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, ValidationError

from cigars.config import Config, ConfigError, Prior
from cigars.files import FileError, replacing
from cigars.schema import Marginal

__all__ = ["RECORD", "TAIL", "Cut", "Round", "Rounds", "cut_marginal", "piled_up", "prior_mass", "read_rounds", "truncated", "write_rounds"]

RECORD = "rounds.json"
TAIL = 5e-5  # posterior mass cut on either side
PAD = 0.2  # of the width of what is left, on either side
NEAR = 0.01  # of the width of a box: what counts as its edge, and the share of draws that may lie there


class Cut(NamedTuple):
    """A marginal cut and padded to [low, high]: shares of the draws outside before (`cut`) and after padding (`outside`)."""

    low: float
    high: float
    cut: float
    outside: float


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Round(_Frozen):
    """One finished round; the box and what it cuts are those of the next, and empty in the last."""

    number: int
    folder: str  # relative to the run
    fingerprint: str  # of the training
    surveys: int
    seconds: float  # since it was begun, or resumed
    volume_ratio: float  # mass of the configured prior inside that of this round
    prior: dict[str, Prior]
    draws: int = 0
    box: dict[str, tuple[float, float]] = {}
    cut: dict[str, float] = {}
    outside: dict[str, float] = {}


class Rounds(_Frozen):
    """What a training in rounds was made for, and its rounds so far."""

    target: str  # hash of the catalogue
    objects: int
    rounds: int
    fingerprint: str  # of the training that the configuration describes
    configured: dict[str, Prior]
    history: tuple[Round, ...] = ()


def cut_marginal(draws: Float[np.ndarray, " draw"], support: tuple[float, float]) -> Cut:
    """Cut one marginal at its outer quantiles and pad it.

    Of n sorted draws the mass below the (k + 1)-th is (k + 1)/(n + 1) in the mean, so k is the largest for which that stays
    within TAIL; too few draws for any keep them all, and the ends are the least and the largest.

    Args:
        draws: of the posterior.
        support: of the old prior, which may be infinite.

    Raises:
        ValueError: where the draws are not finite, or all the same.
    """
    ordered = np.sort(np.asarray(draws, float))
    if not ordered.size or not np.isfinite(ordered).all() or ordered[0] == ordered[-1]:
        raise ValueError(
            f"truncation: expected different finite draws, got {ordered[:1]} to {ordered[-1:]}; train this round on more surveys"
        )
    beyond = max(math.floor((len(ordered) + 1) * TAIL) - 1, 0)
    low, high = float(ordered[beyond]), float(ordered[-1 - beyond])
    pad = PAD * (high - low)
    kept = max(low - pad, support[0]), min(high + pad, support[1])
    return Cut(*kept, cut=_outside(ordered, low, high), outside=_outside(ordered, *kept))


def _outside(draws: np.ndarray, low: float, high: float) -> float:
    return float(np.mean((draws < low) | (draws > high)))


def truncated(config: Config, box: Mapping[str, Sequence[float]]) -> Config:
    """The configuration with its prior cut to a box: a uniform becomes narrower, a normal the same one within its limits."""
    priors = {name: _narrowed(getattr(config.prior, name), *limits) for name, limits in box.items()}
    return config.updated(**{f"prior.{name}": prior.model_dump(exclude_none=True) for name, prior in priors.items()})


def _narrowed(prior: Prior, low: float, high: float) -> Prior:
    if prior.fixed is not None:
        raise ConfigError(f"truncation: expected a free parameter, got one fixed at {prior.fixed}; leave it out of the box")
    marginal = prior.marginal
    limits = max(low, marginal.low), min(high, marginal.high)
    return Prior(uniform=limits) if prior.uniform else Prior(normal=prior.normal, within=limits)


def prior_mass(prior: Mapping[str, Marginal], box: Mapping[str, Marginal]) -> float:
    """Mass of a prior inside the limits of another, as a product over its parameters."""
    return math.prod(_mass(m, box[name].low, box[name].high) / _mass(m, m.low, m.high) for name, m in prior.items())


def _mass(marginal: Marginal, low: float, high: float) -> float:
    if marginal.kind == "uniform":
        return high - low
    below, above = (math.erf((edge - marginal.loc) / (marginal.scale * math.sqrt(2))) for edge in (low, high))
    return (above - below) / 2


def piled_up(draws: Mapping[str, np.ndarray], box: Mapping[str, Marginal], configured: Mapping[str, Marginal]) -> list[str]:
    """Parameters with more than a share NEAR of their draws within NEAR of the width from an edge that truncation made."""
    return [name for name, limits in box.items() if any(_near(draws[name], limits, configured[name]))]


def _near(draws: np.ndarray, box: Marginal, configured: Marginal) -> list[bool]:
    width = NEAR * (box.high - box.low)
    left = box.low > configured.low and float(np.mean(draws < box.low + width)) > NEAR
    right = box.high < configured.high and float(np.mean(draws > box.high - width)) > NEAR
    return [left, right]


def read_rounds(run: str | Path) -> Rounds | None:
    """The record of a run folder; None where the run was not trained for a target."""
    path = Path(run) / RECORD
    if not path.is_file():
        return None
    try:
        return Rounds.model_validate_json(path.read_text())
    except (OSError, ValueError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise FileError(f"run folder {run}: cannot read {RECORD}: {reason}; train again") from None


def write_rounds(run: str | Path, rounds: Rounds) -> None:
    """Keep the record in a run folder, whole or not at all."""
    with replacing(Path(run) / RECORD, overwrite=True) as path:
        path.write_text(rounds.model_dump_json(indent=1, exclude_none=True))
