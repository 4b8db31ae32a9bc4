"""From a run and a catalogue to a joint posterior, and the NetCDF file that keeps it (ArviZ InferenceData)."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cigars.catalogue import Catalogue
from cigars.config import Config, ConfigError
from cigars.files import FileError, replacing
from cigars.runs import run_config
from cigars.schema import LOCALS, Observations
from cigars.targets import TargetWarning, as_survey, check_exposure, check_trained, inside, target_hash
from cigars.truncation import piled_up, read_rounds

if TYPE_CHECKING:
    import arviz

__all__ = ["hide", "infer", "read_posterior", "save_posterior"]

PACKAGES = ("cigars-sn", "jax", "numpyro", "torch", "sbi", "numpy", "astropy")


def hide(observations: Observations, what: Sequence[str]) -> Observations:
    """The observations without `z_spec` or without `sn` (m, x, c and their errors): NaN, as if never taken."""
    groups = {"z_spec": ("z_spec", "z_spec_err"), "sn": ("m", "x", "c", "var_m", "var_x", "var_c", "cov_mx", "cov_mc", "cov_xc")}
    if unknown := sorted(set(what) - set(groups)):
        raise ConfigError(f"hide: expected of {sorted(groups)}, got {unknown}")
    blank = {name: np.full_like(getattr(observations, name), np.nan) for group in what for name in groups[group]}
    return observations._replace(**blank)


def infer(
    run: str | Path,
    catalogue: Catalogue,
    *,
    draws: int = 1000,
    seed: int = 0,
    device: str = "cpu",
    hidden: Sequence[str] = (),
    drop_outside: bool = False,
    exposure: float = 1.0,
    command: str = "",
) -> arviz.InferenceData:
    """Joint posterior of Θ and of every host and supernova of a catalogue.

    Args:
        run: folder that `train` made.
        catalogue: objects in the bands of the run.
        draws: joint draws.
        seed: of the draws.
        device: torch device.
        hidden: inputs to leave out, "z_spec" or "sn", for the objects; Θ is inferred from what is left too.
        drop_outside: leave out objects with a value beyond what training saw, and record how many, in place of refusing.
        exposure: area × time of the survey relative to the size that the run was configured for; the rates scale with it.
        command: how this was called, for the record.

    Raises:
        CatalogueError: for objects, a number of them or an exposure outside what the run was trained on.
        ValueError: for a folder that is not a run.

    Warns:
        TargetWarning: where the run was truncated for a target and the posterior piles up at an edge of its box.
    """
    from inference.model import load_run
    from inference.posterior import JointPosterior

    config = run_config(run)
    check_exposure(exposure, config)
    trained = load_run(Path(run), device)
    catalogue, dropped = catalogue._replace(observations=hide(catalogue.observations, hidden)), 0
    if drop_outside:
        catalogue, dropped = inside(trained, catalogue)
    survey = as_survey(catalogue.observations, exposure)
    check_trained(trained, survey, config)
    joint = JointPosterior(trained).sample(draws, survey, seed)
    theta, local = joint.theta.cpu().numpy(), joint.local.cpu().numpy()
    made_for = _warn_piled_up(run, catalogue, dict(zip(trained.names, theta.T, strict=True)), config)
    record = {
        "fingerprint": trained.meta["fingerprint"],
        "seed": seed,
        "command": command,
        "hidden": ", ".join(hidden),
        "dropped": dropped,
        "exposure": exposure,
        "truncated_for": made_for,
    }
    return _inference_data(trained.names, theta, local, catalogue.id, catalogue.observations, config, record)


def _warn_piled_up(run: str | Path, catalogue: Catalogue, theta: Mapping[str, np.ndarray], config: Config) -> str:
    """Hash of the target that a run was truncated for, empty if for none; warns where its box cuts this posterior."""
    record = read_rounds(run)
    if record is None:
        return ""
    names = piled_up(theta, config.marginals, {name: prior.marginal for name, prior in record.configured.items()})
    if names:
        same = target_hash(catalogue) == record.target
        made = "for this catalogue" if same else f"for another catalogue ({record.objects} objects, {record.target})"
        remedy = "with more surveys or fewer rounds" if same else "for this one, or without a target"
        warnings.warn(
            f"{run}: the posterior of {', '.join(names)} is cut by the box that was made {made}; train {remedy}",
            TargetWarning,
            stacklevel=3,
        )
    return record.target


def _inference_data(
    names: Sequence[str],
    theta: np.ndarray,
    local: np.ndarray,
    ids: np.ndarray,
    observations: Observations,
    config: Config,
    record: Mapping[str, str | int],
) -> arviz.InferenceData:
    import arviz

    attributes = {
        "config": config.model_dump_json(),
        "versions": json.dumps(_versions()),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **record,
    }
    posterior = {name: theta[None, :, i] for i, name in enumerate(names)} | {name: local[None, :, :, i] for i, name in enumerate(LOCALS)}
    observed = observations._asdict()
    data = arviz.from_dict(
        posterior=posterior,
        observed_data=observed,
        coords={"object": np.asarray(ids, str), "band": list(config.band_names)},
        dims={name: ["object"] for name in (*LOCALS, *observed)} | {"mag": ["object", "band"], "mag_err": ["object", "band"]},
    )
    data.posterior.attrs.update(attributes)
    data.attrs.update(attributes)
    return data


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def save_posterior(path: str | Path, posterior: arviz.InferenceData, *, overwrite: bool = False) -> Path:
    """Write a posterior as NetCDF, atomically; raises FileError if the file exists or cannot be written."""
    import xarray

    groups = {"/": xarray.Dataset(attrs=posterior.attrs), **{name: posterior[name] for name in posterior.groups()}}
    with replacing(path, overwrite) as temporary:  # from memory: where a disk fills up HDF5 itself ends the process by a segmentation fault
        temporary.write_bytes(xarray.DataTree.from_dict(groups).to_netcdf(engine="h5netcdf"))
    return Path(path)


def read_posterior(path: str | Path) -> arviz.InferenceData:
    """A posterior that `save_posterior` wrote; raises FileError where the file is not one."""
    import arviz

    try:
        data = arviz.from_netcdf(str(path))
        Config.model_validate_json(data.posterior.attrs["config"])
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise FileError(f"{path}: expected a posterior that `cigars infer` wrote, got something else ({type(error).__name__})") from None
    return data
