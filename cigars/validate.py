"""Is a run calibrated? Its posteriors of fresh surveys, which no training saw, through every check of `inference.checks`.

Surveys come from the run's own prior in a random stream of their own. Checked are the global posterior and, at the true Θ of each
survey, the posteriors of some of its objects: together they are the joint posterior. With a catalogue, L-C2ST asks the same at that
very survey.
A run passes where no test rejects at the family-wise level: Bonferroni within a test, Holm's rule over the tests.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cigars.check import read_judged
from cigars.config import Config, ConfigError
from cigars.files import FileError, write_json
from cigars.progress import Reporter, silent
from cigars.runs import run_config
from cigars.schema import LOCALS
from cigars.surveys import survey_source
from cigars.targets import survey_of, target_hash, without_redshifts
from cigars.training_range import DROP, check_exposure, check_trained, kept, warn_of_other_target, warn_of_others, warn_of_redshifts

if TYPE_CHECKING:
    from torch import Tensor

    from cigars.catalogue import Catalogue
    from inference.checks import Check, Judged

__all__ = ["VALIDATION", "Validation", "read_validation", "validate", "write_validation"]

VALIDATION = "validation.json"  # in a run folder, where reports look
DRAWS = 399  # with 1 more a round number of cells for ranks
OBJECTS = 4  # of each survey whose own posteriors are checked
NARROWEST = 1e-4  # of the spread of truths: least sd of a posterior that a pull is divided by
FEWEST = 50  # surveys below which nothing would be seen


class Validation(NamedTuple):
    """What `validate` found.

    Attributes:
        rows: tests, judged at `level`.
        checks: the numbers behind them, one a parameter.
        passed: whether all tests did.
        level: family-wise.
        curves: rank histograms with bands, coverage and TARP, by name.
        record: configuration fingerprint, seeds, versions, hardware.
    """

    rows: list[Judged]
    checks: list[Check]
    passed: bool
    level: float
    curves: Mapping[str, Any]
    record: Mapping[str, Any]


class _Fresh(NamedTuple):
    """Posteriors of fresh surveys [draw, survey, parameter], truths, ln q of both; the same of single objects."""

    draws: Tensor
    truth: Tensor
    log_q_draws: Tensor
    log_q_truth: Tensor
    object_draws: Tensor
    object_truth: Tensor


def validate(
    run: str | Path,
    *,
    surveys: int = 500,
    catalogue: Catalogue | None = None,
    drop_outside: bool = False,
    exposure: float | None = None,
    level: float = 0.01,
    seed: int = 0,
    device: str = "cpu",
    report: Reporter = silent,
) -> Validation:
    """Check the posteriors of a run on fresh surveys of its prior.

    Args:
        run: folder that `train` made.
        surveys: how many; the sd of a width is 1 / sqrt(2 surveys).
        catalogue: also L-C2ST at this one.
        drop_outside: leave out its objects beyond what training saw, as `infer` does.
        exposure: of all surveys and of the catalogue; by default surveys have the run's own range, and a catalogue 1.
        level: chance that an exact posterior fails any test.
        seed: of the surveys and the draws.
        device: torch device.
        report: progress, called as report("surveys", done, total).

    Raises:
        ConfigError: for too few surveys or a level outside (0, 1).
        CatalogueError: for a catalogue or an exposure unlike those of the training.

    Warns:
        TargetWarning: where the run was trained for another catalogue, objects are by `p_ia` of another type, or redshifts are not as in
            the training.
    """
    from inference.checks import joint_checks, judge, marginal_checks
    from inference.local_check import local_check
    from inference.model import load_run, versions

    if surveys < FEWEST or not 0 < level < 1:
        raise ConfigError(f"validate: expected at least {FEWEST} surveys and a level between 0 and 1, got {surveys} and {level:g}")
    config = run_config(run)
    if exposure is not None:
        check_exposure(exposure, config)
    if catalogue is not None:
        warn_of_other_target(run, catalogue)
        warn_of_others(catalogue)
        warn_of_redshifts(read := without_redshifts(catalogue, config), config)
    trained = load_run(Path(run), device)
    observed = None if catalogue is None else _observed(trained, read, 1.0 if exposure is None else exposure, config, seed, drop_outside)
    fresh = _fresh(trained, config, surveys, exposure, seed, report)
    checks = [
        *marginal_checks(fresh.draws, fresh.truth, trained.names, seed=seed),
        *joint_checks(fresh.draws, fresh.truth, fresh.log_q_draws, fresh.log_q_truth, seed),
        *marginal_checks(fresh.object_draws, fresh.object_truth, LOCALS, "host ", seed + 1),
    ]
    if observed is not None:
        checks.append(local_check(fresh.draws, fresh.truth, observed, seed))
    rows = judge(checks, level)
    record = {
        "run": str(run), "name": config.name, "fingerprint": trained.meta["fingerprint"], "seed": seed, "surveys": surveys,
        "draws": DRAWS, "objects": len(fresh.object_truth), "exposure": exposure or list(config.size.exposure),
        "catalogue": target_hash(catalogue) if catalogue else None, "versions": versions(), "hardware": _hardware(device),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    return Validation(rows, checks, all(row.passed for row in rows), level, _curves(fresh, trained.names, seed), record)


def _fresh(trained: Any, config: Config, total: int, exposure: float | None, seed: int, report: Reporter) -> _Fresh:
    """Simulate, infer and keep what the checks need, by batches."""
    import torch

    from inference.batches import pack
    from inference.posterior import GlobalPosterior

    if exposure is not None:
        config = config.of_exposure(exposure)
    source, posterior, batch = (
        survey_source(config, f"validate-{seed}", report=report),
        GlobalPosterior(trained),
        config.training.batch_surveys,
    )
    parts: list[tuple[Tensor, ...]] = []
    for first in range(0, total, batch):
        count = min(batch, total - first)
        packed = pack(source(first, batch), trained.names, trained.device)
        draws = posterior.sample(DRAWS, packed, seed=seed + first)
        log_q = posterior.log_prob(torch.cat([packed.theta[None], draws]), packed)
        objects, true = _objects(trained, packed, count, seed + first)
        parts.append((draws[:, :count], packed.theta[:count], log_q[1:, :count], log_q[0, :count], objects, true))
        report("surveys", first + count, total)
    axes = (1, 0, 1, 0, 1, 0)
    return _Fresh(*(torch.cat(leaves, axis).cpu() for leaves, axis in zip(zip(*parts, strict=True), axes, strict=True)))


def _objects(trained: Any, packed: Any, surveys: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draws [draw, object, unknown] at the true Θ, and truths, of a few random objects of each survey."""
    import torch

    from inference.batches import select, subset
    from inference.local import local_values
    from inference.posterior import LocalPosterior

    some = subset(packed, OBJECTS, torch.Generator().manual_seed(seed))
    local = LocalPosterior(trained)
    draws = [torch.empty(DRAWS, 0, len(LOCALS), device=trained.device)]
    for k in range(surveys):
        one = select(some, [k])
        draws.append(local.sample(one.observations, one.theta.expand(DRAWS, -1), seed + k))
    latents: Any = select(some, range(surveys)).latents
    return torch.cat(draws, 1), local_values(latents)


