"""The exact posterior where pairs of object and host are many: a pilot on few of them, then all that matter near it.

A short chain on a coarse cut shows where the posterior is; the pairs that hold all but 1e-4 of each object's probability at its draws
make the chain that counts. How far ln L is off by that cut is measured at draws that it was not made at, and the cut is repeated until
that is small. The first chains begin at points of the prior: chains that begin together end in one mode of several, and agree.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Key

from cigars.schema import Globals
from simulators.candidates import Matches
from simulators.counts import SAMPLE
from simulators.exact import ExactPosterior, _start, sample_exact, stacked
from simulators.likelihood import host_probabilities
from simulators.priors import sample_globals
from simulators.pruning import kept, lowered, pair_count, subset
from simulators.simulator import Simulator

if TYPE_CHECKING:
    from cigars.config import Config

__all__ = ["Staged", "dispersed", "sample_staged"]

FEW = 20_000  # pairs that are worth no cut
COARSE, COARSE_AT = 0.05, 16  # share of an object's probability that the pilot may lose, and draws of the prior that it is cut at
PILOT = 150, 100  # warm-up and draws of each of its two chains
FINE, FINE_AT = 1e-4, 24
CHECKED = 12  # draws at which the cut is judged
TOLERANCE = 0.1  # nats of ln L
ROUNDS = 3
STARTS = 64  # of which each chain takes another

Reporter = Callable[..., None]


class Staged(NamedTuple):
    """The posterior, and what was summed over to reach it."""

    posterior: ExactPosterior
    matches: Matches  # the pairs of the last chain
    pairs: tuple[int, int]  # of object and host: all, and those
    pruning_error: float  # largest change of ln L by the cut less its mean, at draws that the cut was not made at; nats
    hosts_per_object: float  # median of exp(entropy) of the hosts' probabilities


def sample_staged(
    matches: Matches,
    simulator: Simulator,
    config: Config,
    *,
    draws: int = 500,
    warmup: int = 300,
    chains: int = 2,
    seed: int = 0,
    exposure: float = 1.0,
    sample: int = SAMPLE,
    target_accept: float = 0.8,
    report: Reporter = lambda *_, **__: None,
) -> Staged:
    """As `sample_exact`, on the pairs that matter.

    Args:
        matches: of `candidates`.
        simulator, config, draws, warmup, chains, seed, exposure, sample, target_accept: as for `sample_exact`.
        report: progress, called as report(stage, done, total).

    Raises:
        ValueError: as `sample_exact`.
    """
    total = pair_count(matches)
    run = functools.partial(sample_exact, simulator=simulator, config=config, exposure=exposure, sample=sample, target_accept=target_accept)
    if total <= FEW:
        report("exact", 0, 1)
        found = run(matches, draws=draws, warmup=warmup, chains=chains, seed=seed, pilot=dispersed(config, chains, seed))
        report("exact", 1, 1)
        return Staged(found, matches, (total, total), 0.0, _hosts_per_object(found, matches, config))
    report("warm-up", 0, 1)
    keep = kept(matches, _of_the_prior(jax.random.key(seed), config, COARSE_AT), config, COARSE)
    found = run(subset(matches, keep), draws=PILOT[1], warmup=PILOT[0], chains=2, seed=seed, pilot=dispersed(config, 2, seed))
    report("warm-up", 1, 1)
    keep = np.zeros_like(keep)
    for turn in range(1, ROUNDS + 1):
        report("exact", turn - 1, ROUNDS)
        keep |= kept(matches, _some(found, FINE_AT, config, seed), config, FINE)
        fewer = subset(matches, keep)
        found = run(fewer, draws=draws, warmup=warmup, chains=chains, seed=seed + turn, pilot=found)
        error = _error(matches, keep, _some(found, CHECKED, config, seed + turn), config)
        if error <= TOLERANCE:
            break
    report("exact", ROUNDS, ROUNDS)
    return Staged(found, fewer, (total, pair_count(fewer)), error, _hosts_per_object(found, fewer, config))


def dispersed(config: Config, chains: int, seed: int = 0) -> ExactPosterior:
    """Where chains can begin, in the form of a pilot: draws of the prior, moved halfway to the Θ that one chain would begin at.

    They span half of the prior's width, wide enough to find other modes, and leave out its corners, where a chain would need long.
    """
    number = max(STARTS, chains)
    drawn = _of_the_prior(jax.random.fold_in(jax.random.key(seed), STARTS), config, number)
    names, start = tuple(config.marginals), _start(config)
    theta = np.array([0.5 * (np.asarray(getattr(drawn, name)) + np.asarray(start[name])) for name in names]).T
    one = np.ones(len(names))
    return ExactPosterior(theta[None], names, one, number * one, 0, np.empty((number, 0), np.int32))


def _of_the_prior(key: Key[Array, ""], config: Config, number: int) -> Globals:
    draw = lambda key: sample_globals(key, config.marginals, config.fixed, config.flat)  # noqa: E731
    return jax.vmap(draw)(jax.random.split(key, number))


def _some(posterior: ExactPosterior, number: int, config: Config, seed: int) -> Globals:
    """Some draws of Θ."""
    flat = posterior.theta.reshape(-1, len(posterior.names))
    rows = np.random.default_rng(seed).choice(len(flat), min(number, len(flat)), replace=False)
    return stacked(flat[rows], config)


def _error(matches: Matches, keep: Bool[np.ndarray, "sn candidate"], theta: Globals, config: Config) -> float:
    change = lowered(matches, keep, theta, config)
    return float(np.abs(change - change.mean()).max())


def _hosts_per_object(posterior: ExactPosterior, matches: Matches, config: Config) -> float:
    middle = stacked(np.median(posterior.theta, (0, 1))[None], config)
    p = np.asarray(host_probabilities(Globals(*(leaf[0] for leaf in middle)), matches, config), np.float64)
    return float(np.median(np.exp(-(p * np.log(np.maximum(p, 1e-30))).sum(-1))))
