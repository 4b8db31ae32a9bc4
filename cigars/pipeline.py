"""The steps from a configuration to a posterior, as functions: simulate, train, infer, report, ingest.

Each is what the command of the same name calls. Arrays cross between the JAX simulator and the torch estimators here and
nowhere else. Random streams are keyed by seed and purpose, so a mock never repeats a survey that a network was trained on.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cigars.catalogue import Catalogue, Truth, catalogue_from_survey, truth_from_survey, write_catalogue, write_truth
from cigars.catalogue_checks import TargetWarning
from cigars.check import read_check
from cigars.config import Config, ConfigError, load_config
from cigars.exact import infer_exact
from cigars.infer import hide, infer
from cigars.ingest import ingest
from cigars.memory import gives_back
from cigars.posterior_file import read_posterior, save_posterior
from cigars.pretrained import recorded
from cigars.progress import Reporter, silent
from cigars.runs import Calibration, read_calibration, read_curves, run_config, stored_fingerprint, write_calibration
from cigars.schema import COSMOLOGY, Globals, Survey
from cigars.scores import joint_scores
from cigars.surveys import run_fingerprint, survey_source
from cigars.targets import target_hash
from cigars.truncation import read_rounds
from cigars.truths import matched
from cigars.validate import VALIDATION, read_validation

if TYPE_CHECKING:
    import arviz
    from torch import nn

__all__ = [
    "configured",
    "hide",
    "infer",
    "infer_exact",
    "ingest",
    "read_calibration",
    "read_posterior",
    "report",
    "run_config",
    "save_posterior",
    "simulate",
    "stored_fingerprint",
    "train",
    "train_run",
    "write_mock",
]

CALIBRATION_DRAWS = 255
ROUNDS = 2  # of a training for one target, where none are given


def simulate(
    config: Config, *, theta: Mapping[str, float] | None = None, from_prior: bool = False, number: int = 0, report: Reporter = silent
) -> tuple[Catalogue, Truth]:
    """One mock survey and its truth.

    Args:
        config: what to simulate; `config.seed` seeds it.
        theta: values of global parameters in place of the fiducial ones.
        from_prior: draw Θ from the prior instead; then `theta` must be empty.
        number: which survey of the mock stream.
        report: progress of building the host bank.

    Raises:
        ConfigError: for an unknown, infinite or dependent parameter in `theta`, a cosmology outside the prior, or for `theta` together
            with `from_prior`.
    """
    given = dict(theta or {})
    if unknown := sorted(set(given) - set(Globals._fields)):
        raise ConfigError(f"theta: expected parameters of {list(Globals._fields)}, got {unknown}")
    if given and from_prior:
        raise ConfigError("theta: expected no values together with drawing from the prior; give one or the other")
    if wrong := {k: v for k, v in given.items() if not np.isfinite(v)}:
        raise ConfigError(f"theta: expected finite numbers, got {wrong}")
    if config.flat and "Ode0" in given:
        raise ConfigError(f"theta: expected no Ode0 in {config.supernovae.cosmology}, where it is 1 - Om0; leave it out")
    if not config.size.exposure[0] <= 1 <= config.size.exposure[1]:
        said = (
            f"mock: of the configured size, exposure 1, outside size.exposure = {list(config.size.exposure)}, which is of training surveys"
        )
        warnings.warn(f"{said}; change size.expected_supernovae, or the area", TargetWarning, stacklevel=2)
    if not from_prior:
        _check_shown(config.globals_of(given), config)
    survey = survey_source(config.of_exposure(1.0), "mock", None if from_prior else config.globals_of(given), report)(number, 1)
    one = _first(survey)
    ids = [f"{config.name}-{i:05d}" for i in range(int(one.number))]
    if not ids:
        raise ConfigError("simulate: the mock has no detected supernova; raise the survey's size or change Θ")
    catalogue = catalogue_from_survey(one, ids)
    return catalogue, truth_from_survey(one, ids)._replace(catalogue=target_hash(catalogue))


def _check_shown(theta: Globals, config: Config) -> None:
    """Raise ConfigError for a cosmology outside the prior, whose hosts the simulator may lack; warn of other parameters outside theirs."""
    for name in COSMOLOGY:
        (low, high), value = config.limits(name), getattr(theta, name)
        implied = name == "Ode0" and config.flat
        if not implied and not low <= value <= high:
            remedy = f"widen prior.{name}" if name in config.marginals else f"free {name} by supernovae.cosmology and prior.{name}"
            raise ConfigError(
                f"theta: expected {name} within its prior, {low:g} to {high:g}, which leaves out the hosts that it does not show, "
                f"got {value:g}; {remedy}"
            )
    outside = [f"{k} = {v:g}" for k in config.marginals if not (at := config.limits(k))[0] <= (v := getattr(theta, k)) <= at[1]]
    if outside:
        said = f"mock: {', '.join(outside)} outside the prior, so that no posterior of this configuration can hold it"
        warnings.warn(f"{said}; give another value with --theta, or widen the prior", TargetWarning, stacklevel=3)


def write_mock(config: Config, catalogue: Catalogue, truth: Truth, path: Path, truth_path: Path, *, overwrite: bool = False) -> None:
    """Write what `simulate` made, each with the seed and fingerprint of its configuration, the truth with the hash of its catalogue."""
    meta = {"config": config.name, "seed": config.seed, "fingerprint": run_fingerprint(config)}
    write_catalogue(path, catalogue, config.band_names, meta, overwrite=overwrite)
    meta["catalogue"] = target_hash(catalogue)
    write_truth(truth_path, truth.id, truth.latents, truth.theta, meta, overwrite=overwrite)


def _first(survey: Survey) -> Survey:
    one = lambda tree: type(tree)(*(np.asarray(leaf)[0] for leaf in tree))  # noqa: E731
    trees = one(survey.theta), one(survey.observations), one(survey.latents)
    return Survey(*trees, survey.observed[0], survey.host[0], survey.number[0], survey.exposure[0])


@gives_back
def train(
    config: Config,
    run: str | Path,
    *,
    target: Catalogue | None = None,
    rounds: int | None = None,
    device: str = "cpu",
    resume: bool = False,
    report: Reporter = silent,
    store: str | Path | None = None,
    start: str | Path | None = None,
) -> Calibration:
    """Train the posteriors of a configuration into the folder `run`: for any catalogue, or in rounds for the one at hand.

    Args:
        config: what to simulate and how to train.
        run: run folder, new unless `resume`.
        target: catalogue for which the prior is truncated, see `cigars.rounds`; inference then holds for this catalogue.
        rounds: of truncation, 2 unless given; needs a target.
        device: torch device of the networks.
        resume: continue from the checkpoints in the folder.
        report: progress, called as report(stage, done, total, **metrics), and as report("round", number, rounds) before each round.
        store: folder or address of a store with the training surveys, to read them rather than simulate; not with a target, whose
            rounds simulate from ever other priors.
        start: run folder of the same model in a wider prior, whose summary the first round has in place of one of its own; needs a target.

    Raises:
        CatalogueError: for a target unlike what the configuration simulates.
        ValueError: if the folder holds another training, or a loss is not finite.
    """
    from cigars.rounds import train_rounds
    from cigars.truncation import RECORD

    if target is not None and store is not None:
        raise ConfigError("store: expected none together with a target, whose rounds simulate anew; leave out --store or --target")
    if target is not None:
        rounds = ROUNDS if rounds is None else rounds
        return train_rounds(config, run, target, rounds, device=device, resume=resume, report=report, start=start)
    if start is not None:
        raise ConfigError("train: expected a target catalogue with the run to start from, got none; name it with --target")
    if rounds is not None:
        raise ConfigError(f"rounds: expected a target catalogue with {rounds} rounds of truncation, got none; name it with --target")
    if (Path(run) / RECORD).exists():
        raise ConfigError(f"run folder {run}: expected a training without rounds, got {RECORD}; continue it with its --target and --rounds")
    return train_run(config, run, device=device, resume=resume, report=report, store=store)


def train_run(
    config: Config,
    run: str | Path,
    *,
    device: str = "cpu",
    resume: bool = False,
    report: Reporter = silent,
    store: str | Path | None = None,
    summary: nn.Module | None = None,
) -> Calibration:
    """Train the global and local posteriors of a configuration into the folder `run`, then calibrate them on fresh surveys.

    Under `torchrun` the processes share every batch and the simulations (`inference.parallel`); the first writes the run.

    Args:
        config: what to simulate and how to train.
        run: run folder, new unless `resume`.
        device: torch device of the networks.
        resume: continue from the checkpoints in the folder.
        report: progress, called as report(stage, done, total, **metrics).
        store: folder or address of a store with the training surveys; the run is the same as without it.
        summary: of surveys, learned before; by default learned here.

    Raises:
        FileError: for a store of another configuration, or one that lacks surveys, before anything is trained.
        ValueError: if the folder holds another training, or a loss is not finite.
    """
    from cigars.store_reader import training_source
    from inference.fit import fit
    from inference.parallel import joined, rank
    from inference.stages import surveys_used
    from simulators.cosmology import fiducial_distance_table

    started = time.monotonic()
    stored = training_source(store, config, surveys_used(config.training)) if store is not None else None
    source = stored or survey_source(config, "training", report=report)
    ready = time.monotonic()
    with joined(device):
        first = rank() == 0
        trained = fit(
            source,
            config,
            config.marginals,
            fiducial_distance_table(),
            Path(run),
            fingerprint=run_fingerprint(config),
            configuration=config.model_dump(mode="json"),
            device=device,
            report=report,
            resume=resume,
            joint_score=joint_scores(config),
            summary=summary,
        )
    fitted = time.monotonic()
    calibration = _calibrate(trained, source, config, report)
    seconds = {"host bank": ready - started, "training": fitted - ready, "calibration": time.monotonic() - fitted}
    if first:
        write_calibration(run, calibration, seconds)
    return calibration


def _calibrate(trained: Any, source: Callable[[int, int], Survey], config: Config, report: Reporter) -> Calibration:
    """Ranks of the truth in posteriors of surveys that training never saw."""
    from inference.batches import parameters
    from inference.fit import split
    from inference.posterior import GlobalPosterior

    posterior, total, batch = GlobalPosterior(trained), config.training.calibration_surveys, config.training.batch_surveys
    first, ranks = split(config.training).calibration, []
    for start in range(0, total, batch):
        survey = source(first + start, batch)
        draws = posterior.sample(CALIBRATION_DRAWS, survey, seed=start)
        ranks.append((draws < parameters(survey.theta, trained.names).to(draws.device)).sum(0).cpu().numpy())
        report("calibration", min(start + batch, total), total)
    return Calibration(tuple(trained.names), np.concatenate(ranks)[:total], CALIBRATION_DRAWS)


def report(
    path: str | Path,
    posterior: arviz.InferenceData,
    *,
    run: str | Path | None = None,
    truth: Truth | None = None,
    check: str | Path | None = None,
    validation: str | Path | None = None,
    timings: Mapping[str, float] | None = None,
    overwrite: bool = False,
    figures: str | Path | None = None,
) -> Path:
    """Write the self-contained HTML report of a posterior.

    Args:
        path: HTML file to write.
        posterior: from `infer`.
        run: run folder, for training curves, calibration and what `cigars validate` left there; by default the one that the posterior
            records, if it is there.
        truth: of a mock, matched to the posterior by id.
        check: JSON that `cigars check` wrote of the same catalogue and run.
        validation: JSON that `cigars validate` wrote of the same run, if not the one in its folder.
        timings: further seconds by step.
        overwrite: replace an existing file.
        figures: folder that also receives every figure as PDF.

    Raises:
        ValueError: if the truth lacks an object or is of another mock, or the run folder, the validation or the check are of another
            training, catalogue or exposure than the posterior.
    """
    from cigars.posterior import Posterior
    from cigars.report.inputs import ReportInputs
    from cigars.report.page import write_report

    asked = Posterior(posterior)
    attributes = asked.attributes
    checked, latents = _checked(check, attributes) if check else {}, matched(truth, asked) if truth else None
    if run and stored_fingerprint(run) != attributes["fingerprint"]:
        made, found = attributes["fingerprint"], stored_fingerprint(run)
        raise ValueError(f"run folder {run}: expected the one that made the posterior, {made}, got {found}; name that folder or none")
    if (run or validation) and attributes.get("method") == "exact":
        raise ValueError("report: expected no run folder and no validation of an exact posterior, which no network made; leave them out")
    run = run or recorded(attributes)
    calibration, seconds = read_calibration(run) if run else (None, {})
    rounds = read_rounds(run) if run else None
    whole = {n: p.marginal for n, p in rounds.configured.items()} if rounds else {}
    cut = asked.config.marginals
    steps = {step: of["seconds"] for step, of in (("inference", attributes), ("check", checked)) if "seconds" in of}
    inputs = ReportInputs(
        posterior=asked,
        truth=latents,
        theta_true={k: float(v) for k, v in truth.theta._asdict().items() if np.isfinite(v)} if truth else None,
        prior={n: whole.get(n, p) if p == cut[n] else p for n, p in asked.priors.items()},  # what it was reweighted to stays
        cut=bool(attributes.get("truncated_for")) and not rounds,
        curves=read_curves(run) if run else {},
        sbc_ranks=calibration.ranks if calibration else None,
        sbc_draws=calibration.draws if calibration else 0,
        sbc_names=calibration.names if calibration else (),
        timings={**seconds, **steps, **(timings or {})},
        validation=_validation(run, validation, attributes),
        check=checked,
    )
    return write_report(path, inputs, overwrite=overwrite, figures_dir=figures)


def _validation(run: str | Path | None, path: str | Path | None, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """What `cigars validate` wrote, by default in a run folder, if anything, and if it is of the catalogue and exposure of a posterior.

    Raises ValueError where it is of another training, or where one that was named is of another catalogue or exposure.
    """
    named = path is not None
    if path is None:
        path = Path(run) / VALIDATION if run else None
        if path is None or not path.is_file():
            return {}
    found, exposure = read_validation(path), float(attributes.get("exposure", 1.0))
    low, high = np.broadcast_to(found["exposure"], 2)
    differing = {
        "fingerprint": found["fingerprint"] != attributes["fingerprint"],
        "catalogue": found["catalogue"] not in (None, attributes.get("catalogue")),
        "exposure": not low * 0.999 <= exposure <= high * 1.001,
    }
    wrong = [name for name, differs in differing.items() if differs]
    if wrong and (named or differing["fingerprint"]):
        expected = attributes.get(wrong[0], 1.0)
        raise ValueError(
            f"{path}: expected {wrong[0]} {expected}, that of the posterior, got {found[wrong[0]]}; run `cigars validate` again"
        )
    if wrong:
        said = f"{path} is of another {' and '.join(wrong)} than the posterior and is not shown"
        warnings.warn(f"{said}; run `cigars validate` for this one", TargetWarning, stacklevel=3)
        return {}
    return found


def _checked(path: str | Path, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """What `cigars check` wrote; raises ValueError where it is not of the training, catalogue and exposure of a posterior."""
    found = read_check(path)
    for name in ("fingerprint", "catalogue", "exposure"):
        if found[name] != (expected := attributes.get(name)):
            remedy = "check the catalogue of this posterior with the run that made it"
            raise ValueError(f"{path}: expected {name} {expected}, that of the posterior, got {found[name]}; {remedy}")
    return found


def configured(source: str | Path, settings: Sequence[str] = (), seed: int | None = None) -> Config:
    """Preset or file with settings, and the seed of the command line where given."""
    return load_config(source, settings, **({} if seed is None else {"seed": seed}))
