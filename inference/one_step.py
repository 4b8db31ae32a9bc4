"""Training of the one-step summary: a pilot on the physics moments, the score network on single objects, its centring, the refinements.

Every one is trained on surveys that none before it has seen, so that what the next stage gets is what fresh surveys give.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .batches import Packed, select
from .centring import MeanScore
from .score import CLIP, GREY_SCATTER, JointScore, OneStep, Pilot, ScoreNetwork
from .standardise import Whitening
from .summaries import Moments
from .train import Settings, optimise, shuffled

if TYPE_CHECKING:
    from .stages import Stages

__all__ = ["CENTRE", "train_centring", "train_one_step"]

CENTRE = 4  # times the pilot surveys fix what a score is on average
CENTRE_MEMBERS = 4
CENTRE_EPOCHS, CENTRE_STEPS, CENTRE_BATCH = 200, 8000, 256  # at most so many steps
CENTRE_RATE = 5e-3
CENTRE_OBJECTS = 100_000  # whose scores fix the frame
CENTRE_SIGNIFICANT = 2.0  # standard errors; the best of many checkpoints is chosen on the same surveys
HELD_OUT = 0.1  # share of the pilot surveys and of their objects on which training is judged
BATCH = (64, 2048)  # fewest and most objects a batch: a 64th of them in between
EPOCHS = 3.0  # of the score network, in units of `local_epochs`: what it regresses on is nearly all noise
RATE = 6e-3  # a third of it leaves the score network short of what the objects tell, however long it trains
# objects of a survey at most that lead to an estimate of Θ, whose error is by then that of networks and not of their number; beside an
# anchor, which has all of them, a quarter will do
FEW, FEW_ANCHORED = 16_384, 4_096
MARGIN = 0.02  # share of the prior's width by which a pilot stays inside


def train_one_step(run: Stages, moments: Moments) -> OneStep:
    """The one-step summary on the moments of a training.

    Raises:
        ValueError: if the run has no joint scores.
    """
    if run.joint_score is None:
        raise ValueError("training.encoder: expected joint scores of the simulator for 'score', got none; use encoder = 'moments' or 'set'")
    t = run.training
    keep = max(math.ceil(t.objects / t.pilot_surveys), 1)
    table, theta, objects, _ = run.table("pilot", moments, run.at.pilot, t.pilot_surveys, keep)
    score = run.seeded(3, lambda: ScoreNetwork(run.prior, objects.observations.mag.shape[-1], run.fixed)).to(run.device)
    one = OneStep(moments, score, [_train_pilot(run, 0, table, score.standardise(theta))], FEW_ANCHORED if t.anchored else FEW, t.anchored)
    _train_score(run, score, run.joint_score, moments, objects)
    table, theta, *_ = run.table("centre", one.eval().at_truth, run.at.centre, CENTRE * t.pilot_surveys, 0)
    score.centre_of_sums.fit(score.standardise(theta), table[:, :-1], table[:, -1])
    train_centring(run, one, table, score.standardise(theta), objects)
    for k in range(t.refinements):
        first = run.at.pilot + (k + 1) * t.pilot_surveys
        table, theta, *_ = run.table(f"refine-{k}", one.eval().towards, first, t.pilot_surveys, 1)
        one.pilots.append(_train_pilot(run, k + 1, table, score.standardise(theta)))
    return one.to(run.device).eval()


def _train_pilot(run: Stages, number: int, table: Tensor, y: Tensor) -> Pilot:
    t = run.training
    held = max(int(HELD_OUT * len(table)), 1)
    mean, sd = run.prior.mean, run.prior.variance.sqrt()
    low, high = (run.prior.low - mean) / sd, (run.prior.high - mean) / sd
    limit = torch.stack([low, high]).clamp(-CLIP, CLIP) * (1 - 2 * MARGIN)  # both about zero, the prior's mean
    net = run.seeded(10 + number, lambda: Pilot(Whitening.fit(table[held:]), y.shape[1], limit, t.dropout)).to(run.device)
    net.fit_linear(table[held:], y[held:])
    batch_size = min(t.flow_batch, len(table) - held)
    rows = shuffled(len(table) - held, batch_size, run.seed + 31 + number)
    every = max((len(table) - held) // batch_size, 1)
    settings = Settings(t.flow_epochs * every, every, t.flow_learning_rate, patience=t.flow_epochs, seed=run.seed + 31 + number)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        i = rows(step) + held
        return y[i], table[i]

    optimise(
        net, net.loss, batch, lambda: float(net.loss(y[:held], table[:held]).mean()), settings,
        run.folder / f"pilot-{number}.pt", run.report, "estimate",
    )  # fmt: skip
    return net


def train_centring(run: Stages, one: OneStep, table: Tensor, y: Tensor, objects: Packed) -> None:
    """Networks for the mean score, kept if they do better than polynomials on surveys held out, by more than chance would have it."""
    score, (means, weight) = one.score, (table[:, : y.shape[1]], table[:, -1])
    some = select(objects, range(max(int((objects.lengths.cumsum(0) <= CENTRE_OBJECTS).sum()), 1)))
    at = score.standardise(some.theta)
    single = one.of_objects(some, at) * torch.exp(-score.moments_of_score(at)[1]).repeat_interleave(some.lengths, 0)
    held = max(int(HELD_OUT * len(y)), 1)
    net = run.seeded(5, lambda: MeanScore(y.shape[1], CENTRE_MEMBERS)).to(run.device)
    net.start(y[held:], means[held:], weight[held:], torch.atleast_2d(torch.cov(single.detach().T)))
    batch_size = min(CENTRE_BATCH, len(y) - held)
    rows, every = shuffled(len(y) - held, batch_size, run.seed + 47), max((len(y) - held) // batch_size, 1)
    steps = min(CENTRE_EPOCHS * every, CENTRE_STEPS)
    settings = Settings(steps, max(steps // 50, 1), CENTRE_RATE, patience=steps, seed=run.seed + 47)

    def batch(step: int) -> tuple[Tensor, Tensor, Tensor]:
        i = rows(step) + held
        return y[i], means[i], weight[i]

    def left(predicted: Tensor) -> Tensor:
        return net.errors(means[:held] - predicted, weight[:held])

    optimise(net, net.loss, batch, lambda: float(left(net(y[:held])).mean()), settings, run.folder / "centring.pt", run.report, "centring")
    with torch.no_grad():
        gain = left(_polynomial(score, y, means, weight, held)) - left(net(y[:held]))
    if held > 1 and float(gain.mean()) > CENTRE_SIGNIFICANT * float(gain.std()) / held**0.5:
        score.mean_of_sums = net


def _polynomial(score: ScoreNetwork, y: Tensor, means: Tensor, weight: Tensor, held: int) -> Tensor:
    """Mean scores of the rows held out, by polynomials that have not seen them."""
    fitted = copy.deepcopy(score.centre_of_sums)
    ln_number = torch.zeros_like(means[held:, :1])
    return fitted.fit(y[held:], torch.cat([means[held:], ln_number], 1), weight[held:])(y[:held])[:, : y.shape[1]]


def _train_score(run: Stages, net: ScoreNetwork, joint_score: JointScore, moments: Moments, objects: Packed) -> None:
    """Regression on the joint scores of single objects: their mean and spread given Θ, then what the data say beyond it."""
    theta = objects.theta.repeat_interleave(objects.lengths, 0)
    # objects of one survey stay together in the split: they share Θ
    held = max(int(objects.lengths[: max(int(HELD_OUT * len(objects.lengths)), 1)].sum()), 1)
    t, per_distance = joint_score(objects, theta)
    y, t, per_distance = net.standardise(theta), t * net.scale, per_distance * net.scale
    t = torch.nan_to_num(t)

    def density(y: Tensor, t: Tensor) -> Tensor:
        mean, ln_sd = net.moments_of_score(y)
        return (0.5 * ((t - mean) * torch.exp(-ln_sd)).clamp(-2 * CLIP, 2 * CLIP) ** 2 + ln_sd).sum(-1)

    _regress(run, net.mean, density, (y, t), held, "score-mean", 0.5 * EPOCHS)
    with torch.no_grad():
        mean, ln_sd = net.moments_of_score(y)
        residual = ((t - mean) * torch.exp(-ln_sd)).clamp(-CLIP, CLIP)

    def squares(predict: torch.nn.Module):  # type: ignore[no-untyped-def]
        return lambda x, target: ((predict(x) - target) ** 2).sum(-1)

    x = _inputs(net, moments, objects, y)
    _regress(run, net.supernova, squares(net.supernova), (x, residual), held, "score", EPOCHS)
    grey = torch.randn(len(y), generator=torch.Generator().manual_seed(run.seed + 41)).to(y.device)
    shifted = objects._replace(observations=objects.observations._replace(mag=objects.observations.mag + GREY_SCATTER * grey[:, None]))
    x = _inputs(net, moments, shifted, y)
    _regress(run, net.host, squares(net.host), (x, per_distance * grey[:, None]), held, "score-host", 0.5 * EPOCHS)


@torch.no_grad()
def _inputs(net: ScoreNetwork, moments: Moments, objects: Packed, y: Tensor) -> Tensor:
    """Inputs of the score network, computed once."""
    o = objects.observations
    parts = []
    for start in range(0, len(y), 65536):
        some = type(o)(*(leaf[start : start + 65536] for leaf in o))
        features = moments.regressor.standardiser(some)
        estimate = moments.regressor.estimate(some, features)
        parts.append(net.inputs(some, features, estimate, y[start : start + 65536], moments.regressor))
    return torch.cat(parts)


def _regress(run: Stages, net: torch.nn.Module, loss, data: tuple[Tensor, Tensor], held: int, name: str, share: float) -> None:  # type: ignore[no-untyped-def]
    """Train one network on rows of `data`, the first `held` kept back."""
    x, y = data
    count = len(x) - held
    batch = min(max(count // 64, BATCH[0]), BATCH[1], count)
    rows = shuffled(count, batch, run.seed + 53)
    every = max(count // batch // 2, 1)
    steps = max(int(2 * share * run.training.local_epochs), 2) * every
    settings = Settings(steps, every, RATE, weight_decay=1e-3, patience=run.training.patience, seed=run.seed + 59)
    some = slice(0, min(held, 65536))

    def arguments(step: int) -> tuple[Tensor, Tensor]:
        i = rows(step) + held
        return x[i], y[i]

    optimise(net, loss, arguments, lambda: float(loss(x[some], y[some]).mean()), settings, run.folder / f"{name}.pt", run.report, "score")
