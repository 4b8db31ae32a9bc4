"""From simulations to a trained model in five stages, each kept on disk and resumable.

1. local regressor on single objects; 2. summaries of many surveys, streamed, of which only the moments and a few objects each
are kept; 3. the global head, and with a learned encoder its training on live simulations; 4. the local flow; 5. the density of
summaries. On a CPU 4 and 5 are trained beside 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from cigars.schema import DistanceTable, Marginal

from .batches import Source
from .checkpoints import prepare
from .model import FORMAT, META, Trained, save_run, versions
from .parallel import from_first, processes, rank, span
from .priors import Prior, prior_within
from .score import JointScore, OneStep
from .stages import REGRESSOR_WIDTH, Split, Stages, random_hiding, split, stream
from .threads import beside
from .train import Report, silent

if TYPE_CHECKING:
    from cigars.config import Config

__all__ = ["Split", "fit", "learn_summary", "random_hiding", "split", "stream"]


def learn_summary(
    source: Source,
    config: Config,
    marginals: Mapping[str, Marginal],
    distance: DistanceTable,
    run_folder: Path,
    *,
    fingerprint: str = "",
    device: str | torch.device = "cpu",
    report: Report = silent,
    joint_score: JointScore | None = None,
) -> nn.Module:
    """The fixed summary of surveys alone, which is what `fit` trains first; resumed from the checkpoints in the folder, if there are any.

    Arguments and errors are those of `fit`.
    """
    folder = from_first(lambda: _checkpoints(Path(run_folder), fingerprint, resume=True))
    prior = Prior(marginals, device)
    run = Stages(source, config.training, config.seed, prior, distance, folder, torch.device(device), report, joint_score, config.fixed)
    return run.summary(run.held_out()).eval()


def fit(
    source: Source,
    config: Config,
    marginals: Mapping[str, Marginal],
    distance: DistanceTable,
    run_folder: Path,
    *,
    fingerprint: str = "",
    configuration: Mapping[str, Any] | None = None,
    device: str | torch.device = "cpu",
    report: Report = silent,
    resume: bool = False,
    joint_score: JointScore | None = None,
    summary: nn.Module | None = None,
) -> Trained:
    """Train both posteriors and save the run.

    Args:
        source: simulator of surveys by number; see `split` for the numbers used.
        config: its `training` and `seed` are read.
        marginals: prior of each free global parameter.
        distance: distance modulus of the fiducial cosmology, for the Hubble residuals.
        run_folder: receives checkpoints, weights and metadata.
        fingerprint, configuration: stored with the run, and a resumed training must carry the same fingerprint.
        device: where networks are trained.
        report: progress callback of stages "regressor", "pilot", "estimate", "score", "centre", "centring", "refine-0", ...,
            "summaries", "encoder", "global", "local", "density".
        resume: continue from the checkpoints in the folder.
        joint_score: of simulated objects, which encoder = "score" learns from.
        summary: of `learn_summary`, with the same split and perhaps in a wider prior; by default learned here.

    Raises:
        ValueError: if encoder = "score" is without joint scores, if the processes of encoder = "set" or "both" cannot share a batch
            evenly, or if the folder holds a training and `resume` is False, one of another fingerprint, or a finished run without its
            checkpoints.
        TrainingError: if a loss is not finite.
    """
    if config.training.encoder in ("set", "both"):
        span(config.training.batch_surveys)  # its last stage shares batches evenly: to say so after hours would be late
    folder = from_first(lambda: _checkpoints(Path(run_folder), fingerprint, resume))
    prior, support = Prior(marginals, device), prior_within(marginals, config.prior.region, device)
    run = Stages(
        source, config.training, config.seed, prior, distance, folder, torch.device(device), report, joint_score, config.fixed, support
    )  # fmt: skip
    held = run.held_out()
    summary = run.summary(held) if summary is None else summary
    table, theta, objects, sizes = run.summaries(summary)
    held_table = run.held_summary(summary, held)
    small = config.training.encoder in ("score", "moments")  # every network here is then too small for more than one core
    apart = small and run.device.type == "cpu" and torch.get_num_threads() > 1 and processes() == 1
    train_local, train_density = run.local(objects, held), run.density(table, held_table)
    with beside(lambda go_on: (train_local(go_on), train_density(go_on)), apart) as others:
        members, curves = run.members(summary, table, theta, held, held_table)
        (local, local_curve), (density, density_curve) = others()
    meta = {
        "format": FORMAT, "fingerprint": fingerprint, "configuration": dict(configuration or {}), "versions": versions(),
        "marginals": {k: list(m) for k, m in prior.marginals.items()},
        "local_marginals": {k: list(m) for k, m in local.prior.marginals.items()},
        "distance": [np.asarray(d).tolist() for d in distance],
        "architecture": {
            "encoder": config.training.encoder, "bands": int(objects.observations.mag.shape[-1]), "regressor_width": REGRESSOR_WIDTH,
            "fixed": dict(config.fixed), "pilots": _pilot_shapes(summary), "few": getattr(summary, "few", 0),
            "centring": _centring(summary), "anchored": getattr(summary, "anchored", False),
            "summary": int(table.shape[1]), "components": [m.whitening.projection.shape[1] for m in members],
        },
        "number_range": sizes, "curves": {**curves, "density": density_curve, "local": local_curve},
        "split": split(config.training)._asdict(),
    }  # fmt: skip
    trained = Trained(summary, members, local, meta, density).eval()
    if rank() == 0:
        save_run(Path(run_folder), trained)
    return trained


def _checkpoints(folder: Path, fingerprint: str, resume: bool) -> Path:
    """The folder of checkpoints; a finished run that has none, as one that was shipped, is not trained over."""
    if (folder / META).exists() and not (folder / "checkpoints").exists():
        raise ValueError(f"folder {folder}: expected a new folder, got a finished run without checkpoints; name another")
    return prepare(folder, fingerprint, resume)


def _pilot_shapes(summary: nn.Module) -> list[list[int]]:
    """Shape of each pilot's whitening, where the summary has pilots."""
    return [list(p.whitening.projection.shape) for p in summary.pilots] if isinstance(summary, OneStep) else []  # type: ignore[union-attr,arg-type]


def _centring(summary: nn.Module) -> int:
    """Networks that centre its scores."""
    return len(summary.score.mean_of_sums.lines) if isinstance(summary, OneStep) and summary.score.mean_of_sums is not None else 0
