"""What `cigars check` compares of a survey: statistics, the networks' summary and estimate of Θ, and the inputs of its objects."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from cigars.config import Config
from cigars.schema import Survey

__all__ = ["REDSHIFT_BINS", "Seen", "input_names", "pool", "see", "statistics_of"]

DRAWS = 64  # for the posterior mean of a survey
REDSHIFT_BINS = 6  # of N(z), with equal numbers of simulated objects


class Seen(NamedTuple):
    """Of each survey: statistics by name, summary [column], posterior mean [parameter], inputs [object, input], redshift [object].

    Redshifts are those that the summary's regressor estimates; there are none where it has no regressor.
    """

    statistics: dict[str, float]
    summary: np.ndarray
    mean: np.ndarray
    inputs: np.ndarray
    redshift: np.ndarray


def see(trained: Any, batches: Iterable[Survey], config: Config, seed: int, share: float = 1.0) -> list[Seen]:
    """What is compared of each survey of some batches.

    Args:
        trained, config: of a run.
        batches: of surveys.
        seed: of draws, and of the choice of objects.
        share: of the objects of each survey that takes part, chosen at random; all count in its number.
    """
    import torch

    from inference.batches import pack, subset
    from inference.posterior import GlobalPosterior

    posterior, seen, contexts, generator = GlobalPosterior(trained), [], [], torch.Generator().manual_seed(seed)
    for survey in batches:
        packed = pack(survey, device=trained.device)
        if share < 1:
            packed = subset(packed, (share * packed.number.double()).round().long(), generator)
        seen += _without_mean(trained, packed, config)
        contexts.append(posterior.contexts(packed))
    together = [torch.cat(parts) for parts in zip(*contexts, strict=True)]
    means = posterior.sample_at(together, DRAWS, seed).mean(0).cpu().numpy()
    return [one._replace(mean=mean) for one, mean in zip(seen, means, strict=True)]


def _without_mean(trained: Any, packed: Any, config: Config) -> list[Seen]:
    import torch

    from inference.misspecification import column_statistics

    names, middle = input_names(config), len(config.band_names) // 2
    with torch.no_grad():
        summary = trained.summary(packed).cpu().numpy()
        inputs, bands = trained.local.standardiser(packed.observations), trained.local.standardiser.bands
        inputs = torch.cat([inputs[:, :bands], inputs[:, 2 * bands : 2 * bands + 3]], 1).cpu().numpy()
        redshift = _redshift(trained, packed)
    mag = packed.observations.mag.cpu().numpy()
    light = [getattr(packed.observations, n).cpu().numpy()[:, None] for n in ("m", "x", "c")]
    columns = np.concatenate([mag[:, middle : middle + 1], mag[:, :-1] - mag[:, 1:], *light, redshift], 1)
    names, edges = [*names, *(["photo-z"] * redshift.shape[1])], np.cumsum([0, *packed.lengths.tolist()])
    out = []
    for k, ((a, b), number) in enumerate(zip(itertools.pairwise(edges), packed.number.tolist(), strict=True)):
        statistics = {"ln number": float(np.log(max(number, 1)))} | column_statistics(columns[a:b], names)
        out.append(Seen(statistics, summary[k], np.empty(0), inputs[a:b], redshift[a:b].ravel()))
    return out


def _redshift(trained: Any, packed: Any) -> np.ndarray:
    """Redshift that the summary's regressor estimates of each object [object, 1]; [object, 0] where there is no such regressor."""
    regressor = getattr(trained.summary, "regressor", None)
    if regressor is None:
        return np.empty((len(packed.observations.m), 0), np.float32)
    estimate = regressor.estimate(packed.observations)[0][:, :1] * regressor.scale[:1] + regressor.centre[:1]
    return np.asarray(estimate.cpu().numpy())


def input_names(config: Config) -> list[str]:
    """Names of the inputs of an object: a magnitude, colours, and the supernova's light curve."""
    bands = config.band_names
    return [bands[len(bands) // 2], *(f"{a} - {b}" for a, b in itertools.pairwise(bands)), "m", "x", "c"]


def statistics_of(simulated: Sequence[Seen], observed: Seen) -> tuple[np.ndarray, dict[str, float]]:
    """Statistics that all surveys have, N(z) as shares of objects: of the simulated [survey, statistic], of the observed by name."""
    from inference.misspecification import shares

    everyone = [observed, *simulated]
    rows = [s.statistics for s in everyone]
    if observed.redshift.size:
        edges = np.quantile(pool([s.redshift for s in simulated]), np.linspace(0, 1, REDSHIFT_BINS + 1))
        rows = [row | shares(s.redshift, edges, "N(z)") for row, s in zip(rows, everyone, strict=True)]
    kept = [name for name in rows[0] if all(np.isfinite(row[name]) for row in rows)]
    table = np.array([[row[name] for name in kept] for row in rows])
    return table[1:], dict(zip(kept, table[0].tolist(), strict=True))


def pool(values: Sequence[np.ndarray], size: int = 100_000) -> np.ndarray:
    """At most `size` objects, as many from each survey as it has in proportion."""
    every = np.concatenate(values)
    count = min(size, len(every))
    return every[np.arange(count) * len(every) // count]
