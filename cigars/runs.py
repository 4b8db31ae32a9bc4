"""A run folder as the application reads it: configuration, fingerprint, training curves and calibration.

`inference.model` reads and writes the weights beside them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import ValidationError

from cigars.config import Config
from cigars.files import FileError, replacing

__all__ = [
    "CALIBRATION",
    "METADATA",
    "Calibration",
    "read_calibration",
    "read_curves",
    "run_config",
    "stored_fingerprint",
    "write_calibration",
]

METADATA, CALIBRATION = "run.json", "calibration.json"


class Calibration(NamedTuple):
    """Simulation-based calibration on fresh surveys: ranks [survey, parameter] of the truth among `draws` posterior draws."""

    names: tuple[str, ...]
    ranks: np.ndarray
    draws: int


def write_calibration(run: str | Path, calibration: Calibration, seconds: Mapping[str, float]) -> None:
    """Keep a calibration and the seconds of each step in a run folder."""
    content = {"names": calibration.names, "ranks": calibration.ranks.tolist(), "draws": calibration.draws, "seconds": dict(seconds)}
    with replacing(Path(run) / CALIBRATION, overwrite=True) as path:
        path.write_text(json.dumps(content))


def read_calibration(run: str | Path) -> tuple[Calibration | None, dict[str, float]]:
    """Calibration and seconds by step that `train` left in a run folder; None where it did not finish."""
    path = Path(run) / CALIBRATION
    if not path.is_file():
        return None, {}
    try:
        content = json.loads(path.read_text())
        return Calibration(tuple(content["names"]), np.asarray(content["ranks"]), content["draws"]), content["seconds"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise FileError(f"run folder {run}: cannot read {CALIBRATION}: {error!r}; remove it, or train again") from None


def read_curves(run: str | Path) -> dict[str, dict[str, list[float]]]:
    """Training and validation losses of each stage."""
    curves: Mapping[str, Any] = _metadata(run)["curves"]
    try:
        return {stage: {"train": curve["train"], "validation": curve["validation"]} for stage, curve in curves.items()}
    except (AttributeError, LookupError, TypeError):
        raise FileError(f"run folder {run}: expected losses of each stage as curves in {METADATA}, got others; train again") from None


def run_config(run: str | Path) -> Config:
    """The configuration that a run folder was trained with."""
    try:
        return Config.model_validate(_metadata(run)["configuration"])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise FileError(f"run folder {run}: expected its configuration in {METADATA}, got {where}: {first['msg']}; train again") from None


def stored_fingerprint(run: str | Path) -> str:
    """Fingerprint of the configuration that a run folder was trained with."""
    return str(_metadata(run)["fingerprint"])


def _metadata(run: str | Path) -> dict[str, Any]:
    path = Path(run) / METADATA
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        raise FileError(f"run folder {run}: expected a finished training with {METADATA}, got none; train first, or resume it") from None
    except (OSError, ValueError, RecursionError) as error:
        raise FileError(f"run folder {run}: cannot read {METADATA}: {error}; train again") from None
    if not isinstance(found, dict) or not {"configuration", "fingerprint", "curves"} <= set(found):
        raise FileError(f"run folder {run}: expected configuration, fingerprint and curves in {METADATA}, got another file; train again")
    return found
