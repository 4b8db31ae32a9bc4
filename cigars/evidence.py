"""Evidence of a model for a small catalogue by its exact likelihood: draws of the exact posterior, and their harmonic mean.

The likelihood is the sum over the hosts of a bank (`simulators.likelihood`), the draws are by the no-U-turn sampler (`simulators.exact`),
and the mean has a learned target (`inference.harmonic`), in coordinates in which the prior is standard normal. Constants that the
likelihood leaves out are the same for models that differ in priors, cosmology or dust, so that differences are Bayes factors of one survey.

A survey is one of a given area and duration. Where its size is an expected number, models that make different numbers of supernovae in the
same area and duration (another dust, selection or other hosts) need different ones: those of `cigars.compare.on_one_survey`. Models that
differ in priors or cosmology alone have the same, as the number is that of the fiducial Θ.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from cigars.catalogue import Catalogue, select
from cigars.catalogue_checks import TargetWarning, check_ids
from cigars.compare import Comparison, Row, on_one_survey
from cigars.config import Config, ConfigError, TrainingConfig
from cigars.convergence import Convergence
from cigars.exact import count_sample
from cigars.exact_checks import MAX_PAIRS, SIGMAS, check_light, check_numbers, covered
from cigars.progress import Reporter, silent
from cigars.schema import Globals, Observations
from cigars.targets import target_hash
from cigars.training_range import warn_of_others

if TYPE_CHECKING:
    from inference.harmonic import Evidence

__all__ = ["compare_exactly", "exact_evidence"]

TEMPERATURES = 0.7, 0.5, 0.35  # of the target, until its weights have a variance: a smaller one lies further inside the posterior
RESTORED_AT = 48  # draws at which what pruning took from L is put back
COUNTED_AT = 12  # draws at which the expected number is that of all hosts


def compare_exactly(
    models: Mapping[str, Config],
    catalogue: Catalogue,
    *,
    draws: int = 1000,
    chains: int = 2,
    warmup: int = 300,
    target_accept: float = 0.8,
    seed: int = 0,
    exposure: float = 1.0,
    max_pairs: int = MAX_PAIRS,
    report: Reporter = silent,
) -> Comparison:
    """Bayes factors of models against the first of them for a small catalogue, by the exact evidence of each.

    Args:
        models: configuration by name, of the same hosts, observations and selection; the size of the survey is that of the first.
        catalogue: objects in the bands of the models.
        draws, chains, warmup: draws in all, chains and steps of each before its draws, for every model.
        target_accept: acceptance probability that steps are adapted to; nearer to 1 they are shorter, against divergences.
        seed: of samplers and targets.
        exposure: of the catalogue, relative to the configured size.
        max_pairs: most pairs of object and host that are attempted.
        report: progress.

    Raises:
        ConfigError: for models that cannot be compared in this way, or numbers that make no chain.
        CatalogueError: for a catalogue that is too large, or objects without light or unlike any host of the bank.
        ValueError, HeavyTail: as `exact_evidence`, of the first model or where no other has an evidence.

    Warns:
        TargetWarning: of a model without an evidence, which is left out.
    """
    from inference.model import versions
    from simulators.candidates import check_covered
    from simulators.hosts import load_bank
    from simulators.survey import prepare

    first = next(iter(models.values()))
    for name, config in models.items():
        check_covered(config)
        check_numbers(config, draws, chains, warmup, target_accept, exposure, ())
        if config.prior.region is not None:
            raise ConfigError(f"{name}: expected a prior without a region, got one, whose volume no evidence knows; compare by networks")
        for part in ("hosts", "observation", "selection"):
            if getattr(config, part) != getattr(first, part):
                raise ConfigError(
                    f"{name}: expected the {part} of the first model, got others, whose likelihood has other constants; compare by networks"
                )
    sized = on_one_survey(models)
    check_ids(np.asarray(catalogue.id).astype(np.str_))
    check_light(catalogue)
    warn_of_others(catalogue)
    bank = load_bank(first.hosts, progress=lambda done, total: report("hosts", done, total))
    observations = select(catalogue, np.argsort(catalogue.id)).observations
    found: dict[str, Evidence] = {}
    for name, config in sized.items():
        plain = config.model_copy(update={"name": "", "seed": 0, "training": TrainingConfig()})  # nothing else compiles anew
        simulator = prepare(plain, bank)
        covered(catalogue, simulator, plain, drop_outside=None, max_pairs=max_pairs, report=report)
        said = _of_model(report, name)
        each = -(-draws // chains)
        options: dict[str, Any] = {
            "draws": each, "warmup": warmup, "chains": chains, "target_accept": target_accept, "seed": seed, "exposure": exposure,
            "report": said,
        }  # fmt: skip
        try:
            found[name] = exact_evidence(plain, observations, simulator, **options)
        except ValueError as error:
            if not found:  # the first, against which all others are
                raise
            warnings.warn(f"{name}: {error}; this model is left out", TargetWarning, stacklevel=2)  # not the work on the others
    if len(found) < 2:
        raise ValueError("compare: expected the evidence of another model than the first, got none; raise warmup and draws")
    record = {
        "method": "exact",
        "models": {name: config.model_dump(mode="json") for name, config in sized.items()},
        "expected_supernovae": {name: config.size.expected_supernovae for name, config in sized.items()},
        "evidence": {name: evidence._asdict() for name, evidence in found.items()},
        "draws": draws, "chains": chains, "warmup": warmup, "target_accept": target_accept, "seed": seed,
        "exposure": exposure, "catalogue": target_hash(catalogue), "objects": len(catalogue.id), "versions": versions(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    return Comparison(_rows(list(found), list(found.values())), None, record)


def _of_model(report: Reporter, name: str) -> Reporter:
    """Progress under the name of the model."""
    return lambda stage, done, total, **metrics: report(f"{name}: {stage}", done, total, **metrics)


def _rows(names: list[str], found: list[Evidence]) -> list[Row]:
    ln_z = np.array([evidence.ln_z for evidence in found])
    share = np.exp(ln_z - ln_z.max())
    errors = [0.0, *(math.hypot(evidence.error, found[0].error) for evidence in found[1:])]
    return [Row(name, float(ln_z[k] - ln_z[0]), errors[k], float(share[k] / share.sum()), None, math.inf) for k, name in enumerate(names)]


def exact_evidence(
    config: Config,
    observations: Observations,
    simulator: Any = None,
    *,
    draws: int = 500,
    warmup: int = 500,
    chains: int = 2,
    target_accept: float = 0.8,
    seed: int = 0,
    exposure: float = 1.0,
    report: Reporter = silent,
) -> Evidence:
    """ln evidence of a model up to a constant of the catalogue.

    Args:
        config: the model; its prior must leave a parameter free. Of models that are compared, as `cigars.compare.on_one_survey` gives it.
        observations: of the objects, leaves [object], without padding; hundreds take hours.
        simulator: of the configuration, by default from its cached bank.
        draws, warmup, chains, target_accept: of the sampler; at least two chains, which start apart and must end together.
        seed: of sampler and target.
        exposure: of the catalogue, relative to the configured size.
        report: progress of the sampler.

    Raises:
        ValueError: for a variant of the model without this likelihood, such as dust = "local", too few draws or chains, or chains that
            have not converged: the mean over one of two modes is confident and wrong.
        HeavyTail: where the mean cannot be trusted.

    Warns:
        TargetWarning: of divergences, where draws may be missing.
    """
    import jax
    import torch

    from inference.priors import Prior
    from simulators.candidates import candidates
    from simulators.exact import stacked
    from simulators.likelihood import ln_likelihood
    from simulators.staged import sample_staged
    from simulators.survey import load_simulator

    if chains < 2:
        raise ValueError(f"evidence: expected at least two chains, which show whether they have converged, got {chains}; raise chains")
    simulator, sample = simulator or load_simulator(config), count_sample(len(observations.m))
    every = candidates(observations, simulator, config, sigmas=SIGMAS)
    staged = sample_staged(
        every, simulator, config, draws=draws, warmup=warmup, chains=chains, seed=seed, exposure=exposure, sample=sample,
        target_accept=target_accept, report=report,
    )  # fmt: skip
    _check(Convergence.of(staged.posterior))
    theta = staged.posterior.theta.reshape(-1, len(staged.posterior.names))

    @jax.jit
    def at(nodes: Any, matches: Any, simulator: Any) -> Any:
        return jax.lax.map(lambda one: ln_likelihood(one, matches, simulator, config, exposure, sample), nodes)

    ln_likelihoods = np.asarray(at(stacked(theta, config), staged.matches, simulator), np.float64)
    restored, restored_error = 0.0, 0.0
    if staged.pairs[0] > staged.pairs[1]:
        some = np.random.default_rng(seed).choice(len(theta), min(RESTORED_AT, len(theta)), replace=False)
        gained = np.asarray(at(stacked(theta[some], config), every, simulator), np.float64) - ln_likelihoods[some]
        # E[L of all pairs / L of those kept], over draws of the posterior of those kept, is the ratio of the two evidences
        restored, restored_error = float(np.log(np.mean(np.exp(gained)))), float(np.std(gained, ddof=1) / len(gained) ** 0.5)
    counted, counted_error = _counted(stacked(theta[:: max(len(theta) // COUNTED_AT, 1)], config), simulator, config, exposure, sample)
    prior = Prior(config.marginals)
    eta = prior.transform.inv(torch.as_tensor(np.array(theta), dtype=torch.float32)).double().numpy()
    ln_prior = -0.5 * (eta**2).sum(1) - 0.5 * eta.shape[1] * np.log(2 * np.pi)
    found = _harmonic_mean(eta, ln_likelihoods + ln_prior, seed)
    return found._replace(ln_z=found.ln_z + restored + counted, error=math.hypot(found.error, restored_error, counted_error))


def _counted(theta: Globals, simulator: Any, config: Config, exposure: float, sample: int) -> tuple[float, float]:
    """What ln Z gains if the expected number is that of all hosts in place of a sample of them, at draws of Θ, and the error of that.

    Models that show other hosts have another sample. Its error changes nothing of the posterior, but N times it is an error of ln Z.
    """
    from simulators.counts import ALL_HOSTS_ERROR, expected_count, expected_count_of_all_hosts

    draws = [Globals(*values) for values in zip(*theta, strict=True)]
    of_sample = np.array([float(expected_count(one, simulator, config, sample)) for one in draws])
    of_all = np.array([float(expected_count_of_all_hosts(one, simulator, config)) for one in draws])
    gained = exposure * (of_sample - of_all)
    scatter = float(np.std(gained, ddof=1) / len(gained) ** 0.5)
    return float(np.log(np.mean(np.exp(gained)))), math.hypot(scatter, exposure * float(of_all.mean()) * ALL_HOSTS_ERROR)


def _harmonic_mean(eta: np.ndarray, ln_posterior: np.ndarray, seed: int) -> Evidence:
    from inference.harmonic import HeavyTail, harmonic_mean

    for temperature in TEMPERATURES[:-1]:
        with suppress(HeavyTail):
            return harmonic_mean(eta, ln_posterior, temperature=temperature, seed=seed)
    return harmonic_mean(eta, ln_posterior, temperature=TEMPERATURES[-1], seed=seed)


def _check(found: Convergence) -> None:
    """Raise ValueError where chains disagree, and warn where they diverged."""
    if found.apart:
        raise ValueError(
            f"evidence: expected chains that agree, got {found.apart}; raise warmup and draws, and where they stay in different modes "
            "narrow the prior to one"
        )
    for line in found.caveats:
        warnings.warn(f"evidence: {line}", TargetWarning, stacklevel=3)
