"""The summary of a finished run, from which rounds for one target can start."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cigars.config import Config, ConfigError
from cigars.runs import run_config
from cigars.surveys import area_time

if TYPE_CHECKING:
    from inference.inherited import Inherited

__all__ = ["inherited_summary"]

SIMULATES = ("hosts", "supernovae", "observation", "selection")  # sections that say what a survey of some size and Θ looks like
BANK = ("effective_hosts", "bank_seed")  # of them what samples the same hosts otherwise
ROUNDING = 1e-3


def inherited_summary(config: Config, start: str | Path, device: str = "cpu") -> Inherited:
    """The summary of a run, for surveys of the same model, in its prior and of a size that it was trained for.

    Args:
        config: of the surveys; those of exposure 1 are meant.
        start: run folder.
        device: torch device.

    Raises:
        ConfigError: for a run of another model, a narrower prior or other sizes.
    """
    from inference.inherited import Inherited
    from inference.model import load_run

    of = run_config(start)
    _check_model(config, of, start)
    unit, (low, high) = _unit(config, of), of.size.exposure
    if not low * (1 - ROUNDING) <= unit <= high * (1 + ROUNDING):
        raise ConfigError(
            f"run folder {start}: expected surveys of an exposure from {low:g} to {high:g} in its units, for which it was trained, "
            f"got {unit:.4g}; choose another run, or train without one"
        )
    return Inherited(load_run(Path(start), device).summary, unit)


def _unit(config: Config, of: Config) -> float:
    """Area × time of exposure 1 of a configuration over that of another of the same model."""
    mine, its = config.size, of.size
    if mine.expected_supernovae is not None and its.expected_supernovae is not None:
        return mine.expected_supernovae / its.expected_supernovae  # in the same sky
    return area_time(config) / area_time(of)


def _check_model(config: Config, of: Config, start: str | Path) -> None:
    """Raise ConfigError unless a run is of the model of a configuration, in a prior that holds that of the configuration."""
    for section in SIMULATES:
        mine, its = (getattr(c, section).model_dump() for c in (config, of))
        if differing := [key for key in mine if mine[key] != its[key] and key not in BANK]:
            key = differing[0]
            raise _unlike(start, f"{section}.{key} = {mine[key]}", its[key])
    if (mine_free := tuple(config.marginals)) != (its_free := tuple(of.marginals)) or config.fixed != of.fixed:
        raise _unlike(start, f"free parameters {list(mine_free)}, fixed {config.fixed}", f"{list(its_free)}, {of.fixed}")
    if of.prior.region is not None:
        raise ConfigError(f"run folder {start}: expected a run of its whole prior, got one that rounds cut for a target; choose another")
    for name in mine_free:
        (low, high), (least, most) = config.reach(name), of.reach(name)
        if low < least or high > most:
            raise _unlike(start, f"a prior of {name} that holds {low:g} to {high:g}", f"{least:g} to {most:g}")


def _unlike(start: str | Path, expected: str, got: Any) -> ConfigError:
    return ConfigError(f"run folder {start}: expected {expected}, as configured, got {got}; choose another run, or train without one")
