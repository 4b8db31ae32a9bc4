"""Whether a catalogue is like what a run was, or will be, trained on, beyond which its networks would be wrong and sure of it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import binom

from cigars.catalogue import Catalogue, CatalogueError, select
from cigars.catalogue_checks import TargetWarning
from cigars.config import Config
from cigars.schema import Observations, Survey
from cigars.targets import as_survey, target_hash
from cigars.truncation import read_rounds

__all__ = [
    "DROP",
    "Simulated",
    "check_exposure",
    "check_target",
    "check_trained",
    "in_words",
    "inside",
    "kept",
    "lacking",
    "like_those_of",
    "refuse_unlike",
    "size_in_words",
    "unlike",
    "warn_of_exposure",
    "warn_of_other_target",
    "warn_of_others",
    "warn_of_redshifts",
]

FEW = 0.01  # share of the objects above which it counts that they are not like those of the training
CHANCE = 1e-6  # of a share as far from the training's
CORRELATION = 0.1  # by which mean error correlations of many objects may differ from the training's, whose networks take them as they were
FAR = 3.0  # sd of its prior from the mean of that, at which a rate is asked about
SLIGHT = 5e-3  # share of the objects below which a column may leave the simulated range
ENOUGH = 200_000  # simulated objects against whose range a target is checked
SURVEYS = 64, 4096  # fewest and most surveys that give them
NUMBER = "number of objects"
REMEDY = "leave these objects out"
DROP = f"{REMEDY} with --drop-outside"


def _missing(config: Config) -> np.ndarray:
    """Share of simulated objects that lack each band, [band]: no object lacks all, the first is then kept."""
    share = np.broadcast_to(np.asarray(config.observation.missing_probability, float), len(config.band_names)).copy()
    share[0] -= share.prod()
    return share


def unlike_share(count: int, size: int, share: float) -> bool:
    """Whether so many of the objects have what a share of the training's had by more than chance, and by more than a hundredth."""
    return abs(count / size - share) > FEW and min(binom.cdf(count, size, share), binom.sf(count - 1, size, share)) < CHANCE


def lacking(observations: Observations, config: Config) -> dict[str, np.ndarray]:
    """Which objects lack what every simulated object has, [object], by column; only columns that some lack.

    Θ is not known from surveys in which some do, as its networks never saw any.
    """
    always = ("m", "x", "c", "var_m", "var_x", "var_c", *(("z_spec",) if config.observation.spectroscopic_fraction == 1 else ()))
    bands = zip(config.band_names, np.asarray(observations.mag).T, _missing(config), strict=True)
    columns = {f"mag_{band}": mag for band, mag, share in bands if share == 0} | {n: getattr(observations, n) for n in always}
    absent = {name: ~np.isfinite(np.asarray(values)) for name, values in columns.items()}
    return {name: which for name, which in absent.items() if which.any()}


def in_words(absent: Mapping[str, np.ndarray]) -> str:
    """What `lacking` found."""
    return ", ".join(f"{int(which.sum())} without {name}" for name, which in absent.items())


def inside(trained: Any, catalogue: Catalogue, config: Config | None) -> tuple[Catalogue, int]:
    """The objects within the range of the training, and how many are not.

    Args:
        trained: a trained model.
        catalogue: to choose from.
        config: of the run, where objects that lack what every simulated object has (`lacking`) shall be left out too.
    """
    from inference.posterior import outside_objects

    outside = outside_objects(trained, as_survey(catalogue.observations)).cpu().numpy()
    for absent in lacking(catalogue.observations, config).values() if config else ():
        outside |= absent
    return select(catalogue, ~outside), int(outside.sum())


def kept(trained: Any, catalogue: Catalogue, config: Config | None) -> Catalogue:
    """The objects that `inside` leaves; raises CatalogueError where that is none."""
    left, outside = inside(trained, catalogue, config)
    if not len(left.id):
        raise CatalogueError(f"catalogue: expected objects like those of the training, got none of {outside}; train for such objects")
    return left


def like_those_of(standardiser: Any, catalogue: Catalogue) -> Catalogue:
    """The objects within the range that a standardiser of network inputs was fitted on."""
    return inside(Simulated.like(standardiser, {}), catalogue, None)[0]


def check_trained(trained: Any, survey: Survey, config: Config, *, complete: bool = True, remedy: str = REMEDY) -> None:
    """Raise CatalogueError in one line for objects, or a number of them, outside what a run was trained on.

    Args:
        trained: a trained model.
        survey: that shall be inferred, of one catalogue.
        config: of the run.
        complete: refuse objects that lack what no object of the training did, and catalogues unlike its surveys, too.
        remedy: beside training anew, what the caller's user can do.
    """
    from inference.posterior import check_range

    if issues := check_range(trained, survey, config.band_names):
        of_number, varied = {i.name for i in issues} == {NUMBER}, config.size.exposure[0] < config.size.exposure[1]
        remedy = "give the exposure of this survey" if of_number and varied else remedy
        raise CatalogueError(
            f"catalogue: expected objects like those of the training, got {_said(issues)}; "
            f"{remedy}, or train a configuration that covers them"
        )
    if complete:
        refuse_unlike(Observations(*(np.asarray(leaf)[0] for leaf in survey.observations)), config, remedy)


