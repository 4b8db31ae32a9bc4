"""Training for one target in rounds: train, infer the target, cut the prior to where its posterior is, simulate inside, again.

Every round is an ordinary training of a configuration whose prior is a little narrower, so the last is a run folder like any
other, calibrated inside its own box. All rounds but the last use a quarter of the surveys and objects and half of the pilot
surveys, though never fewer than 2,000 surveys and 200,000 objects unless the configuration asks for fewer: their posterior only
has to say where to look.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scipy.stats import binom

from cigars.catalogue import Catalogue
from cigars.config import Config, ConfigError
from cigars.pipeline import run_fingerprint, survey_source, train_run
from cigars.runs import CALIBRATION, METADATA, Calibration, read_calibration, stored_fingerprint
from cigars.schema import Marginal
from cigars.targets import TargetWarning, as_survey, check_like_simulated, check_target, target_hash
from cigars.truncation import RECORD, Cut, Round, Rounds, cut_marginal, prior_mass, read_rounds, truncated, write_rounds

__all__ = ["overconfident", "reduced", "train_rounds"]

DRAWS = 40_000  # of the posterior of a round: the fewest with which a quantile lies inside the draws, see `cut_marginal`
FEWEST_SURVEYS, FEWEST_OBJECTS = 2_000, 200_000
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
        CatalogueError: for a target unlike what the configuration simulates.
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
    """The configuration of a round that is not the last: a quarter of the surveys and objects, within the least numbers above."""
    t = config.training
    fewer = {
        "surveys": min(max(t.surveys // 4, FEWEST_SURVEYS), t.surveys),
        "objects": min(max(t.objects // 4, FEWEST_OBJECTS), t.objects),
        "pilot_surveys": min(max(t.pilot_surveys // 2, FEWEST_SURVEYS // 2), t.pilot_surveys),
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
    """Train one round, keep its record, and return it with those before."""
    started, last = time.monotonic(), number == record.rounds
    chosen = truncated(config, record.history[-1].box) if record.history else config
    chosen = chosen if last else reduced(chosen)
    folder = run if last else run / f"round-{number}"
    if not _finished(folder, chosen):
        folder.mkdir(parents=True, exist_ok=True)
        write_rounds(folder, record)  # each folder says for which target it is
        train_run(chosen, folder, device=device, resume=True, report=report)
    cuts = {} if last else _cuts(folder, chosen, target, device)
    _warn_overconfident(folder, number, last)
    done = Round(
        number=number,
        folder="." if last else folder.name,
        fingerprint=run_fingerprint(chosen),
        surveys=chosen.training.surveys,
        seconds=round(time.monotonic() - started, 2),
        volume_ratio=prior_mass(config.marginals, chosen.marginals),
        prior={name: getattr(chosen.prior, name) for name in chosen.marginals},
        draws=0 if last else DRAWS,
        box={name: (c.low, c.high) for name, c in cuts.items()},
        cut={name: c.cut for name, c in cuts.items()},
        outside={name: c.outside for name, c in cuts.items()},
    )
    record = record.model_copy(update={"history": (*record.history, done)})
    write_rounds(folder, record)
    write_rounds(run, record)
    return record


def _warn_overconfident(folder: Path, number: int, last: bool) -> None:
    """Warn where the calibration of a round finds the truth beyond all draws too often: a cut by such a posterior can lose it."""
    calibration, _ = read_calibration(folder)
    names = overconfident(calibration) if calibration and not last else []
    if names:
        warnings.warn(
            f"round {number}: the posterior is too narrow in {', '.join(names)}, so the cut may lose the truth; train on more surveys",
            TargetWarning,
            stacklevel=2,
        )


def overconfident(calibration: Calibration) -> list[str]:
    """Parameters whose truth lies beyond all draws in more surveys than chance allows, 1 in 10,000 over all parameters."""
    surveys, parameters = calibration.ranks.shape
    beyond = ((calibration.ranks == 0) | (calibration.ranks == calibration.draws)).sum(0)
    chance = binom.sf(beyond - 1, surveys, 2 / (calibration.draws + 1))
    return [name for name, p in zip(calibration.names, chance, strict=True) if p < 1e-4 / parameters]


def _finished(folder: Path, config: Config) -> bool:
    """Whether the folder holds this very training, calibrated."""
    whole = (folder / CALIBRATION).exists() and (folder / METADATA).exists()
    return whole and stored_fingerprint(folder) == run_fingerprint(config)


def _cuts(folder: Path, config: Config, target: Catalogue, device: str) -> dict[str, Cut]:
    """Every marginal of the target's posterior in a trained round, cut; the same under the same seed."""
    from inference.model import load_run
    from inference.posterior import GlobalPosterior

    trained = load_run(folder, device)
    check_like_simulated(trained, target, config)
    theta: Any = GlobalPosterior(trained).sample(DRAWS, as_survey(target.observations), config.seed)[:, 0].cpu().numpy()
    marginals: dict[str, Marginal] = config.marginals
    return {name: cut_marginal(theta[:, k], (marginals[name].low, marginals[name].high)) for k, name in enumerate(trained.names)}
