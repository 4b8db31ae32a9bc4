"""Does a catalogue look like anything that the model simulates? Whole-survey statistics, the networks' summary, and single objects.

Surveys are simulated at draws of the catalogue's own posterior and treated as it was; `inference.misspecification` says how they are
compared. `cigars validate` asks whether a posterior is right where the model is; this asks whether the model is.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cigars.catalogue import Catalogue, CatalogueError, select
from cigars.config import Config, ConfigError
from cigars.files import replacing
from cigars.runs import run_config
from cigars.schema import FIDUCIAL, Column, Globals, column
from cigars.tables import write_table
from cigars.targets import as_survey, check_exposure, inside, target_hash

if TYPE_CHECKING:
    from inference.checks import Check, Judged
    from inference.misspecification import Typicality

__all__ = ["Checked", "check", "compared", "references", "write_check", "write_odd_objects"]

DRAWS = 64  # for the posterior mean of a survey
REFERENCE = 40_000  # simulated objects among which neighbours are looked for
COMMON = 40_000  # others, which say how far such neighbours usually are
SHARE = 0.1  # of false ones among the objects that are called odd
BATCH = 16
Reporter = Callable[..., None]


class Checked(NamedTuple):
    """What `check` found.

    Attributes:
        rows: tests "statistics", "all statistics", "network summary" and "odd objects", judged at `level`.
        checks: the numbers behind them.
        passed: whether no test rejects.
        level: family-wise.
        objects: p-value, reason, p-value without that input, and whether an object is called odd, by column [object].
        ids: of the objects.
        record: of how it was done.
    """

    rows: list[Judged]
    checks: list[Check]
    passed: bool
    level: float
    objects: Mapping[str, np.ndarray]
    ids: np.ndarray
    record: Mapping[str, Any]


class _Seen(NamedTuple):
    """Of each survey: statistics by name, summary [column], posterior mean [parameter], inputs [object, input]."""

    statistics: dict[str, float]
    summary: np.ndarray
    mean: np.ndarray
    inputs: np.ndarray


def check(
    run: str | Path,
    catalogue: Catalogue,
    *,
    surveys: int = 400,
    exposure: float = 1.0,
    level: float = 0.01,
    seed: int = 0,
    device: str = "cpu",
    report: Reporter = lambda *_, **__: None,
) -> Checked:
    """Compare a catalogue with surveys simulated at draws of its posterior.

    Args:
        run: folder that `train` made.
        catalogue: objects in the bands of the run; those beyond the range of its training count as odd and take no further part.
        surveys: to simulate, rounded up to a multiple of 16.
        exposure: of the catalogue, relative to the configured size.
        level: chance that a catalogue that the model describes is rejected.
        seed: of draws and surveys.
        device: torch device.
        report: progress, called as report("surveys", done, total).

    Raises:
        CatalogueError: for an exposure that the run was not trained for, or a catalogue without objects in its range.
        ConfigError: for too few surveys or a level outside (0, 1).
    """
    from inference.checks import judge
    from inference.misspecification import false_discoveries
    from inference.model import load_run, versions

    config = run_config(run)
    check_exposure(exposure, config)
    trained = load_run(Path(run), device)
    if surveys <= (fewest := _fewest(trained, config)) or not 0 < level < 1:
        raise ConfigError(f"check: expected more than {fewest} surveys and a level between 0 and 1, got {surveys} and {level:g}")
    within, outside = inside(trained, catalogue)
    if len(within.id) < 2:
        raise CatalogueError("check: expected objects in the range of the training, got none; train a configuration that covers them")
    ordered = select(within, np.argsort(within.id))
    survey = as_survey(ordered.observations, exposure)
    found = references(trained, survey, config, exposure, surveys, seed, report)
    checks, objects = compared(found, trained, survey, config, seed)
    rows = judge(checks, level)

    odd = false_discoveries(objects.p_value, SHARE)
    by_id = {name: i for i, name in enumerate(ordered.id)}
    place = np.array([by_id.get(name, -1) for name in catalogue.id])
    of_objects = {
        "p_value": np.where(place < 0, 0.0, objects.p_value[place]),
        "reason": np.where(place < 0, "outside the range of the training", objects.reason[place].astype(object)).astype(str),
        "p_without": np.where(place < 0, 0.0, objects.relief[place]),
        "odd": np.where(place < 0, True, odd[place]),
    }
    record = {
        "run": str(run), "name": config.name, "fingerprint": trained.meta["fingerprint"], "catalogue": target_hash(catalogue),
        "objects": len(catalogue.id), "outside": outside, "odd": int(of_objects["odd"].sum()), "surveys": surveys, "exposure": exposure,
        "seed": seed, "versions": versions(), "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    return Checked(rows, checks, all(row.passed for row in rows), level, of_objects, np.asarray(catalogue.id), record)


def references(
    trained: Any, survey: Any, config: Config, exposure: float, surveys: int, seed: int, report: Reporter = lambda *_, **__: None
) -> list[_Seen]:
    """Surveys simulated at draws of the posterior of a survey, as they are seen; their number is rounded up to whole batches."""
    from inference.posterior import GlobalPosterior

    surveys = -(-surveys // BATCH) * BATCH  # of one shape
    theta = GlobalPosterior(trained).sample(surveys, survey, seed)[:, 0].cpu().numpy()
    return _simulated(trained, theta, config, exposure, seed, report)


def compared(simulated: Sequence[_Seen], trained: Any, survey: Any, config: Config, seed: int) -> tuple[list[Check], Typicality]:
    """The checks of a survey against simulated ones, and how typical its objects are."""
    from inference.misspecification import odd_share, predictive_checks, typicality

    observed = _see(trained, survey, config, seed)[0]
    half = len(simulated) // 2
    among, common = (_pool(part, size) for part, size in ((simulated[:half], REFERENCE), (simulated[half:], COMMON)))
    objects = typicality(observed.inputs, among, common, _input_names(config))
    kept = [name for name in observed.statistics if all(np.isfinite(s.statistics[name]) for s in (observed, *simulated))]
    table, known = np.array([[s.statistics[n] for n in kept] for s in simulated]), np.array([s.mean for s in simulated])
    checks = predictive_checks(kept, table, known, np.array([observed.statistics[n] for n in kept]), observed.mean)
    checks += [_summary_check(trained, [s.summary for s in simulated], known, observed), odd_share(objects.p_value)]
    return checks, objects


def _fewest(trained: Any, config: Config) -> int:
    """Surveys that are too few to judge all statistics, or all components of the summary, by regression on the parameters."""
    from inference.misspecification import QUANTILES

    statistics = 1 + (len(_input_names(config)) + 1) * (2 + len(QUANTILES))
    summary = trained.estimators[0].whitening.projection.shape[1]
    return max(statistics, summary) + len(trained.names) + 3


def _input_names(config: Config) -> list[str]:
    bands = config.band_names
    middle = bands[len(bands) // 2]
    return [middle, *(f"{a} - {b}" for a, b in itertools.pairwise(bands)), "m", "x", "c"]


def _simulated(trained: Any, theta: np.ndarray, config: Config, exposure: float, seed: int, report: Reporter) -> list[_Seen]:
    """Surveys at each Θ [survey, parameter], seen as the observed one is."""
    from cigars.pipeline import survey_source

    one_size = config.model_copy(update={"size": config.size.model_copy(update={"exposure": (exposure, exposure)})})
    values = {**FIDUCIAL._asdict(), **config.fixed, **dict(zip(trained.names, theta.T, strict=True))}
    if config.supernovae.cosmology != "LCDM":
        values["Ode0"] = 1 - values["Om0"]
    source = survey_source(one_size, f"check-{seed}", Globals(**values), report)
    seen: list[_Seen] = []
    for first in range(0, len(theta), BATCH):
        seen += _see(trained, source(first, BATCH), config, seed + first)
        report("surveys", len(seen), len(theta))
    return seen


def _see(trained: Any, survey: Any, config: Config, seed: int) -> list[_Seen]:
    """What is compared of each survey."""
    import torch

    from inference.batches import pack
    from inference.misspecification import column_statistics
    from inference.posterior import GlobalPosterior

    packed, names = pack(survey, device=trained.device), _input_names(config)
    with torch.no_grad():
        summary = trained.summary(packed).cpu().numpy()
        inputs = trained.local.standardiser(packed.observations)
        bands = trained.local.standardiser.bands
        inputs = torch.cat([inputs[:, :bands], inputs[:, 2 * bands : 2 * bands + 3]], 1).cpu().numpy()
        mean = GlobalPosterior(trained).sample(DRAWS, packed, seed).mean(0).cpu().numpy()
        redshift = _redshift(trained, packed)
    mag, middle = packed.observations.mag.cpu().numpy(), len(config.band_names) // 2
    light = [getattr(packed.observations, n).cpu().numpy()[:, None] for n in ("m", "x", "c")]
    columns = np.concatenate([mag[:, middle : middle + 1], mag[:, :-1] - mag[:, 1:], *light, *redshift], 1)
    edges = np.cumsum([0, *packed.lengths.tolist()])
    out = []
    for k, (a, b) in enumerate(itertools.pairwise(edges)):
        statistics = {"ln number": float(np.log(max(b - a, 1)))} | column_statistics(columns[a:b], [*names, *(["photo-z"] * len(redshift))])
        out.append(_Seen(statistics, summary[k], mean[k], inputs[a:b]))
    return out


def _redshift(trained: Any, packed: Any) -> list[np.ndarray]:
    """Redshift that the summary's regressor estimates of each object [object, 1], where there is such a regressor."""
    regressor = getattr(trained.summary, "regressor", None)
    if regressor is None:
        return []
    estimate = regressor.estimate(packed.observations)[0][:, :1] * regressor.scale[:1] + regressor.centre[:1]
    return [estimate.cpu().numpy()]


