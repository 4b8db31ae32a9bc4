r"""Truncation of a prior to where the Θ of one target is, and the record that a truncated run keeps.

Surveys simulated inside the present box give an estimate of the target's Θ and the law of its errors (`inference.regression`). A step
cuts each marginal where an error is so large that it happens with probability TAIL, pads what is left by PAD of its width on both
sides and never goes beyond the old support. That far out there are no errors to count: beyond the largest SHARE of them their tail is
taken as exponential, $P(e > u + t) = {\rm SHARE}\, e^{-t / \bar t}$ with the mean excess $\bar t$, which is longer than a normal one.
Within the box the posterior is the same but for its normalisation, so what is inferred differs by the mass that was cut, at most 2 TAIL
a marginal and step.
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

__all__ = [
    "RECORD",
    "TAIL",
    "Cut",
    "Round",
    "Rounds",
    "Step",
    "cut_marginal",
    "piled_up",
    "prior_mass",
    "read_rounds",
    "truncated",
    "write_rounds",
]

RECORD = "rounds.json"
TAIL = 5e-5  # probability cut on either side
PAD = 0.2  # of the width of what is left, on either side
SHARE, FEWEST = 0.05, 20  # share and number of the errors that fix a tail
TINY = 1e-300  # mean excess of errors that are all the same beyond the largest of the others
NEAR = 0.01  # of the width of a box: what counts as its edge, and the share of draws that may lie there


class Cut(NamedTuple):
    """A marginal cut and padded to [low, high]: probability outside before (`cut`) and after padding (`outside`)."""

    low: float
    high: float
    cut: float
    outside: float


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Step(_Frozen):
    """One truncation: the box it led to, what it cut, and by how many surveys inside the box before."""

    surveys: int
    box: dict[str, tuple[float, float]]
    cut: dict[str, float]
    outside: dict[str, float]


class Round(BaseModel):
    """One finished round; its steps lead to the box of the next, and there are none in the last."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)  # what earlier versions recorded of their cuts

    number: int
    folder: str  # relative to the run
    fingerprint: str  # of the training
    surveys: int  # simulated since it was begun, or resumed
    seconds: float  # since then
    volume_ratio: float  # mass of the configured prior inside that of this round
    prior: dict[str, Prior]
    steps: tuple[Step, ...] = ()

    @property
    def box(self) -> dict[str, tuple[float, float]]:
        """Of the next round; empty in the last."""
        return self.steps[-1].box if self.steps else {}


class Rounds(_Frozen):
    """What a training in rounds was made for, and its rounds so far."""

    target: str  # hash of the catalogue
    objects: int
    rounds: int
    fingerprint: str  # of the training that the configuration describes
    configured: dict[str, Prior]
    history: tuple[Round, ...] = ()


class _Tail(NamedTuple):
    """P(e > start + t) = share exp(-t / scale)."""

    share: float
    start: float
    scale: float

    @classmethod
    def of(cls, errors: Float[np.ndarray, "survey"]) -> _Tail:
        """Upper tail of some errors."""
        ordered = np.sort(errors)
        count = max(math.ceil(SHARE * len(ordered)), min(FEWEST, len(ordered) // 2))
        start = float(ordered[-count - 1])
        return cls(count / len(ordered), start, max(float(ordered[-count:].mean()) - start, TINY))

    def edge(self) -> float:
        """What an error exceeds with probability TAIL."""
        return self.start + self.scale * math.log(self.share / TAIL)

    def beyond(self, edge: float) -> float:
        """Probability of an error above an edge."""
        return self.share * math.exp(min(-(edge - self.start) / self.scale, 0.0))


def cut_marginal(estimate: float, errors: Float[np.ndarray, "survey"], support: tuple[float, float]) -> Cut:
    """Cut one marginal where errors are too large to happen, and pad it.

    Args:
        estimate: of the target's parameter.
        errors: of simulated surveys, truth less estimate.
        support: of the old prior, which may be infinite; nothing is lost beyond it.

    Raises:
        ValueError: where errors are not finite, all the same, or fewer than three.
    """
    errors = np.asarray(errors, float)
    if len(errors) < 3 or not np.isfinite(errors).all() or np.ptp(errors) == 0:
        raise ValueError(f"truncation: expected three different finite errors or more, got {errors[:3].tolist()}; train on more surveys")
    below, above = _Tail.of(-errors), _Tail.of(errors)
    low, high = estimate - below.edge(), estimate + above.edge()
    pad = PAD * (high - low)

    def lost(low: float, high: float) -> float:
        left = below.beyond(estimate - low) if low > support[0] else 0.0
        return left + (above.beyond(high - estimate) if high < support[1] else 0.0)

    kept = max(low - pad, support[0]), min(high + pad, support[1])
    if not kept[0] < kept[1]:
        raise ValueError(f"truncation: expected an estimate inside {list(support)}, got {estimate:.6g}; train on more surveys")
    return Cut(*kept, cut=lost(low, high), outside=lost(*kept))


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
