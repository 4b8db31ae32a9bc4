r"""Truncation of a prior to where the Θ of one target is, and the record that a truncated run keeps.

Surveys simulated inside what is left give an estimate of the target's Θ and the law of its errors (`inference.regression`). A step
cuts each marginal where an error is so large that it happens with probability TAIL, pads what is left by PAD of its width on both
sides and never goes beyond the old support. That far out there are no errors to count: beyond the largest SHARE of them their tail is
taken as exponential, $P(e > u + t) = {\rm SHARE}\, e^{-t / \bar t}$ with the mean excess $\bar t$, which is longer than a normal one.

Errors of parameters are correlated, so that most of such a box is empty. The same is therefore done to what the errors of each
parameter are beyond a regression on those of the parameters before it: a `Region` of the box, in which surveys are drawn. Its edges
are thus limits of one parameter given those before it, and flows have no other support than both (`inference.priors`).

Within both the posterior is the same but for its normalisation, so what is inferred differs by the mass that was cut, at most 2 TAIL
a marginal or direction and step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from cigars.config import Config, ConfigError, Prior, Region
from cigars.files import FileError, replacing
from cigars.runs import run_config
from cigars.schema import Marginal

if TYPE_CHECKING:
    import torch

__all__ = [
    "RECORD",
    "TAIL",
    "Cut",
    "Round",
    "Rounds",
    "Step",
    "cut_marginal",
    "cut_region",
    "draw_prior",
    "inside",
    "piled_up",
    "place",
    "prior_mass",
    "read_rounds",
    "read_steps",
    "truncated",
    "volume",
    "write_rounds",
    "write_steps",
]

RECORD, STEPS = "rounds.json", "steps.json"
TAIL = 5e-5  # probability cut on either side
PAD = 0.15  # of the width of what is left, on either side
SHARE, FEWEST = 0.05, 20  # share and number of the errors that fix a tail
SMALLEST = 1e-3  # spread of an error that those before it tell exactly, in units of its own
TRIED, LEAST = 1 << 16, 1e-5  # draws of a prior at a time, and the smallest share of them inside a region
DOUBT = 4.0  # standard errors by which a share has to be too small to be refused; of none inside, after DOUBT² / LEAST draws
COUNTED = 400  # draws inside a region that measure its share to 5 %
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
    """One truncation: the box and the region it led to, what it cut, and by how many surveys inside those before."""

    surveys: int
    box: dict[str, tuple[float, float]]
    cut: dict[str, float]
    outside: dict[str, float]
    region: Region | None = None  # none in former versions
    cut_by_region: float = 0.0  # probability, at most, before its padding


_STEPS = TypeAdapter(tuple[Step, ...])
_Record = TypeVar("_Record")


class Round(BaseModel):
    """One finished round; its steps lead to the box of the next, that of the last to the box of the posteriors."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)  # what earlier versions recorded of their cuts

    number: int
    folder: str  # relative to the run
    fingerprint: str  # of the training of its summary
    surveys: int  # simulated since it was begun, or resumed; of the last with those of the posteriors
    seconds: float  # since then
    volume_ratio: float  # mass of the configured prior inside that of this round
    prior: dict[str, Prior]
    steps: tuple[Step, ...] = ()

    @property
    def box(self) -> dict[str, tuple[float, float]]:
        """That the steps lead to; empty where there were none, as in the last round of former versions."""
        return self.steps[-1].box if self.steps else {}

    @property
    def region(self) -> Region | None:
        """That the steps lead to."""
        return self.steps[-1].region if self.steps else None


class Rounds(_Frozen):
    """What a training in rounds was made for, and its rounds so far."""

    target: str  # hash of the catalogue
    objects: int
    rounds: int
    fingerprint: str  # of the training that the configuration describes
    configured: dict[str, Prior]
    start: str | None = None  # fingerprint of the run whose summary the first round had
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


