"""What the sections of a configuration must be together: each rule is silent, or a ValueError that names the key and a remedy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cigars.config.sections import Prior
from cigars.schema import FIDUCIAL

if TYPE_CHECKING:
    from cigars.config.model import Config

__all__ = ["check_complete", "check_possible", "check_read"]

HOSTS_END = 1.5  # redshift up to which there are hosts
LEAST_EXPANSION = 1e-3  # of (H/H0)^2
ROUNDING = 1e-9


def check_complete(config: Config) -> None:
    """One value a band where there is one a band, a file where one is read, and sections that fit each other; else ValueError."""
    bands = len(config.hosts.bands)
    if len(config.selection.host_thresholds) != bands:
        raise ValueError(f"selection.host_thresholds: expected {bands} values, one a band, got {len(config.selection.host_thresholds)}")
    o = config.observation
    if o.host_errors == "lsst" and not len(o.host_depths) == len(o.host_gamma) == bands:
        raise ValueError(f"observation.host_depths and host_gamma: expected {bands} values, one a band")
    if o.host_errors == "fitted" and len(o.host_fitted) != bands:
        raise ValueError(f"observation.host_fitted: expected {bands} error models, one a band, got {len(o.host_fitted)}")
    if isinstance(o.missing_probability, tuple) and len(o.missing_probability) != bands:
        raise ValueError(f"observation.missing_probability: expected one value or {bands}, one a band, got {len(o.missing_probability)}")
    efficiency = config.selection.host_efficiency
    if efficiency and efficiency[0] not in config.band_names:
        raise ValueError(f"selection.host_efficiency: expected a band of {list(config.band_names)}, got {efficiency[0]!r}")
    for kind, attribute, value in (
        ("emulator", "emulator_file", config.hosts.emulator_file),
        ("table", "table_file", config.hosts.table_file),
    ):
        if config.hosts.backend == kind and value is None:
            raise ValueError(f"hosts.{attribute}: expected a file for backend = {kind!r}; set it with --set hosts.{attribute}=PATH")
    if config.selection.detection == "table" and config.selection.detection_file is None:
        raise ValueError(
            "selection.detection_file: expected a file for detection = 'table'; set it with --set selection.detection_file=PATH"
        )
    if config.size.area_deg2 is not None and config.hosts.backend != "table" and config.hosts.redshift_density != "volume":
        raise ValueError(
            f"hosts.redshift_density: expected 'volume' for a size by area, got {config.hosts.redshift_density!r}; "
            "set it, or give size.expected_supernovae"
        )
    if config.hosts.z_max < min(config.selection.z_max, HOSTS_END):
        raise ValueError(
            f"hosts.z_max: expected at least selection.z_max, {config.selection.z_max:g}, got {config.hosts.z_max:g}, beyond which "
            "supernovae would have no hosts; raise it, or lower selection.z_max"
        )


def check_read(config: Config) -> None:
    """A setting that nothing reads is a mistake: what it was meant to change stays as it was. Of settings that no preset changes."""
    plain, cosmology, backend = type(config).model_construct(), config.supernovae.cosmology, config.hosts.backend
    errors = config.observation.host_errors
    readers = {  # setting: whether it is read, and what has to be set so that it is
        **{f"prior.{name}": (cosmology == "flat-w0waCDM", "supernovae.cosmology = 'flat-w0waCDM'") for name in ("w0", "wa")},
        "hosts.emulator_file": (backend == "emulator", "hosts.backend = 'emulator'"),
        "hosts.table_file": (backend == "table", "hosts.backend = 'table'"),
        **{f"hosts.{name}": (backend == "ssp", "hosts.backend = 'ssp'") for name in ("ssp_file", "nebular", "convention")},
        "selection.detection_file": (config.selection.detection == "table", "selection.detection = 'table'"),
        "observation.host_sigma": (errors == "constant", "observation.host_errors = 'constant'"),
        **{f"observation.host_{n}": (errors == "lsst", "observation.host_errors = 'lsst'") for n in ("depths", "gamma", "sigma_sys")},
    }
    for key, (read, remedy) in readers.items():
        section, name = key.split(".")
        value, default = (getattr(getattr(c, section), name) for c in (config, plain))
        anyway = Prior(fixed=getattr(FIDUCIAL, name)) if section == "prior" else default  # what a cosmology without it has
        if not read and value not in (default, anyway):
            usual = list(default) if isinstance(default, tuple) else default
            raise ValueError(f"{key}: expected {remedy}, without which nothing reads it, or no such setting (its default is {usual})")
    if config.flat and config.prior.Ode0.fixed is not None:
        raise ValueError(f"prior.Ode0: expected no fixed value in {cosmology}, where it is 1 - Om0; leave it out")
    if config.flat and config.reach("Om0")[1] <= 1:  # others are refused below
        (least, most), dark = config.reach("Om0"), config.prior.Ode0
        if not (dark.uniform and dark.uniform[0] <= 1 - most + ROUNDING and 1 - least <= dark.uniform[1] + ROUNDING):
            raise ValueError(f"prior.Ode0: expected none in {cosmology}, where it is 1 - Om0 and nothing reads it; give one of Om0")


def check_possible(config: Config) -> None:
    """Nothing negative where that means nothing, and no universe in which a host has no distance."""
    for name in ("Om0", "sigma_int"):
        if (least := config.reach(name)[0]) < 0:
            raise ValueError(
                f"prior.{name}: expected nothing below 0, got values from {least:g}; cut it, a normal one with within = [0, ...]"
            )
    if not config.flat:
        matter, dark = config.reach("Om0")[0], config.reach("Ode0")[1]
        if lack := _lacks(matter, dark, config.hosts.z_max):
            raise ValueError(
                f"prior.Ode0: expected universes in which all hosts have a distance, got one {lack} at Om0 = {matter:g} and "
                f"Ode0 = {dark:g}; lower the upper limit of Ode0, or raise the lower one of Om0"
            )
    elif (most := config.reach("Om0")[1]) > 1:
        raise ValueError(f"prior.Om0: expected nothing above 1 in a flat cosmology, where Ode0 is 1 - Om0, got up to {most:g}; cut it")


def _lacks(matter: float, dark: float, z_max: float) -> str:
    """Why a host up to z_max has no distance, or nothing: if none lacks one here, none does with more matter or less dark energy."""
    a = np.linspace(1, 1 + z_max, 257)
    expansion = matter * a**3 + (1 - matter - dark) * a**2 + dark
    if expansion.min() < LEAST_EXPANSION:
        return "without a Big Bang"
    angle = max(matter + dark - 1, 0) ** 0.5 * np.trapezoid(expansion**-0.5, a)  # to the last host, on a sphere
    return "with hosts beyond the antipode" if angle >= np.pi else ""
