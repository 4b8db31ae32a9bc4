r"""Savage–Dickey ratio: the Bayes factor of a nested model from the posterior of the wider one.

Where a model is another with some parameters held at $\varphi_0$, and the rest has the same prior,
$K = p(D \mid M_{\rm nested}) / p(D \mid M_{\rm wide}) = q(\varphi_0 \mid D) / \pi(\varphi_0)$ (Dickey 71).
In coordinates η in which the prior is standard normal the ratio is that of two densities without edges.

A posterior that was truncated for its catalogue (`cigars.truncation`) is the same one as long as the box and the region hold all of it:
the prior density π is then still that of the configuration before truncation, and how much prior mass the box and the region hold is of
no account, since it cancels in $q$. In the tails of the posterior that does not hold, where the region may cut what $q$ is an integral of.

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

from cigars.catalogue import Catalogue
from cigars.config import Config
from cigars.files import FileError
from cigars.importance import FEWEST, effective_number
from cigars.posterior import Posterior
from cigars.schema import Marginal
from cigars.targets import target_hash, without_redshifts

__all__ = ["Ratio", "check_posterior", "kernel_ln_density", "nested_values", "savage_dickey"]

RESAMPLES = 50
FARTHEST = 4.0  # standard deviations at which draws still say what a density is
HELD = 3.0  # within which a box and a region, that lose 1e-4 in each direction, hold what the density is an integral of
SIMULATED = ("hosts", "supernovae", "observation", "selection", "size")


class Ratio(NamedTuple):
    """ln K of the nested model against the wider one, its standard error, and how the density was found: `flow` or `kernel`."""

    ln_k: float
    error: float
    method: str


def nested_values(wide: Config, nested: Config) -> dict[str, float]:
    """Values at which `nested` holds free parameters of `wide`; empty where it is not a nested model of it."""
    at = {name: value for name, value in nested.fixed.items() if name in wide.marginals}
    freed = wide.updated(**{f"prior.{name}": getattr(nested.prior, name).model_dump(exclude_none=True) for name in at})
    return at if all(getattr(freed, part) == getattr(nested, part) for part in ("prior", *SIMULATED)) else {}


def check_posterior(posterior: Posterior, wide: Config, catalogue: Catalogue, exposure: float = 1.0) -> None:
    """Refuse a posterior that is not that of a catalogue under the wider model; its prior may have been truncated for this catalogue.

    Raises:
        ValueError: for one of other data, another exposure or another configuration, or weighted since.

    Warns:
        TargetWarning: where its run reads no spectroscopic redshifts and the catalogue has some.
    """
    attributes = posterior.attributes
    # the exact likelihood reads redshifts whatever its configuration
    read = catalogue if attributes.get("method") == "exact" else without_redshifts(catalogue, posterior.config)
    expected, made = target_hash(read), target_hash(Catalogue(np.asarray(posterior.ids), posterior.observations))
    exposed, target, given = float(attributes.get("exposure", 1.0)), attributes.get("truncated_for", ""), target_hash(catalogue)
    if said := attributes.get("weighted_by"):
        raise ValueError(
            f"Savage-Dickey: expected a posterior of the catalogue alone, got one weighted since ({said}); give the one before"
        )
    if made != expected:
        raise ValueError(
            f"Savage-Dickey: expected a posterior of the catalogue, {expected}, its {len(catalogue.id)} objects whole, got one of "
            f"{len(posterior.ids)} objects, {made}; infer this catalogue"
        )
    if not np.isclose(exposed, exposure):
        raise ValueError(
            f"Savage-Dickey: expected a posterior of exposure {exposure:g}, got {exposed:g}; infer with --exposure {exposure:g}"
        )
    if target not in ("", given):
        raise ValueError(
            f"Savage-Dickey: expected a run truncated for this catalogue, {given}, got one for {target}; train without a target"
        )
    if other := _differing(posterior.config, wide, bool(target)):
        raise ValueError(
            f"Savage-Dickey: expected a posterior of the configuration of the first model, {wide.name}, got one that differs in {other}; "
            "infer with a run of that configuration"
        )


def _differing(config: Config, wide: Config, truncated: bool) -> str:
    """In which parts a configuration is not that of the wider model; a truncation of its prior counts for nothing."""

    def sized(of: Config) -> Config:
        return of.model_copy(update={"size": of.size.model_copy(update={"capacity": 1, "exposure": (1.0, 1.0)})})  # of training surveys

    def same(prior: Marginal, configured: Marginal) -> bool:
        within = truncated and configured.low <= prior.low and prior.high <= configured.high
        return prior == (configured._replace(low=prior.low, high=prior.high) if within else configured)

    free, of_wide = config.marginals, wide.marginals
    priors = free.keys() == of_wide.keys() and config.fixed == wide.fixed and all(same(free[n], m) for n, m in of_wide.items())
    regions = truncated or config.prior.region == wide.prior.region
    other = [part for part in SIMULATED if getattr(sized(config), part) != getattr(sized(wide), part)]
    return ", ".join(other + ["prior"] * (not (priors and regions)))


def savage_dickey(
    posterior: Posterior, at: Mapping[str, float], *, wide: Config | None = None, seed: int = 0, method: str = "auto"
) -> Ratio:
    """ln K of the model in which some parameters are fixed, from a posterior in which they are free.

    Args:
        posterior: of the wider model; `check_posterior` says whether it is.
        at: values of the fixed parameters by name.
        wide: configuration of the wider model before its prior was truncated for the catalogue; by default that of the posterior.
        seed: of the draws.
        method: "flow", "kernel", or "auto": the flow where the run folder is at hand.

    Raises:
        ValueError: for parameters that are not free, values outside the prior, where the draws say nothing of the density there, or, of a
            truncated posterior, without `wide` or in the tails; for a wider model whose own prior has a region.
        FileError: for "flow" without the run folder.
    """
    import torch

    from inference.priors import Prior

    if unknown := [n for n in at if n not in posterior.names] or not at:
        raise ValueError(f"Savage-Dickey: expected values of {', '.join(posterior.names)}, got {unknown if at else 'none'}")
    truncated = bool(posterior.attributes.get("truncated_for"))
    if truncated and wide is None:
        raise ValueError(
            "Savage-Dickey: expected the configuration before truncation, as the prior of this run is a part of it; give `wide`"
        )
    if (wide or posterior.config).prior.region is not None:
        raise ValueError("Savage-Dickey: expected priors that are independent, got prior.region; leave it out of the configuration")
    box, configured = ({n: priors[n] for n in at} for priors in (posterior.priors, wide.marginals if wide else posterior.priors))
    prior = Prior(box)
    point = torch.tensor([list(at.values())], dtype=torch.float32)
    if not bool(torch.isfinite(prior.log_prob(point))):
        raise ValueError(f"Savage-Dickey: expected values within the prior{' as truncated' if truncated else ''}, got {dict(at)}")
    eta0 = prior.transform.inv(point).double().numpy()[0]
    # in η of the posterior's own prior, than which the configured one is less dense where it is wider
    wider = float(Prior(configured).log_prob(point) - prior.log_prob(point))
    ln_prior = float(multivariate_normal(np.zeros(len(at))).logpdf(eta0)) + wider
    eta = prior.transform.inv(torch.as_tensor(posterior.marginal(*at), dtype=torch.float32)).double().numpy()
    if truncated and (far := _distance(eta, eta0)) > HELD:
        raise ValueError(
            f"Savage-Dickey: expected a value within {HELD:g} standard deviations of a posterior that was truncated, got {far:.1f}; "
            "train without a target"
        )
    if method != "kernel" and "weighted_by" not in posterior.attributes:
        try:
            ln_density, error = posterior.ln_marginal(at, seed)
            return Ratio(ln_density - ln_prior, error, "flow")
        except FileError:
            if method == "flow":
                raise
    ln_density, error = kernel_ln_density(eta, eta0, seed, posterior.effective_draws / posterior.draws)
    return Ratio(ln_density - ln_prior, error, "kernel")


def _distance(draws: Float[ndarray, "draw parameter"], at: Float[ndarray, "parameter"]) -> float:
    """Of a point from the mean of some draws, in their standard deviations."""
    deviation = at - draws.mean(0)
    return float(np.sqrt(deviation @ np.linalg.solve(np.atleast_2d(np.cov(draws.T)), deviation)))


def kernel_ln_density(
    draws: Float[ndarray, "draw parameter"], at: Float[ndarray, "parameter"], seed: int = 0, worth: float = 1.0
) -> tuple[float, float]:
    """ln of the density of draws at a point and its standard error, by resampling them.

    Args:
        draws: of a posterior.
        at: the point.
        seed: of the resampling.
        worth: share of the draws that are independent, as those of chains and of weights are not (`Posterior.effective_draws`).

    Raises:
        ValueError: where the point is more than four standard deviations from the draws, or these are too few.
    """
    mean, root = draws.mean(0), np.linalg.cholesky(np.atleast_2d(np.cov(draws.T)))
    u, u0 = np.linalg.solve(root, (draws - mean).T).T, np.linalg.solve(root, at - mean)
    if np.abs(u0).max() > FARTHEST or worth * len(draws) < 2 * FEWEST:
        raise ValueError(
            f"Savage-Dickey: expected a value within {FARTHEST:g} standard deviations and {2 * FEWEST:.0f} independent draws, "
            f"got {np.abs(u0).max():.1f} and {worth * len(draws):.0f}; use the run folder, or `cigars compare`"
        )
    size = draws.shape[1]
    width = len(draws) ** (-1 / (size + 4))
    shrunk = (1 - width**2) ** 0.5 * u
    ln_kernel = multivariate_normal(u0, width**2 * np.eye(size)).logpdf(shrunk)
    ln_kernel = np.atleast_1d(ln_kernel) - np.log(np.diag(root)).sum()
    rng = np.random.default_rng(seed)
    again = [logsumexp(ln_kernel[rng.integers(len(draws), size=len(draws))]) for _ in range(RESAMPLES)]
    if worth * effective_number(ln_kernel) < 5:
        raise ValueError("Savage-Dickey: expected draws near the value, got fewer than 5; use the run folder, or `cigars compare`")
    return float(logsumexp(ln_kernel) - np.log(len(draws))), float(np.std(again)) * worth**-0.5
