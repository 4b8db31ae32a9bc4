r"""The exact posterior of a small catalogue, without a network: Θ by Hamiltonian Monte Carlo with all hosts of the bank summed over.

$p(\Theta, \{h_i, \ell_i\} \mid D)$ with the likelihood of `simulators.likelihood`: a host of the bank is drawn for each object at each Θ,
and age, stretch and colour given both. The file is that of `cigars.infer`. Exact is meant for the given bank of hosts: where that is
sparse against the errors of the photometry, single hosts are recognised, and the posterior is too narrow for the population.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cigars.catalogue import Catalogue, select
from cigars.catalogue_checks import TargetWarning
from cigars.config import Config, TrainingConfig
from cigars.convergence import Convergence
from cigars.exact_checks import MAX_PAIRS, SIGMAS, check_light, check_numbers, covered
from cigars.host_summaries import Summaries, write_summaries
from cigars.infer import assemble, check_outputs
from cigars.posterior_file import check_memory, save_posterior
from cigars.progress import Reporter, silent
from cigars.surveys import run_fingerprint
from cigars.targets import hide, target_hash
from cigars.training_range import warn_of_exposure, warn_of_others

if TYPE_CHECKING:
    import arviz

__all__ = ["count_sample", "infer_exact"]

COUNT_PER_OBJECT = 1 << 8  # of the sample behind the expected count: its error stays below 0.1 of the Poisson error
COUNT = 1 << 13, 1 << 18  # least and most
LATENTS = 1 << 16  # folded into the seed's key: small numbers would give the keys that splitting it gives the sampler


def infer_exact(
    config: Config,
    catalogue: Catalogue,
    *,
    draws: int = 1000,
    chains: int = 2,
    warmup: int = 300,
    target_accept: float = 0.8,
    seed: int = 0,
    hidden: Sequence[str] = (),
    drop_outside: bool = False,
    exposure: float = 1.0,
    max_pairs: int = MAX_PAIRS,
    output: str | Path | None = None,
    hosts: str | Path | None = None,
    overwrite: bool = False,
    command: str = "",
    report: Reporter = silent,
) -> arviz.InferenceData:
    """Joint posterior of Θ and of every host and supernova of a small catalogue, by the exact likelihood.

    Args:
        config: priors, hosts, errors and selection; nothing is trained.
        catalogue: objects in the bands of the configuration.
        draws: joint draws in all, as many from each chain.
        chains: of the sampler.
        warmup: steps of each chain before its draws.
        target_accept: acceptance probability that steps are adapted to; nearer to 1 they are shorter, against divergences.
        seed: of the draws.
        hidden: "z_spec", to leave out spectroscopic redshifts.
        drop_outside: leave out objects that no host of the bank is like, and record how many, in place of refusing. Those that are left
            are taken as a random share of all, which the rates count: their likelihood is that of this share of the exposure.
        exposure: area × time of the survey relative to the configured size; the rates scale with it.
        max_pairs: most pairs of object and host that are attempted.
        output: NetCDF file to write.
        hosts: table to write, .fits, .parquet or .ecsv, as `cigars.infer` does.
        overwrite: replace files that exist.
        command: how this was called, for the record.
        report: progress, called as report(stage, done, total).

    Raises:
        ConfigError: for numbers that make no chain, or a configuration that the likelihood does not cover.
        CatalogueError: for a catalogue that is too large, ids that repeat, or objects without light or unlike any host of the bank.
        FileError: where the draws do not fit into memory or on the disk, or a file exists.

    Warns:
        TargetWarning: where the chains have not converged, the bank is too sparse for the photometry, objects are left out, some are
            expected to be of other types, or the rate is so far from its prior that the exposure may be wrong.
    """
    check_numbers(config, draws, chains, warmup, target_accept, exposure, hidden)
    each = -(-draws // chains)
    check_outputs(catalogue, each * chains, output, hosts, overwrite)
    identity, catalogue = target_hash(catalogue), catalogue._replace(observations=hide(catalogue.observations, hidden))
    check_light(catalogue)
    warn_of_others(catalogue)
    check_memory(each * chains, len(catalogue.id))

    started = time.monotonic()
    found, kept, dropped = _sampled(config, catalogue, each, chains, warmup, target_accept, seed, exposure, drop_outside, max_pairs, report)
    chainwise = Convergence.of(found.staged.posterior, found.staged.hosts_per_object)
    record = _record(config, chainwise, found.staged) | {
        "seed": seed,
        "command": command,
        "catalogue": identity,
        "hidden": ", ".join(hidden),
        "dropped": dropped,
        "exposure": exposure,
        "warmup": warmup,
        "target_accept": target_accept,
        "seconds": time.monotonic() - started,
    }
    _warn(chainwise, found.staged.pruning_error, dropped, len(catalogue.id))
    theta, names = found.staged.posterior.theta, found.staged.posterior.names
    drawn = dict(zip(names, theta.reshape(-1, len(names)).T, strict=True))
    warn_of_exposure(drawn, len(catalogue.id), exposure, config)
    data = assemble(names, theta, found.local.reshape(chains, each, *found.local.shape[1:]), kept, config, record)
    if output is not None:
        save_posterior(output, data, overwrite=overwrite)
    if hosts is not None:
        summaries = Summaries(len(kept.id), drawn.get("Om0"))
        summaries.add(slice(0, len(kept.id)), found.local)
        write_summaries(hosts, kept.id, summaries, {"fingerprint": record["fingerprint"], "draws": len(found.local)}, overwrite)
    return data


class _Sampled(NamedTuple):
    """What the simulator gives back, and the unknowns of the objects [draw, object, unknown] in the order of the catalogue."""

    staged: Any
    local: np.ndarray


def _sampled(
    config: Config, catalogue: Catalogue, draws: int, chains: int, warmup: int, target_accept: float, seed: int, exposure: float,
    drop_outside: bool, max_pairs: int, report: Reporter,
) -> tuple[_Sampled, Catalogue, int]:  # fmt: skip
    from simulators.candidates import candidates, check_covered
    from simulators.hosts import load_bank

    check_covered(config)
    bank = load_bank(config.hosts, progress=lambda done, total: report("hosts", done, total))
    config = config.model_copy(update={"name": "", "seed": 0, "training": TrainingConfig()})  # nothing else compiles anew

    import jax

    from simulators.exact import stacked
    from simulators.latents import draw_latents
    from simulators.staged import sample_staged
    from simulators.survey import prepare

    simulator = prepare(config, bank)
    kept, dropped = covered(catalogue, simulator, config, drop_outside, max_pairs, report)
    order = np.argsort(kept.id)
    matches = candidates(select(kept, order).observations, simulator, config, sigmas=SIGMAS)
    sample = count_sample(len(kept.id))
    # all objects are expected and some are looked at: with the whole exposure log A would be low by log10 of their share
    share = len(kept.id) / len(catalogue.id)
    staged = sample_staged(
        matches, simulator, config, draws=draws, warmup=warmup, chains=chains, seed=seed, exposure=share * exposure, sample=sample,
        target_accept=target_accept, report=report,
    )  # fmt: skip
    theta, rows = stacked(staged.posterior.theta, config), jax.numpy.asarray(staged.posterior.hosts)
    local = draw_latents(jax.random.fold_in(jax.random.key(seed), LATENTS), theta, rows, staged.matches, simulator, config)
    return _Sampled(staged, np.asarray(local)[:, np.argsort(order)]), kept, dropped


def count_sample(objects: int) -> int:
    """Size of the sample behind the expected count of a catalogue: a power of two, so that little compiles anew."""
    return min(max(1 << int(np.ceil(np.log2(COUNT_PER_OBJECT * objects))), COUNT[0]), COUNT[1])


def _record(config: Config, found: Convergence, staged: Any) -> dict[str, Any]:

    return {
        "method": "exact",
        "fingerprint": run_fingerprint(config),
        "r_hat": json.dumps(found.r_hat),
        "n_eff": json.dumps(found.n_eff),
        "divergences": found.divergences,
        "pairs": list(staged.pairs),
        "pruning_error": staged.pruning_error,
        "hosts_per_object": staged.hosts_per_object,
    }


def _warn(found: Convergence, pruning_error: float, dropped: int, objects: int) -> None:
    from simulators.staged import TOLERANCE

    said = found.caveats
    if dropped:
        said.append(
            f"{dropped} of {objects} objects are left out, which count in the rates as if left out at random; if they are no supernovae "
            f"of the model, log A is {np.log10(objects / (objects - dropped)):.2g} too high: take them out of the catalogue"
        )
    if pruning_error > TOLERANCE:
        said.append(
            f"the pairs that were left out change ln L by up to {pruning_error:.2f} over the posterior; expect errors of that order"
        )
    for line in said:
        warnings.warn(f"exact: {line}", TargetWarning, stacklevel=3)