def cut_region(
    names: Sequence[str], estimate: Float[np.ndarray, "parameter"], errors: Float[np.ndarray, "survey parameter"]
) -> tuple[Region, float]:
    """Cut each parameter given those before it, by what their errors do not tell of its own, and pad.

    Also gives the probability outside before padding, at most.

    Args:
        names: of the parameters.
        estimate: of the target.
        errors: of simulated surveys, truth less estimate.

    Raises:
        ValueError: as `cut_marginal`.
    """
    errors = np.asarray(errors, float)
    directions = np.eye(len(names))
    for k in range(1, len(names)):
        directions[k, :k] = -np.linalg.lstsq(errors[:, :k], errors[:, k], rcond=None)[0]
    directions /= np.maximum((errors @ directions.T).std(0), SMALLEST * errors.std(0))[:, None]
    cuts = [cut_marginal(0.0, errors @ direction, (-math.inf, math.inf)) for direction in directions]
    region = Region(
        names=tuple(names),
        centre=tuple(float(v) for v in estimate),
        directions=tuple(tuple(row) for row in directions.tolist()),
        limits=tuple((cut.low, cut.high) for cut in cuts),
    )
    return region, sum(cut.cut for cut in cuts)


def place(theta: Float[np.ndarray, "draw parameter"], names: Sequence[str], region: Region) -> Float[np.ndarray, "draw direction"]:
    """Where Θ is along the directions of a region, which `region.limits` are about."""
    columns = [list(names).index(name) for name in region.names]
    return (np.asarray(theta, float)[:, columns] - np.array(region.centre)) @ np.array(region.directions).T


def inside(theta: Float[np.ndarray, "draw parameter"], names: Sequence[str], region: Region | None) -> Bool[np.ndarray, "draw"]:
    """Which draws of Θ are in a region; all, if there is none."""
    if region is None:
        return np.ones(len(theta), bool)
    limits, at = np.array(region.limits), place(theta, names, region)
    return np.all((at > limits[:, 0]) & (at < limits[:, 1]), 1)


def draw_prior(config: Config, number: int, seed: int) -> Float[np.ndarray, "draw parameter"]:
    """Free parameters drawn from a prior, in its region.

    Raises:
        ConfigError: for a region that holds less than LEAST of the prior about it, by more than chance would have it.
    """
    return _drawn(config, number, seed)[0][:number]


def _drawn(config: Config, number: int, seed: int) -> tuple[Float[np.ndarray, "draw parameter"], int]:
    """At least so many draws in a region, and of how many of the prior without it they are."""
    found, have, tried = [], 0, 0
    generator = _generator(seed)
    while have < number:  # ends: by a share above LEAST with enough draws, by one below with too few of them inside
        theta = _of_the_box(config, generator)
        found.append(theta[inside(theta, tuple(config.marginals), config.prior.region)])
        have, tried = have + len(found[-1]), tried + len(theta)
        expected = LEAST * tried  # inside, if the share were just allowed, with a variance of as many
        if have < expected - DOUBT * math.sqrt(expected):
            raise ConfigError(f"prior.region: expected a share of the prior above {LEAST:g}, got {have} of {tried} draws; widen its limits")
    return np.concatenate(found), tried


def _generator(seed: int) -> torch.Generator:
    import torch

    return torch.Generator().manual_seed(seed)


def _of_the_box(config: Config, generator: torch.Generator) -> Float[np.ndarray, "draw parameter"]:
    """Some draws of the prior without its region."""
    from inference.priors import Prior as Sampler

    return Sampler(config.marginals).sample((TRIED,), generator).double().numpy()


def truncated(config: Config, box: Mapping[str, Sequence[float]], region: Region | None = None) -> Config:
    """The configuration with its prior cut to a box and to a region: a uniform becomes narrower, a normal the same within its limits."""
    priors = {name: _narrowed(getattr(config.prior, name), *limits) for name, limits in box.items()}
    changes: dict[str, object] = {f"prior.{name}": prior.model_dump(exclude_none=True) for name, prior in priors.items()}
    return config.updated(**changes, **({"prior.region": region.model_dump()} if region else {}))


def _narrowed(prior: Prior, low: float, high: float) -> Prior:
    if prior.fixed is not None:
        raise ConfigError(f"truncation: expected a free parameter, got one fixed at {prior.fixed}; leave it out of the box")
    marginal = prior.marginal
    limits = max(low, marginal.low), min(high, marginal.high)
    return Prior(uniform=limits) if prior.uniform else Prior(normal=prior.normal, within=limits)


