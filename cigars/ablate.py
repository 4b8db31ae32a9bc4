r"""Which data carry the information: the global posterior retrained without some of its inputs.

Hiding an input costs $\mathrm{E}[\ln q(\Theta \mid D) - \ln q(\Theta \mid D')]$ nats, D' what is left of D: for exact posteriors the
mutual information of Θ and what is hidden, given the rest. Every variant learns from the same surveys with the same seed, and is judged on
the same fresh ones, so that differences are paired.

What is hidden has still decided, with all else, which objects were detected: selection, number and exposure stay.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cigars.config import Config, ConfigError, fingerprint
from cigars.files import FileError, write_json
from cigars.inputs import NOTHING, Hidden, default_inputs, hidden
from cigars.memory import gives_back
from cigars.progress import Reporter, silent
from cigars.schema import Survey
from cigars.surveys import run_fingerprint, survey_source

if TYPE_CHECKING:
    from inference.ablation import Judged

__all__ = ["ABLATION", "Ablation", "Estimate", "Row", "ablate", "compared", "tabulated", "variants", "write_ablation"]

ABLATION = "ablation.json"
SCORES = "joint-scores.pt"
DENSITIES = ("Om0", "Ode0")
Source = Callable[[int, int], Survey]


class Estimate(NamedTuple):
    """A mean over surveys and its standard error."""

    value: float
    error: float


class Row(NamedTuple):
    """One variant against the one that sees everything.

    Attributes:
        hidden: names of what is hidden.
        loss: mean of -ln q at the truth, nats.
        lost: nats by which that is above the loss of the variant that sees everything, with its paired standard error.
        widths: by parameter the mean posterior standard deviation over that of the variant that sees everything, paired.
        area: the same of √det of the covariance of (Om0, Ode0), where both are free.
        sd: by parameter the mean posterior standard deviation.
    """

    hidden: str
    loss: Estimate
    lost: Estimate
    widths: Mapping[str, Estimate]
    area: Estimate | None
    sd: Mapping[str, float]


class Ablation(NamedTuple):
    """What `ablate` found, the variant that sees everything first, and how."""

    rows: list[Row]
    record: Mapping[str, Any]


def variants(config: Config, drops: Sequence[str] = (), former: Sequence[str] = ()) -> list[Hidden]:
    """What is hidden in each training, nothing in the first; without `drops` all inputs in turn but single bands.

    Args:
        config: whose inputs.
        drops: names of `cigars.inputs`.
        former: those of an ablation that goes on; they come first, and are no repetition.

    Raises:
        ConfigError: for an unknown input, or the same ones twice.
    """
    asked = [hidden(drop, config) for drop in drops or default_inputs(config)]
    for k, one in enumerate(asked):
        if one in asked[:k]:
            raise ConfigError(f"--drop: expected different inputs, got {one.name!r} twice")
    before = [NOTHING, *(hidden(drop, config) for drop in former)]
    return before + [one for one in asked if one not in before]


def tabulated(folder: str | Path) -> list[str]:
    """What the ablation that a folder holds has hidden, nothing where it holds none; raises FileError for a damaged one."""
    path = Path(folder) / ABLATION
    if not path.is_file():
        return []
    try:
        return [row["hidden"] for row in json.loads(path.read_text())["rows"]][1:]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise FileError(f"{path}: expected the rows of an ablation, got {error!r}; remove it") from None


@gives_back
def ablate(
    config: Config,
    drops: Sequence[str],
    folder: str | Path,
    *,
    device: str = "cpu",
    resume: bool = False,
    report: Reporter = silent,
) -> Ablation:
    """Train the global posterior on everything and without each of `drops`, and compare them on fresh surveys.

    Args:
        config: what to simulate and how to train.
        drops: names of `cigars.inputs`, several in one with `+` or commas between them; all but single bands by default.
        folder: receives a folder of checkpoints for each variant; new unless `resume`.
        device: torch device.
        resume: continue what is in the folder; what it has hidden comes first, further drops may be named.
        report: progress, and report("variant", number, variants) before each.

    Raises:
        ConfigError: for an unknown input, or the same ones twice.
        ValueError: if the folder holds an ablation and `resume` is False, or one of another configuration.
        TrainingError: if a loss is not finite.
    """
    from inference.model import versions

    chosen, identity = variants(config, drops, tabulated(folder) if resume else ()), run_fingerprint(config)
    source = survey_source(config, "training", report=report)
    judged = []
    for number, one in enumerate(chosen, 1):
        report("variant", number, len(chosen))
        judged.append(_variant(one, config, source, Path(folder), identity, device, resume or number > 1, report))
    rows = [compared(one.name, found, judged[0], list(config.marginals)) for one, found in zip(chosen, judged, strict=True)]
    record = {
        "configuration": config.model_dump(mode="json"), "fingerprint": identity, "seed": config.seed,
        "fresh_surveys": len(judged[0].loss), "versions": versions(), "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    return Ablation(rows, record)


def _variant(
    one: Hidden, config: Config, source: Source, folder: Path, identity: str, device: str, resume: bool, report: Reporter
) -> Judged:
    """Train and judge one variant in a folder of its own."""
    import torch

    from cigars.scores import joint_scores
    from inference.ablation import trained_and_judged
    from inference.blind import blinded, kept_scores
    from inference.checkpoints import prepare
    from inference.priors import Prior, prior_within
    from inference.stages import Stages
    from simulators.cosmology import fiducial_distance_table

    checkpoints = prepare(folder / _slug(one), fingerprint(identity, one.bands, dict(one.columns)), resume)
    scores = kept_scores(joint_scores(config), folder / SCORES, compute=one == NOTHING)
    stages = Stages(
        blinded(source, one.bands, one.columns), config.training, config.seed, Prior(config.marginals, device),
        fiducial_distance_table(), checkpoints, torch.device(device), report, scores, config.fixed,
        prior_within(config.marginals, config.prior.region, device),
    )  # fmt: skip
    return trained_and_judged(stages)


def _slug(one: Hidden) -> str:
    """Name of a folder."""
    return "everything" if one == NOTHING else "without-" + re.sub(r"[^\w.]+", "-", one.name)


def compared(name: str, found: Judged, full: Judged, names: Sequence[str]) -> Row:
    """A variant against the one that sees everything, on the same surveys."""
    loss, before = (np.asarray(judged.loss) for judged in (found, full))
    sd, sd_before = (np.sqrt(np.einsum("sii->si", np.asarray(judged.covariance))) for judged in (found, full))
    free = [names.index(n) for n in DENSITIES if n in names]
    area = _ratio(_area(found, free), _area(full, free)) if len(free) == len(DENSITIES) else None
    widths = {n: _ratio(sd[:, k], sd_before[:, k]) for k, n in enumerate(names)}
    return Row(name, _mean(loss), _mean(loss - before), widths, area, dict(zip(names, sd.mean(0).tolist(), strict=True)))


def _area(judged: Judged, pair: Sequence[int]) -> np.ndarray:
    covariance = np.asarray(judged.covariance)[:, pair][:, :, pair]
    return np.sqrt(np.linalg.det(covariance))


def _mean(values: np.ndarray) -> Estimate:
    return Estimate(float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values))))


def _ratio(values: np.ndarray, of: np.ndarray) -> Estimate:
    """Ratio of two means over the same surveys, its error to first order in both."""
    ratio = float(values.mean() / of.mean())
    return Estimate(ratio, _mean((values - ratio * of) / of.mean()).error)


def write_ablation(path: str | Path, found: Ablation, overwrite: bool = False) -> None:
    """Write an ablation as JSON; raises FileError where the file exists."""
    meaning = (
        "lost: nats of information on the parameters that go with what is hidden; widths, area: ratios to the variant that sees all; "
        "errors: paired, of the mean over fresh surveys, not of the training"
    )
    write_json(path, {"meaning": meaning, "rows": found.rows, **found.record}, overwrite)
