"""What the exact likelihood cannot do, refused in one line before anything is sampled: numbers, light, hosts that the bank lacks, size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cigars.catalogue import Catalogue, CatalogueError, select
from cigars.config import Config, ConfigError
from cigars.progress import Reporter

__all__ = ["MAX_PAIRS", "SIGMAS", "check_light", "check_numbers", "covered"]

MAX_PAIRS = 1_000_000
SIGMAS = 6.0
BYTES = 300  # of memory a pair, while pairs are found
PAIRS_PER_SECOND = 5e5  # of one core, for a value of the likelihood
BLOCK = 16  # objects at a time
SHOWN = 5


def check_numbers(
    config: Config, draws: int, chains: int, warmup: int, target_accept: float, exposure: float, hidden: Sequence[str]
) -> None:
    if not config.marginals:
        raise ConfigError("exact: expected at least one free parameter, got none; give one a prior that is not fixed")
    if config.prior.region is not None:
        raise ConfigError("prior.region: expected none, whose edges chains do not see, got one; leave it out")
    if chains < 1 or draws < 4 * chains:
        raise ConfigError(f"exact: expected at least four draws a chain, got {draws} of {chains} chains; ask for more draws")
    if warmup < 1:
        raise ConfigError(f"exact: expected a warm-up of at least one step, got {warmup}")
    if not 0 < target_accept < 1:
        raise ConfigError(
            f"exact: expected a target acceptance between 0 and 1, got {target_accept:g}; .8 is usual, .95 against divergences"
        )
    if not (np.isfinite(exposure) and exposure > 0):
        raise ConfigError(f"exposure: expected a number above zero, got {exposure:g}")
    if "sn" in hidden:
        raise ConfigError("exact: expected supernova light, got --hide sn; the exact likelihood is one of m, x and c")


def check_light(catalogue: Catalogue) -> None:
    o = catalogue.observations
    dark = ~np.isfinite(np.stack([o.m, o.x, o.c, o.var_m, o.var_x, o.var_c, o.cov_mx, o.cov_mc, o.cov_xc])).all(0)
    if dark.any():
        raise CatalogueError(f"exact: expected m, x, c and their variances of every object, missing for {_named(catalogue, dark)}")


def covered(
    catalogue: Catalogue, simulator: Any, config: Config, drop_outside: bool | None, max_pairs: int, report: Reporter
) -> tuple[Catalogue, int]:
    """The objects that some host of the bank is like, and how many others were dropped; refuses them, and too many pairs.

    `drop_outside` is None where the caller offers no such choice.
    """
    from simulators.candidates import reach

    size, pairs, distance = len(catalogue.id), 0, np.empty(len(catalogue.id))
    order = np.random.default_rng(0).permutation(size)  # so that the first stand for all
    for done, found in enumerate(reach(select(catalogue, order).observations, simulator, config, sigmas=SIGMAS), start=1):
        pairs, distance[order[done - 1]] = pairs + found.hosts, found.distance
        if done == size or done % BLOCK == 0:
            _refuse_large(pairs * size / done, size, max_pairs)
            report("pairs", done, size)
    outside = distance > SIGMAS
    if not outside.any():
        return catalogue, 0
    if not drop_outside or outside.all():
        remedy = "raise hosts.effective_hosts, or check bands, zero points and selection"
        remedy = remedy if outside.all() or drop_outside is None else f"leave them out with --drop-outside, or {remedy}"
        raise CatalogueError(
            f"exact: expected objects within {SIGMAS:g} σ of a host of the bank, got none for {_named(catalogue, outside)}; {remedy}"
        )
    return select(catalogue, ~outside), int(outside.sum())


def _refuse_large(pairs: float, objects: int, limit: int) -> None:
    if pairs <= limit:
        return
    raise CatalogueError(
        f"exact: expected at most {limit:,} pairs of object and host, got about {pairs:,.0f} ({objects:,} objects with "
        f"{pairs / objects:,.0f} hosts each): {pairs * BYTES / 1e9:.2g} GB and {pairs / PAIRS_PER_SECOND:.2g} s for one value of the "
        "likelihood, of which chains need thousands; give fewer objects, use a network, or raise --max-pairs"
    )


def _named(catalogue: Catalogue, which: np.ndarray) -> str:
    ids = [repr(str(v)) for v in np.asarray(catalogue.id)[which]]
    return f"{len(ids)} of {len(which)}: {', '.join(ids[:SHOWN])}{', ...' if len(ids) > SHOWN else ''}"
