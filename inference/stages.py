"""The five stages of a training, each kept on disk, and the survey numbers that each uses.

Numbers of held-out surveys come first, so that they stay the same when the training grows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from cigars.schema import DistanceTable, Latents, Observations

from .batches import Packed, Source, hide, join, pack, select, subset
from .density import SummaryDensity
from .embedding import FeatureMoments, SetEncoder
from .ensemble import Ensemble
from .estimators import GlobalEstimator
from .local import LocalEstimator, local_marginals, local_values
from .one_step import CENTRE, train_one_step
from .parallel import processes, rank, span, wait_for_all
from .prefetch import ahead, one_ahead
from .priors import Prior
from .score import JointScore
from .standardise import Standardiser, Whitening
from .summaries import LocalRegressor, Moments, local_targets
from .threads import by_surveys
from .train import History, Report, Settings, load_checkpoint, optimise, random_state, save_checkpoint, shuffled, silent

if TYPE_CHECKING:
    from cigars.config import TrainingConfig

__all__ = ["LOCAL_RATE", "REGRESSOR_WIDTH", "Split", "Stages", "random_hiding", "split", "stream", "summarised", "surveys_used", "unpack"]

REGRESSOR_WIDTH = 96
PART = 1024  # surveys a file of summaries
PASSES = 2  # of the local regressor and the local flow over the objects, in units of `local_epochs`
REGRESSOR_RATE = 6e-3
CLIP = 5.0  # of the gradient of one global estimator
HEAD_DECAY = 0.1  # of the weights of global estimators, which else learn the noise of some 10,000 surveys
LOCAL_RATE = 4e-3
DENSITY_RATE, DENSITY_BATCH, DENSITY_EPOCHS = 1e-2, 128, 30
HIDDEN_BANDS = 0.1  # share of training objects that lose bands, each with probability a third
Built = TypeVar("Built", bound=nn.Module)
Beside = Callable[[Callable[[], None]], tuple[Built, dict[str, Any]]]
"""A training that may go on beside another (`threads.beside`), and gives the network and its curve."""


class Split(NamedTuple):
    """First survey number of each use; the ranges do not overlap."""

    validation: int
    calibration: int
    regression: int
    pilot: int
    centre: int
    summaries: int
    live: int


def split(training: TrainingConfig) -> Split:
    """Survey numbers of a training."""
    calibration = training.validation_surveys
    regression = calibration + training.calibration_surveys
    pilot = regression + training.surveys
    pilots = training.pilot_surveys if training.encoder == "score" else 0
    centre = pilot + (1 + training.refinements) * pilots
    summaries = centre + CENTRE * pilots
    return Split(0, calibration, regression, pilot, centre, summaries, summaries + training.surveys)


def surveys_used(training: TrainingConfig) -> int:
    """Surveys 0, 1, … that a training can ask its source for, all in whole batches; the largest number is one less."""
    at, batch, last = split(training), training.batch_surveys, (training.surveys - 1) // PART * PART
    ends = [at.summaries + last + math.ceil((training.surveys - last) / batch) * batch]
    if training.encoder in ("set", "both"):
        ends.append(at.live + training.ensemble * max(training.surveys // batch, 1) * batch)
    return max(ends)


def stream(
    source: Source, first: int, total: int, batch: int, names: Sequence[str], device: str | torch.device = "cpu"
) -> Iterator[Packed]:
    """Packed batches of surveys first, ..., first + total - 1; the source is always asked for whole batches, of one shape.

    On an accelerator the next batch is in the making while the caller works on one.
    """
    count = math.ceil(total / batch)
    with one_ahead(lambda i: pack(source(first + i * batch, batch), names, device), ahead(device, count)) as packed_batch:
        for i in range(count):
            packed, left = packed_batch(i), total - i * batch
            yield packed if batch <= left else select(packed, range(left))


def random_hiding(observations: Observations, hide_sn: float, hide_z_spec: float, generator: torch.Generator | None = None) -> Observations:
    """Hide supernova light, redshifts and bands of random objects, so that one network answers with whatever is given."""
    mag = observations.mag

    def chance(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator).to(mag.device)

    n = len(mag)
    bands = (chance(n, 1) < HIDDEN_BANDS) & (chance(*mag.shape) < 1 / 3)
    return hide(observations, bands, chance(n) < hide_sn, chance(n) < hide_z_spec)


class Stages:
    """The stages of one training, with what they share."""

    def __init__(
        self,
        source: Source,
        training: TrainingConfig,
        seed: int,
        prior: Prior,
        distance: DistanceTable,
        folder: Path,
        device: torch.device,
        report: Report,
        joint_score: JointScore | None = None,
        fixed: Mapping[str, float] | None = None,
        support: Prior | None = None,
    ) -> None:
        self.joint_score, self.fixed = joint_score, dict(fixed or {})
        self.source, self.training, self.seed, self.prior, self.distance = source, training, seed, prior, distance
        self.folder, self.device, self.report = folder, device, report
        self.support = support or prior  # of the global posterior
        self.at = split(training)

    def _stream(self, first: int, total: int) -> Iterator[Packed]:
        return stream(self.source, first, total, self.training.batch_surveys, self.prior.names, self.device)

    def seeded(self, tag: int, build: Callable[[], Built]) -> Built:
        """Build networks from a seed of their own, whatever was drawn before."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed * 1009 + tag)
            return build()

    def held_out(self) -> Packed:
        """The fixed validation surveys."""
        parts = []
        for packed in self._stream(self.at.validation, self.training.validation_surveys):
            parts.append(packed)
            self.report("validation", sum(len(p.lengths) for p in parts), self.training.validation_surveys)
        return join(parts)

    def summary(self, held: Packed) -> nn.Module:
        """Stage 1: the fixed summary, with the local regressor of the physics moments trained on single objects."""
        t, parts, count, done = self.training, [], 0, 0
        while count < t.objects and done < t.surveys:
            packed = pack(self.source(self.at.regression + done, t.batch_surveys), self.prior.names, self.device)
            left = t.surveys - done  # beyond are the surveys of the first estimate
            parts.append(packed if t.batch_surveys <= left else select(packed, range(left)))
            done, count = done + t.batch_surveys, count + len(parts[-1].observations.m)
            self.report("objects", min(count, t.objects), t.objects)
        data = join(parts)
        bands = data.observations.mag.shape[-1]
        if t.encoder == "set":
            return FeatureMoments(Standardiser(bands).to(self.device).fit(data.observations))
        if data.latents is None or held.latents is None:
            raise ValueError("source: expected latents with every simulated survey, got none; the local regressor needs them")
        targets, sample = (
            local_targets(data.latents),
            subset(held, max(16384 // len(held.lengths), 16), torch.Generator().manual_seed(self.seed)),
        )
        net: LocalRegressor = (
            self.seeded(1, lambda: LocalRegressor(bands, REGRESSOR_WIDTH)).to(self.device).fit_scales(data.observations, targets)
        )
        with torch.no_grad():
            inputs, held_inputs = net.standardiser(data.observations), net.standardiser(sample.observations)
        held_targets = local_targets(sample.latents)  # type: ignore[arg-type]
        batch = min(2048, len(inputs))
        rows = shuffled(len(inputs), batch, self.seed)
        every = max(len(inputs) // batch // 2, 1)
        settings = Settings(2 * PASSES * t.local_epochs * every, every, REGRESSOR_RATE, patience=t.patience, seed=self.seed)
        optimise(
            net, net.loss, lambda s: (inputs[rows(s)], targets[rows(s)]), lambda: float(net.loss(held_inputs, held_targets).mean()),
            settings, self.folder / "regressor.pt", self.report, "regressor",
        )  # fmt: skip
        moments = Moments(net, self.distance).to(self.device).eval()
        return train_one_step(self, moments) if t.encoder == "score" else moments

    def summaries(self, summary: nn.Module) -> tuple[Tensor, Tensor, Packed, list[int]]:
        """Stage 2: summary and Θ of every survey, a few objects of each for the local flow, and the range of their numbers."""
        t = self.training
        return self.table("summaries", summary, self.at.summaries, t.surveys, max(math.ceil(t.objects / t.surveys), 1))

    def table(
        self, name: str, summary: Callable[[Packed], Tensor], first: int, total: int, keep: int
    ) -> tuple[Tensor, Tensor, Packed, list[int]]:
        """Summaries of surveys first, ..., first + total - 1 by parts kept on disk, their Θ, `keep` objects of each, range of numbers."""
        return summarised(
            name, self.source, summary, self.prior.names, first, total, self.training.batch_surveys, self.folder, self.device, self.report,
            keep=keep, seed=self.seed,
        )  # fmt: skip

    def held_summary(self, summary: nn.Module, held: Packed) -> Tensor:
        """Summary of every validation survey."""
        parts = [range(i, min(i + 64, len(held.lengths))) for i in range(0, len(held.lengths), 64)]
        return torch.cat([by_surveys(summary, select(held, part)) for part in parts])

    def members(
        self, summary: nn.Module, table: Tensor, theta: Tensor, held: Packed, held_table: Tensor
    ) -> tuple[list[GlobalEstimator], dict[str, Any]]:
        """Stage 3: the ensemble of global estimators, their heads together, then each learned encoder."""
        whitening = Whitening.fit(table)
        members = [
            self.seeded(100 + k, lambda: self._member(summary, whitening)).to(self.device).fit_skip(table, theta)
            for k in range(self.training.ensemble)
        ]
        curves = {"global": _curve(self._train_heads(members, table, theta, held_table, held.theta))}
        for k, net in enumerate(members):
            if net.encoder is not None:
                curves[f"encoder-{k}"] = _curve(self._train_encoder(net, k, summary, held_table, held))
        return members, curves

    def _member(self, summary: nn.Module, whitening: Whitening) -> GlobalEstimator:
        encoder = None if self.training.encoder in ("score", "moments") else SetEncoder(summary.standardiser)  # type: ignore[arg-type]
        return GlobalEstimator(self.support, whitening, encoder, dropout=self.training.dropout)

    def _train_heads(self, members: list[GlobalEstimator], table: Tensor, theta: Tensor, held_table: Tensor, held_theta: Tensor) -> History:
        t, ensemble = self.training, Ensemble(members).to(self.device)
        batch = min(t.flow_batch, len(table))
        orders = [shuffled(len(table), batch, self.seed + 7 * k) for k in range(len(members))]
        every = max(len(table) // t.flow_batch, 1)
        settings = Settings(
            t.flow_epochs * every, every, t.flow_learning_rate, weight_decay=HEAD_DECAY, patience=t.flow_epochs,
            clip=CLIP / len(members) ** 0.5,  # the loss is their mean
            seed=self.seed,
        )  # fmt: skip

        def batches(step: int) -> tuple[Tensor, Tensor]:
            rows = torch.stack([order(step) for order in orders])
            return theta[rows], table[rows]

        history = optimise(
            ensemble, ensemble.loss, batches, lambda: float(ensemble.mixture_loss(held_theta, held_table).mean()), settings,
            self.folder / "global.pt", self.report, "global",
        )  # fmt: skip
        ensemble.write_back()
        for member in members:
            member.eval()
        return history

    def _train_encoder(self, net: GlobalEstimator, k: int, summary: nn.Module, held_table: Tensor, held: Packed) -> History:
        """Encoder and head together on live surveys, none of them seen twice."""
        t = self.training
        steps = max(t.surveys // t.batch_surveys, 1)
        mine, each = span(t.batch_surveys)
        first = self.at.live + k * steps * t.batch_surveys + mine

        def simulated(step: int) -> Packed:
            return pack(self.source(first + step * t.batch_surveys, each), self.prior.names, self.device)

        def batch(step: int) -> tuple[Tensor, Tensor, Packed]:
            packed = next_batch(step)
            return packed.theta, summary(packed), packed

        every = max(steps // 20, 1)
        settings = Settings(steps, every, 0.5 * t.learning_rate, patience=t.patience, seed=self.seed + 7 * k + 3, small=False)
        with one_ahead(simulated, ahead(self.device, steps)) as next_batch:
            return optimise(
                net, net.loss, batch, lambda: float(net.loss(held.theta, held_table, held).mean()), settings,
                self.folder / f"encoder-{k}.pt", self.report, "encoder",
            )  # fmt: skip

    def local(self, objects: Packed, held: Packed) -> Beside[LocalEstimator]:
        """Stage 4: the training of the flow of each object's unknowns given its data and Θ, which needs nothing of stage 3.

        Nothing of it touches torch's random state once it has begun, so that it may go on beside that. It calls what it is given at
        every step, to be stopped by an error there.
        """
        t = self.training
        if objects.latents is None or held.latents is None:
            raise ValueError("source: expected latents with every simulated survey, got none; the local flow needs them")
        values, theta = local_values(objects.latents), objects.theta.repeat_interleave(objects.lengths, 0)
        sample = subset(held, max(8192 // len(held.lengths), 8), torch.Generator().manual_seed(self.seed + 1))
        held_values, held_theta = local_values(sample.latents), sample.theta.repeat_interleave(sample.lengths, 0)  # type: ignore[arg-type]
        held_data = random_hiding(sample.observations, t.hide_sn, t.hide_z_spec, torch.Generator().manual_seed(self.seed + 2))
        reference = Prior(local_marginals(torch.cat([values, held_values])), self.device)
        bands = objects.observations.mag.shape[-1]
        net: LocalEstimator = self.seeded(2, lambda: LocalEstimator(reference, self.prior, bands)).to(self.device)
        net.standardiser.fit(objects.observations)
        batch = min(1024, len(values))
        rows = shuffled(len(values), batch, self.seed + 11)

        every = max(len(values) // batch // 2, 1)
        steps = 2 * PASSES * t.local_epochs * every
        settings = Settings(steps, every, LOCAL_RATE, patience=steps, seed=None)

        def trained(go_on: Callable[[], None]) -> tuple[LocalEstimator, dict[str, Any]]:
            def arguments(step: int) -> tuple[Tensor, Observations, Tensor]:
                go_on()
                i, state = rows(step), random_state(self.seed + 5, step)
                observations = Observations(*(leaf[i] for leaf in objects.observations))
                return values[i], random_hiding(observations, t.hide_sn, t.hide_z_spec, state), theta[i]

            self.report("local", 0, steps)
            history = optimise(
                net, net.loss, arguments, lambda: float(net.loss(held_values, held_data, held_theta).mean()), settings,
                self.folder / "local.pt", self.report, "local",
            )  # fmt: skip
            return net, _curve(history)

        return trained

    def density(self, table: Tensor, held_table: Tensor) -> Beside[SummaryDensity]:
        """Stage 5: the training of the density of the summary itself, by which a survey is told from simulated ones; as `local`."""
        net = self.seeded(6, lambda: SummaryDensity(Whitening.fit(table))).to(self.device)
        batch = min(DENSITY_BATCH, len(table))
        rows, every = shuffled(len(table), batch, self.seed + 53), max(len(table) // batch, 1)
        settings = Settings(DENSITY_EPOCHS * every, every, DENSITY_RATE, patience=DENSITY_EPOCHS, seed=None)

        def trained(go_on: Callable[[], None]) -> tuple[SummaryDensity, dict[str, Any]]:
            def arguments(step: int) -> tuple[Tensor]:
                go_on()
                return (table[rows(step)],)

            history = optimise(
                net, net.loss, arguments, lambda: float(net.loss(held_table).mean()), settings,
                self.folder / "density.pt", self.report, "density",
            )  # fmt: skip
            return net, _curve(history)

        return trained


def summarised(
    name: str,
    source: Source,
    summary: Callable[[Packed], Tensor],
    names: Sequence[str],
    first: int,
    total: int,
    batch: int,
    folder: Path,
    device: str | torch.device = "cpu",
    report: Report = silent,
    *,
    keep: int = 0,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Packed, list[int]]:
    """Summary and Θ of surveys first, ..., first + total - 1, `keep` random objects of each, and the range of their numbers.

    By parts kept on disk as `name`-00000.pt and so on, shared between processes that train together.
    """
    paths = []
    for number, start in enumerate(range(0, total, PART)):
        path, count = folder / f"{name}-{number:05d}.pt", min(PART, total - start)
        if not path.exists() and number % processes() == rank():
            rows, kept, done = [], [], start
            for packed in stream(source, first + start, count, batch, names, device):
                rows.append(by_surveys(summary, packed))
                kept.append(subset(packed, keep, torch.Generator().manual_seed(seed * 65537 + first + done)))
                done += len(packed.lengths)
                report(name, done, total)
            save_checkpoint(path, {"summary": torch.cat(rows), "objects": _plain(join(kept))})
        paths.append(path)
        report(name, start + count, total)
    wait_for_all()
    parts = [load_checkpoint(path, device) for path in paths]
    objects = join([unpack(p["objects"]) for p in parts])
    return torch.cat([p["summary"] for p in parts]), objects.theta, objects, [int(objects.number.min()), int(objects.number.max())]


def _plain(objects: Packed) -> dict[str, Any]:
    """Objects as a part of a table keeps them; see `unpack`."""
    trees = {"observations": tuple(objects.observations), "latents": tuple(objects.latents or ())}
    return {**objects._asdict(), **trees}


def _curve(history: History) -> dict[str, Any]:
    return {"step": history.steps, "train": history.train, "validation": history.validation, "seconds": history.seconds}


def unpack(plain: Mapping[str, Any]) -> Packed:
    """The inverse of `_plain`."""
    latents = Latents(*plain["latents"]) if plain["latents"] else None
    return Packed(Observations(*plain["observations"]), latents, plain["theta"], plain["lengths"], plain["number"], plain["exposure"])
