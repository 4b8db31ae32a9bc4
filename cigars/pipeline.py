"""The steps from a configuration to a posterior, as functions: simulate, train, infer, report, ingest.

Each is what the command of the same name calls. Arrays cross between the JAX simulator and the torch estimators here and
nowhere else. Random streams are keyed by seed and purpose, so a mock never repeats a survey that a network was trained on.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cigars.catalogue import Catalogue, Truth, catalogue_from_survey, select, truth_from_survey
from cigars.config import Config, ConfigError, TrainingConfig, fingerprint, load_config
from cigars.files import FileError, replacing
from cigars.ingest import ingest
from cigars.schema import FIDUCIAL, LOCALS, Globals, Latents, Observations, Survey

if TYPE_CHECKING:
    import arviz

__all__ = [
    "Calibration",
    "configured",
    "hide",
    "infer",
    "ingest",
    "read_calibration",
    "read_posterior",
    "report",
    "run_config",
    "run_fingerprint",
    "save_posterior",
    "simulate",
    "stored_fingerprint",
    "survey_source",
    "train",
]

PACKAGES = ("cigars-sn", "jax", "numpyro", "torch", "sbi", "numpy", "astropy")
CALIBRATION_DRAWS = 255
METADATA, CALIBRATION = "run.json", "calibration.json"

Reporter = Callable[..., None]  # (stage, done, total, **metrics)


def _silent(stage: str, done: float, total: float, **metrics: float) -> None:
    """Progress that nobody watches."""


class Calibration(NamedTuple):
    """Simulation-based calibration on fresh surveys: ranks [survey, parameter] of the truth among `draws` posterior draws."""

    names: tuple[str, ...]
    ranks: np.ndarray
    draws: int


def simulate(
    config: Config, *, theta: Mapping[str, float] | None = None, from_prior: bool = False, number: int = 0, report: Reporter = _silent
) -> tuple[Catalogue, Truth]:
    """One mock survey and its truth.

    Args:
        config: what to simulate; `config.seed` seeds it.
        theta: values of global parameters in place of the fiducial ones.
        from_prior: draw Θ from the prior instead; then `theta` must be empty.
        number: which survey of the mock stream.
        report: progress of building the host bank.

    Raises:
        ConfigError: for an unknown, infinite or dependent parameter in `theta`, or for `theta` together with `from_prior`.
    """
    given = dict(theta or {})
    if unknown := sorted(set(given) - set(Globals._fields)):
        raise ConfigError(f"theta: expected parameters of {list(Globals._fields)}, got {unknown}")
    if given and from_prior:
        raise ConfigError("theta: expected no values together with drawing from the prior; give one or the other")
    if wrong := {k: v for k, v in given.items() if not np.isfinite(v)}:
        raise ConfigError(f"theta: expected finite numbers, got {wrong}")
    flat = config.supernovae.cosmology != "LCDM"
    if flat and "Ode0" in given:
        raise ConfigError(f"theta: expected no Ode0 in {config.supernovae.cosmology}, where it is 1 - Om0; leave it out")
    values = {**FIDUCIAL._asdict(), **config.fixed, **given}
    if flat:
        values["Ode0"] = 1 - values["Om0"]
    survey = survey_source(config, "mock", None if from_prior else Globals(**values), report)(number, 1)
    one = _first(survey)
    ids = [f"{config.name}-{i:05d}" for i in range(int(one.number))]
    if not ids:
        raise ConfigError("simulate: the mock has no detected supernova; raise the survey's size or change Θ")
    return catalogue_from_survey(one, ids), truth_from_survey(one, ids)


def survey_source(config: Config, stream: str, theta: Globals | None = None, report: Reporter = _silent) -> Callable[[int, int], Survey]:
    """`source(first, count)` simulating surveys first … first + count − 1 of a named stream, arrays [survey, object, …].

    On one accelerator the arrays stay there, for DLPack; on CPU devices they come as numpy, cut to the largest survey.
    """
    import jax
    import jax.numpy as jnp

    from simulators.hosts import load_bank
    from simulators.survey import draw_surveys, prepare

    bank = load_bank(config.hosts, progress=lambda done, total: report("hosts", done, total))
    simulated = config.model_copy(update={"name": "", "seed": 0, "training": TrainingConfig()})  # nothing else compiles anew
    simulator = prepare(simulated, bank)
    key = jax.random.fold_in(jax.random.key(config.seed), zlib.crc32(stream.encode()))

    def source(first: int, count: int) -> Survey:
        survey = draw_surveys(key, jnp.arange(first, first + count), simulator, simulated, theta)
        if len(jax.local_devices()) == 1 and jax.default_backend() != "cpu":
            return survey
        return _trimmed(jax.device_get(survey))

    return source


def _trimmed(survey: Survey) -> Survey:
    """Drop columns that are padding in every survey of the batch."""
    most = max(int(survey.number.max()), 1)
    cut = lambda tree: type(tree)(*(leaf[:, :most] for leaf in tree))  # noqa: E731
    return survey._replace(
        observations=cut(survey.observations), latents=cut(survey.latents), observed=survey.observed[:, :most], host=survey.host[:, :most]
    )


def _first(survey: Survey) -> Survey:
    one = lambda tree: type(tree)(*(np.asarray(leaf)[0] for leaf in tree))  # noqa: E731
    return Survey(one(survey.theta), one(survey.observations), one(survey.latents), survey.observed[0], survey.host[0], survey.number[0])


def run_fingerprint(config: Config) -> str:
    """Identity of a training: configuration and the data behind the hosts' photometry."""
    from simulators.hosts import bank_fingerprint

    return fingerprint(config, bank_fingerprint(config.hosts))


