"""Inputs of inference by the names that a person gives them, and what has to be overwritten so that a survey does not tell them.

A host band without photometry and an object without supernova light are missing data (NaN), which networks know. One of m, x, c
alone cannot be missing: its column becomes a constant, its variance that of the population, its covariances zero. Variances that
depend on the magnitude (`ErrorModel.slope`) would tell a hidden magnitude, and go with it.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from cigars.config import Config, ConfigError

__all__ = ["Hidden", "default_inputs", "hidden", "inputs"]

STRETCH = {"x": 0.0, "var_x": 1.0, "cov_mx": 0.0, "cov_xc": 0.0}
COLOUR = {"c": 0.0, "var_c": 0.01, "cov_mc": 0.0, "cov_xc": 0.0}  # intrinsic colours scatter by 0.1 mag
MAGNITUDE = {"m": 0.0, "var_m": 1.0, "cov_mx": 0.0, "cov_mc": 0.0}
LIGHT = dict.fromkeys(MAGNITUDE | STRETCH | COLOUR, math.nan)
HOSTS, SUPERNOVA, REDSHIFT = "host photometry", "supernova light", "spectroscopic redshift"
PREFIX = "supernova "  # may be left out
PARTS = ("supernova magnitude", "supernova stretch", "supernova colour")


class Hidden(NamedTuple):
    """What is hidden: its name, the places of host bands without photometry, and the value of each column that is overwritten."""

    name: str
    bands: tuple[int, ...]
    columns: Mapping[str, float]


NOTHING = Hidden("nothing", (), {})


def inputs(config: Config) -> dict[str, Hidden]:
    """Every input of a configuration's surveys that can be hidden, by name."""
    errors = config.observation
    magnitude = MAGNITUDE | (_errors(STRETCH) if errors.sn_x.slope else {}) | (_errors(COLOUR) if errors.sn_c.slope else {})
    columns = {
        SUPERNOVA: LIGHT,
        **dict(zip(PARTS, (magnitude, STRETCH, COLOUR), strict=True)),
        **({REDSHIFT: dict.fromkeys(("z_spec", "z_spec_err"), math.nan)} if errors.spectroscopic_fraction else {}),
    }
    bands = {f"band {band}": k for k, band in enumerate(config.band_names)}
    return {
        HOSTS: Hidden(HOSTS, tuple(bands.values()), {}),
        **{name: Hidden(name, (), values) for name, values in columns.items()},
        **{name: Hidden(name, (k,), {}) for name, k in bands.items()},
    }


def default_inputs(config: Config) -> list[str]:
    """All that can be hidden but single bands."""
    return [name for name in inputs(config) if not name.startswith("band ")]


def hidden(drop: str, config: Config) -> Hidden:
    """What a name, or several with `+` or commas between them, hides together.

    Args:
        drop: such as "host photometry", "band u", "supernova light" or "stretch + colour"; "supernova" may be left out.
        config: whose surveys.

    Raises:
        ConfigError: for a name that is not an input, with the nearest one.
    """
    known = inputs(config)
    names = {_known(word, known) for word in re.split(r"[+,]", drop)}
    whole = {SUPERNOVA: set(PARTS), HOSTS: {name for name in known if name.startswith("band ")}}
    for name, parts_of_it in whole.items():
        if name in names or parts_of_it <= names:
            names = (names - parts_of_it) | {name}
    parts = {name: part for name, part in known.items() if name in names}
    columns = {key: value for part in parts.values() for key, value in part.columns.items()}
    return Hidden(" + ".join(parts), tuple(sorted(k for part in parts.values() for k in part.bands)), columns)


def _errors(columns: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in columns.items() if name.startswith(("var_", "cov_"))}


def _known(word: str, known: Mapping[str, Hidden]) -> str:
    word = " ".join(word.split())
    for name in (word, PREFIX + word):
        if name in known:
            return name
    near = difflib.get_close_matches(word, [*known, *(n.removeprefix(PREFIX) for n in known)], n=1, cutoff=0.0)
    raise ConfigError(f"--drop: expected inputs of {list(known)}, got {word!r}; the nearest is {near[0]!r}")
