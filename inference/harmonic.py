r"""Evidence from posterior draws: the harmonic mean with a learned target.

For any normalised density φ, $E_{p(\Theta \mid D)}[\varphi(\Theta) / (L(\Theta) \pi(\Theta))] = 1/Z$ (Gelfand & Dey 94).
With φ the prior that is the original harmonic mean, of infinite variance; the estimate is good where φ lies inside the posterior. φ is
learned from half of the draws and the mean is taken over the other half, then the halves change places (McEwen+21, arXiv:2111.12720):
a spline flow, whose normal base is shrunk to the variance `temperature` < 1, so that its tails fall faster than those of the posterior
(Polanska+24, arXiv:2405.05969).

The authors' package `harmonic` is not used: it is of JAX, which this side never loads, fixes one old setuptools, and comes with a nightly
build of TensorFlow Probability.

All is in coordinates in which draws have mean zero and unit covariance. A mean of weights with a heavy tail is refused: the shape k of a
generalised Pareto law of the largest weights must be below a half, else their variance does not exist (Vehtari+24).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
import zuko
from jaxtyping import Float
from scipy.special import logsumexp
from torch import Tensor

from .train import Settings, optimise, shuffled

__all__ = ["Evidence", "HeavyTail", "harmonic_mean", "pareto_shape"]

TEMPERATURE = 0.7  # variance of the flow's base
BATCHES = 20  # of successive draws, whose scatter gives the error
FEWEST = 400  # draws
LARGEST_SHAPE = 0.5
STEPS, EVERY = 300, 50


class HeavyTail(ValueError):
    """An evidence whose estimate cannot be trusted; the message is one line."""


class Evidence(NamedTuple):
    """ln Z with its standard error, and what says whether to believe it: the Pareto shape of the weights and their effective number."""

    ln_z: float
    error: float
    shape: float
    effective: float


def harmonic_mean(
    draws: Float[np.ndarray, "draw parameter"],
    ln_posterior: Float[np.ndarray, "draw"],
    *,
    temperature: float = TEMPERATURE,
    seed: int = 0,
) -> Evidence:
    """ln ∫ exp(ln_posterior) from draws of that posterior.

    Args:
        draws: of the posterior, chains one after another; coordinates without edges, such as `Prior.transform.inv` of Θ.
        ln_posterior: ln of likelihood times prior density in these coordinates, at each draw.
        temperature: variance of the flow's base; 1 is the flow itself.
        seed: of the flow.

    Raises:
        ValueError: for fewer than 400 draws, or values that are not finite.
        HeavyTail: if the weights have no variance.
    """
    if len(draws) < FEWEST or not (np.isfinite(draws).all() and np.isfinite(ln_posterior).all()):
        raise ValueError(f"harmonic mean: expected at least {FEWEST} draws and finite densities, got {len(draws)}; draw more")
    mean, root = draws.mean(0), np.linalg.cholesky(np.atleast_2d(np.cov(draws.T)))
    u = torch.as_tensor(np.linalg.solve(root, (draws - mean).T).T, dtype=torch.float32)
    ln_jacobian = float(np.log(np.diag(root)).sum())
    middle = len(u) // 2
    halves = (u[:middle], u[middle:])
    parts = [_ln_target(own, other, temperature, seed + k) for k, (other, own) in enumerate((halves[::-1], halves))]
    ln_weight = np.concatenate(parts) - ln_jacobian - ln_posterior
    shape = pareto_shape(ln_weight)
    if shape > LARGEST_SHAPE:
        raise HeavyTail(f"harmonic mean: expected weights of finite variance, got a Pareto shape of {shape:.2f}; draw more")
    ln_mean = float(logsumexp(ln_weight) - math.log(len(ln_weight)))
    batches = np.array([np.exp(logsumexp(b) - math.log(len(b)) - ln_mean) for b in np.array_split(ln_weight, BATCHES)])
    effective = float(np.exp(2 * logsumexp(ln_weight) - logsumexp(2 * ln_weight)))
    return Evidence(-ln_mean, float(batches.std(ddof=1) / BATCHES**0.5), shape, effective)


def _ln_target(at: Tensor, learned_from: Tensor, temperature: float, seed: int) -> np.ndarray:
    """ln φ at one half of the draws, φ learned from the other."""
    size = at.shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        flow = _near_identity(zuko.flows.NSF(size, 0, bins=8, transforms=2, hidden_features=(32, 32)))
        held = max(len(learned_from) // 5, 1)
        order = torch.randperm(len(learned_from))
        kept, train = learned_from[order[:held]], learned_from[order[held:]]
    rows = shuffled(len(train), min(256, len(train)), seed)
    settings = Settings(STEPS, EVERY, 2e-3, patience=4, seed=seed)
    optimise(flow, lambda x: -flow().log_prob(x), lambda step: (train[rows(step)],), lambda: float(-flow().log_prob(kept).mean()), settings)
    with torch.no_grad():
        cool = zuko.distributions.DiagNormal(torch.zeros(size), math.sqrt(temperature) * torch.ones(size))
        return zuko.distributions.NormalizingFlow(flow().transform, cool).log_prob(at).double().numpy()


@torch.no_grad()
def _near_identity(flow: Any) -> Any:
    """The flow with the last layer of each transform nearly zero: splines at random have narrow spikes that training leaves for long."""
    for transform in flow.transform.transforms:
        last = transform.hyper[-1] if hasattr(transform, "hyper") else transform  # of one parameter, a transform is free numbers
        for weight in last.parameters():
            weight.mul_(0.01)
    return flow


def pareto_shape(ln_weight: Float[np.ndarray, "draw"]) -> float:
    """Shape k of the generalised Pareto law of the largest weights, min(n/5, 3√n) of them: moments above the order 1/k do not exist.

    By the estimator of Zhang & Stephens 09, with the weak prior at a half of Vehtari+24.
    """
    count = int(min(0.2 * len(ln_weight), 3 * len(ln_weight) ** 0.5))
    largest = np.exp(np.sort(ln_weight)[-count - 1 :] - ln_weight.max())
    excess = (largest - largest[0])[1:]
    if excess[-1] < 1e-12:  # constant weights have no tail
        return -1.0
    grid = 30 + int(count**0.5)
    b = (1 - np.sqrt(grid / (np.arange(1, grid + 1) - 0.5))) / (3 * max(excess[int(count / 4 + 0.5) - 1], 1e-12)) + 1 / excess[-1]
    k = np.log1p(-b[:, None] * excess).mean(1)
    ln_profile = count * (np.log(-b / k) - k - 1)
    mean = np.exp(ln_profile - logsumexp(ln_profile)) @ b
    return float((count * np.log1p(-mean * excess).mean() + 5) / (count + 10))
