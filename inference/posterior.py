r"""Posteriors of a survey: global, of each object, and their joint.

The global posterior is the mixture of an ensemble or, where held-out surveys allow it (`held_out_credibility`), its logarithmic pool
$q = \frac1Z \prod_k q_k^{1/K}$ (Genest & Zidek 1986): each member is as wide as its own error makes it, and a mixture counts what they
disagree about a second time, unless they err alike. A geometric mean is nowhere above the arithmetic one, so that draws of the mixture,
kept with the probability of their ratio, are draws of the pool, and Z is the share kept.

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
from torch.quasirandom import SobolEngine

from cigars.schema import LOCALS, Observations, Survey

from .batches import Packed, pack
from .estimators import GlobalEstimator
from .model import Trained
from .priors import Prior
from .standardise import RANGE_NAMES, range_columns
from .threads import side_by_side
from .train import _mix

__all__ = ["COVERED", "GlobalModel", "GlobalPosterior", "HeldOut", "LocalPosterior", "RangeIssue", "check_range", "outside_objects"]

CHUNK = 32768  # rows that the global flow samples at a time
ROUNDS = 64  # of rejection, after which members disagree so much that the best of what they propose is taken
NORMALISING = 128  # draws for ln Z, whose error is then some .02
COVERED = 0.68  # by the central intervals of `HeldOut`
BLOCK = 64  # objects whose draws are handed on together
PAIRS = {"cpu": 32768, "cuda": 1 << 20}  # of an object and a draw, sampled at a time


class RangeIssue(NamedTuple):
    """A quantity outside what training saw: how many values are, and the one farthest out."""

    name: str
    low: float
    high: float
    outside: int
    worst: float


class HeldOut(NamedTuple):
    """Mean credibility of the regions of highest density that end at the truth, 1/2 if right and more if too narrow; and the share of
    parameters inside the central intervals of 68 %, with its error: those of one survey are not independent."""

    credibility: float
    coverage: float
    coverage_error: float


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
    def pooled(self) -> bool:
        """Whether the ensemble is put together as a logarithmic pool, and not as a mixture."""
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
    """q(Θ | survey) of an ensemble: the mixture of its members, or their logarithmic pool.

    Args:
        trained: a trained model, or its global part.
    """

    def __init__(self, trained: GlobalModel) -> None:
        self.trained, self.names, self.prior = trained, trained.names, trained.prior
        self.pooled = trained.pooled and len(trained.estimators) > 1

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
        surveys, device = len(contexts[0]), self.trained.device
        out = torch.empty(draws, surveys, len(self.names), device=device)
        have, left, kept = torch.zeros(surveys, dtype=torch.long, device=device), torch.arange(surveys, device=device), 0.8
        with _seeded(seed, device):
            if not self.pooled:
                return self._of_mixture(contexts, draws)[:draws]
            for number in range(ROUNDS):
                if not draws or not len(left):
                    break
                proposed, ln_ratio = self._proposed([c[left] for c in contexts], math.ceil(int((draws - have[left]).max()) / kept))
                if number == ROUNDS - 1:
                    best = torch.distributions.Categorical(logits=ln_ratio.T).sample((draws,))
                    proposed, ln_ratio = proposed.gather(0, best[..., None].expand(-1, -1, proposed.shape[-1])), torch.zeros_like(best)
                keep = torch.rand(ln_ratio.shape, device=device) < ln_ratio.exp()
                place = have[left] + keep.cumsum(0) - 1
                row, column = torch.nonzero(keep & (place < draws), as_tuple=True)
                out[place[row, column], left[column]] = proposed[row, column]
                have[left] += keep.sum(0)
                kept = min(max(float(keep.float().mean()), 0.05), 0.9)
                left = left[have[left] < draws]
        return out

    def _proposed(self, contexts: Sequence[Tensor], draws: int) -> tuple[Tensor, Tensor]:
        """At least so many draws of the mixture [draw, survey, parameter], and at each the ln ratio of pool and mixture."""
        theta = self._of_mixture(contexts, draws)
        step = max(CHUNK // max(len(contexts[0]), 1), 1)
        return theta, torch.cat(
            [pool - mixture for pool, mixture in (self._pool_and_mixture(part, contexts) for part in theta.split(step))]
        )

    def _of_mixture(self, contexts: Sequence[Tensor], draws: int) -> Float[Tensor, "draw survey parameter"]:
        """At least so many draws of the mixture, in random order."""
        members = self.trained.estimators
        each, step = math.ceil(draws / len(members)), max(CHUNK // max(len(contexts[0]), 1), 1)
        sizes = [min(step, each - start) for start in range(0, each, step)]
        out = torch.cat([m.flow.sample((size,), c) for m, c in zip(members, contexts, strict=True) for size in sizes])
        order = torch.rand(out.shape[:2], device=out.device).argsort(0)  # of each survey its own
        return out.gather(0, order[..., None].expand_as(out))

    def _pool_and_mixture(self, theta: Tensor, contexts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """ln of the pool, not normalised, and of the mixture [draw, survey]."""
        each = torch.stack([m.flow.log_prob(theta, c) for m, c in zip(self.trained.estimators, contexts, strict=True)])
        return each.mean(0), torch.logsumexp(each, 0) - math.log(len(each))

    @torch.no_grad()
    def log_prob(self, theta: Float[Tensor, "draw survey parameter"], survey: Survey | Packed) -> Float[Tensor, "draw survey"]:
        """ln q(Θ | survey) of each survey; -inf outside the prior."""
        support = self.trained.estimators[0].prior
        inside = torch.isfinite(support.log_prob(theta))
        safe = torch.where(inside[..., None], theta, support.mean)
        contexts = self.contexts(survey)
        pool, mixture = self._pool_and_mixture(safe, contexts)
        return torch.where(inside, pool - self._ln_normaliser(contexts) if self.pooled else mixture, -torch.inf)

    @torch.no_grad()
    def held_out(self, theta: Float[Tensor, "survey parameter"], contexts: Sequence[Tensor], draws: int = 99) -> HeldOut:
        """Whether regions are as large as the errors of surveys with known Θ.

        Args:
            theta: true parameters.
            contexts: of the same surveys.
            draws: of each.
        """
        every = torch.cat([theta[None], self.sample_at(contexts, draws)])
        step, kind = max(CHUNK // max(len(theta), 1), 1), 0 if self.pooled else 1
        ln_q = torch.cat([self._pool_and_mixture(part, contexts)[kind] for part in every.split(step)])
        place = (every[1:] < every[0]).sum(0) / draws - 0.5
        inside = (place.abs() < COVERED / 2).double().mean(1)
        error = float(inside.std()) / len(inside) ** 0.5 if len(inside) > 1 else math.inf
        return HeldOut(float((ln_q[1:] > ln_q[0]).float().mean()), float(inside.mean()), error)

    def _ln_normaliser(self, contexts: Sequence[Tensor]) -> Float[Tensor, "survey"]:
        """ln Z of each survey: mean ratio of pool and mixture at the same points of every base, whatever its company."""
        members, surveys = self.trained.estimators, len(contexts[0])
        points = SobolEngine(len(self.names), scramble=True, seed=0).draw(max(NORMALISING // len(members), 1))
        noise = torch.special.ndtri(points.clamp(1e-6, 1 - 1e-6)).to(self.trained.device)
        step, ratios = max(CHUNK // max(surveys, 1), 1), []
        for some in noise.split(step):
            base = some[:, None].expand(-1, surveys, -1)
            for member, context in zip(members, contexts, strict=True):
                pool, mixture = self._pool_and_mixture(member.flow.net(context).transform.inv(base), contexts)
                ratios.append(pool - mixture)
        return torch.logsumexp(torch.cat(ratios), 0) - math.log(len(points) * len(members))


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
