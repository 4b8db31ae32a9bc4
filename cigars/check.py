"""Does a catalogue look like anything that the model simulates? Whole-survey statistics, the networks' summary, and single objects.

Surveys are simulated at draws of the catalogue's own posterior and treated as it was; `inference.misspecification` says how they are
compared. `cigars validate` asks whether a posterior is right where the model is; this asks whether the model is.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cigars.catalogue import Catalogue, CatalogueError, select
from cigars.catalogue_checks import TargetWarning
from cigars.config import Config, ConfigError
from cigars.files import FileError, write_json
from cigars.progress import Reporter, silent
from cigars.runs import run_config
from cigars.schema import Column, Survey, column
from cigars.seen import REDSHIFT_BINS, Seen, input_names, pool, see, statistics_of
from cigars.surveys import survey_source
from cigars.tables import write_table
from cigars.targets import survey_of, target_hash, without_redshifts
from cigars.training_range import check_exposure, in_words, inside, lacking, unlike, warn_of_other_target, warn_of_others, warn_of_redshifts

if TYPE_CHECKING:
    from inference.checks import Check, Family, Judged
    from inference.misspecification import Typicality

__all__ = ["Checked", "check", "compared", "read_check", "read_judged", "references", "write_check", "write_odd_objects"]

REFERENCE = 40_000  # simulated objects among which neighbours are looked for
COMMON = 40_000  # others, which say how far such neighbours usually are
NUMBERS = "value", "low", "high", "p_value", "adjusted", "single"  # of checks and of tests
SHARE = 0.1  # of false ones among the objects that are called odd
BATCH = 16


class Checked(NamedTuple):
    """What `check` found.

    Attributes:
        rows: tests "statistics", "all statistics", "network summary", "summary density", "objects together"
            and "odd objects", judged at `level`.
        checks: the numbers behind them.
        passed: whether no test rejects.
        level: family-wise.
        objects: p-value, reason, p-value without that input, and whether an object is called odd, by column [object]; of those that lack
            what every simulated one has, NaN and what that is.
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


