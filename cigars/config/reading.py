"""Configurations as presets, TOML files and fingerprints."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import BaseModel

from cigars.config.model import Config, ConfigError, merge, validated, with_changes

__all__ = ["fingerprint", "load_config", "presets", "to_toml"]

LATER = {("anchored", False)}  # settings of the training that came later, with what all had before


def presets() -> list[str]:
    """Names of the packaged presets."""
    return sorted(p.name.removesuffix(".toml") for p in resources.files("cigars.presets").iterdir() if p.name.endswith(".toml"))


def load_config(source: str | Path, settings: Sequence[str] = (), **changes: Any) -> Config:
    """Read a preset by name or a TOML file by path, then apply `key=value` settings and keyword changes (dotted keys).

    A file may name a preset to start from: `extends = "demo"`. Raises ConfigError with one line that says which key.
    """
    tree = _read(source)
    for setting in settings:
        key, separator, value = setting.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"--set: expected key=value, got {setting!r}")
        tree = with_changes(tree, {key.strip(): _value(value.strip())})
    return validated(with_changes(tree, changes))


def to_toml(config: Config) -> str:
    """Every key of a configuration as TOML that `load_config` reads back; keys without a value are left out."""
    return tomli_w.dumps(_without_none(config.model_dump(mode="json")))


def _without_none(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {k: _without_none(v) for k, v in tree.items() if v is not None}
    return [_without_none(v) for v in tree] if isinstance(tree, list | tuple) else tree


def fingerprint(*parts: Any) -> str:
    """Short SHA-256 of configurations, numbers and names, the same on every machine."""
    plain = [_without_later(p.model_dump(mode="json")) if isinstance(p, BaseModel) else p for p in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def _without_later(tree: dict[str, Any]) -> dict[str, Any]:
    """What came later is left out where it has the value that it had before it could be chosen: fingerprints outlive it."""
    training = {k: v for k, v in tree.get("training", {}).items() if (k, v) not in LATER}
    return {**tree, "training": training} if "training" in tree else tree


def _read(source: str | Path) -> dict[str, Any]:
    path = Path(source)
    try:
        if str(source) in presets():
            text = (resources.files("cigars.presets") / f"{source}.toml").read_text()
        elif path.suffix == ".toml":
            text = path.read_text()
        else:
            raise ConfigError(f"configuration: expected a preset ({', '.join(presets())}) or a .toml file, got {str(source)!r}")
        tree = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"configuration: cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"configuration: {path} is not valid TOML: {error}") from None
    base = tree.pop("extends", None)
    if base is not None and base not in presets():
        raise ConfigError(f"extends: expected a preset ({', '.join(presets())}), got {base!r}")
    return merge(_read(base), tree) if base else tree


def _value(text: str) -> Any:
    """A command-line value: TOML where it parses, else the text itself."""
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text
