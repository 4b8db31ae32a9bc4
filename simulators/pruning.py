"""Fewer pairs of object and host for the exact likelihood: those that matter where the posterior is.

`candidates` keeps what any Θ of the prior allows. Around one posterior most of those pairs hold nothing: an object's hosts are cut to the
fewest that together hold all but a share `lost` of its probability, at every one of some draws of Θ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from cigars.schema import Globals
from simulators.candidates import Matches, places, whole_batches
from simulators.likelihood import host_probabilities

if TYPE_CHECKING:
    from cigars.config import Config

__all__ = ["kept", "lowered", "pair_count", "prune", "subset"]


def prune(matches: Matches, theta: Globals, config: Config, lost: float = 1e-5) -> Matches:
    """The pairs that hold all but `lost` of every object's probability at each Θ; ln L at those is lowered by at most `lost` an object.

    Args:
        matches: of `candidates`.
        theta: draws that cover the posterior, leaves [draw].
        config: of the same simulator.
        lost: largest share of an object's probability that is dropped at a draw.

    Raises:
        ValueError: unless 0 < lost < 1.
    """
    return subset(matches, kept(matches, theta, config, lost))


def kept(matches: Matches, theta: Globals, config: Config, lost: float = 1e-5) -> Bool[np.ndarray, "sn candidate"]:
    """Which pairs `prune` keeps."""
    if not 0 < lost < 1:
        raise ValueError(f"prune: expected 0 < lost < 1, got {lost}; 1e-5 changes ln L by less than 1e-5 an object")
    keep = np.zeros(matches.place.shape, bool)
    for values in zip(*theta, strict=True):
        keep |= _largest(np.asarray(host_probabilities(Globals(*values), matches, config), np.float64), lost)
    return keep & (np.asarray(matches.place) >= 0)


def subset(matches: Matches, keep: Bool[np.ndarray, "sn candidate"]) -> Matches:
    """The pairs that a mask names, at least one of every object."""
    place = np.asarray(matches.place)
    pair, owner = place[keep], np.nonzero(keep)[0]
    column = np.broadcast_to(np.arange(place.shape[1]), place.shape)[keep]
    used, host = np.unique(np.asarray(matches.host)[pair], return_inverse=True)
    whole = {"host": host, "owner": owner}
    real = {"ln_fixed": np.asarray(matches.ln_fixed)[pair], "grey": np.asarray(matches.grey)[pair]}
    new = places(owner)
    return matches._replace(
        hosts=matches.hosts[used],
        **{name: jnp.asarray(whole_batches(values), jnp.int32) for name, values in whole.items()},
        **{name: jnp.asarray(whole_batches(values), jnp.float32) for name, values in real.items()},
        place=jnp.asarray(new, jnp.int32),
        row=jnp.asarray(np.asarray(matches.row)[owner, column][new], jnp.int32),
    )


def lowered(matches: Matches, keep: Bool[np.ndarray, "sn candidate"], theta: Globals, config: Config) -> Float[np.ndarray, "draw"]:
    """By how much ln L of the pairs that a mask names is below that of all, at each Θ (leaves [draw])."""
    draws = zip(*theta, strict=True)
    inside = [np.where(keep, np.asarray(host_probabilities(Globals(*t), matches, config), np.float64), 0.0).sum(-1) for t in draws]
    return -np.log(np.maximum(inside, np.finfo(float).tiny)).sum(-1)


def pair_count(matches: Matches) -> int:
    """How many pairs of object and host there are."""
    return int((np.asarray(matches.place) >= 0).sum())


def _largest(probability: np.ndarray, lost: float) -> np.ndarray:
    """Which of each row are needed, largest first, to hold all but `lost` of it."""
    keep = np.zeros(probability.shape, bool)
    for row, kept_in_row in zip(probability, keep, strict=True):
        total = row.sum()
        some = np.nonzero(row > lost * total / len(row))[0]  # all others together hold less than `lost`: no need to sort them
        some = some[np.argsort(-row[some], kind="stable")]
        kept_in_row[some[np.cumsum(row[some]) - row[some] < (1 - lost) * total]] = True
    return keep
