"""From a run and a catalogue to the joint posterior p(Θ, {ℓ_i} | D): in memory as ArviZ InferenceData, or block by block into a file.

Results follow the identifiers: Θ is inferred from the objects in the order of their ids, and each object has a random stream of its
own, so that neither the order of the rows nor who else is in the catalogue changes an object's draws at a given Θ.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cigars.catalogue import Catalogue, select
from cigars.config import Config, ConfigError
from cigars.host_summaries import Summaries, write_summaries
from cigars.posterior_file import check_memory, check_room, writing
from cigars.runs import run_config
from cigars.schema import LOCALS, Observations
from cigars.targets import TargetWarning, as_survey, check_exposure, check_trained, inside, target_hash
from cigars.truncation import piled_up, read_rounds
from cigars.validation import check_ids

if TYPE_CHECKING:
    import arviz

__all__ = ["assemble", "draw_hosts", "hide", "infer", "infer_to"]

PACKAGES = ("cigars-sn", "jax", "numpyro", "torch", "sbi", "numpy", "astropy")
Blocks = Iterator[tuple[slice, np.ndarray]]


class Drawn(NamedTuple):
    """Draws of Θ [draw, parameter] under their names, and those of the objects of a catalogue block by block, [draw, block, unknown]."""

    names: tuple[str, ...]
    theta: np.ndarray
    blocks: Blocks
    catalogue: Catalogue
    config: Config
    record: dict[str, Any]


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
        CatalogueError: for objects, a number of them or an exposure outside what the run was trained on, or ids that repeat.
        FileError: where the draws do not fit into memory; `infer_to` needs little.
        ValueError: for a folder that is not a run.

    Warns:
        TargetWarning: where the run was truncated for a target and the posterior piles up at an edge of its box.
    """
    check_memory(draws, len(catalogue.id))
    drawn = _draw(run, catalogue, draws, seed, device, hidden, drop_outside, exposure, command)
    local = np.empty((draws, len(drawn.catalogue.id), len(LOCALS)), np.float32)
    for rows, block in drawn.blocks:
        local[:, rows] = block
    return assemble(drawn.names, drawn.theta, local, drawn.catalogue, drawn.config, drawn.record)


def infer_to(
    path: str | Path,
    run: str | Path,
    catalogue: Catalogue,
    *,
    hosts: str | Path | None = None,
    overwrite: bool = False,
    draws: int = 1000,
    seed: int = 0,
    device: str = "cpu",
    hidden: Sequence[str] = (),
    drop_outside: bool = False,
    exposure: float = 1.0,
    command: str = "",
    report: Callable[..., None] = lambda *_, **__: None,
) -> int:
    """The same into a NetCDF file, block by block of objects, so that memory does not grow with their number.

    Args:
        path: file to write.
        hosts: table to write beside it, .fits, .parquet or .ecsv: mean, sd and quantiles of each object's unknowns and their
            covariance with Ω_m.
        overwrite: replace files that exist.
        report: progress, called as report("infer", done, total).
        run, catalogue, draws, seed, device, hidden, drop_outside, exposure, command: as of `infer`.

    Returns:
        How many objects the posterior holds.

    Raises:
        FileError: where there is no room for the file, before anything is drawn, or a file exists; and all that `infer` raises.
    """
    check_room(path, draws, len(catalogue.id))
    drawn = _draw(run, catalogue, draws, seed, device, hidden, drop_outside, exposure, command)
    size = len(drawn.catalogue.id)
    shell = assemble(drawn.names, drawn.theta, None, drawn.catalogue, drawn.config, drawn.record)
    summaries = Summaries(size, dict(zip(drawn.names, drawn.theta.T, strict=True)).get("Om0"))
    with writing(path, shell, draws, overwrite) as put:
        for rows, block in drawn.blocks:
            put(rows, block)
            summaries.add(rows, block)
            report("infer", rows.stop, size)
    if hosts is not None:
        write_summaries(hosts, drawn.catalogue.id, summaries, {"fingerprint": drawn.record["fingerprint"], "draws": draws}, overwrite)
    return size


def _draw(
    run: str | Path,
    catalogue: Catalogue,
    draws: int,
    seed: int,
    device: str,
    hidden: Sequence[str],
    drop_outside: bool,
    exposure: float,
    command: str,
) -> Drawn:
    from inference.model import load_run
    from inference.posterior import GlobalPosterior

    check_ids(np.asarray(catalogue.id).astype(np.str_))
    config = run_config(run)
    check_exposure(exposure, config)
    trained = load_run(Path(run), device)
    catalogue, dropped = catalogue._replace(observations=hide(catalogue.observations, hidden)), 0
    if drop_outside:
        catalogue, dropped = inside(trained, catalogue)
    check_trained(trained, as_survey(catalogue.observations, exposure), config)
    by_id = select(catalogue, np.argsort(catalogue.id))
    theta = GlobalPosterior(trained).sample(draws, as_survey(by_id.observations, exposure), seed)[:, 0].cpu().numpy()
    record = {
        "fingerprint": trained.meta["fingerprint"],
        "seed": seed,
        "command": command,
        "run": str(Path(run).resolve()),
        "hidden": ", ".join(hidden),
        "dropped": dropped,
        "exposure": exposure,
        "truncated_for": _warn_piled_up(run, catalogue, dict(zip(trained.names, theta.T, strict=True)), config),
    }
    return Drawn(trained.names, theta, draw_hosts(trained, catalogue, theta, seed + 1), catalogue, config, record)


def draw_hosts(trained: Any, catalogue: Catalogue, theta: np.ndarray, seed: int) -> Blocks:
    """One draw of each object's unknowns at each Θ [draw, parameter], by blocks of objects: which, and [draw, block, unknown].

    An object's random numbers are those of its identifier.
    """
    import torch

    from inference.batches import pack
    from inference.posterior import LocalPosterior

    keys = [int.from_bytes(hashlib.blake2b(str(name).encode(), digest_size=7).digest()) for name in catalogue.id]
    packed = pack(as_survey(catalogue.observations), device=trained.device)
    at = torch.as_tensor(theta, dtype=torch.float32, device=trained.device)
    for rows, block in LocalPosterior(trained).blocks(packed.observations, at, seed, keys):
        yield rows, block.cpu().numpy()


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


def assemble(
    names: Sequence[str], theta: np.ndarray, local: np.ndarray | None, catalogue: Catalogue, config: Config, record: Mapping[str, Any]
) -> arviz.InferenceData:
    """Draws of Θ [draw, parameter] and of the objects [draw, object, unknown] (None leaves them out), and the catalogue, for ArviZ."""
    import arviz

    attributes = {
        "config": config.model_dump_json(),
        "versions": json.dumps(_versions()),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **record,
    }
    posterior = {name: theta[None, :, i] for i, name in enumerate(names)}
    if local is not None:
        posterior |= {name: local[None, :, :, i] for i, name in enumerate(LOCALS)}
    observed = catalogue.observations._asdict()
    data = arviz.from_dict(
        posterior=posterior,
        observed_data=observed,
        coords={"object": np.asarray(catalogue.id, str), "band": list(config.band_names)},
        dims={name: ["object"] for name in (*LOCALS, *observed)} | {"mag": ["object", "band"], "mag_err": ["object", "band"]},
    )
    data.posterior = data.posterior.assign_coords(object=data.observed_data["object"])  # also where no variable has that dimension yet
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