def refuse_unlike(observations: Observations, config: Config, remedy: str = REMEDY) -> None:
    """Raise CatalogueError where an object lacks what all of the training had, or where the objects together are unlike its surveys."""
    if absent := lacking(observations, config):
        raise CatalogueError(
            f"catalogue: expected {len(observations.m)} objects that lack nothing, as in the training, got {in_words(absent)}; {remedy}, "
            "or train with observation.missing_probability above 0 where bands are missing"
        )
    if said := unlike(observations, config):
        raise CatalogueError(f"catalogue: {said}")


def unlike(observations: Observations, config: Config) -> str:
    """Where the objects together lack bands, or have correlations of errors, as no survey of the training did: how, and what to do."""
    missing, size = np.isnan(np.asarray(observations.mag)).sum(0), len(observations.m)
    bands = [*zip(config.band_names, missing.tolist(), _missing(config).tolist(), strict=True)]
    if others := [b for b in bands if unlike_share(b[1], size, b[2])]:
        said = ", ".join(f"{count / size:.0%} without mag_{band} in place of {share:.0%}" for band, count, share in others)
        return (
            f"expected bands missing as often as in the training, got {said}; train with observation.missing_probability = "
            f"[{', '.join(f'{min(count / size, 0.99):.2g}' for _, count, _ in bands)}], or without bands that all objects lack"
        )
    given = [float(r.mean()) for r in _correlations(observations)]
    allowed = CORRELATION + size**-0.5  # their scatter from object to object is some .2
    if np.abs(np.subtract(given, config.observation.sn_correlation)).max() > allowed:
        means, trained = (", ".join(f"{v:.2f}" for v in values) for values in (given, config.observation.sn_correlation))
        return (
            f"expected cov_mx, cov_mc, cov_xc with the mean correlations of the training, {trained}, got {means}; "
            f"train with observation.sn_correlation = [{means}]"
        )
    return ""


def _correlations(o: Observations) -> tuple[np.ndarray, ...]:
    """Correlations of the errors of (m, x), (m, c) and (x, c), zero where no covariance is given, [object] each."""
    m, x, c = (np.sqrt(np.asarray(v, float)) for v in (o.var_m, o.var_x, o.var_c))
    return tuple(np.nan_to_num(np.asarray(cov, float)) / scale for cov, scale in ((o.cov_mx, m * x), (o.cov_mc, m * c), (o.cov_xc, x * c)))


def warn_of_other_target(run: str | Path, catalogue: Catalogue, stacklevel: int = 3) -> None:
    """Warn where the prior of a run was cut to where another catalogue's Θ is, for a caller `stacklevel` calls up."""
    record = read_rounds(run)
    if record is not None and record.target != target_hash(catalogue):
        said = f"{run}: its prior was cut for another catalogue ({record.objects} objects, {record.target})"
        remedy = "what is said of this one holds within that; train for it, or without a target"
        warnings.warn(f"{said}; {remedy}", TargetWarning, stacklevel=stacklevel)


def warn_of_others(catalogue: Catalogue) -> None:
    """Warn where a catalogue is expected to hold objects of other types, of which the model has none."""
    if catalogue.p_ia is None:
        return
    others = float(np.nansum(1 - np.asarray(catalogue.p_ia, float)))
    if others > FEW * len(catalogue.id):
        said = f"by p_ia {others:.0f} of {len(catalogue.id):,} objects are not of type Ia"
        warnings.warn(f"{said}; all are taken to be, p_ia is not used: cut the catalogue by it", TargetWarning, stacklevel=3)


def warn_of_redshifts(catalogue: Catalogue, config: Config) -> None:
    """Warn where not as many objects as in the training have a spectroscopic redshift."""
    count, size, share = int(np.isfinite(catalogue.observations.z_spec).sum()), len(catalogue.id), config.observation.spectroscopic_fraction
    if unlike_share(count, size, share):
        said = f"{count / size:.0%} of the objects have a spectroscopic redshift, of those of the training {share:.0%}"
        remedy = "train with observation.spectroscopic_fraction as it is"
        warnings.warn(f"{said}; Θ may be off: {remedy}", TargetWarning, stacklevel=3)


def check_exposure(exposure: float, config: Config) -> None:
    """Raise CatalogueError for an exposure that the training of a configuration did not cover."""
    low, high = config.size.exposure
    if not low * 0.999 <= exposure <= high * 1.001:
        trained = f"within [{low:g}, {high:g}]" if low < high else f"{low:g}, the only one the run was trained for"
        raise CatalogueError(f"exposure: expected {trained}, got {exposure:g}; train a configuration whose size.exposure covers it")


