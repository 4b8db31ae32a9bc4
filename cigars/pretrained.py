"""Posteriors that come with the package: run folders of `train`, without checkpoints, as package data."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from cigars.config import ConfigError
from cigars.files import FileError
from cigars.runs import CALIBRATION, METADATA, stored_fingerprint
from cigars.schema import Observations
from cigars.targets import as_survey
from cigars.truncation import RECORD

__all__ = ["available", "chosen", "path", "recorded", "root", "ship"]

WEIGHTS = "weights.pt"
WHOLE = (METADATA, WEIGHTS, CALIBRATION)
LARGEST = 10 * 1024**2  # bytes of a shipped run
OBJECTS, DRAWS = 50, 16  # with which a copy is compared
SIZES = {"lsst-16k": ("lsst", 10.0)}
"""Names under which an amortised run answers for another size: the run, and the exposure that is meant."""
NAME = re.compile(r"[a-z0-9][a-z0-9-]*")


def root() -> Path:
    """The folder of the package that holds them."""
    return Path(str(resources.files("cigars.pretrained_runs")))


def available() -> list[str]:
    """Names of the posteriors that come with the package."""
    shipped = {p.name for p in root().iterdir() if all((p / name).is_file() for name in WHOLE)} if root().is_dir() else set()
    return sorted(shipped | {name for name, (run, _) in SIZES.items() if run in shipped})


def path(name: str) -> Path:
    """Run folder of a pretrained posterior, for `infer`; raises ConfigError for a name that there is none of."""
    names = available()
    if name not in names:
        known = f"one of {', '.join(names)}" if names else "none, as none come with this version"
        raise ConfigError(f"pretrained: expected {known}, got {name!r}; train your own with `cigars train`")
    return root() / SIZES.get(name, (name, 1.0))[0]


def chosen(run: Path | None, name: str | None, exposure: float | None) -> tuple[Path, float | None]:
    """Folder of a run, or of a pretrained posterior in its place, and the exposure given, else the one that the name stands for, if any.

    Raises ConfigError unless it is one of the two.
    """
    if run is not None and name is None:
        return run, exposure
    if run is None and name is not None:
        return path(name), SIZES[name][1] if exposure is None and name in SIZES else exposure
    raise ConfigError("expected a run folder or --pretrained NAME, got " + ("neither" if run is None else "both") + "; give one of them")


def recorded(attributes: Mapping[str, Any]) -> Path | None:
    """Run folder that a posterior says it is of, where it still holds that training; one that comes along is found in this package too.

    Not by fingerprint alone, which is that of a configuration: another training by the same one has other networks.
    """
    if not (said := attributes.get("run")):
        return None
    run = Path(said)
    if run.parent.name == root().name and not run.exists():  # inferred on another machine, or by another installation
        run = root() / run.name
    try:
        return run if stored_fingerprint(run) == attributes["fingerprint"] else None
    except FileError:
        return None


def ship(run: str | Path, name: str) -> Path:
    """Copy a finished run into the package, once it is small enough and the copy gives the same posterior.

    Args:
        run: folder that `train` made.
        name: of lower-case letters, digits and dashes.

    Raises:
        ConfigError: for a bad name or one that is taken, a run that is not finished or too large, or a copy that differs.
    """
    run, target = Path(run), root() / name
    if not NAME.fullmatch(name):
        raise ConfigError(f"pretrained: expected a name of lower-case letters, digits and dashes, got {name!r}")
    if name in SIZES:
        raise ConfigError(f"pretrained: expected another name, got {name!r}, which stands for {SIZES[name][0]!r} at another size")
    if target.exists():
        raise ConfigError(f"pretrained: expected a new name, got {name!r}, which is {target}; remove that folder first")
    if missing := [n for n in WHOLE if not (run / n).is_file()]:
        raise ConfigError(f"run folder {run}: expected a finished training, missing {', '.join(missing)}; train it to its end")
    files = [run / n for n in (*WHOLE, RECORD) if (run / n).is_file()]
    if (size := sum(f.stat().st_size for f in files)) > LARGEST:
        raise ConfigError(
            f"run folder {run}: expected at most {LARGEST / 1024**2:.0f} MB, got {size / 1024**2:.1f} MB; train smaller networks"
        )
    with tempfile.TemporaryDirectory(dir=root(), prefix=f".{name}-") as folder:
        copy = Path(folder) / name
        copy.mkdir()
        for file in files:
            shutil.copyfile(file, copy / file.name)
        _check_same(run, copy)
        copy.rename(target)
    return target


def _check_same(run: Path, copy: Path) -> None:
    """Raise ConfigError unless two run folders give the same ln q of the same draws, for a survey within the trained range."""
    from inference.model import load_run
    from inference.posterior import GlobalPosterior

    trained = load_run(run)
    survey = as_survey(_typical(trained.local.standardiser))
    one, other = GlobalPosterior(trained), GlobalPosterior(load_run(copy))
    theta = one.sample(DRAWS, survey)
    if not np.array_equal(one.log_prob(theta, survey).numpy(), other.log_prob(theta, survey).numpy()):
        raise ConfigError(f"run folder {run}: expected a copy with the same posterior, got another; check the disk and copy again")


def _typical(standardiser: Any) -> Observations:
    """Objects spread over the ranges that a training saw; NaN where it saw nothing."""
    from inference.standardise import RANGE_NAMES

    low, high = standardiser.low.numpy(), standardiser.high.numpy()
    share, seen = np.random.default_rng(0).uniform(0.2, 0.8, (OBJECTS, len(low))), low <= high
    values = np.where(seen, np.where(seen, low, 0) + share * np.where(seen, high - low, 0), np.nan)
    mag, mag_err, rest = np.split(values, [standardiser.bands, 2 * standardiser.bands], axis=1)
    zero = np.zeros(OBJECTS)
    return Observations(
        mag=mag, mag_err=mag_err, cov_mx=zero, cov_mc=zero, cov_xc=zero, **{name: rest[:, k] for k, name in enumerate(RANGE_NAMES)}
    )