def _observed(trained: Any, catalogue: Catalogue, exposure: float, config: Config, seed: int, drop_outside: bool) -> Tensor:
    """Posterior draws of the observed survey, its objects in the order of their ids."""
    from inference.posterior import GlobalPosterior

    check_exposure(exposure, config)
    number = len(catalogue.id)
    survey = survey_of(kept(trained, catalogue, config) if drop_outside else catalogue, exposure, number)
    check_trained(trained, survey, config, remedy=DROP)
    return GlobalPosterior(trained).sample(2 * DRAWS, survey, seed)[:, 0]


def _curves(fresh: _Fresh, names: tuple[str, ...], seed: int) -> dict[str, Any]:
    """What a figure needs: ranks, coverage of highest-density regions with its binomial band, TARP with its bootstrap band, pulls."""
    from scipy import stats

    from inference.checks import joint_ranks
    from inference.diagnostics import LEVELS, calibration, tarp

    ranks, regions = calibration(fresh.draws, fresh.truth), tarp(fresh.draws, fresh.truth, seed)
    within, count = joint_ranks(fresh.log_q_draws, fresh.log_q_truth, seed), len(fresh.truth)
    low, high = stats.binom.interval(0.99, count, LEVELS)
    # a posterior with all draws at an edge of the prior has no width
    spread = fresh.draws.std(0).clamp(min=NARROWEST * fresh.truth.std(0))
    pull = ((fresh.draws.mean(0) - fresh.truth) / spread).double().numpy()
    # the error of an sd from the scatter of squares, as pulls of a posterior that is not normal are not either
    sd_error = (pull**2).std(0) / (2 * pull.std(0)) * count**-0.5
    return {
        "ranks": {"names": names, "counts": ranks.counts, "band": [ranks.low, ranks.high], "p_value": ranks.p_value},
        "coverage": {"levels": LEVELS, "inside": (within[:, None] <= LEVELS).mean(0), "low": low / count, "high": high / count},
        "tarp": {"levels": regions.credibility, "inside": regions.coverage, "low": regions.low, "high": regions.high},
        "pulls": {
            "names": names, "mean": pull.mean(0), "mean_error": pull.std(0) * count**-0.5, "sd": pull.std(0, ddof=1), "sd_error": sd_error,
        },
    }  # fmt: skip


def _hardware(device: str) -> dict[str, Any]:
    return {"machine": platform.machine(), "system": platform.platform(), "cores": os.cpu_count(), "device": device}


def write_validation(path: str | Path, validation: Validation, overwrite: bool = False) -> None:
    """Write a validation as JSON; raises FileError where the file exists."""
    content = {
        "passed": validation.passed, "level": validation.level, "tests": validation.rows, "checks": validation.checks,
        "curves": validation.curves, **validation.record,
    }  # fmt: skip
    write_json(path, content, overwrite)


def read_validation(path: str | Path) -> dict[str, Any]:
    """What `write_validation` wrote; raises FileError for another file."""
    try:
        found = read_judged(path)
        if {"passed", "level", "tests", "fingerprint", "catalogue", "exposure"} <= set(found):
            return dict(found)
    except (OSError, ValueError, TypeError) as error:
        raise FileError(f"{path}: cannot read the validation: {error}; run `cigars validate` again") from None
    raise FileError(f"{path}: expected what `cigars validate` writes, got another file; run it again")