def _summary_check(trained: Any, simulated: Sequence[np.ndarray], known: np.ndarray, observed: _Seen) -> Check:
    """Hotelling's T² of the whitened summary that the global posterior reads."""
    import torch

    from inference.misspecification import predictive_checks

    whitening = trained.estimators[0].whitening
    with torch.no_grad():
        rows = whitening(torch.as_tensor(np.stack([observed.summary, *simulated]), device=trained.device)).cpu().double().numpy()
    names = [f"component {k}" for k in range(rows.shape[1])]
    return predictive_checks(names, rows[1:], known, rows[0], observed.mean)[-1]._replace(test="network summary")


def _pool(seen: Sequence[_Seen], size: int) -> np.ndarray:
    """At most `size` objects, as many from each survey as it has in proportion."""
    every = np.concatenate([s.inputs for s in seen])
    return every[:: max(len(every) // size, 1)][:size]


def write_check(path: str | Path, checked: Checked, overwrite: bool = False) -> None:
    """Write what was found as JSON, the odd objects by id; raises FileError where the file exists."""
    tests = [row._asdict() | {"worst": row.worst._asdict()} for row in checked.rows]
    odd = np.flatnonzero(checked.objects["odd"])
    objects = [{"id": str(checked.ids[i]), **{k: v[i].item() for k, v in checked.objects.items() if k != "odd"}} for i in odd]
    content = {
        "passed": checked.passed, "level": checked.level, "tests": tests, "checks": [c._asdict() for c in checked.checks],
        "odd_objects": objects, **checked.record,
    }  # fmt: skip
    with replacing(path, overwrite) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def write_odd_objects(path: str | Path, checked: Checked, overwrite: bool = False) -> None:
    """Write a row for each object of the catalogue, in its order; raises FileError where the file exists."""
    about = {
        "p_value": "share of simulated objects as far from their neighbours", "reason": "input without which it is most ordinary",
        "p_without": "p_value without that input", "odd": f"among odd objects, of which {SHARE:.0%} are expected to be ordinary",
    }  # fmt: skip
    columns: dict[str, tuple[Any, Column]] = {"id": (checked.ids.astype(np.str_), column("id"))}
    columns |= {name: (values, Column(name, "", about[name], name)) for name, values in checked.objects.items()}
    write_table(path, columns, {"fingerprint": checked.record["fingerprint"], "seed": checked.record["seed"]}, overwrite)
