r"""Posteriors of a survey: global, of each object, and their joint.

The global posterior is the mixture of an ensemble, $q = \frac1K \sum_k q_k$: what its members do not agree about widens it.

Given Θ the objects are independent, so p(Θ, ℓ_1 … ℓ_N | D) = p(Θ | D) Π_i p(ℓ_i | d_i, Θ): draw k of the joint posterior is Θ_k of the
global flow and ℓ_ik of the local flow at that same Θ_k.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from cigars.schema import LOCALS, Observations, Survey

from .batches import Packed, pack
from .estimators import GlobalEstimator
from .model import Trained
from .priors import Prior
from .standardise import RANGE_NAMES, range_columns
from .threads import side_by_side
from .train import _mix

__all__ = ["GlobalModel", "GlobalPosterior", "LocalPosterior", "RangeIssue", "check_range", "outside_objects"]

CHUNK = 32768  # rows that the global flow samples at a time
BLOCK = 64  # objects whose draws are handed on together
PAIRS = {"cpu": 32768, "cuda": 1 << 20}  # of an object and a draw, sampled at a time


class RangeIssue(NamedTuple):
    """A quantity outside what training saw: how many values are, and the one farthest out."""

    name: str
    low: float
    high: float
    outside: int
    worst: float


class GlobalModel(Protocol):
    """The networks behind q(Θ | survey), as in `Trained`."""

    @property
    def summary(self) -> nn.Module:
        """Fixed summary of packed surveys."""
        ...

    @property
    def estimators(self) -> list[GlobalEstimator]:
        """Members of the ensemble."""
        ...

    @property
    def prior(self) -> Prior:
        """Prior of the free global parameters."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the free global parameters, in order."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the weights live."""
        ...


class GlobalPosterior:
    """q(Θ | survey) of an ensemble: the mixture of its members.

    Args:
        trained: a trained model, or its global part.
    """

    def __init__(self, trained: GlobalModel) -> None:
        self.trained, self.names, self.prior = trained, trained.names, trained.prior

    @torch.no_grad()
    def contexts(self, survey: Survey | Packed) -> list[Tensor]:
        """What each member of the ensemble knows of the surveys, [survey, context], for `sample_at`."""
        packed = survey if isinstance(survey, Packed) else pack(survey, device=self.trained.device)
        summary = self.trained.summary(packed)
        return [member.context(summary, packed) for member in self.trained.estimators]

    @torch.no_grad()
    def sample(self, draws: int, survey: Survey | Packed, seed: int = 0) -> Float[Tensor, "draw survey parameter"]:
        """Draws of each survey's posterior; the set is encoded once."""
        return self.sample_at(self.contexts(survey), draws, seed)

    @torch.no_grad()
    def sample_at(self, contexts: Sequence[Tensor], draws: int, seed: int = 0) -> Float[Tensor, "draw survey parameter"]:
        """Draws given `contexts`, of several batches of surveys put together if need be: calling the flows costs more than they do."""
        members = self.trained.estimators
        each, step = math.ceil(draws / len(members)), max(CHUNK // max(len(contexts[0]), 1), 1)
        sizes = [min(step, each - start) for start in range(0, each, step)]
        if not sizes:
            return torch.empty(0, len(contexts[0]), len(self.names), device=self.trained.device)
        with _seeded(seed, self.trained.device):
            out = torch.cat([m.flow.sample((size,), c) for m, c in zip(members, contexts, strict=True) for size in sizes])
            order = torch.rand(out.shape[:2], device=out.device).argsort(0)  # of each survey its own: members are not asked alike
        return out.gather(0, order[:draws, :, None].expand(-1, -1, out.shape[-1]))

    @torch.no_grad()
    def log_prob(self, theta: Float[Tensor, "draw survey parameter"], survey: Survey | Packed) -> Float[Tensor, "draw survey"]:
        """ln q(Θ | survey) of each survey; -inf outside the prior."""
        support = self.trained.estimators[0].prior
        inside = torch.isfinite(support.log_prob(theta))
        safe, members = torch.where(inside[..., None], theta, support.mean), self.trained.estimators
        each = torch.stack([m.flow.log_prob(safe, c) for m, c in zip(members, self.contexts(survey), strict=True)])
        return torch.where(inside, torch.logsumexp(each, 0) - math.log(len(members)), -torch.inf)


class LocalPosterior:
    """q(ℓ | d, Θ) of each object.

    Args:
        trained: a trained model.
        objects: how many of them make a block.
        pairs: of an object and a draw that are sampled at a time; by default what suits the caches of a CPU, or a GPU.
    """

    def __init__(self, trained: Trained, objects: int = BLOCK, pairs: int | None = None) -> None:
        self.estimator, self.device, self.objects, self.names = trained.local, trained.device, objects, LOCALS
        self.pairs = pairs or PAIRS.get(self.device.type, PAIRS["cpu"])

    def blocks(
        self, observations: Observations, theta: Float[Tensor, "draw parameter"], seed: int = 0, keys: Sequence[int] | None = None
    ) -> Iterator[tuple[slice, Float[Tensor, "draw block unknown"]]]:
        """One draw of every object at each Θ, by blocks of objects: which objects, and their draws.

        Args:
            observations: packed objects.
            theta: draws of Θ.
            seed: of the draws.
            keys: one an object, its own random stream whatever its place and company; by default its number.
        """
        keys, size = range(len(observations.m)) if keys is None else keys, len(observations.m)

        @torch.no_grad()  # of the thread it runs in
        def block(start: int) -> tuple[slice, Tensor]:
            rows = slice(start, min(start + self.objects, size))
            given = self.estimator.conditions(Observations(*(leaf[rows] for leaf in observations)))
            step = max(self.pairs // (rows.stop - rows.start), 1)
            normal = self._noise(keys[rows], len(theta), seed)
            parts = zip(theta.split(step), normal.split(step), strict=True)
            return rows, torch.cat([self.estimator.sample(given, some, noise) for some, noise in parts])

        starts = range(0, size, self.objects)
        yield from side_by_side(block, starts) if self.device.type == "cpu" else map(block, starts)

    def _noise(self, keys: Sequence[int], draws: int, seed: int) -> Float[Tensor, "draw object unknown"]:
        generator, size = torch.Generator(), self.estimator.size
        each = [torch.randn(draws, size, generator=generator.manual_seed(_mix(seed, key))) for key in keys]
        return torch.stack(each, 1).to(self.device)

    def sample(
        self, observations: Observations, theta: Float[Tensor, "draw parameter"], seed: int = 0, keys: Sequence[int] | None = None
    ) -> Float[Tensor, "draw object unknown"]:
        """The same draws of all objects, [draw, object, unknown]."""
        out = torch.empty(len(theta), len(observations.m), len(LOCALS), device=self.device)
        for rows, draws in self.blocks(observations, theta, seed, keys):
            out[:, rows] = draws
        return out

    @torch.no_grad()
    def log_prob(self, local: Tensor, observations: Observations, theta: Float[Tensor, "object parameter"]) -> Float[Tensor, "object"]:
        """ln q(ℓ_i | d_i, Θ_i) row by row."""
        return self.estimator.log_prob(local, observations, theta)


def check_range(trained: Trained, survey: Survey | Packed, band_names: tuple[str, ...] = (), margin: float = 0.02) -> list[RangeIssue]:
    """What of a survey lies outside the range of the training objects, widened by a fraction `margin` of it; empty if all is inside.

    Args:
        trained: a trained model.
        survey: the survey to be inferred.
        band_names: for the names of magnitudes; numbered without.
        margin: share of the trained range by which it is widened.
    """
    packed = survey if isinstance(survey, Packed) else pack(survey, device=trained.device)
    standardiser = trained.local.standardiser
    bands = band_names or tuple(str(b) for b in range(standardiser.bands))
    if packed.observations.mag.shape[-1] != standardiser.bands:
        raise ValueError(
            f"magnitudes: expected {standardiser.bands} bands, got {packed.observations.mag.shape[-1]}; use the bands of the training"
        )
    names = [*(f"mag_{b}" for b in bands), *(f"mag_err_{b}" for b in bands), *RANGE_NAMES]
    values, excess, outside = _excess(trained, packed, margin)
    issues = []
    for k, name in enumerate(names):
        if bool(outside[:, k].any()):
            worst = values[torch.where(outside[:, k], excess[:, k], -torch.inf).argmax(), k]
            issues.append(RangeIssue(name, float(standardiser.low[k]), float(standardiser.high[k]), int(outside[:, k].sum()), float(worst)))
    for number, exposure in zip(packed.number.tolist(), packed.exposure.tolist(), strict=True):
        low, high = _numbers(trained.meta, exposure)
        if not low <= number <= high:
            issues.append(RangeIssue("number of objects", low, high, 1, number))
    return issues


def _numbers(meta: Mapping[str, Any], exposure: float) -> tuple[float, float]:
    """Fewest and most objects that a survey of an exposure can have.

    Where the training varied the exposure, its smallest survey had nearly the least exposure and its largest the most: by these the
    rate is known, and widened by a quarter of its range in ln on both sides.
    """
    low, high = meta["number_range"]
    least, most = meta.get("configuration", {}).get("size", {}).get("exposure", (1.0, 1.0))
    if least == most:
        return low, high
    fewest, largest = max(low, 1) / least, high / most
    if fewest >= largest:
        return low, high
    ratio = (largest / fewest) ** 0.25
    return max(low, fewest / ratio * exposure), min(high, largest * ratio * exposure)


def outside_objects(trained: Trained, survey: Survey | Packed, margin: float = 0.02) -> Bool[Tensor, "object"]:
    """Which objects have a value outside the range of the training objects, widened as in `check_range`."""
    packed = survey if isinstance(survey, Packed) else pack(survey, device=trained.device)
    return _excess(trained, packed, margin)[2].any(1)


def _excess(trained: Trained, packed: Packed, margin: float) -> tuple[Tensor, Tensor, Tensor]:
    """Values, how far each is beyond the widened range, and which are, all [object, column]."""
    standardiser = trained.local.standardiser
    values = range_columns(packed.observations)
    pad = margin * (standardiser.high - standardiser.low).clamp(min=1e-6)
    excess = torch.maximum(values - standardiser.high - pad, standardiser.low - pad - values)
    return values, excess, torch.isfinite(values) & ~(excess <= 0)


class _seeded:
    """Random state of torch set from a seed, and put back after."""

    def __init__(self, seed: Any, device: torch.device) -> None:
        self.seed, self.fork = seed, torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])

    def __enter__(self) -> None:
        self.fork.__enter__()
        torch.manual_seed(self.seed)

    def __exit__(self, *error: Any) -> None:
        self.fork.__exit__(*error)
