r"""A second route to the posterior of Θ: the density of one detected object, of which that of a survey is a product.

$\ln L(\Theta) = \sum_i \ln q(d_i \mid \Theta) + N \ln\Lambda(\Theta) - \Lambda(\Theta)$, with q a flow for what is observed of an object
and Λ the expected number. Nothing of the first route, summary or posterior flow, is used. What the flow has wrong of
$\partial \ln q/\partial\Theta$ adds up over the objects, so that the route holds while N times its error per object is far below 1.
"""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cigars.schema import Observations

from .batches import Packed
from .priors import Prior
from .train import Report, Settings, optimise, shuffled, silent

if TYPE_CHECKING:
    from cigars.config import TrainingConfig

__all__ = ["ObjectLikelihood", "object_data", "train_object_likelihood"]

RATE, BATCH, COUNT_RATE, COUNT_BATCH, COUNT_PASSES = 2e-3, 512, 3e-3, 256, 30
BEYOND = 4.0  # standard deviations of the training's Θ at which a condition is clipped
ROUNDING = 1e-6  # relative variance of a direction that is a combination of others


def object_data(observations: Observations) -> Float[Tensor, "object column"]:
    """What the density is of: magnitudes, m, x, c and the ln of their variances.

    Errors of magnitudes are taken to follow from the magnitudes, and redshifts from spectra are not used.

    Raises:
        ValueError: where a band or the light of an object is missing.
    """
    o = observations
    light = torch.stack([o.m, o.x, o.c, o.var_m.log(), o.var_x.log(), o.var_c.log()], -1)
    data = torch.cat([o.mag, light], -1)
    if (missing := ~torch.isfinite(data).all(-1)).any():
        raise ValueError(
            f"objects: expected every band and the light of all {len(data)}, got {int(missing.sum())} that lack some; leave these out"
        )
    return data


class ObjectLikelihood(nn.Module):
    """q(d | Θ) of one detected object, and ln Λ(Θ) for an exposure of 1.

    Args:
        prior: of Θ.
        columns: of `object_data`.
        kept: directions of them that the density is of.
        hidden, transforms: of the flow.
    """

    mean: Tensor
    frame: Tensor
    ln_count: Tensor
    centre: Tensor
    spread: Tensor
    flow: Any
    count: nn.Module

    def __init__(self, prior: Prior, columns: int, kept: int, hidden: int = 96, transforms: int = 4) -> None:
        super().__init__()
        from sbi.neural_nets import likelihood_nn  # seconds to import

        size = len(prior.names)
        self.prior = prior
        self.register_buffer("mean", torch.zeros(columns))
        self.register_buffer("frame", torch.zeros(columns, kept))
        build = likelihood_nn(
            "zuko_nsf", z_score_theta="none", z_score_x="none", hidden_features=(hidden, hidden), num_transforms=transforms, num_bins=8
        )
        self.flow = build(torch.zeros(8, size), torch.randn(8, kept))
        sizes = [size, 64, 64]
        layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.SiLU())]
        self.count = nn.Sequential(*layers, nn.Linear(64, 1))
        self.register_buffer("ln_count", torch.zeros(()))
        self.register_buffer("centre", torch.zeros(size))
        self.register_buffer("spread", torch.ones(size))

    @classmethod
    def fitted(
        cls, prior: Prior, data: Float[Tensor, "object column"], number: Float[Tensor, "survey"], eta: Float[Tensor, "survey parameter"]
    ) -> ObjectLikelihood:
        """With the standardisation of training objects; directions that are combinations of others (constant columns) are dropped."""
        mean, sd = data.double().mean(0), data.double().std(0)
        scale = torch.where(sd > 1e-4 * (1 + mean.abs()), sd, torch.inf)
        power, direction = torch.linalg.eigh(torch.cov(((data - mean) / scale).T))
        kept = power > ROUNDING * power.max()
        out = cls(prior, data.shape[1], int(kept.sum())).to(data.device)
        out.mean.copy_(mean)
        out.frame.copy_(direction[:, kept] / power[kept].sqrt() / scale[:, None])
        out.ln_count.copy_(number.double().mean().clamp(min=1).log())
        out.centre.copy_(eta.mean(0))
        out.spread.copy_(eta.std(0).clamp(min=1e-6))
        return out

    def standardise(self, data: Float[Tensor, "object column"]) -> Float[Tensor, "object kept"]:
        """Uncorrelated columns of unit variance."""
        return (data - self.mean) @ self.frame

    def condition(self, eta: Float[Tensor, "row parameter"]) -> Float[Tensor, "row parameter"]:
        """What the networks are given of η, which is Θ made standard normal under its prior."""
        return ((eta - self.centre) / self.spread).clamp(-BEYOND, BEYOND)

    def loss(self, standardised: Float[Tensor, "object kept"], condition: Float[Tensor, "object parameter"]) -> Float[Tensor, "object"]:
        """-ln q(d | Θ) in the standardised columns."""
        return self.flow.loss(standardised, condition=condition)

    def ln_expected(self, condition: Float[Tensor, "row parameter"]) -> Float[Tensor, "row"]:
        """ln Λ(Θ) for an exposure of 1."""
        return self.ln_count + self.count(condition)[:, 0]

    def count_loss(self, condition: Float[Tensor, "survey parameter"], number: Tensor, exposure: Tensor) -> Float[Tensor, "survey"]:
        """-ln of the Poisson probability of each survey's number, without the constant, relative to the mean number."""
        ln_rate = self.ln_expected(condition) + exposure.log()
        return (ln_rate.exp() - number * ln_rate) / self.ln_count.exp()

    def ln_likelihood(
        self, standardised: Float[Tensor, "object kept"], eta: Float[Tensor, "draw parameter"], exposure: float = 1.0
    ) -> Float[Tensor, "draw"]:
        """ln L of a survey at each η up to a constant, differentiable."""
        condition, objects = self.condition(eta), len(standardised)
        ln_each = -self.loss(standardised.repeat(len(eta), 1), condition.repeat_interleave(objects, 0))
        ln_rate = self.ln_expected(condition) + math.log(exposure)
        return ln_each.unflatten(0, (len(eta), objects)).sum(1) + objects * ln_rate - ln_rate.exp()


