"""The summary of a finished run, from which rounds for one target can start."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cigars.config import Config, ConfigError
from cigars.progress import Reporter, silent
from cigars.runs import run_config
from cigars.surveys import area_time, survey_source

if TYPE_CHECKING:
    from inference.inherited import Inherited

__all__ = ["inherited_summary"]

SIMULATES = ("hosts", "supernovae", "observation", "selection")  # sections that say what a survey of some size and Θ looks like
ROUNDING = 1e-6


def inherited_summary(config: Config, start: str | Path, device: str = "cpu", report: Reporter = silent) -> Inherited:
    """The summary of a run, for surveys of the same model, in its prior and of a size that it was trained for.

    Args:
        config: of the surveys.
        start: run folder.
        device: torch device.
        report: progress of building the host bank.

    Raises:
        ConfigError: for a run of another model, a narrower prior or other sizes.
    """
    from inference.inherited import Inherited
    from inference.model import load_run

    of = run_config(start)
    _check_model(config, of, start)
    survey_source(config, "training", report=report)  # which says how far the bank is, where it has to be built
    unit, (least, most) = area_time(config) / area_time(of), of.size.exposure
    low, high = (unit * exposure for exposure in config.size.exposure)
    if not least * (1 - ROUNDING) <= low <= high <= most * (1 + ROUNDING):
        raise ConfigError(
            f"run folder {start}: expected surveys of an exposure from {least:g} to {most:g} in its units, for which it was trained, "
            f"got {low:.4g} to {high:.4g}; choose another run, or train without one"
        )
    return Inherited(load_run(Path(start), device).summary, unit)


def _check_model(config: Config, of: Config, start: str | Path) -> None:
    """Raise ConfigError unless a run is of the model of a configuration, in a prior that holds that of the configuration."""
    for section in SIMULATES:
        mine, its = (getattr(c, section).model_dump() for c in (config, of))
        if differing := [key for key in mine if mine[key] != its[key]]:
            key = differing[0]
            raise _unlike(start, f"{section}.{key} = {mine[key]}", its[key])
    if (mine_free := tuple(config.marginals)) != (its_free := tuple(of.marginals)) or config.fixed != of.fixed:
        raise _unlike(start, f"free parameters {list(mine_free)}, fixed {config.fixed}", f"{list(its_free)}, {of.fixed}")
    if of.prior.region is not None:
        raise ConfigError(f"run folder {start}: expected a run of its whole prior, got one that rounds cut for a target; choose another")
    for name, mine in config.marginals.items():
        low, high = of.limits(name)
        if mine.low < low or mine.high > high:
            raise _unlike(start, f"a prior of {name} that holds {mine.low:g} to {mine.high:g}", f"{low:g} to {high:g}")


def _unlike(start: str | Path, expected: str, got: Any) -> ConfigError:
    return ConfigError(f"run folder {start}: expected {expected}, as configured, got {got}; choose another run, or train without one")