def prior_mass(prior: Mapping[str, Marginal], box: Mapping[str, Marginal]) -> float:
    """Mass of a prior inside the limits of another, as a product over its parameters."""
    return math.prod(_mass(m, box[name].low, box[name].high) / _mass(m, m.low, m.high) for name, m in prior.items())


def volume(config: Config, inner: Config) -> float:
    """Mass of a prior that is inside another, which is a part of it, regions included."""
    return prior_mass(config.marginals, inner.marginals) * _share(inner) / _share(config)


def _share(config: Config) -> float:
    """Of a prior, inside its region."""
    if config.prior.region is None:
        return 1.0
    found, tried = _drawn(config, COUNTED, 0)
    return len(found) / tried


def _mass(marginal: Marginal, low: float, high: float) -> float:
    if marginal.kind == "uniform":
        return high - low
    below, above = (math.erf((edge - marginal.loc) / (marginal.scale * math.sqrt(2))) for edge in (low, high))
    return (above - below) / 2


def piled_up(
    draws: Mapping[str, np.ndarray], box: Mapping[str, Marginal], configured: Mapping[str, Marginal], region: Region | None = None
) -> list[str]:
    """Parameters with more than a share NEAR of their draws within NEAR of the width from an edge that truncation made.

    Of an edge of a region, the parameter whose spread over the draws counts most in its direction.
    """
    names = [name for name, limits in box.items() if any(_near(draws[name], limits, configured[name]))]
    if region is None:
        return names
    theta = np.stack([draws[name] for name in region.names], -1)
    at, limits = place(theta, region.names, region), np.array(region.limits)
    width = NEAR * (limits[:, 1] - limits[:, 0])
    cut = (np.mean(at < limits[:, 0] + width, 0) > NEAR) | (np.mean(at > limits[:, 1] - width, 0) > NEAR)
    most = (np.abs(region.directions) * theta.std(0)).argmax(1)
    return list(dict.fromkeys(names + [region.names[most[k]] for k in np.nonzero(cut)[0]]))


def _near(draws: np.ndarray, box: Marginal, configured: Marginal) -> list[bool]:
    width = NEAR * (box.high - box.low)
    left = box.low > configured.low and float(np.mean(draws < box.low + width)) > NEAR
    right = box.high < configured.high and float(np.mean(draws > box.high - width)) > NEAR
    return [left, right]


def read_rounds(run: str | Path) -> Rounds | None:
    """The record of a run folder; None where the run was not trained for a target."""
    return _read(Path(run) / RECORD, Rounds.model_validate_json)


def read_steps(folder: str | Path) -> tuple[Step, ...]:
    """The steps that a round found, of its folder; none where it has not."""
    return _read(Path(folder) / STEPS, _STEPS.validate_json) or ()


def _read(path: Path, parse: Callable[[str], _Record]) -> _Record | None:
    if not path.is_file():
        return None
    try:
        return parse(path.read_text())
    except (OSError, ValueError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise FileError(f"run folder {path.parent}: cannot read {path.name}: {reason}; train again") from None


def untruncated(run: str | Path) -> Config:
    """The configuration of a run folder, with the prior that it had before rounds cut it to where their target is."""
    config, record = run_config(run), read_rounds(run)
    if record is None:
        return config
    return config.updated(**{f"prior.{n}": p.model_dump(exclude_none=True) for n, p in record.configured.items()}, **{"prior.region": None})


def write_rounds(run: str | Path, rounds: Rounds) -> None:
    """Keep the record in a run folder, whole or not at all."""
    with replacing(Path(run) / RECORD, overwrite=True) as path:
        path.write_text(rounds.model_dump_json(indent=1, exclude_none=True))


def write_steps(folder: str | Path, steps: tuple[Step, ...]) -> None:
    """Keep the steps of a round in its folder, before what takes long is begun in the box that they lead to."""
    with replacing(Path(folder) / STEPS, overwrite=True) as path:
        path.write_bytes(_STEPS.dump_json(steps, indent=1, exclude_none=True))