def train_object_likelihood(
    prior: Prior, objects: Packed, held: Packed, training: TrainingConfig, seed: int, folder: Path | None = None, report: Report = silent
) -> ObjectLikelihood:
    """Train both networks on some objects of each of many surveys.

    Args:
        prior: of Θ.
        objects: of training surveys, whose `number` counts all of their objects.
        held: objects of other surveys, on which training is judged.
        training: its `local_epochs` and `patience` are read.
        seed: of weights and batches.
        folder: of the checkpoints that a training is resumed from.
        report: progress callback of the stages "number" and "density".

    Raises:
        ValueError: where an object lacks a band or its light.
        TrainingError: if a loss is not finite.
    """
    data, held_data = object_data(objects.observations), object_data(held.observations)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = ObjectLikelihood.fitted(prior, data, objects.number.float() / objects.exposure, prior.transform.inv(objects.theta))
    condition, held_condition = (net.condition(prior.transform.inv(p.theta)) for p in (objects, held))
    number, held_number = objects.number.float(), held.number.float()
    batch = min(COUNT_BATCH, len(condition))
    order = shuffled(len(condition), batch, seed + 1)
    every = max(len(condition) // batch, 1)
    optimise(
        net.count, net.count_loss, lambda s: (condition[order(s)], number[order(s)], objects.exposure[order(s)]),
        lambda: float(net.count_loss(held_condition, held_number, held.exposure).mean()),
        Settings(COUNT_PASSES * every, every, COUNT_RATE, weight_decay=0.0, patience=COUNT_PASSES, seed=seed + 1),
        folder and folder / "number.pt", report, "number",
    )  # fmt: skip
    u, v = net.standardise(data), net.standardise(held_data)
    of_rows, held_rows = (e.repeat_interleave(p.lengths, 0) for e, p in ((condition, objects), (held_condition, held)))
    batch = min(BATCH, len(u))
    rows = shuffled(len(u), batch, seed + 2)
    every = max(len(u) // batch // 2, 1)
    optimise(
        net.flow, net.loss, lambda s: (u[rows(s)], of_rows[rows(s)]),
        lambda: float(net.loss(v, held_rows).mean()),
        Settings(2 * training.local_epochs * every, every, RATE, patience=2 * training.patience, seed=seed + 2),
        folder and folder / "density.pt", report, "density",
    )  # fmt: skip
    return net.eval()