def size_in_words(config: Config, exposure: float) -> str:
    """What a survey of an exposure is by a configuration: how many supernovae, or the area and time."""
    if (number := config.size.expected_supernovae) is not None:
        return f"{exposure * number:,.0f} supernovae expected at the fiducial parameters"
    return f"{exposure * (config.size.area_deg2 or 0) * (config.size.duration_yr or 0):,.5g} deg² yr"


def warn_of_exposure(theta: Mapping[str, np.ndarray], number: int, exposure: float, config: Config) -> None:
    """Warn where draws of Θ have a rate that the prior all but excludes, as a number of objects at another exposure than theirs gives."""
    prior = config.marginals.get("dtd_logA")
    if prior is None or prior.kind != "normal":
        return
    mean, sd = float(theta["dtd_logA"].mean()), float(theta["dtd_logA"].std())
    if (far := abs(mean - prior.loc) / prior.scale) > FAR:
        said = f"dtd_logA = {mean:.2f} ± {sd:.2f} is {far:.1f} sd of its prior from the mean of that, {prior.loc:g}"
        asked = f"is the exposure of these {number:,} objects {exposure:g}, {size_in_words(config, exposure)}?"
        warnings.warn(f"{said}: {asked}", TargetWarning, stacklevel=3)


def _said(issues: Sequence[Any]) -> str:
    return "; ".join(
        f"{i.name}: {i.outside} outside [{i.low:.4g}, {i.high:.4g}], the farthest {i.worst:.4g}"
        if i.low <= i.high
        else f"{i.name}: {i.outside} given, which the training never had"
        for i in issues
    )


class _Objects(NamedTuple):
    """The simulated objects in the place of the local estimator of a trained model."""

    standardiser: Any


class Simulated(NamedTuple):
    """What `inference.posterior.check_range` asks of a trained model, before there is one."""

    device: str
    local: _Objects
    meta: dict[str, Any]

    @classmethod
    def like(cls, standardiser: Any, meta: dict[str, Any]) -> Simulated:
        """Of objects that a standardiser of network inputs was fitted on, where it is."""
        return cls(str(standardiser.low.device), _Objects(standardiser), meta)


def check_target(catalogue: Catalogue, source: Callable[[int, int], Survey], config: Config) -> None:
    """Compare a target with surveys of its configuration, before any training.

    At least 64 surveys are simulated, and more until they have 200,000 objects. A column is compared with their range, widened
    by 2 %; the number of objects with theirs, widened by a quarter of it in ln N on both sides, about as far as a training reaches.

    Args:
        catalogue: the target.
        source: simulator of surveys by number.
        config: what is simulated.

    Raises:
        CatalogueError: in one line for the columns in which 0.5 % of the objects or more, or their number, are outside.
    """
    bands, given = len(config.band_names), catalogue.observations.mag.shape[-1]
    if given != bands:
        raise CatalogueError(
            f"target: expected the {bands} bands of the configuration, got {given}; read it with the configuration's bands"
        )
    _check_like(_simulated(source, config), catalogue, config)


def _check_like(trained: Any, catalogue: Catalogue, config: Config) -> None:
    """Raise CatalogueError for a target unlike the objects of a training, and warn of columns where only a few are outside."""
    from inference.posterior import check_range

    issues = check_range(trained, as_survey(catalogue.observations), config.band_names)
    slight = [i for i in issues if i.name != NUMBER and i.low <= i.high and i.outside < SLIGHT * len(catalogue.id)]
    if refused := [i for i in issues if i not in slight]:
        raise CatalogueError(
            f"target: expected objects like those that {config.name!r} simulates, got {_said(refused)}; "
            "drop these objects, or train a configuration that covers them"
        )
    refuse_unlike(catalogue.observations, config, "drop these objects")
    if slight:
        warnings.warn(
            f"target: a few objects are unlike all that were simulated: {_said(slight)}; they are left out: infer with --drop-outside",
            TargetWarning,
            stacklevel=2,
        )


def _simulated(source: Callable[[int, int], Survey], config: Config) -> Simulated:
    from inference.batches import Packed, join, pack
    from inference.standardise import Standardiser

    parts: list[Packed] = []
    batch, surveys, objects = config.training.batch_surveys, 0, 0
    while surveys < SURVEYS[0] or (objects < ENOUGH and surveys < SURVEYS[1]):
        parts.append(pack(source(surveys, batch)))
        surveys, objects = surveys + batch, objects + len(parts[-1].observations.m)
    packed = join(parts)
    standardiser = Standardiser(len(config.band_names)).to(packed.number.device).fit(packed.observations)
    low, high = max(int(packed.number.min()), 1), max(int(packed.number.max()), 1)
    ratio = (high / low) ** 0.25
    return Simulated.like(standardiser, {"number_range": [math.floor(low / ratio), math.ceil(high * ratio)]})
