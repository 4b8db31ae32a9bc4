r"""Savage–Dickey ratio: the Bayes factor of a nested model from the posterior of the wider one.

Where a model is another with some parameters held at $\varphi_0$, and the rest has the same prior,
$K = p(D \mid M_{\rm nested}) / p(D \mid M_{\rm wide}) = q(\varphi_0 \mid D) / \pi(\varphi_0)$ (Dickey 71).
In coordinates η in which the prior is standard normal the ratio is that of two densities without edges.

With the run at hand the marginal density is an integral of the flow over the other parameters, by importance sampling; else it is a kernel
density of the draws, shrunk towards their mean so that kernels do not widen it (West 93).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from cigars.config import Config
from cigars.files import FileError
from cigars.importance import FEWEST, effective_number
from cigars.posterior import Posterior

__all__ = ["Ratio", "kernel_ln_density", "nested_values", "savage_dickey"]

RESAMPLES = 50
FARTHEST = 4.0  # standard deviations at which draws still say what a density is


class Ratio(NamedTuple):
    """ln K of the nested model against the wider one, its standard error, and how the density was found: `flow` or `kernel`."""

    ln_k: float
    error: float
    method: str


def nested_values(wide: Config, nested: Config) -> dict[str, float]:
    """Values at which `nested` holds free parameters of `wide`; empty where it is not a nested model of it."""
    at = {name: value for name, value in nested.fixed.items() if name in wide.marginals}
    freed = wide.updated(**{f"prior.{name}": getattr(nested.prior, name).model_dump(exclude_none=True) for name in at})
    same = ("prior", "hosts", "supernovae", "observation", "selection", "size")
    return at if all(getattr(freed, part) == getattr(nested, part) for part in same) else {}


def savage_dickey(posterior: Posterior, at: Mapping[str, float], *, seed: int = 0, method: str = "auto") -> Ratio:
    """ln K of the model in which some parameters are fixed, from a posterior in which they are free.

    Args:
        posterior: of the wider model.
        at: values of the fixed parameters by name.
        seed: of the draws.
        method: "flow", "kernel", or "auto": the flow where the run folder is at hand.

    Raises:
        ValueError: for parameters that are not free, values outside the prior, or where the draws say nothing of the density there.
        FileError: for "flow" without the run folder.
    """
    import torch

    from inference.priors import Prior

    if unknown := [n for n in at if n not in posterior.names] or not at:
        raise ValueError(f"Savage-Dickey: expected values of {', '.join(posterior.names)}, got {unknown if at else 'none'}")
    prior = Prior({n: posterior.config.marginals[n] for n in at})
    point = torch.tensor([list(at.values())], dtype=torch.float32)
    if not bool(torch.isfinite(prior.log_prob(point))):
        raise ValueError(f"Savage-Dickey: expected values within the prior, got {dict(at)}")
    eta0 = prior.transform.inv(point).double().numpy()[0]
    ln_prior = float(multivariate_normal(np.zeros(len(at))).logpdf(eta0))
    if method != "kernel" and "weighted_by" not in posterior.attributes:
        try:
            ln_density, error = posterior.ln_marginal(at, seed)
            return Ratio(ln_density - ln_prior, error, "flow")
        except FileError:
            if method == "flow":
                raise
    eta = prior.transform.inv(torch.as_tensor(posterior.marginal(*at), dtype=torch.float32)).double().numpy()
    ln_density, error = kernel_ln_density(eta, eta0, seed)
    return Ratio(ln_density - ln_prior, error, "kernel")


def kernel_ln_density(draws: Float[ndarray, "draw parameter"], at: Float[ndarray, "parameter"], seed: int = 0) -> tuple[float, float]:
    """ln of the density of draws at a point and its standard error, by resampling them.

    Raises ValueError where the point is more than four standard deviations from the draws.
    """
    mean, root = draws.mean(0), np.linalg.cholesky(np.atleast_2d(np.cov(draws.T)))
    u, u0 = np.linalg.solve(root, (draws - mean).T).T, np.linalg.solve(root, at - mean)
    if np.abs(u0).max() > FARTHEST or len(draws) < 2 * FEWEST:
        raise ValueError(
            f"Savage-Dickey: expected a value within {FARTHEST:g} standard deviations and {2 * FEWEST:.0f} draws, got "
            f"{np.abs(u0).max():.1f} and {len(draws)}; use the run folder, or `cigars compare`"
        )
    size = draws.shape[1]
    width = len(draws) ** (-1 / (size + 4))
    shrunk = (1 - width**2) ** 0.5 * u
    ln_kernel = multivariate_normal(u0, width**2 * np.eye(size)).logpdf(shrunk)
    ln_kernel = np.atleast_1d(ln_kernel) - np.log(np.diag(root)).sum()
    rng = np.random.default_rng(seed)
    again = [logsumexp(ln_kernel[rng.integers(len(draws), size=len(draws))]) for _ in range(RESAMPLES)]
    if effective_number(ln_kernel) < 5:
        raise ValueError("Savage-Dickey: expected draws near the value, got fewer than 5; use the run folder, or `cigars compare`")
    return float(logsumexp(ln_kernel) - np.log(len(draws))), float(np.std(again))
