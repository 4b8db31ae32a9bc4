"""Configuration of a run: frozen pydantic models, read from TOML, hashed into fingerprints.

A leaf beside `schema`: the engines read its attributes and never change them. Defaults are the `lsst` set-up of the
forward model, so a preset lists only what differs.
"""

from cigars.config.model import Config, ConfigError
from cigars.config.reading import fingerprint, load_config, presets, to_toml
from cigars.config.sections import (
    ErrorModel,
    HostConfig,
    ObservationConfig,
    Prior,
    PriorConfig,
    Region,
    SelectionConfig,
    SizeConfig,
    SupernovaConfig,
    TrainingConfig,
)

__all__ = [
    "Config",
    "ConfigError",
    "ErrorModel",
    "HostConfig",
    "ObservationConfig",
    "Prior",
    "PriorConfig",
    "Region",
    "SelectionConfig",
    "SizeConfig",
    "SupernovaConfig",
    "TrainingConfig",
    "fingerprint",
    "load_config",
    "presets",
    "to_toml",
]
