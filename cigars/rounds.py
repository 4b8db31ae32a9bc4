"""Training for one target in rounds: find where its Θ is, cut the prior to that, and train inside.

A round learns the summary of surveys alone, without any posterior; all but the last from a quarter of the objects and half of the pilot
surveys, and without an anchor, for which their priors are too wide. Surveys simulated in the present box, each with that summary, then
say where the target's Θ can be (`inference.regression`, `truncation`), and again inside what is left, for as long as that halves its
volume; in the last round they are twice as many. In what it leaves of the prior the posteriors are trained, on its summary; their run
folder is like any other, calibrated inside its own prior. In place of learning one, the first of several rounds can have the summary of a
finished run (`inheritance`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cigars.catalogue import Catalogue
from cigars.config import Config, ConfigError
from cigars.inheritance import inherited_summary
from cigars.pipeline import train_run
from cigars.progress import Reporter, silent
from cigars.runs import CALIBRATION, METADATA, Calibration, read_calibration, stored_fingerprint
from cigars.schema import Survey
from cigars.scores import joint_scores
from cigars.surveys import run_fingerprint, survey_source
from cigars.targets import survey_of, target_hash, without_redshifts
from cigars.training_range import check_exposure, check_target, like_those_of, warn_of_others, warn_of_redshifts
from cigars.truncation import (
    RECORD,
    Round,
    Rounds,
    Step,
    cut_marginal,
    cut_region,
    draw_prior,
    read_rounds,
    read_steps,
    truncated,
    volume,
    write_rounds,
    write_steps,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["narrowed", "nearby", "reduced", "train_rounds"]

FEWEST_SURVEYS, FEWEST_OBJECTS = 1_000, 200_000
NEARBY, ENOUGH = (512, 1_024), 8_000_000  # fewest and most surveys that cut a box not the last, and objects of theirs that are enough
STEPS, WORTH = 4, 0.5  # at most so many cuts a round, while each leaves less than this share of the volume
CHECKPOINTS = "checkpoints"


def train_rounds(
    config: Config,
    run: str | Path,
    target: Catalogue,
    rounds: int,
    *,
    device: str,
    resume: bool,
    report: Reporter,
    start: str | Path | None = None,
) -> Calibration:
    """Train for a target in rounds; their summaries go to `run`/round-1 and so on, the posteriors to `run` itself.

    Under `torchrun` the first process reads and writes the record and says where the target is, for all of them.

    Args:
        config: what to simulate, with the prior of the first round, and how to train.
        run: run folder, new unless `resume`.
        target: catalogue in the bands of the configuration, of exposure 1.
        rounds: at least one, whose summary is learned in the configured prior.
        device: torch device of the networks.
        resume: continue with the round that was not finished.
        report: progress; called as report("round", number, rounds) before each round.
        start: run folder whose summary the first of several rounds has; by default one is learned.

    Raises:
        CatalogueError: for a target unlike what the configuration simulates, in its prior or in a later box.
        ConfigError: for no round, a folder that is not new, a start of another model or size, or on resuming another target,
            configuration, number of rounds or start.

    Warns:
        TargetWarning: where objects are by `p_ia` of another type, or redshifts are not as in the training.
    """
    from inference.parallel import from_first, joined

    if rounds < 1:
        raise ConfigError(f"rounds: expected at least 1, got {rounds}; 2 are usual")
    if start and rounds < 2:
        raise ConfigError(f"rounds: expected at least 2 from a run at hand, whose summary only the first has, got {rounds}")
    run, record = Path(run), _begun(config, target, rounds)
    with joined(device):
        kept = from_first(lambda: _kept(run, record, resume, start))
        target = without_redshifts(target, config)
        record = kept or record.model_copy(update={"start": _identity(start)})
        inherited = inherited_summary(config, start, device) if start and not record.history else None
        if kept is None:
            warn_of_others(target)
            warn_of_redshifts(target, config)
            _check(target, config, report)
            _keep(run, record)
        for number in range(len(record.history) + 1, rounds + 1):
            report("round", number, rounds)
            record = _round(config, run, target, record, number, device, report, inherited if number == 1 else None)
        calibration, _ = from_first(lambda: read_calibration(run))
    if calibration is None:
        raise ConfigError(f"run folder {run}: expected {CALIBRATION} of a finished training, got none; train again in another folder")
    return calibration


def reduced(config: Config) -> Config:
    """That of a round that is not the last: a quarter of the objects, half of the pilot surveys, within the numbers above, no anchor."""
    t = config.training
    fewer = {
        "anchored": False,
        "objects": min(max(t.objects // 4, FEWEST_OBJECTS), t.objects),
        "pilot_surveys": min(max(t.pilot_surveys // 2, FEWEST_SURVEYS), t.pilot_surveys),
    }
    return config.updated(**{f"training.{name}": value for name, value in fewer.items()})


def _begun(config: Config, target: Catalogue, rounds: int) -> Rounds:
    priors = {name: getattr(config.prior, name) for name in config.marginals}
    return Rounds(target=target_hash(target), objects=len(target.id), rounds=rounds, fingerprint=run_fingerprint(config), configured=priors)


def _identity(start: str | Path | None) -> str | None:
    """Fingerprint of the run to start from, if there is one."""
    return stored_fingerprint(start) if start else None


def _kept(run: Path, record: Rounds, resume: bool, start: str | Path | None) -> Rounds | None:
    """The record in the folder, or None in a new one; raises ConfigError where it cannot be continued.

    The run that it started from matters, and has to be there, in the first round alone.
    """
    found = read_rounds(run)
    begun = found is not None or any((run / name).exists() for name in (METADATA, CHECKPOINTS))
    if not begun:
        return None
    if not resume:
        raise ConfigError(f"run folder {run}: expected a new folder, got one with a training; resume it or choose another")
    if found is None:
        raise ConfigError(f"run folder {run}: expected a training in rounds with {RECORD}, got one without; choose another folder")
    asked = {"target": record.target, "rounds": record.rounds, "fingerprint": record.fingerprint}
    asked |= {} if found.history else {"start": _identity(start)}
    for what, now in asked.items():
        if getattr(found, what) != now:
            raise ConfigError(
                f"run folder {run}: expected {what} {getattr(found, what)}, got {now}; "
                "resume with the target, rounds, configuration and start it began with"
            )
    return found


def _check(target: Catalogue, config: Config, report: Reporter) -> None:
    """Raise CatalogueError for a target unlike surveys of exposure 1, of which it is taken to be one."""
    check_exposure(1.0, config)
    check_target(target, survey_source(config.of_exposure(1.0), "training", report=report), config)


def _keep(run: Path, record: Rounds) -> None:
    """Write the record, one process for all."""
    from inference.parallel import rank

    if rank() == 0:
        run.mkdir(parents=True, exist_ok=True)
        write_rounds(run, record)


def _round(
    config: Config, run: Path, target: Catalogue, record: Rounds, number: int, device: str, report: Reporter, inherited: nn.Module | None
) -> Rounds:
    """Work on one round, keep its record, and return it with those before."""
    started, last = time.monotonic(), number == record.rounds
    before = record.history[-1] if record.history else None
    chosen = truncated(config, before.box, before.region) if before else config
    chosen = chosen if last else reduced(chosen)
    folder = run / f"round-{number}"
    if record.history:
        _check(target, chosen, report)
    folder.mkdir(parents=True, exist_ok=True)
    found = _searched(chosen, folder, target, device, report, nearby(chosen, len(target.id), last), inherited)
    done = Round(
        number=number,
        folder=folder.name,
        fingerprint=record.start if inherited and record.start else run_fingerprint(chosen),
        surveys=found.surveys + (_trained(chosen, found, run, device, report) if last else 0),
        seconds=round(time.monotonic() - started, 2),
        volume_ratio=volume(config, chosen),
        prior={name: getattr(chosen.prior, name) for name in chosen.marginals},
        steps=found.steps,
    )
    record = record.model_copy(update={"history": (*record.history, done)})
    _keep(run, record)
    return record


class _Searched(NamedTuple):
    """What a round learned: the summary, the steps by it, and how many surveys were simulated."""

    summary: nn.Module
    steps: tuple[Step, ...]
    surveys: int


def nearby(config: Config, objects: int, last: bool) -> int:
    """Surveys that cut a prior in one step where each has about so many objects; twice as many in the last round."""
    fewest, most = NEARBY
    return min((2 if last else 1) * min(max(ENOUGH // max(objects, 1), fewest), most), config.training.surveys)


def _searched(
    config: Config, folder: Path, target: Catalogue, device: str, report: Reporter, surveys: int, inherited: nn.Module | None
) -> _Searched:
    """Learn the summary, unless one is inherited, and cut the prior by it."""
    from inference.fit import learn_summary
    from inference.parallel import from_first
    from simulators.cosmology import fiducial_distance_table

    source, simulated = survey_source(config, "training", report=report), 0

    def counted(first: int, count: int) -> Any:
        nonlocal simulated
        simulated += count
        return source(first, count)

    summary = inherited or learn_summary(
        counted,
        config,
        config.marginals,
        fiducial_distance_table(),
        folder,
        fingerprint=run_fingerprint(config),
        device=device,
        report=report,
        joint_score=joint_scores(config),
    )

    def found() -> tuple[Step, ...]:
        steps = tuple(narrowed(summary, config, target, surveys, device, report))
        write_steps(folder, steps)
        return steps

    # of one process, and once: on another device or by other threads sums differ in their last digits, and with them the box
    kept = from_first(lambda: read_steps(folder))
    steps = kept or from_first(found)
    return _Searched(summary, steps, simulated + sum(step.surveys for step in steps if not kept))


def _trained(config: Config, found: _Searched, run: Path, device: str, report: Reporter) -> int:
    """Train the posteriors in the box that the last round leaves, unless the folder holds them, calibrated; how many surveys they take."""
    from inference.parallel import from_first

    inside, t = truncated(config, found.steps[-1].box, found.steps[-1].region), config.training
    made, files = run_fingerprint(inside), (run / CALIBRATION, run / METADATA)
    if not from_first(lambda: all(file.exists() for file in files) and stored_fingerprint(run) == made):
        train_run(inside, run, device=device, resume=True, report=report, summary=found.summary)
    return t.surveys + t.validation_surveys + t.calibration_surveys


def narrowed(
    summary: nn.Module, config: Config, target: Catalogue, surveys: int, device: str = "cpu", report: Reporter = silent
) -> Iterator[Step]:
    """Cut the prior to where the target can be, step by step, each by surveys simulated in the box of the one before.

    Args:
        summary: of packed surveys, learned in the configured prior.
        config: what it was learned for.
        target: catalogue in its bands.
        surveys: simulated for each step.
        device: where the summary is.
        report: progress, called as report("nearby", done, total).
    """
    import torch

    from inference.batches import pack
    from inference.regression import regress

    names, left, mass = tuple(config.marginals), config, 1.0
    with torch.no_grad():
        observed = summary(pack(_observed(summary, target), device=device))[0]
    for number in range(STEPS):
        table, theta = _nearby(summary, config, left, number, surveys, device, report)
        found = regress(table, theta, observed)
        estimate, errors = found.estimate.cpu().numpy(), found.errors.cpu().numpy()
        priors = left.marginals
        cuts = {n: cut_marginal(estimate[k], errors[:, k], (priors[n].low, priors[n].high)) for k, n in enumerate(names)}
        region, lost = cut_region(names, estimate, errors)
        yield Step(
            surveys=len(table),
            box={name: (cut.low, cut.high) for name, cut in cuts.items()},
            cut={name: cut.cut for name, cut in cuts.items()},
            outside={name: cut.outside for name, cut in cuts.items()},
            region=region,
            cut_by_region=lost,
        )
        left = truncated(left, {name: (cut.low, cut.high) for name, cut in cuts.items()}, region)
        before, mass = mass, volume(config, left)
        if mass > WORTH * before:
            return


def _observed(summary: Any, target: Catalogue) -> Survey:
    """The target without the objects beyond what its networks saw, which inference leaves out too, in the order of its identifiers."""
    return survey_of(like_those_of(summary.standardiser, target), number=len(target.id))


def _nearby(
    summary: nn.Module, config: Config, left: Config, number: int, surveys: int, device: str, report: Reporter
) -> tuple[Tensor, Tensor]:
    """Summary and Θ of whole batches of surveys in what is left of a prior, at exposure 1; what simulates them is compiled once for all."""
    import torch

    from inference.batches import pack
    from inference.threads import by_surveys

    batch, names = config.training.batch_surveys, tuple(left.marginals)
    total = -(-surveys // batch) * batch
    theta = draw_prior(left, total, config.seed)
    free = dict(zip(names, theta.T, strict=True))
    source, rows = survey_source(config.of_exposure(1.0), f"nearby-{number}", config.globals_of(free)), []
    for first in range(0, total, batch):
        packed = pack(source(first, batch), names, device)
        with torch.no_grad():
            rows.append(by_surveys(summary, packed))
        report("nearby", first + batch, total)
    return torch.cat(rows), torch.as_tensor(theta, dtype=torch.float32, device=device)