def check(
    run: str | Path,
    catalogue: Catalogue,
    *,
    surveys: int = 400,
    exposure: float = 1.0,
    level: float = 0.01,
    seed: int = 0,
    device: str = "cpu",
    report: Reporter = silent,
) -> Checked:
    """Compare a catalogue with surveys simulated at draws of its posterior.

    Args:
        run: folder that `train` made.
        catalogue: objects in the bands of the run. Those beyond the range of its training count as odd, those that lack what every object
            had there are not judged; both count in the number of objects and take no further part, nor does as large a share of the
            objects of simulated surveys, chosen at random: whether bands are missing at random is not known. Spectroscopic redshifts are
            not read where the run had none.
        surveys: to simulate, rounded up to a multiple of 16.
        exposure: of the catalogue, relative to the configured size.
        level: chance that a catalogue that the model describes is rejected.
        seed: of draws and surveys.
        device: torch device.
        report: progress, called as report("surveys", done, total).

    Raises:
        CatalogueError: for an exposure that the run was not trained for, or a catalogue without objects in its range.
        ConfigError: for too few surveys or a level outside (0, 1).

    Warns:
        TargetWarning: of objects that are not judged or are by `p_ia` of another type, of spectroscopic redshifts that are not read, where
            redshifts, bands or correlations of errors are not as in the training, which simulated surveys follow, and where the run was
            trained for another catalogue.
    """
    from inference.checks import judge_among
    from inference.misspecification import false_discoveries
    from inference.model import load_run, versions

    config = run_config(run)
    check_exposure(exposure, config)
    warn_of_other_target(run, catalogue)
    warn_of_others(catalogue)
    trained, identity, started = load_run(Path(run), device), target_hash(catalogue), time.monotonic()
    if surveys < (fewest := _fewest(trained, config)) or not 0 < level < 1:
        raise ConfigError(
            f"check: expected at least {fewest} surveys, with which all statistics can be judged, and a level between 0 and 1, "
            f"got {surveys} and {level:g}; simulate more"
        )
    catalogue = without_redshifts(catalogue, config)
    absent = lacking(catalogue.observations, config)
    incomplete = np.any([np.zeros(len(catalogue.id), bool), *absent.values()], 0)
    within, outside = inside(trained, select(catalogue, ~incomplete), None)
    if len(within.id) < 2:
        raise CatalogueError("check: expected objects in the range of the training, got none; train a configuration that covers them")
    warn_of_redshifts(within, config)
    if differing := unlike(within.observations, config):
        warnings.warn(f"check: {differing}", TargetWarning, stacklevel=2)
    if absent:
        said = f"check: {in_words(absent)}, which every simulated object has; these are not judged"
        warnings.warn(f"{said}, the others taken for a random choice of all", TargetWarning, stacklevel=2)
    survey = survey_of(within, exposure, len(catalogue.id))
    found = references(trained, survey, config, exposure, surveys, seed, report)
    tests, objects = compared(found, see(trained, [survey], config, seed), [outside], trained, config)[0]
    rows, checks = judge_among(tests, level), [check for test in tests for check in test.checks]

    odd = false_discoveries(objects.p_value, SHARE)
    by_id = {name: i for i, name in enumerate(np.sort(within.id))}
    place = np.array([by_id.get(name, -1) for name in catalogue.id])
    beyond = np.where(incomplete, np.nan, 0.0)  # of those that took no part
    why = np.full(len(catalogue.id), "outside the range of the training", object)
    for name, which in absent.items():
        why[which] = f"lacks {name}"
    of_objects = {
        "p_value": np.where(place < 0, beyond, objects.p_value[place]),
        "reason": np.where(place < 0, why, objects.reason[place].astype(object)).astype(str),
        "p_without": np.where(place < 0, beyond, objects.relief[place]),
        "odd": np.where(place < 0, ~incomplete, odd[place]),
    }
    record = {
        "run": str(run), "name": config.name, "fingerprint": trained.meta["fingerprint"], "catalogue": identity,
        "objects": len(catalogue.id), "outside": outside, "incomplete": int(incomplete.sum()), "odd": int(of_objects["odd"].sum()),
        "surveys": surveys, "exposure": exposure, "seed": seed, "seconds": time.monotonic() - started, "versions": versions(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    return Checked(rows, checks, all(row.passed for row in rows), level, of_objects, np.asarray(catalogue.id), record)


def references(
    trained: Any, survey: Any, config: Config, exposure: float, surveys: int, seed: int, report: Reporter = silent
) -> list[Seen]:
    """Surveys simulated at draws of the posterior of a survey, as they are seen; their number is rounded up to whole batches.

    Where only some of the objects that the survey counts take part, as large a share of those of each simulated one does, chosen at random.
    """
    from inference.posterior import GlobalPosterior

    surveys = -(-surveys // BATCH) * BATCH  # of one shape
    theta = GlobalPosterior(trained).sample(surveys, survey, seed)[:, 0].cpu().numpy()
    share = float(survey.observed.sum() / survey.number.sum())
    return _simulated(trained, theta, config, exposure, share, seed, report)


def compared(
    simulated: Sequence[Seen], observed: Sequence[Seen], outside: Sequence[int], trained: Any, config: Config, *, reasons: bool = True
) -> list[tuple[list[Family], Typicality]]:
    """Of each observed survey the tests against the simulated ones, and how typical its objects are.

    Args:
        simulated: what `references` gives.
        observed: surveys without their objects beyond the range of the training.
        outside: how many of those each had; they count as odd.
        trained, config: of the run.
        reasons: whether to look for what makes objects odd, which takes longer than the rest.
    """
    from inference.checks import Family
    from inference.misspecification import ODD, Typicality, odd_share, typicality

    half, known = len(simulated) // 2, np.array([s.mean for s in simulated])
    among, common = (pool([s.inputs for s in part], size) for part, size in ((simulated[:half], REFERENCE), (simulated[half:], COMMON)))
    every = typicality(np.concatenate([o.inputs for o in observed]), among, common, input_names(config), ODD if reasons else 0.0)
    ends = np.cumsum([len(o.inputs) for o in observed])[:-1]
    objects = [Typicality(*parts) for parts in zip(*(np.split(leaf, ends) for leaf in every), strict=True)]
    statistics, together = _statistics_checks(simulated, known, observed), _objects_checks(simulated, known, observed, among)
    summary, density = (of(trained, simulated, known, observed) for of in (_summary_checks, _density_checks))
    odd = [odd_share(np.append(of.p_value, np.zeros(beyond)), len(common)) for of, beyond in zip(objects, outside, strict=True)]
    alone = [Family([of], np.empty((0, 1))) for of in odd]  # to look for neighbours of every simulated object would take too long
    tests = [[*both, *others] for both, *others in zip(statistics, summary, density, together, alone, strict=True)]
    return list(zip(tests, objects, strict=True))


def _statistics_checks(simulated: Sequence[Seen], known: np.ndarray, observed: Sequence[Seen]) -> Iterator[tuple[Family, Family]]:
    from inference.misspecification import comparable, predictive_checks

    for one in observed:
        near = comparable(known, one.mean)
        table, own = statistics_of([s for s, like in zip(simulated, near, strict=True) if like], one)
        yield predictive_checks(list(own), table, known[near], np.array(list(own.values())), one.mean)


def _summary_checks(trained: Any, simulated: Sequence[Seen], known: np.ndarray, observed: Sequence[Seen]) -> Iterator[Family]:
    """Hotelling's T² of the whitened summary that the global posterior reads."""
    import torch

    from inference.misspecification import comparable, predictive_checks

    def whitened(surveys: Sequence[Seen]) -> np.ndarray:
        rows = torch.as_tensor(np.stack([s.summary for s in surveys]), device=trained.device)
        with torch.no_grad():
            return np.asarray(trained.estimators[0].whitening(rows).cpu().double().numpy())

    among = whitened(simulated)
    names = [f"component {k}" for k in range(among.shape[1])]
    for one, row in zip(observed, whitened(observed), strict=True):
        near = comparable(known, one.mean)
        _, together = predictive_checks(names, among[near], known[near], row, one.mean)
        yield together._replace(checks=[check._replace(test="network summary") for check in together.checks])


def _density_checks(trained: Any, simulated: Sequence[Seen], known: np.ndarray, observed: Sequence[Seen]) -> list[Family]:
    """Learned density of the summary."""
    import torch

    from inference.misspecification import comparable, unlikely

    def ln_density(surveys: Sequence[Seen]) -> np.ndarray:
        with torch.no_grad():
            rows = torch.as_tensor(np.stack([s.summary for s in surveys]), device=trained.device)
            return np.asarray(trained.density(rows).double().cpu().numpy())

    among, near = ln_density(simulated), [comparable(known, one.mean) for one in observed]
    rows = zip(observed, ln_density(observed), near, strict=True)
    return [unlikely(among[like], known[like], float(row), one.mean) for one, row, like in rows]


def _objects_checks(simulated: Sequence[Seen], known: np.ndarray, observed: Sequence[Seen], objects: np.ndarray) -> Iterator[Family]:
    """Maximum mean discrepancy of the objects, whatever it is in their law that differs."""
    from inference.checks import Family
    from inference.misspecification import comparable
    from inference.two_sample import FREQUENCIES, embedding, gaussian_kernel, mmd_check

    kernel, sizes = gaussian_kernel(objects), np.array([len(s.inputs) for s in simulated])
    means = np.stack([embedding(s.inputs, kernel) if len(s.inputs) else np.zeros(2 * FREQUENCIES) for s in simulated])
    for one in observed:
        near = comparable(known, one.mean)
        enough = near & (sizes > 1)  # a survey of fewer than two objects says nothing of their law
        checks, null = mmd_check(means[enough], sizes[enough], known[enough], embedding(one.inputs, kernel), len(one.inputs), one.mean)
        every = np.ones((len(simulated), 1))
        every[enough] = null
        yield Family(checks, every[near])


def _fewest(trained: Any, config: Config) -> int:
    """Surveys with which all statistics, and all components of the summary, can be judged by regression on the parameters.

    A share 1/FAR of them and more cannot have FAR times the mean leverage: so many remain after `comparable`.
    """
    from inference.misspecification import FAR, QUANTILES

    statistics = 1 + (len(input_names(config)) + 1) * (2 + len(QUANTILES)) + REDSHIFT_BINS
    summary = trained.estimators[0].whitening.projection.shape[1]
    return math.ceil((max(statistics, summary) + len(trained.names) + 3) / (1 - 1 / FAR))


def _simulated(trained: Any, theta: np.ndarray, config: Config, exposure: float, share: float, seed: int, report: Reporter) -> list[Seen]:
    """Surveys at each Θ [survey, parameter], of whose objects a share takes part, seen as the observed one is."""

    at = config.globals_of(dict(zip(trained.names, theta.T, strict=True)))
    source = survey_source(config.of_exposure(exposure), f"check-{seed}", at, report)

    def batches() -> Iterator[Survey]:
        for first in range(0, len(theta), BATCH):
            yield source(first, BATCH)
            report("surveys", first + BATCH, len(theta))

    return see(trained, batches(), config, seed, share)


def write_check(path: str | Path, checked: Checked, overwrite: bool = False) -> None:
    """Write what was found as JSON, the odd objects by id; raises FileError where the file exists."""
    odd = np.flatnonzero(checked.objects["odd"])
    objects = [{"id": str(checked.ids[i]), **{k: v[i].item() for k, v in checked.objects.items() if k != "odd"}} for i in odd]
    content = {
        "passed": checked.passed, "level": checked.level, "tests": checked.rows, "checks": checked.checks,
        "odd_objects": objects, **checked.record,
    }  # fmt: skip
    write_json(path, content, overwrite)


def read_judged(path: str | Path) -> Any:
    """What `write_check` or `write_validation` wrote, with the numbers of checks and tests that JSON has not as NaN."""

    def numbers(tree: dict[str, Any]) -> dict[str, Any]:
        return {name: math.nan if value is None and name in NUMBERS else value for name, value in tree.items()}

    return json.loads(Path(path).read_text(), object_hook=numbers)


def read_check(path: str | Path) -> dict[str, Any]:
    """What `write_check` wrote; raises FileError for another file."""
    try:
        found = read_judged(path)
        whole = {"passed", "level", "tests", "checks", "odd_objects", "objects", "fingerprint", "catalogue", "exposure"} <= set(found)
        if whole and all("single" in test for test in found["tests"]):
            return dict(found)
    except (OSError, ValueError, TypeError) as error:
        raise FileError(f"{path}: cannot read the check: {error}; run `cigars check` again") from None
    raise FileError(f"{path}: expected what `cigars check` writes, got another file; run it again")


def write_odd_objects(path: str | Path, checked: Checked, overwrite: bool = False) -> None:
    """Write a row for each object of the catalogue, in its order; raises FileError where the file exists."""
    about = {
        "p_value": "chance that a simulated object is as far from its neighbours", "reason": "input without which it is most ordinary",
        "p_without": "p_value without that input", "odd": f"among odd objects, of which {SHARE:.0%} are expected to be ordinary",
    }  # fmt: skip
    columns: dict[str, tuple[Any, Column]] = {"id": (checked.ids.astype(np.str_), column("id"))}
    columns |= {name: (values, Column(name, "", about[name], name)) for name, values in checked.objects.items()}
    write_table(path, columns, {"fingerprint": checked.record["fingerprint"], "seed": checked.record["seed"]}, overwrite)
