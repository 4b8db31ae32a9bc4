"""Learned sets whose per-object network is trained before the posterior, for recipes.py alone until it is shown to gain anything.

On what single objects are (their redshift, mass, metallicity and age), or on Θ from small subsets of a survey, by regression; then
fixed, or trained on end to end.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from inference.batches import Packed, join
from inference.embedding import FeatureMoments, SetEncoder
from inference.estimators import GlobalEstimator
from inference.stages import Stages, stream
from inference.standardise import Standardiser, Whitening
from inference.summaries import local_targets
from inference.train import Settings, optimise, shuffled

__all__ = ["by_objects", "by_subsets", "fixed", "member"]

OBJECTS = 1024  # a batch
SUBSET, SUBSETS = 64, 64  # objects of a subset, and subsets a batch
STEPS, EVERY, RATE = 3000, 150, 1e-3
HELD_OUT = 0.1


def member(pretrain: Callable[[Stages, Standardiser], SetEncoder]) -> Callable[[Any, nn.Module, Whitening], GlobalEstimator]:
    """`Stages._member` whose encoder was trained before, once for all members."""

    def build(run: Any, summary: Any, whitening: Whitening) -> GlobalEstimator:
        if not hasattr(run, "pretrained"):
            run.pretrained = pretrain(run, summary.standardiser)
        return GlobalEstimator(run.prior, whitening, copy.deepcopy(run.pretrained), dropout=run.training.dropout)

    return build


class _Fixed(nn.Module):
    """A trained encoder beside the moments of the inputs, which the learned set has too."""

    def __init__(self, encoder: SetEncoder) -> None:
        super().__init__()
        self.encoder, self.moments = encoder, FeatureMoments(encoder.standardiser)

    @torch.no_grad()
    def forward(self, packed: Packed) -> Tensor:
        return torch.cat([self.encoder(packed), self.moments(packed)], -1)


def fixed(pretrain: Callable[[Stages, Standardiser], SetEncoder]) -> Callable[[Stages, Packed], nn.Module]:
    """`Stages.summary` by an encoder that is trained before and no more."""

    def build(run: Stages, held: Packed) -> nn.Module:
        observations = _surveys(run).observations
        return _Fixed(pretrain(run, Standardiser(observations.mag.shape[-1]).fit(observations))).eval()

    return build


def by_objects(run: Stages, standardiser: Standardiser) -> SetEncoder:
    """Regression of each object's redshift, mass, metallicity and age, a Gaussian of its own width for each."""
    data = _surveys(run)
    targets = local_targets(data.latents)  # type: ignore[arg-type]
    targets = (targets - targets.mean(0)) / targets.std(0)
    with torch.no_grad():
        inputs = standardiser(data.observations)
    encoder = SetEncoder(standardiser)
    read = nn.Linear(encoder.outputs, 2 * targets.shape[1])
    held = int(HELD_OUT * len(inputs))
    rows = shuffled(len(inputs) - held, OBJECTS, run.seed)

    def loss(x: Tensor, target: Tensor) -> Tensor:
        mean, ln_sd = read(encoder.network(x)).chunk(2, -1)
        return (0.5 * ((target - mean) * torch.exp(-ln_sd)) ** 2 + ln_sd).sum(-1)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        i = rows(step) + held
        return inputs[i], targets[i]

    return _trained(run, encoder, read, loss, batch, lambda: loss(inputs[:held], targets[:held]))


def by_subsets(run: Stages, standardiser: Standardiser) -> SetEncoder:
    """Regression of Θ on the mean over 64 objects of a survey."""
    data = _surveys(run)
    with torch.no_grad():
        inputs = standardiser(data.observations)
    whole = data.lengths // SUBSET
    first = torch.repeat_interleave(data.lengths.cumsum(0) - data.lengths, whole)
    number = torch.arange(len(first)) - torch.repeat_interleave(whole.cumsum(0) - whole, whole)
    objects = (first + SUBSET * number)[:, None] + torch.arange(SUBSET)
    theta = torch.repeat_interleave((data.theta - run.prior.mean) / run.prior.variance.sqrt(), whole, 0)
    encoder = SetEncoder(standardiser)
    read = nn.Sequential(nn.SiLU(), nn.Linear(encoder.outputs, 64), nn.SiLU(), nn.Linear(64, theta.shape[1]))
    held = int(whole[: int(HELD_OUT * len(whole))].sum())  # subsets of one survey stay together: they share Θ
    rows = shuffled(len(objects) - held, SUBSETS, run.seed)

    def loss(x: Tensor, target: Tensor) -> Tensor:
        return ((read(encoder.network(x).mean(1)) - target) ** 2).sum(-1)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        i = rows(step) + held
        return inputs[objects[i]], theta[i]

    return _trained(run, encoder, read, loss, batch, lambda: loss(inputs[objects[:held]], theta[:held]))


def _surveys(run: Stages) -> Packed:
    """Those that a local regressor would be trained on."""
    parts: list[Packed] = []
    for packed in stream(run.source, run.at.regression, run.training.surveys, run.training.batch_surveys, run.prior.names):
        parts.append(packed)
        if sum(len(p.observations.m) for p in parts) >= run.training.objects:
            break
    return join(parts)


def _trained(
    run: Stages,
    encoder: SetEncoder,
    read: nn.Module,
    loss: Callable[..., Tensor],
    batch: Callable[[int], tuple[Tensor, Tensor]],
    held: Callable[[], Tensor],
) -> SetEncoder:
    settings = Settings(STEPS, EVERY, RATE, patience=STEPS, seed=run.seed)
    both = nn.ModuleList([encoder, read])
    optimise(both, loss, batch, lambda: float(held().mean()), settings, run.folder / "pretraining.pt", run.report, "pre-training")
    return encoder
