r"""Which of several models made a catalogue: Bayes factors by classification of surveys simulated from each.

As many surveys of every model, from its own prior, go through one summary, and an ensemble of classifiers gives
$\ln K = \ln p(s \mid M_k) - \ln p(s \mid M_0)$ of the catalogue (`inference.classify`), for equal prior odds.
The survey is the same in all models: bands, and area times duration, which is known; where a model makes more supernovae, it expects more.

Fresh surveys say whether ln K is calibrated, and whether the catalogue is like those of any of the models at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cigars.catalogue import Catalogue
from cigars.config import Config, ConfigError, fingerprint, load_config
from cigars.files import write_json
from cigars.progress import Reporter, silent
from cigars.runs import run_config, stored_fingerprint
from cigars.schema import Survey
from cigars.surveys import run_fingerprint, sky_rate, survey_source
from cigars.targets import survey_of, target_hash, without_redshifts
from cigars.training_range import Simulated, check_exposure, check_trained, refuse_unlike, warn_of_others, warn_of_redshifts

if TYPE_CHECKING:
    from inference.classify import Calibration, Labelled, ModelClassifier

__all__ = ["COMPARISON", "Comparison", "Row", "alternative", "compare", "on_one_survey", "write_comparison"]

COMPARISON = "comparison.json"
HELD, TEST = 0.25, 0.5  # surveys to stop by and to judge on, of those to learn from
OBJECTS, HELD_SURVEYS = 100_000, 64  # of all models together: for the regressor behind the moments, and to stop it by
FIRST = 1_000_000  # number of the first survey that is classified; those before teach the regressor
LIKELY = 0.01  # share of simulated surveys as unusual as the catalogue below which no model is a good one
Source = Callable[[int, int], Survey]


class Row(NamedTuple):
    """One model against the first: ln K and its standard error, probability among all models, calibration on fresh surveys.

    Of classifiers, `error` is their spread and, times ln K, the error of the calibration's slope; `tested` is the largest |ln K| that the
    fresh surveys can say anything of. Where fresh surveys showed ln K not to be calibrated, it is corrected by them, `uncorrected` is what
    the classifiers said, and the calibration is that of halves of the surveys corrected by the other. Where fresh surveys are told apart so
    well that they do not determine a calibration, `ln_k` is what the classifiers said, `error` their spread alone, and |ln K| known to be
    large but not how large. Exact evidences have no calibration and no such limit.
    """

    model: str
    ln_k: float
    error: float
    probability: float
    calibration: Calibration | None
    tested: float
    uncorrected: float | None = None


class Comparison(NamedTuple):
    """What was found; `likely` is the share of simulated surveys of the likeliest model that are as unusual as the catalogue, if any were
    simulated."""

    rows: list[Row]
    likely: float | None
    record: Mapping[str, Any]


def alternative(source: str | Path, changes: str, settings: Sequence[str] = ()) -> Config:
    """A variant of a configuration: `key=value` changes with `;` between them, or another preset or TOML file.

    Raises ConfigError as `load_config`.
    """
    if "=" not in changes:
        return load_config(changes, settings)
    return load_config(source, [*settings, *(change.strip() for change in changes.split(";") if change.strip())])


def on_one_survey(models: Mapping[str, Config]) -> dict[str, Config]:
    """The models with the size of the first: the same area and duration, whatever number of supernovae each expects in them.

    Raises:
        ConfigError: for fewer than two models, two that are the same, or bands that differ.
    """
    first, *others = models.values()
    if not others:
        raise ConfigError("compare: expected at least two models, got one; add --against KEY=VALUE or --against FILE.toml")
    rate, out, seen = None, {}, {}  # type: ignore[var-annotated]
    for name, config in models.items():
        if config.hosts.bands != first.hosts.bands:
            raise ConfigError(f"{name}: expected the bands {list(first.hosts.bands)} of the first model, got {list(config.hosts.bands)}")
        sized = config.updated(size=first.size.model_dump())  # which refuses tabulated hosts in an area
        if first.size.expected_supernovae is not None and _counted(config) != _counted(first):
            rate = rate or sky_rate(first)
            number = first.size.expected_supernovae * sky_rate(sized) / rate
            sized = sized.updated(**{"size.expected_supernovae": number})
        same = seen.setdefault(_identity(sized), name)
        if same != name:
            raise ConfigError(f"{name}: expected a model that differs from {same!r}, got the same; change what is simulated")
        out[name] = sized
    return out


def _identity(config: Config) -> str:
    """Of what is simulated: priors that the cosmology has no use for do not count."""
    plain = {"name": "", "seed": 0, "training": type(config.training)(), "prior": type(config.prior)(region=config.prior.region)}
    return fingerprint(config.model_copy(update=plain), {k: list(m) for k, m in config.marginals.items()}, config.fixed)


def _counted(config: Config) -> tuple[Any, ...]:
    """All that the expected number at the fiducial Θ depends on."""
    return config.hosts, config.supernovae.dust, config.selection, config.observation.sn_m


def compare(
    models: Mapping[str, Config],
    catalogue: Catalogue,
    folder: str | Path,
    *,
    surveys: int = 2000,
    run: str | Path | None = None,
    exposure: float = 1.0,
    seed: int = 0,
    device: str = "cpu",
    resume: bool = False,
    report: Reporter = silent,
) -> Comparison:
    """Bayes factors of models against the first of them, for a catalogue.

    Args:
        models: configuration by name; the size of the survey and the training of the regressor are those of the first.
        catalogue: objects in the bands of the models.
        folder: receives checkpoints, new unless `resume`; finished, it answers for other catalogues at once.
        surveys: of each model to learn from; three quarters of as many are simulated besides, to stop by and to judge on.
        run: folder that `train` made in the same bands, whose summary is used beside its moments; without, moments by a regressor
            trained on objects of all models.
        exposure: of the catalogue, relative to the configured size.
        seed: of the surveys and the networks.
        device: torch device.
        resume: continue what is in the folder.
        report: progress.

    Raises:
        ConfigError: for models that cannot be compared, or too few surveys.
        ValueError: for a folder that is not new, or holds another comparison.
        CatalogueError: for a catalogue or an exposure unlike the simulations.
        TrainingError: if a loss is not finite.

    Warns:
        TargetWarning: where objects of other types are expected among those of the catalogue, and where redshifts are not read or not as in
            the models.
    """
    import torch

    from inference.batches import pack
    from inference.checkpoints import prepare
    from inference.classify import train_classifier
    from inference.model import versions

    if surveys < 40:
        raise ConfigError(f"compare: expected at least 40 surveys of each model, got {surveys}; 2,000 are usual")
    models = on_one_survey(models)
    first = next(iter(models.values()))
    check_exposure(exposure, first)
    warn_of_others(catalogue)
    reads = max(models.values(), key=lambda config: config.observation.spectroscopic_fraction)  # what one model has tells models apart
    given, catalogue = catalogue, without_redshifts(catalogue, reads)
    refuse_unlike(catalogue.observations, first)  # before the surveys, which only tell the range
    warn_of_redshifts(catalogue, reads)
    identity = _comparison_fingerprint(models, surveys, run, seed)
    checkpoints = prepare(Path(folder), identity, resume, "the models")
    sources = [_source(config, seed, report) for config in models.values()]
    summary = _summary(models, sources, run, checkpoints, seed, device, report)
    sizes = [surveys, max(round(HELD * surveys), 10), max(round(TEST * surveys), 20)]
    parts, numbers = _labelled(models, sources, summary, sizes, checkpoints, first.training.batch_surveys, device, report)
    train, held, test = parts
    net, history = train_classifier(train, held, len(models), seed=seed, checkpoint=checkpoints / "classifier.pt", report=report)
    survey = survey_of(catalogue, exposure)
    seen = {"number_range": numbers, "configuration": first.model_dump(mode="json")}
    check_trained(Simulated.like(summary.standardiser, seen), survey, first, complete=False)
    with torch.no_grad():
        observed = summary(pack(survey, device=device))
    rows = _rows(list(models), net, test, observed)
    record = {
        "models": {name: config.model_dump(mode="json") for name, config in models.items()}, "surveys": sizes, "seed": seed,
        "expected_supernovae": {name: config.size.expected_supernovae for name, config in models.items()},
        "run": None if run is None else str(run), "exposure": exposure, "catalogue": target_hash(given), "objects": len(catalogue.id),
        "summary_columns": int(train.summary.shape[1]), "log_loss": history.best, "log_loss_of_guessing": math.log(len(models)),
        "fingerprint": identity, "versions": versions(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    return Comparison(rows, _likely(net, test, observed, rows), record)


def _comparison_fingerprint(models: Mapping[str, Config], surveys: int, run: str | Path | None, seed: int) -> str:

    return fingerprint([run_fingerprint(c) for c in models.values()], surveys, None if run is None else stored_fingerprint(run), seed)


def _source(config: Config, seed: int, report: Reporter) -> Source:
    """Surveys of one model in a stream of its own."""

    return survey_source(config.model_copy(update={"seed": seed}), f"compare-{_identity(config)}", report=report)


def _summary(
    models: Mapping[str, Config], sources: Sequence[Source], run: str | Path | None, folder: Path, seed: int, device: str, report: Reporter
) -> Any:
    """The summary that all models share: of a run and its moments, or moments by a regressor trained on objects of all models."""
    import torch

    from inference.joined_summary import JoinedSummary
    from inference.model import load_run
    from inference.priors import Prior
    from inference.stages import Stages
    from simulators.cosmology import fiducial_distance_table

    first = next(iter(models.values()))
    if run is not None:
        if run_config(run).hosts.bands != first.hosts.bands:
            raise ConfigError(f"run folder {run}: expected the bands {list(first.hosts.bands)}, got {list(run_config(run).hosts.bands)}")
        return JoinedSummary(load_run(Path(run), device).summary)
    t = first.training
    training = t.model_copy(
        update={
            "encoder": "moments", "objects": min(t.objects, OBJECTS), "surveys": FIRST // 2, "validation_surveys": HELD_SURVEYS,
        }
    )  # fmt: skip

    def in_turn(start: int, count: int) -> Survey:
        return sources[start // count % len(sources)](start, count)

    stages = Stages(in_turn, training, seed, Prior(first.marginals), fiducial_distance_table(), folder, torch.device(device), report)
    return stages.summary(stages.held_out())


def _labelled(
    models: Mapping[str, Config],
    sources: Sequence[Source],
    summary: Any,
    sizes: Sequence[int],
    folder: Path,
    batch: int,
    device: str,
    report: Reporter,
) -> tuple[list[Labelled], list[int]]:
    """Summaries of surveys of every model, to learn from, to stop by and to judge on, kept on disk by parts; range of their numbers."""
    import torch

    from inference.classify import Labelled
    from inference.stages import summarised

    names, each = _differing(models), sum(sizes)
    tables = []
    for k, source in enumerate(sources):
        said = _of_model(report, k * each, len(sources) * each)
        tables.append(summarised(f"model-{k}", source, summary, names, FIRST, each, batch, folder, device, said))
    out = []
    for a, b in pairwise(np.cumsum([0, *sizes])):
        summaries, theta = (torch.cat([table[column][a:b] for table in tables]) for column in (0, 1))
        model = torch.arange(len(sources), device=theta.device).repeat_interleave(int(b - a))
        out.append(Labelled(summaries, model, theta))
    ranges = [table[3] for table in tables]
    return out, [min(low for low, _ in ranges), max(high for _, high in ranges)]


def _of_model(report: Reporter, before: int, of: int) -> Any:
    """Progress of one model as that of all."""
    return lambda stage, done, total, **metrics: report("surveys of models", before + done, of)


def _differing(models: Mapping[str, Config]) -> tuple[str, ...]:
    """Parameters whose prior is not the same in all models."""
    from cigars.schema import Globals

    def prior(config: Config, name: str) -> Any:
        fixed = config.fixed.get(name)
        return config.marginals.get(name, fixed)

    return tuple(n for n in Globals._fields if len({repr(prior(c, n)) for c in models.values()}) > 1)


def _rows(names: Sequence[str], net: ModelClassifier, test: Labelled, observed: Any) -> list[Row]:
    """Every model against the first, at the observed summary."""
    here = net.ln_evidence(observed)[:, 0].cpu().double().numpy()
    fresh, made = net.ln_evidence(test.summary).mean(0).cpu().double().numpy(), test.model.cpu().numpy()
    rows = [Row(names[0], 0.0, 0.0, 0.0, None, math.inf)]
    for k in range(1, len(names)):
        pair = (made == 0) | (made == k)
        rows.append(_row(names[k], here[:, k] - here[:, 0], (fresh[:, k] - fresh[:, 0])[pair], made[pair] == k))
    weight = np.exp([row.ln_k - max(row.ln_k for row in rows) for row in rows])
    return [row._replace(probability=float(p)) for row, p in zip(rows, weight / weight.sum(), strict=True)]


def _row(name: str, here: np.ndarray, fresh: np.ndarray, made: np.ndarray) -> Row:
    """One model against the first by ln K of each classifier here, of all on fresh surveys, and whether the model made these."""
    from inference.classify import calibrate, recalibrate

    said, spread, found, tested = float(here.mean()), float(here.std(ddof=1)), calibrate(fresh, made), math.log(len(made) / 2)
    if not found.determined:  # what the surveys cannot say is not put into an error
        return Row(name, said, spread, math.nan, found, tested)
    if found.passed:
        return Row(name, said, math.hypot(spread, said * found.slope_error), math.nan, found, tested)
    by, left = recalibrate(fresh, made)
    error = math.hypot(by.slope * spread, said * by.slope_error, by.offset_error)
    return Row(name, float(by.corrected(np.array(said))), error, math.nan, left, tested, uncorrected=said)


def _likely(net: ModelClassifier, test: Labelled, observed: Any, rows: Sequence[Row]) -> float:
    """Share of the fresh surveys of the likeliest model whose whitened summary is as far from the middle as the observed one."""
    best = int(np.argmax([row.probability for row in rows]))
    far = net.whitening(test.summary[test.model == best]).square().sum(1)
    here = net.whitening(observed).square().sum()
    return float((1 + (far >= here).sum()) / (1 + len(far)))


def _calibration(row: Row) -> dict[str, Any] | None:
    """Its numbers, and whether they are known."""
    return row.calibration and {**row.calibration._asdict(), "determined": row.calibration.determined}


def write_comparison(path: str | Path, found: Comparison, overwrite: bool = False) -> None:
    """Write a comparison as JSON; raises FileError where the file exists."""
    rows = [row._asdict() | {"calibration": _calibration(row)} for row in found.rows]
    content = {"meaning": "ln_k > 0 favours the model over the first", "rows": rows, "likely": found.likely, **found.record}
    write_json(path, content, overwrite)
