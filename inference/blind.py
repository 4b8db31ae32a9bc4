"""Surveys of which an input is hidden: overwritten in every object alike, before anything is learned from them.

Which objects are in a survey, their number and its exposure stay: the selection has seen what is hidden here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from cigars.schema import Observations, Survey

from .batches import Packed, Source, to_torch
from .score import JointScore
from .train import load_checkpoint, save_checkpoint

__all__ = ["blind", "blinded", "kept_scores"]


def blind(observations: Observations, bands: Sequence[int], columns: Mapping[str, float]) -> Observations:
    """Observations without some inputs.

    Args:
        observations: leaves [..., object] (`mag` [..., object, band]).
        bands: places of host bands that are not observed.
        columns: value by name of a column; with a finite one, what is missing stays missing.
    """
    places = torch.tensor(bands, dtype=torch.long, device=observations.mag.device)
    new = {name: getattr(observations, name).index_fill(-1, places, math.nan) for name in ("mag", "mag_err")}
    for name, value in columns.items():
        leaf = getattr(observations, name)
        new[name] = torch.where(torch.isnan(leaf), leaf, value)
    return observations._replace(**new)


def blinded(source: Source, bands: Sequence[int], columns: Mapping[str, float]) -> Source:
    """A source of the same surveys without some inputs, see `blind`."""

    def hidden(first: int, count: int) -> Survey:
        survey = source(first, count)
        return survey._replace(observations=blind(to_torch(survey.observations), bands, columns))

    return hidden


def kept_scores(joint_score: JointScore, path: Path, compute: bool) -> JointScore:
    """Joint scores that are computed of everything once, and kept for trainings that see less.

    A joint score is of the simulation, not of what is seen of it: its mean given what is seen is the score of that.

    Args:
        joint_score: of simulated objects with nothing hidden.
        path: where scores are kept.
        compute: whether the objects at hand are whole, so that scores may be computed and kept.

    Returns:
        A function that raises ValueError where the scores kept there are not of these objects.
    """

    def score(packed: Packed, theta: Tensor) -> tuple[Tensor, Tensor]:
        if compute and not path.exists():
            save_checkpoint(path, {"theta": theta, "z": _redshifts(packed), "scores": joint_score(packed, theta)})
        kept = load_checkpoint(path, theta.device)
        if not (torch.equal(kept["theta"], theta) and torch.equal(kept["z"], _redshifts(packed))):
            raise ValueError(
                f"{path}: expected joint scores of the objects at hand, got those of others; remove its folder and begin again"
            )
        first, second = kept["scores"]
        return first, second

    return score


def _redshifts(packed: Packed) -> Tensor:
    if packed.latents is None:
        raise ValueError("joint score: expected simulated objects with their latents, got none; score simulations only")
    return packed.latents.z