def train(config: Config, run: str | Path, *, device: str = "cpu", resume: bool = False, report: Reporter = _silent) -> Calibration:
    """Train the global and local posteriors of a configuration into the folder `run`, then calibrate them on fresh surveys.

    Args:
        config: what to simulate and how to train.
        run: run folder, new unless `resume`.
        device: torch device of the networks.
        resume: continue from the checkpoints in the folder.
        report: progress, called as report(stage, done, total, **metrics).

    Raises:
        ValueError: if the folder holds another training, or a loss is not finite.
    """
    from inference.fit import fit
    from simulators.cosmology import fiducial_distance_table

    started = time.monotonic()
    source = survey_source(config, "training", report=report)
    ready = time.monotonic()
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
    )
    fitted = time.monotonic()
    calibration = _calibrate(trained, source, config, report)
    seconds = {"host bank": ready - started, "training": fitted - ready, "calibration": time.monotonic() - fitted}
    content = {"names": calibration.names, "ranks": calibration.ranks.tolist(), "draws": calibration.draws, "seconds": seconds}
    with replacing(Path(run) / CALIBRATION, overwrite=True) as path:
        path.write_text(json.dumps(content))
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


def read_calibration(run: str | Path) -> tuple[Calibration | None, dict[str, float]]:
    """Calibration and seconds by step that `train` left in a run folder; None where it did not finish."""
    path = Path(run) / CALIBRATION
    if not path.is_file():
        return None, {}
    try:
        content = json.loads(path.read_text())
        return Calibration(tuple(content["names"]), np.asarray(content["ranks"]), content["draws"]), content["seconds"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileError(f"run folder {run}: cannot read {CALIBRATION}: {error!r}; remove it, or train again") from None


def hide(observations: Observations, what: Sequence[str]) -> Observations:
    """The observations without `z_spec` or without `sn` (m, x, c and their errors): NaN, as if never taken."""
    groups = {"z_spec": ("z_spec", "z_spec_err"), "sn": ("m", "x", "c", "var_m", "var_x", "var_c", "cov_mx", "cov_mc", "cov_xc")}
    if unknown := sorted(set(what) - set(groups)):
        raise ConfigError(f"hide: expected of {sorted(groups)}, got {unknown}")
    blank = {name: np.full_like(getattr(observations, name), np.nan) for group in what for name in groups[group]}
    return observations._replace(**blank)


def infer(
    run: str | Path,
    catalogue: Catalogue,
    *,
    draws: int = 1000,
    seed: int = 0,
    device: str = "cpu",
    hidden: Sequence[str] = (),
    drop_outside: bool = False,
    command: str = "",
) -> arviz.InferenceData:
    """Joint posterior of Θ and of every host and supernova of a catalogue.

    Args:
        run: folder that `train` made.
        catalogue: objects in the bands of the run.
        draws: joint draws.
        seed: of the draws.
        device: torch device.
        hidden: inputs to leave out, "z_spec" or "sn", for the objects; Θ is inferred from what is left too.
        drop_outside: leave out objects with a value beyond what training saw, and record how many, in place of refusing.
        command: how this was called, for the record.

    Raises:
        CatalogueError: for objects, or a number of them, outside what the run was trained on.
        ValueError: for a folder that is not a run.
    """
    from inference.model import load_run
    from inference.posterior import JointPosterior

    config = run_config(run)
    trained = load_run(Path(run), device)
    catalogue, dropped = catalogue._replace(observations=hide(catalogue.observations, hidden)), 0
    if drop_outside:
        catalogue, dropped = _inside(trained, catalogue)
    survey = _as_survey(catalogue.observations)
    _check_trained(trained, survey, config)
    joint = JointPosterior(trained).sample(draws, survey, seed)
    theta, local = joint.theta.cpu().numpy(), joint.local.cpu().numpy()
    record = {"fingerprint": trained.meta["fingerprint"], "seed": seed, "command": command, "hidden": ", ".join(hidden), "dropped": dropped}
    return _inference_data(trained.names, theta, local, catalogue.id, catalogue.observations, config, record)


def _as_survey(observations: Observations) -> Survey:
    """A catalogue as a survey of one, with no truth."""
    size = len(observations.m)
    batched = Observations(*(np.asarray(leaf, np.float32)[None] for leaf in observations))
    unknown = np.full((1, size), np.nan, np.float32)
    return Survey(
        Globals(*(np.full(1, np.nan, np.float32) for _ in Globals._fields)),
        batched,
        Latents(*(unknown for _ in Latents._fields)),
        np.ones((1, size), bool),
        np.zeros((1, size), np.int32),
        np.array([size], np.int32),
    )


def _inside(trained: Any, catalogue: Catalogue) -> tuple[Catalogue, int]:
    """The objects within the range of the training, and how many are not."""
    from inference.posterior import outside_objects

    outside = outside_objects(trained, _as_survey(catalogue.observations)).cpu().numpy()
    return select(catalogue, ~outside), int(outside.sum())


def _check_trained(trained: Any, survey: Survey, config: Config) -> None:
    from cigars.validation import CatalogueError
    from inference.posterior import check_range

    issues = check_range(trained, survey, config.band_names)
    if issues:
        said = "; ".join(
            f"{i.name}: {i.outside} outside [{i.low:.4g}, {i.high:.4g}], the farthest {i.worst:.4g}"
            if i.low <= i.high
            else f"{i.name}: {i.outside} given, which the training never had"
            for i in issues
        )
        raise CatalogueError(
            f"catalogue: expected objects like those of the training, got {said}; "
            "leave them out with --drop-outside, or train a configuration that covers them"
        )


def _inference_data(
    names: Sequence[str],
    theta: np.ndarray,
    local: np.ndarray,
    ids: np.ndarray,
    observations: Observations,
    config: Config,
    record: Mapping[str, str | int],
) -> arviz.InferenceData:
    import arviz

    attributes = {
        "config": config.model_dump_json(),
        "versions": json.dumps(_versions()),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **record,
    }
    posterior = {name: theta[None, :, i] for i, name in enumerate(names)} | {name: local[None, :, :, i] for i, name in enumerate(LOCALS)}
    observed = observations._asdict()
    data = arviz.from_dict(
        posterior=posterior,
        observed_data=observed,
        coords={"object": np.asarray(ids, str), "band": list(config.band_names)},
        dims={name: ["object"] for name in (*LOCALS, *observed)} | {"mag": ["object", "band"], "mag_err": ["object", "band"]},
    )
    data.posterior.attrs.update(attributes)
    data.attrs.update(attributes)
    return data


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def save_posterior(path: str | Path, posterior: arviz.InferenceData, *, overwrite: bool = False) -> Path:
    """Write a posterior as NetCDF, atomically; raises FileError if the file exists or cannot be written."""
    import xarray

    groups = {"/": xarray.Dataset(attrs=posterior.attrs), **{name: posterior[name] for name in posterior.groups()}}
    with replacing(path, overwrite) as temporary:  # from memory: where a disk fills up HDF5 itself ends the process by a segmentation fault
        temporary.write_bytes(xarray.DataTree.from_dict(groups).to_netcdf(engine="h5netcdf"))
    return Path(path)


def read_posterior(path: str | Path) -> arviz.InferenceData:
    """A posterior that `save_posterior` wrote; raises FileError where the file is not one."""
    import arviz

    try:
        data = arviz.from_netcdf(str(path))
        Config.model_validate_json(data.posterior.attrs["config"])
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise FileError(f"{path}: expected a posterior that `cigars infer` wrote, got something else ({type(error).__name__})") from None
    return data


def report(
    path: str | Path,
    posterior: arviz.InferenceData,
    *,
    run: str | Path | None = None,
    truth: Truth | None = None,
    timings: Mapping[str, float] | None = None,
    overwrite: bool = False,
    figures: str | Path | None = None,
) -> Path:
    """Write the self-contained HTML report of a posterior.

    Args:
        path: HTML file to write.
        posterior: from `infer`.
        run: run folder, for training curves and calibration.
        truth: of a mock, matched to the posterior by id.
        timings: further seconds by step.
        overwrite: replace an existing file.
        figures: folder that also receives every figure as PDF.

    Raises:
        ValueError: if the truth lacks an object, or the run folder is of another fingerprint than the posterior.
    """
    from cigars.report.inputs import ReportInputs
    from cigars.report.page import write_report

    config = Config.model_validate_json(posterior["posterior"].attrs["config"])
    if run and stored_fingerprint(run) != posterior["posterior"].attrs["fingerprint"]:
        made, found = posterior["posterior"].attrs["fingerprint"], stored_fingerprint(run)
        raise ValueError(f"run folder {run}: expected the one that made the posterior, {made}, got {found}; name that folder or none")
    calibration, seconds = read_calibration(run) if run else (None, {})
    inputs = ReportInputs(
        posterior=posterior,
        truth=_matched(truth, posterior["posterior"]["object"].values) if truth else None,
        theta_true={k: float(v) for k, v in truth.theta._asdict().items() if np.isfinite(v)} if truth else None,
        prior=config.marginals,
        curves=_curves(run) if run else {},
        sbc_ranks=calibration.ranks if calibration else None,
        sbc_draws=calibration.draws if calibration else 0,
        sbc_names=calibration.names if calibration else (),
        timings={**seconds, **(timings or {})},
    )
    return write_report(path, inputs, overwrite=overwrite, figures_dir=figures)


def _matched(truth: Truth, ids: np.ndarray) -> Latents:
    """Latents in the order of `ids`; raises ValueError for an id without a truth."""
    row = {str(name): i for i, name in enumerate(truth.id)}
    if missing := [str(i) for i in ids if str(i) not in row]:
        raise ValueError(
            f"truth: expected every object of the posterior, missing {len(missing)} such as {missing[:3]}; name the truth of this mock"
        )
    order = np.array([row[str(i)] for i in ids])
    return Latents(*(np.asarray(leaf)[order] for leaf in truth.latents))


def _curves(run: str | Path) -> dict[str, dict[str, list[float]]]:
    curves: Mapping[str, Any] = _metadata(run)["curves"]
    return {stage: {"train": curve["train"], "validation": curve["validation"]} for stage, curve in curves.items()}


def run_config(run: str | Path) -> Config:
    """The configuration that a run folder was trained with."""
    return Config.model_validate(_metadata(run)["configuration"])


def stored_fingerprint(run: str | Path) -> str:
    """Fingerprint of the configuration that a run folder was trained with."""
    return str(_metadata(run)["fingerprint"])


def _metadata(run: str | Path) -> dict[str, Any]:
    path = Path(run) / METADATA
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        raise FileError(f"run folder {run}: expected a finished training with {METADATA}, got none; train first, or resume it") from None
    except (OSError, ValueError) as error:
        raise FileError(f"run folder {run}: cannot read {METADATA}: {error}; train again") from None
    if not isinstance(found, dict) or not {"configuration", "fingerprint", "curves"} <= set(found):
        raise FileError(f"run folder {run}: expected configuration, fingerprint and curves in {METADATA}, got another file; train again")
    return found


def configured(source: str | Path, settings: Sequence[str] = (), seed: int | None = None) -> Config:
    """Preset or file with settings, and the seed of the command line where given."""
    return load_config(source, settings, **({} if seed is None else {"seed": seed}))
