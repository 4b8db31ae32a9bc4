"""Training for one target in rounds: find where its Θ is, cut the prior to that, and train inside.

All rounds but the last are cheap: they learn the summary of surveys alone, without any posterior, from a quarter of the objects and half
of the pilot surveys. Surveys simulated in the present box, each with that summary, then say where the target's Θ can be
(`inference.regression`, `truncation`), and again inside the smaller box, for as long as that halves its volume. The last round is an
ordinary training of a configuration whose prior is narrower, so that its run folder is like any other, calibrated inside its own box.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cigars.catalogue import Catalogue
from cigars.config import Config, ConfigError
from cigars.pipeline import run_fingerprint, survey_source, train_run
from cigars.runs import CALIBRATION, METADATA, Calibration, read_calibration, stored_fingerprint
from cigars.scores import joint_scores
from cigars.targets import as_survey, check_target, target_hash
from cigars.truncation import RECORD, Round, Rounds, Step, cut_marginal, prior_mass, read_rounds, truncated, write_rounds

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["narrowed", "reduced", "train_rounds"]

FEWEST_SURVEYS, FEWEST_OBJECTS = 1_000, 200_000
NEARBY, ENOUGH = (512, 1_024), 8_000_000  # fewest and most surveys in the present box that cut it, and objects of theirs that are enough
STEPS, WORTH = 4, 0.5  # at most so many cuts a round, while each leaves less than this share of the volume
CHECKPOINTS = "checkpoints"

Reporter = Callable[..., None]


def train_rounds(
    config: Config, run: str | Path, target: Catalogue, rounds: int, *, device: str, resume: bool, report: Reporter
) -> Calibration:
    """Train for a target in rounds; rounds 1 … n − 1 go to `run`/round-1 and so on, the last to `run` itself.

    Args:
        config: what to simulate, with the prior of the first round, and how to train.
        run: run folder, new unless `resume`.
        target: catalogue in the bands of the configuration.
        rounds: at least one, which trains in the configured prior.
        device: torch device of the networks.
        resume: continue with the round that was not finished.
        report: progress; called as report("round", number, rounds) before each round.

    Raises:
        CatalogueError: for a target unlike what the configuration simulates, in its prior or in a later box.
        ConfigError: for no round, a folder that is not new, or on resuming another target, configuration or number of rounds.
    """
    if rounds < 1:
        raise ConfigError(f"rounds: expected at least 1, got {rounds}; 3 is usual")
    run, record = Path(run), _begun(config, target, rounds)
    kept = _kept(run, record, resume)
    if kept is None:
        check_target(target, survey_source(config, "training", report=report), config)
        run.mkdir(parents=True, exist_ok=True)
        write_rounds(run, record)
    record = kept or record
    for number in range(len(record.history) + 1, rounds + 1):
        report("round", number, rounds)
        record = _round(config, run, target, record, number, device, report)
    calibration, _ = read_calibration(run)
    if calibration is None:
        raise ConfigError(f"run folder {run}: expected {CALIBRATION} of a finished training, got none; train again in another folder")
    return calibration


def reduced(config: Config) -> Config:
    """The configuration of a round that is not the last: a quarter of the objects, half of the pilot surveys, within the numbers above."""
    t = config.training
    fewer = {
        "objects": min(max(t.objects // 4, FEWEST_OBJECTS), t.objects),
        "pilot_surveys": min(max(t.pilot_surveys // 2, FEWEST_SURVEYS), t.pilot_surveys),
    }
    return config.updated(**{f"training.{name}": value for name, value in fewer.items()})


def _begun(config: Config, target: Catalogue, rounds: int) -> Rounds:
    priors = {name: getattr(config.prior, name) for name in config.marginals}
    return Rounds(target=target_hash(target), objects=len(target.id), rounds=rounds, fingerprint=run_fingerprint(config), configured=priors)


def _kept(run: Path, record: Rounds, resume: bool) -> Rounds | None:
    """The record in the folder, or None in a new one; raises ConfigError where it cannot be continued."""
    found = read_rounds(run)
    begun = found is not None or any((run / name).exists() for name in (METADATA, CHECKPOINTS))
    if not begun:
        return None
    if not resume:
        raise ConfigError(f"run folder {run}: expected a new folder, got one with a training; resume it or choose another")
    if found is None:
        raise ConfigError(f"run folder {run}: expected a training in rounds with {RECORD}, got one without; choose another folder")
    for what in ("target", "rounds", "fingerprint"):
        if getattr(found, what) != getattr(record, what):
            raise ConfigError(
                f"run folder {run}: expected {what} {getattr(found, what)}, got {getattr(record, what)}; "
                "resume with the target, rounds and configuration it began with"
            )
    return found


def _round(config: Config, run: Path, target: Catalogue, record: Rounds, number: int, device: str, report: Reporter) -> Rounds:
    """Work on one round, keep its record, and return it with those before."""
    started, last = time.monotonic(), number == record.rounds
    chosen = truncated(config, record.history[-1].box) if record.history else config
    chosen = chosen if last else reduced(chosen)
    folder = run if last else run / f"round-{number}"
    if record.history:
        check_target(target, survey_source(chosen, "training", report=report), chosen)
    folder.mkdir(parents=True, exist_ok=True)
    steps, surveys = _trained(chosen, folder, device, report) if last else _searched(chosen, folder, target, device, report)
    done = Round(
        number=number,
        folder="." if last else folder.name,
        fingerprint=run_fingerprint(chosen),
        surveys=surveys,
        seconds=round(time.monotonic() - started, 2),
        volume_ratio=prior_mass(config.marginals, chosen.marginals),
        prior={name: getattr(chosen.prior, name) for name in chosen.marginals},
        steps=steps,
    )
    record = record.model_copy(update={"history": (*record.history, done)})
    write_rounds(run, record)
    return record


def _trained(config: Config, folder: Path, device: str, report: Reporter) -> tuple[tuple[Step, ...], int]:
    """The last round: a whole training, unless the folder holds it, calibrated; how many surveys it takes."""
    from inference.stages import surveys_used

    whole = (folder / CALIBRATION).exists() and (folder / METADATA).exists()
    if not (whole and stored_fingerprint(folder) == run_fingerprint(config)):
        train_run(config, folder, device=device, resume=True, report=report)
    return (), surveys_used(config.training)


def _searched(config: Config, folder: Path, target: Catalogue, device: str, report: Reporter) -> tuple[tuple[Step, ...], int]:
    """Any other round: learn the summary and cut the prior by it; the steps, and how many surveys were simulated."""
    from inference.fit import learn_summary
    from inference.parallel import joined
    from simulators.cosmology import fiducial_distance_table

    source, simulated = survey_source(config, "training", report=report), 0

    def counted(first: int, count: int) -> Any:
        nonlocal simulated
        simulated += count
        return source(first, count)

    with joined(device):
        summary = learn_summary(
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
    steps = tuple(narrowed(summary, config, target, device, report))
    return steps, simulated + sum(step.surveys for step in steps)


def narrowed(
    summary: nn.Module, config: Config, target: Catalogue, device: str = "cpu", report: Reporter = lambda *_, **__: None
) -> Iterator[Step]:
    """Cut the prior to where the target can be, step by step, each by surveys simulated in the box of the one before.

    Args:
        summary: of packed surveys, learned in the configured prior.
        config: what it was learned for.
        target: catalogue in its bands.
        device: where the summary is.
        report: progress, called as report("nearby", done, total).
    """
    import torch

    from inference.batches import pack
    from inference.regression import regress

    names, priors, box = tuple(config.marginals), config.marginals, config
    surveys = min(max(ENOUGH // max(len(target.id), 1), NEARBY[0]), NEARBY[1], config.training.surveys)
    with torch.no_grad():
        observed = summary(pack(as_survey(target.observations), device=device))[0]
    for number in range(STEPS):
        table, theta = _nearby(summary, config, box, number, surveys, device, report)
        found = regress(table, theta, observed)
        estimate, errors = found.estimate.cpu().numpy(), found.errors.cpu().numpy()
        cuts = {n: cut_marginal(estimate[k], errors[:, k], (priors[n].low, priors[n].high)) for k, n in enumerate(names)}
        yield Step(
            surveys=len(table),
            box={name: (cut.low, cut.high) for name, cut in cuts.items()},
            cut={name: cut.cut for name, cut in cuts.items()},
            outside={name: cut.outside for name, cut in cuts.items()},
        )
        smaller = truncated(box, {name: (cut.low, cut.high) for name, cut in cuts.items()})
        if prior_mass(priors, smaller.marginals) > WORTH * prior_mass(priors, box.marginals):
            return
        priors, box = smaller.marginals, smaller


def _nearby(
    summary: nn.Module, config: Config, box: Config, number: int, surveys: int, device: str, report: Reporter
) -> tuple[Tensor, Tensor]:
    """Summary and Θ of whole batches of surveys in a box, at exposure 1; what simulates them is compiled once for all boxes."""
    import torch

    from inference.batches import pack
    from inference.priors import Prior
    from inference.threads import by_surveys

    batch, names = config.training.batch_surveys, tuple(box.marginals)
    total = -(-surveys // batch) * batch
    theta = Prior(box.marginals).sample((total,), torch.Generator().manual_seed(config.seed))
    free = dict(zip(names, np.asarray(theta, np.float64).T, strict=True))
    source, rows = survey_source(config.of_exposure(1.0), f"nearby-{number}", config.globals_of(free)), []
    for first in range(0, total, batch):
        packed = pack(source(first, batch), names, device)
        with torch.no_grad():
            rows.append(by_surveys(summary, packed))
        report("nearby", first + batch, total)
    return torch.cat(rows), theta.to(device)
