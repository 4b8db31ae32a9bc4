"""A catalogue as what inference is asked about: as a survey of one, by its identity, and with what a run reads of it."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence

import numpy as np

from cigars.catalogue import Catalogue, select
from cigars.catalogue_checks import TargetWarning
from cigars.config import Config, ConfigError
from cigars.schema import Globals, Latents, Observations, Survey

__all__ = ["as_survey", "hide", "survey_of", "target_hash", "without_redshifts"]


def target_hash(catalogue: Catalogue) -> str:
    """Short SHA-256 of the rows of a catalogue, identifiers and observations, whatever their order."""
    order, digest = np.argsort(catalogue.id), hashlib.sha256()
    digest.update("\n".join(str(name) for name in catalogue.id[order]).encode())
    for leaf in catalogue.observations:
        values = np.asarray(leaf, "<f4")[order] + np.float32(0)  # one kind of zero
        digest.update(np.where(np.isnan(values), np.float32(np.nan), values).astype("<f4").tobytes())
    return digest.hexdigest()[:16]


def as_survey(observations: Observations, exposure: float = 1.0, number: int | None = None) -> Survey:
    """A catalogue as a survey of one, with no truth.

    Args:
        observations: of its objects [object].
        exposure: relative to the configured size.
        number: of objects in the catalogue, where these are only some of them.
    """
    size = len(observations.m)
    batched = Observations(*(np.asarray(leaf, np.float32)[None] for leaf in observations))
    unknown = np.full((1, size), np.nan, np.float32)
    return Survey(
        Globals(*(np.full(1, np.nan, np.float32) for _ in Globals._fields)),
        batched,
        Latents(*(unknown for _ in Latents._fields)),
        np.ones((1, size), bool),
        np.zeros((1, size), np.int32),
        np.array([size if number is None else number], np.int32),
        np.array([exposure], np.float32),
    )


def survey_of(catalogue: Catalogue, exposure: float = 1.0, number: int | None = None) -> Survey:
    """`as_survey` of a catalogue's objects by identifier, so that what is random or summed does not follow the order of the rows."""
    return as_survey(select(catalogue, np.argsort(catalogue.id)).observations, exposure, number)


def hide(observations: Observations, what: Sequence[str]) -> Observations:
    """The observations without `z_spec` or without `sn` (m, x, c and their errors): NaN, as if never taken."""
    groups = {"z_spec": ("z_spec", "z_spec_err"), "sn": ("m", "x", "c", "var_m", "var_x", "var_c", "cov_mx", "cov_mc", "cov_xc")}
    if unknown := sorted(set(what) - set(groups)):
        raise ConfigError(f"hide: expected of {sorted(groups)}, got {unknown}")
    blank = {name: np.full_like(getattr(observations, name), np.nan) for group in what for name in groups[group]}
    return observations._replace(**blank)


def without_redshifts(catalogue: Catalogue, config: Config) -> Catalogue:
    """As a run without spectroscopic redshifts reads it, to which any would be beyond its training; warns where there are some."""
    if config.observation.spectroscopic_fraction > 0:
        return catalogue
    if given := int(np.isfinite(catalogue.observations.z_spec).sum()):
        said = f"{given} of {len(catalogue.id):,} objects have z_spec, which no simulated object has; it is not read"
        remedy = "train with observation.spectroscopic_fraction above 0 to use it"
        warnings.warn(f"{said}: {remedy}", TargetWarning, stacklevel=3)
    return catalogue._replace(observations=hide(catalogue.observations, ["z_spec"]))
