"""Evidence of a model for a small catalogue by its exact likelihood: draws of the exact posterior, and their harmonic mean.

The likelihood is the sum over the hosts of a bank (`simulators.likelihood`), the draws are by the no-U-turn sampler (`simulators.exact`),
and the mean has a learned target (`inference.harmonic`), in coordinates in which the prior is standard normal. Constants that the
likelihood leaves out are the same for models that differ in priors, cosmology or dust, so that differences are Bayes factors of one survey.

A survey is one of a given area and duration. Where its size is an expected number, models that make different numbers of supernovae in the
same area and duration (another dust, selection or other hosts) need different ones: those of `cigars.compare.on_one_survey`. Models that
differ in priors or cosmology alone have the same, as the number is that of the fiducial Θ.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from cigars.convergence import Convergence
from cigars.schema import Observations
from cigars.targets import TargetWarning

if TYPE_CHECKING:
    from cigars.config import Config
    from inference.harmonic import Evidence

__all__ = ["exact_evidence"]


def exact_evidence(
    config: Config,
    observations: Observations,
    simulator: Any = None,
    *,
    draws: int = 500,
    warmup: int = 500,
    chains: int = 2,
    seed: int = 0,
    exposure: float = 1.0,
    sample: int | None = None,
) -> Evidence:
    """ln evidence of a model up to a constant of the catalogue.

    Args:
        config: the model; its prior must leave a parameter free. Of models that are compared, as `cigars.compare.on_one_survey` gives it.
        observations: of the objects, leaves [object], without padding; hundreds take hours.
        simulator: of the configuration, by default from its cached bank.
        draws, warmup, chains: of the sampler; at least two chains, which start apart and must end together.
        seed: of sampler and target.
        exposure: of the catalogue, relative to the configured size.
        sample: size of the fixed sample behind the expected count.

    Raises:
        ValueError: for a variant of the model without this likelihood, such as dust = "local", too few draws or chains, or chains that
            have not converged: the mean over one of two modes is confident and wrong.
        HeavyTail: where the mean cannot be trusted.

    Warns:
        TargetWarning: of divergences, where draws may be missing.
    """
    import jax
    import torch

    from inference.harmonic import harmonic_mean
    from inference.priors import Prior
    from simulators.candidates import candidates
    from simulators.counts import SAMPLE
    from simulators.exact import sample_exact, stacked
    from simulators.likelihood import ln_likelihood
    from simulators.staged import dispersed
    from simulators.survey import load_simulator

    if chains < 2:
        raise ValueError(f"evidence: expected at least two chains, which show whether they have converged, got {chains}; raise chains")
    simulator, sample = simulator or load_simulator(config), sample or SAMPLE
    matches = candidates(observations, simulator, config)
    found = sample_exact(
        matches, simulator, config, draws=draws, warmup=warmup, chains=chains, seed=seed, exposure=exposure, sample=sample,
        pilot=dispersed(config, chains, seed),
    )  # fmt: skip
    _check(Convergence.of(found))
    theta = found.theta.reshape(-1, len(found.names))

    at = jax.jit(lambda every: jax.lax.map(lambda one: ln_likelihood(one, matches, simulator, config, exposure, sample), every))
    ln_likelihoods = np.asarray(at(stacked(theta, config)), np.float64)
    prior = Prior(config.marginals)
    eta = prior.transform.inv(torch.as_tensor(np.array(theta), dtype=torch.float32)).double().numpy()
    ln_prior = -0.5 * (eta**2).sum(1) - 0.5 * eta.shape[1] * np.log(2 * np.pi)
    return harmonic_mean(eta, ln_likelihoods + ln_prior, seed=seed)


def _check(found: Convergence) -> None:
    """Raise ValueError where chains disagree, and warn where they diverged."""
    if found.apart:
        raise ValueError(
            f"evidence: expected chains that agree, got {found.apart}; raise warmup and draws, and where they stay in different modes "
            "narrow the prior to one"
        )
    for line in found.caveats:
        warnings.warn(f"evidence: {line}", TargetWarning, stacklevel=3)
