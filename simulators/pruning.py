"""Fewer pairs of object and host for the exact likelihood: those that matter where the posterior is.

`candidates` keeps what any Θ of the prior allows. Around one posterior most of those pairs hold nothing: an object's hosts are cut to the
fewest that together hold all but a share `lost` of its probability, at every one of some draws of Θ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from cigars.schema import Globals
from simulators.candidates import Matches, places, whole_batches
from simulators.likelihood import host_probabilities

if TYPE_CHECKING:
    from cigars.config import Config

__all__ = ["prune"]


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
    if not 0 < lost < 1:
        raise ValueError(f"prune: expected 0 < lost < 1, got {lost}; 1e-5 changes ln L by less than 1e-5 an object")
    place = np.asarray(matches.place)
    keep = np.zeros(place.shape, bool)
    for values in zip(*theta, strict=True):
        keep |= _largest(np.asarray(host_probabilities(Globals(*values), matches, config), np.float64), lost)
    keep &= place >= 0
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


def _largest(probability: np.ndarray, lost: float) -> np.ndarray:
    """Which of each row are needed, largest first, to hold all but `lost` of it."""
    order = np.argsort(-probability, -1)
    before = np.cumsum(np.take_along_axis(probability, order, -1), -1) - np.take_along_axis(probability, order, -1)
    keep = np.zeros(probability.shape, bool)
    np.put_along_axis(keep, order, before < (1 - lost) * probability.sum(-1, keepdims=True), -1)
    return keep
