r"""Bayes factors by classification: which model made a survey, from its summary.

A classifier of surveys of several models, trained by the log loss on as many of each, tends to
$p(k \mid s) = p(s \mid k) / \sum_j p(s \mid j)$, so that differences of its logits are log Bayes factors,
$\ln K_{kj} = \ln p(s \mid k) - \ln p(s \mid j)$, each evidence an average over the model's own prior (Hermans+20; Radev+21;
Jeffrey & Wandelt 24). With unequal numbers $n_k$ of surveys the odds of the training, $\ln n_k$, are no part of them. It is
the evidence of the summary: what the summary loses of the data, the Bayes factor lacks.

Estimates of a parameter that is fixed in one model and free in another are nearly normal in both, so that the logits start from the
quadratic discriminant of linear estimates, $\ln N(f; \mu_k, \Sigma_k)$, and a small network learns what is left.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .standardise import Whitening
from .train import History, Report, Settings, optimise, shuffled, silent

__all__ = ["Calibration", "Labelled", "ModelClassifier", "calibrate", "recalibrate", "train_classifier"]

MEMBERS = 8
WIDTH = 64
EPOCHS = 60
BATCH = 128
RATE = 3e-3
WEIGHT_DECAY = 1.0
PER_COMPONENT = 10  # surveys for each component of the summary
PENALTIES = (10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 1e5)  # of the ridge regressions, in surveys
CLIP = 6.0
SIZES = 2  # the last columns of every summary: ln(1 + N) and the log exposure
SLOPE_KNOWN, OFFSET_KNOWN = 0.5, 1.0  # errors below which a calibration is known; that of the offset in ln K, for equal odds
BINS = 10  # of probability, for the expected calibration error


class Labelled(NamedTuple):
    """Surveys of several models: summary [survey, column], model [survey], and the parameters whose priors differ [survey, parameter]."""

    summary: Tensor
    model: Tensor
    theta: Tensor


class Calibration(NamedTuple):
    """Of ln K on fresh surveys of two models, half each: the logistic regression of which it was on ln K, exactly (0, 1) where it is right.

    `expected_error` is the mean difference of stated probability and frequency, over bins of probability; `noise` what it is by chance.
    """

    slope: float
    slope_error: float
    offset: float
    offset_error: float
    expected_error: float
    noise: float

    @property
    def determined(self) -> bool:
        """Whether the surveys say what the regression is, which they do not where ln K tells nearly all of them apart.

        Both errors are then large; of models that hardly differ it is the slope's alone, as all ln K are small.
        """
        return self.slope_error < SLOPE_KNOWN or self.offset_error < OFFSET_KNOWN

    @property
    def passed(self) -> bool:
        """Whether slope and offset are known, and right within three standard errors."""
        return self.determined and abs(self.slope - 1) < 3 * self.slope_error and abs(self.offset) < 3 * self.offset_error

    def corrected(self, ln_k: Float[np.ndarray, "survey"]) -> Float[np.ndarray, "survey"]:
        """ln K by this regression, or as it is where that is not determined."""
        return self.offset + self.slope * ln_k if self.determined else ln_k


class ModelClassifier(nn.Module):
    """ln evidence of each model up to a constant, by an ensemble whose members saw different resamplings of the training surveys.

    Args:
        whitening: of the summary.
        estimates: number of linear estimates.
        share: share of each model among the training surveys, shape [model].
        members, width: of the ensemble, and of both hidden layers.
        dropout: on the whitened components.
    """

    share: Tensor
    projection: Tensor
    marks: Tensor
    centre: Tensor
    root: Tensor

    def __init__(
        self, whitening: Whitening, estimates: int, share: Tensor, members: int = MEMBERS, width: int = WIDTH, dropout: float = 0.5
    ) -> None:
        super().__init__()
        components, models = whitening.projection.shape[1], len(share)
        self.whitening, self.drop, self.members = whitening, nn.Dropout(dropout), members
        self.register_buffer("share", share)
        self.register_buffer("projection", torch.zeros(components, estimates))
        self.register_buffer("marks", torch.zeros(components, models - 1))
        self.register_buffer("centre", torch.zeros(members, models, 1, estimates))
        self.register_buffer("root", torch.eye(estimates).expand(members, models, -1, -1).clone())  # of Σ_k⁻¹, upper
        sizes = (estimates + models + models - 1 + SIZES + components, width, width)
        self.layers = nn.ModuleList([_Stacked(members, a, b) for a, b in pairwise(sizes)])
        self.last = _Stacked(members, width, 2 * models, scale=0.0)
        self.direct = _Stacked(members, models - 1, models, scale=0.0)

    @classmethod
    def fit(cls, data: Labelled, resampled: Int[Tensor, "member survey"], share: Tensor) -> ModelClassifier:
        """Start at the quadratic discriminant of each resampling, in the space of ridge regressions of the parameters.

        Where no prior differs, of the model itself; not of both, as moments that tell models apart by a parameter's square are not normal.
        """
        some = torch.randperm(len(data.model)).to(data.model.device)  # the first rows fix the components: of every model
        whitening = _leading(Whitening.fit(data.summary[some]), max(len(some) // PER_COMPONENT, 2))
        w = whitening(data.summary).double()
        which = _ridge(w, _standard(nn.functional.one_hot(data.model, len(share))[:, 1:]))
        weight, left_out = _ridge(w, _standard(data.theta)) if data.theta.shape[1] else which
        basis, values, turn = torch.linalg.svd(weight, full_matrices=False)
        kept = values > 1e-3 * values[0]
        basis, f = basis[:, kept], left_out @ (turn[kept].T / values[kept])
        net = cls(whitening, basis.shape[1], share, len(resampled)).to(w.device)
        net.projection.copy_(basis)
        net.marks.copy_(which[0] / which[1].std(0).clamp(min=1e-6))
        for member, rows in enumerate(resampled):
            for model in range(len(share)):
                of = f[rows[data.model[rows] == model]]
                net.centre[member, model, 0] = of.mean(0)
                covariance = torch.atleast_2d(torch.cov(of.T)) + 1e-6 * torch.eye(f.shape[1], dtype=f.dtype, device=f.device)
                net.root[member, model] = torch.linalg.cholesky(torch.linalg.inv(covariance)).to(net.root.dtype)
        return net

    def discriminant(self, f: Float[Tensor, "member survey estimate"]) -> tuple[Tensor, Tensor]:
        """Of ln N(f; μ_k, Σ_k) the part quadratic in f, relative to the largest, and the rest: both [member, survey, model]."""
        u = (f[:, None] - self.centre) @ self.root
        square = (u**2).sum(-1).transpose(1, 2)
        rest = self.root.diagonal(dim1=-2, dim2=-1).log().sum(-1)[:, None]
        return -0.5 * (square - square.amin(-1, keepdim=True)), rest

    def logits(self, summary: Float[Tensor, "*member survey column"]) -> Float[Tensor, "member survey model"]:
        """ln evidence by every member up to a constant, for equal prior odds: what is quadratic, times a factor, and more."""
        mean, sd = self.whitening.mean[-SIZES:], self.whitening.sd[-SIZES:]
        w, size = self.whitening(summary), ((summary[..., -SIZES:] - mean) / sd).clamp(-CLIP, CLIP)
        if summary.ndim == 2:
            w, size = (leaf.expand(self.members, *leaf.shape) for leaf in (w, size))
        f, g = w @ self.projection, (w @ self.marks).clamp(-CLIP, CLIP)
        square, rest = self.discriminant(f)
        h = torch.cat([f, torch.asinh(square), g, size, self.drop(w)], -1)
        for layer in self.layers:
            h = nn.functional.silu(layer(h))
        ln_factor, more = self.last(h).chunk(2, -1)
        return square * ln_factor.clamp(-2, 2).exp() + rest + more + self.direct(g)

    def loss(self, summary: Float[Tensor, "member survey column"], model: Int[Tensor, "member survey"]) -> Float[Tensor, "survey"]:
        """Log loss, a proper score, averaged over the members."""
        each = torch.log_softmax(self.logits(summary) + self.share.log(), -1)
        return -torch.gather(each, -1, model[..., None])[..., 0].mean(0)

    @torch.no_grad()
    def ln_evidence(self, summary: Float[Tensor, "survey column"]) -> Float[Tensor, "member survey model"]:
        """ln evidence of each model for each survey, up to a constant of the survey: for equal prior odds, whatever the shares were."""
        return self.logits(summary)


def _standard(target: Tensor) -> Tensor:
    target = target.double()
    return (target - target.mean(0)) / target.std(0).clamp(min=1e-12)


def _leading(whitening: Whitening, most: int) -> Whitening:
    """The first components alone: of few surveys the last ones are wildly off for fresh surveys."""
    kept = whitening.projection[:, :most]
    out = Whitening(*kept.shape).to(kept.device)
    out.load_state_dict({**whitening.state_dict(), "projection": kept})
    return out


def _ridge(x: Float[Tensor, "row column"], y: Float[Tensor, "row target"]) -> tuple[Tensor, Tensor]:
    """Weights [column, target] of the ridge regression whose predictions of rows left out are best, and these predictions [row, target].

    A row left out is predicted by y − (y − ŷ)/(1 − h), h its leverage (Allen 74): what a regression makes of the rows it has seen would
    pass for a narrower law than fresh surveys follow.
    """
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    projected, found = u.T @ y, []
    for penalty in PENALTIES:
        kept = s**2 / (s**2 + penalty)
        leverage = (u**2 @ kept)[:, None].clamp(max=0.999)
        left_out = y - (y - u @ (kept[:, None] * projected)) / (1 - leverage)
        found.append((float(((y - left_out) ** 2).mean()), penalty, left_out))
    _, penalty, left_out = min(found, key=lambda one: one[0])
    return v.T @ ((s / (s**2 + penalty))[:, None] * projected), left_out


class _Stacked(nn.Module):
    """Linear layers of all members as one product."""

    def __init__(self, members: int, inputs: int, outputs: int, scale: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(scale * inputs**-0.5 * torch.randn(members, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(members, 1, outputs))

    def forward(self, x: Float[Tensor, "member row input"]) -> Float[Tensor, "member row output"]:
        return torch.baddbmm(self.bias, x, self.weight)


def train_classifier(
    train: Labelled, held: Labelled, models: int, *, seed: int = 0, checkpoint: Path | None = None, report: Report = silent
) -> tuple[ModelClassifier, History]:
    """Train on surveys of all models, and stop by the log loss on others.

    Args:
        train: surveys to learn from; numbers of the models may differ.
        held: others, of which no model is absent.
        models: their number.
        seed: of weights, resampling and batches.
        checkpoint: file of the state; if it exists, training continues from it.
        report: progress of the stage "classifier".

    Raises:
        ValueError: for fewer than two models, or one without surveys.
        TrainingError: if a loss is not finite.
    """
    counts = torch.bincount(train.model, minlength=models)
    if models < 2 or len(counts) != models or bool((counts == 0).any()):
        raise ValueError(f"classifier: expected surveys of at least two models, got {counts.tolist()}; simulate every model")
    device, size = train.summary.device, len(train.model)
    generator = torch.Generator().manual_seed(seed)
    resampled = torch.stack([torch.randint(size, (size,), generator=generator) for _ in range(MEMBERS)]).to(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed * 1009 + 7)
        net = ModelClassifier.fit(train, resampled, counts / size)
    batch = min(BATCH, size)
    orders = [shuffled(size, batch, seed + 7 * k) for k in range(net.members)]
    every = max(size // batch, 1)

    def batches(step: int) -> tuple[Tensor, Tensor]:
        rows = torch.stack([one[order(step).to(device)] for one, order in zip(resampled, orders, strict=True)])
        return train.summary[rows], train.model[rows]

    def validate() -> float:
        return float(_log_loss(net.ln_evidence(held.summary).mean(0), held.model))

    settings = Settings(EPOCHS * every, every, RATE, weight_decay=WEIGHT_DECAY, patience=EPOCHS // 4, seed=seed)
    history = optimise(net, net.loss, batches, validate, settings, checkpoint, report, "classifier")
    return net, history


def _log_loss(ln_evidence: Float[Tensor, "survey model"], model: Int[Tensor, "survey"]) -> Tensor:
    """Mean log loss with every model weighted alike."""
    each = nn.functional.cross_entropy(ln_evidence, model, reduction="none")
    return torch.stack([each[model == k].mean() for k in model.unique()]).mean()


def calibrate(ln_k: Float[np.ndarray, "survey"], first: np.ndarray) -> Calibration:
    """Calibration of ln K of the first of two models against the second, by logistic regression (Cox 1958).

    Args:
        ln_k: stated, for equal prior odds.
        first: whether the first model made the survey; the two are weighted to equal numbers.
    """
    weight = np.where(first, 0.5 / first.mean(), 0.5 / (1 - first.mean()))
    x, y, at = np.stack([np.ones_like(ln_k), ln_k], 1), first.astype(float), np.array([0.0, 1.0])
    for _ in range(50):
        p = _logistic(x @ at)
        information = (x * (weight * p * (1 - p))[:, None]).T @ x + 1e-9 * np.eye(2)
        step = np.linalg.solve(information, x.T @ (weight * (y - p)))
        at = at + step / max(1.0, np.abs(step).max())
    covariance = np.linalg.inv(information)
    offset_error, slope_error = np.sqrt(np.diag(covariance))
    stated, rng = _logistic(ln_k), np.random.default_rng(0)
    noise = np.mean([_expected_error(stated, rng.uniform(size=len(stated)) < stated, np.ones_like(stated)) for _ in range(50)])
    found = _expected_error(stated, first, weight)
    return Calibration(float(at[1]), float(slope_error), float(at[0]), float(offset_error), found, float(noise))


def recalibrate(ln_k: Float[np.ndarray, "survey"], first: np.ndarray) -> tuple[Calibration, Calibration]:
    """The correction of ln K that is not calibrated, learned from all surveys, and the calibration of what it leads to (Platt 99).

    The latter is of halves of the surveys, each corrected by what the other teaches. Arguments as of `calibrate`.
    """
    half, left = np.empty(len(ln_k), bool), np.empty_like(ln_k)
    for model in (False, True):  # of each as many in both
        rows = np.nonzero(first == model)[0]
        half[rows] = np.arange(len(rows)) % 2 == 0
    for rows in (half, ~half):
        left[rows] = calibrate(ln_k[~rows], first[~rows]).corrected(ln_k[rows])
    return calibrate(ln_k, first), calibrate(left, first)


def _logistic(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))


def _expected_error(stated: np.ndarray, true: np.ndarray, weight: np.ndarray) -> float:
    """Mean over bins of equal numbers of |stated probability − frequency|."""
    bins = np.array_split(np.argsort(stated), BINS)
    gaps = [abs(np.average(stated[b], weights=weight[b]) - np.average(true[b], weights=weight[b])) * weight[b].sum() for b in bins]
    return float(np.sum(gaps) / weight.sum())
