"""Whether a truth is that of a posterior: identifiers repeat from one mock to the next."""

from __future__ import annotations

import numpy as np
from scipy import stats

from cigars.catalogue import Truth
from cigars.posterior import Posterior
from cigars.schema import Latents, Observations

__all__ = ["matched"]

SLACK, CHANCE = 1.5, 1e-6  # by which stretches may scatter about a truth more than their errors, beyond what happens so rarely


def matched(truth: Truth, posterior: Posterior) -> Latents:
    """Latents in the order of a posterior's objects; raises ValueError for an object without a truth, or the truth of other objects."""
    row, ids = {str(name): i for i, name in enumerate(truth.id)}, posterior.ids
    if missing := [i for i in ids if i not in row]:
        raise ValueError(
            f"truth: expected every object of the posterior, missing {len(missing)} such as {missing[:3]}; name the truth of this mock"
        )
    order = np.array([row[i] for i in ids])
    latents = Latents(*(np.asarray(leaf)[order] for leaf in truth.latents))
    made, given = posterior.attributes.get("catalogue", ""), len(ids) + int(posterior.attributes.get("dropped", 0))
    if not (made and made == truth.catalogue) and not _same(truth, latents, posterior.observations, given, bool(made and truth.catalogue)):
        raise ValueError(
            f"truth: expected that of the catalogue of the posterior, {made or 'unknown'} with {given:,} objects, got that of "
            f"{truth.catalogue or 'another'} with {len(truth.id):,}; name the truth of this mock, uncut, or none"
        )
    return latents


def _same(truth: Truth, latents: Latents, observations: Observations, given: int, differ: bool) -> bool:
    """Whether a truth that is not known to be of this catalogue can be, by number, and by stretches (if any) that scatter about its own.

    Of fewer objects than it has they may be some of its mock; as many with hashes that `differ` are of another one.
    """
    chi2 = (np.asarray(observations.x, float) - latents.x_int) ** 2 / np.asarray(observations.var_x, float)
    seen = np.isfinite(chi2)
    if given > len(truth.id) or (differ and given == len(truth.id)):
        return False
    if not seen.any():
        return given == len(truth.id)
    return float(chi2[seen].sum()) < SLACK * float(stats.chi2.isf(CHANCE, seen.sum()))
