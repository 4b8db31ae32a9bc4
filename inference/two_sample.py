r"""Are the objects of a survey distributed as those of simulated surveys? The maximum mean discrepancy, given what the parameters explain.

With k a sum of Gaussian kernels and φ its random Fourier features, $\langle\varphi(a), \varphi(b)\rangle \approx k(a, b)$ (Rahimi & Recht
2007), two sets of objects differ by $\mathrm{MMD}^2 = |\mu_1 - \mu_2|^2$, μ the mean of φ over a set (Gretton+12): linear in the number of
objects. Here $\mu_2$ is what simulated surveys have at the parameters that the survey seems to have, by regression as in
`misspecification`. The objects' own noise is subtracted, and each simulated survey is treated as the observed one, left out of its own
regression: the law of N MMD², a sum of squares of normal numbers, is taken as a gamma law with their mean, variance and skewness.
"""

# sbi's calc_misspecification_mmd shuffles one pool of simulations to find its null: a survey at one Θ against objects at many is then
# rejected for the width of the posterior alone. With one summary a survey in place of objects it is the distance of a point to a set, which
# the parameters explain for the most part. It also takes N² kernels of at most 1,000 rows.

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.spatial.distance import pdist

from .checks import BAND, Check, Family
from .misspecification import given, law_at, whitening

__all__ = ["Kernel", "embedding", "gaussian_kernel", "mmd_check"]

FREQUENCIES = 256
SOME = 1000  # objects whose median distance is the kernel's largest width
WIDTHS = (1.0, 0.5, 0.25)  # a sum of kernels: the widest alone is blind to structure within the bulk
BLOCK = 8192  # objects at a time


class Kernel(NamedTuple):
    """A sum of Gaussian kernels by the frequencies of its features, for objects in the frame where they have covariance 1."""

    centre: Float[np.ndarray, "input"]
    frequency: Float[np.ndarray, "input frequency"]


def gaussian_kernel(objects: Float[np.ndarray, "object input"], seed: int = 0) -> Kernel:
    """Mean of kernels as wide as the median distance between some objects and less, in units in which they have covariance 1."""
    frame, centre = whitening(objects), objects.mean(0, dtype=np.float64)
    some = (objects[:: max(len(objects) // SOME, 1)] - centre) @ frame
    normal = np.random.default_rng(seed).normal(size=(frame.shape[1], FREQUENCIES))
    return Kernel(centre, frame @ normal / (np.median(pdist(some)) * np.resize(WIDTHS, FREQUENCIES)))


def embedding(objects: Float[np.ndarray, "object input"], kernel: Kernel) -> Float[np.ndarray, "feature"]:
    """Mean of the features over the objects; those of one object have norm 1."""
    total = np.zeros((2, FREQUENCIES))
    for start in range(0, len(objects), BLOCK):
        phase = ((objects[start : start + BLOCK] - kernel.centre) @ kernel.frequency).astype(np.float32)
        total += np.cos(phase).sum(0, dtype=np.float64), np.sin(phase).sum(0, dtype=np.float64)
    return total.ravel() / (len(objects) * FREQUENCIES**0.5)


def mmd_check(
    simulated: Float[np.ndarray, "survey feature"],
    sizes: Sequence[int] | np.ndarray,
    known: Float[np.ndarray, "survey parameter"],
    observed: Float[np.ndarray, "feature"],
    size: int,
    observed_known: Float[np.ndarray, "parameter"],
) -> Family:
    """N MMD² between the observed objects and those expected at its parameters (test "objects together").

    Args:
        simulated: embeddings of surveys simulated at draws of the observed posterior.
        sizes: their numbers of objects, at least two each.
        known: posterior means of the same surveys.
        observed, size, observed_known: of the observed survey.

    Raises:
        ValueError: if there are not more surveys than parameters, or a survey of less than two objects.
    """
    surveys, parameters = known.shape
    if surveys <= parameters + 2 or min(*sizes, size) < 2:
        raise ValueError(
            f"surveys: expected more than {parameters + 2} of at least two objects, got {surveys}, the least of {min(*sizes, size)}; "
            "simulate more or larger ones"
        )
    found = given(simulated, known, observed, observed_known)
    left_out = found.residuals / (1 - np.minimum(found.leverages, 0.999))[:, None]
    null = _scaled(left_out, simulated, np.asarray(sizes))
    value = float(_scaled(found.residual[None], observed[None], np.array([size]))[0])
    law, laws = (law_at(null, found, leverage) for leverage in (found.leverage, found.leverages))
    band = (float(law.ppf(0.5 - BAND / 2)), float(law.ppf(0.5 + BAND / 2)))
    return Family([Check("objects together", "N MMD²", value, *band, float(law.sf(value)))], laws.sf(null)[:, None])


def _scaled(residual: np.ndarray, mean: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """N MMD² without the objects' own noise: that of μ, (1 − |μ|²) / (N − 1) on average."""
    noise = (1 - (mean**2).sum(1)) / (sizes - 1)
    return sizes * ((residual**2).sum(1) - noise)
