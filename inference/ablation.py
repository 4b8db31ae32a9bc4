"""The global posterior alone, trained and judged on surveys that no part of the training has seen."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .estimators import GlobalEstimator
from .posterior import GlobalModel, GlobalPosterior
from .priors import Prior
from .stages import Stages, stream
from .train import load_checkpoint, save_checkpoint

__all__ = ["Judged", "judge", "train_global", "trained_and_judged"]

DRAWS = 128  # of each posterior: the width of one is then known to 6 %, their mean over hundreds of surveys to half a per cent
JUDGED = "judged.pt"


class Judged(NamedTuple):
    """Posteriors of fresh surveys: -ln q at the truth in nats [survey], and covariance of Θ [survey, parameter, parameter]."""

    loss: Float[Tensor, "survey"]
    covariance: Float[Tensor, "survey parameter parameter"]


class Global(NamedTuple):
    """The networks of a global posterior."""

    summary: nn.Module
    estimators: list[GlobalEstimator]
    prior: Prior
    names: tuple[str, ...]
    device: torch.device


def train_global(run: Stages) -> Global:
    """The stages of a training up to the global posterior; those that are kept in its folder are not repeated."""
    held = run.held_out()
    summary = run.summary(held)
    table, theta, *_ = run.table("summaries", summary, run.at.summaries, run.training.surveys, keep=0)
    members, _ = run.members(summary, table, theta, held, run.held_summary(summary, held))
    return Global(summary, members, run.prior, tuple(run.prior.names), run.device)


@torch.no_grad()
def judge(trained: GlobalModel, run: Stages, draws: int = DRAWS) -> Judged:
    """How well a posterior does on the calibration surveys of a training, with as many `draws` of each."""
    posterior, losses, covariances, done = GlobalPosterior(trained), [], [], 0
    total = run.training.calibration_surveys
    for packed in stream(run.source, run.at.calibration, total, run.training.batch_surveys, trained.names, run.device):
        losses.append(-posterior.log_prob(packed.theta[None], packed)[0])
        values = posterior.sample(draws, packed, seed=done).double()
        centred = values - values.mean(0)
        covariances.append(torch.einsum("dsi,dsj->sij", centred, centred) / (draws - 1))
        done += len(packed.lengths)
        run.report("fresh", done, total)
    return Judged(torch.cat(losses).double(), torch.cat(covariances))


def trained_and_judged(run: Stages, draws: int = DRAWS) -> Judged:
    """What `judge` finds of `train_global`, kept in the folder of the checkpoints."""
    path = run.folder / JUDGED
    if not path.exists():
        save_checkpoint(path, judge(train_global(run), run, draws)._asdict())
    return Judged(**load_checkpoint(path))
