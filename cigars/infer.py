"""From a run and a catalogue to the joint posterior p(Θ, {ℓ_i} | D): in memory as ArviZ InferenceData, or block by block into a file.

Results follow the identifiers: Θ is inferred from the objects in the order of their ids, and each object has a random stream of its
own, so that neither the order of the rows nor who else is in the catalogue changes an object's draws at a given Θ.
"""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cigars.catalogue import Catalogue
from cigars.catalogue_checks import TargetWarning, check_ids
from cigars.config import Config
from cigars.files import check_writable
from cigars.host_summaries import Summaries, write_summaries
from cigars.memory import gives_back
from cigars.posterior_file import check_memory, check_room, read_posterior, writing
from cigars.progress import Reporter, silent
from cigars.runs import run_config
from cigars.schema import LOCALS
from cigars.tables import check_table, check_texts
from cigars.targets import as_survey, hide, survey_of, target_hash, without_redshifts
from cigars.training_range import (
    DROP,
    FEW,
    check_exposure,
    check_trained,
    kept,
    warn_of_exposure,
    warn_of_other_target,
    warn_of_others,
    warn_of_redshifts,
)
from cigars.truncation import draw_prior, piled_up, read_rounds

if TYPE_CHECKING:
    import arviz

__all__ = ["assemble", "check_outputs", "draw_hosts", "gathered", "hide", "infer"]

Blocks = Iterator[tuple[slice, np.ndarray]]


def _blind(hidden: Sequence[str], config: Config) -> list[str]:
    """Of what is hidden, that without which the networks of Θ never saw a survey: of redshifts, where some objects had one."""
    had = {"sn": True, "z_spec": config.observation.spectroscopic_fraction > 0}
    return [what for what in hidden if had[what]]


def _warn_of_theta(blind: Sequence[str], catalogue: Catalogue, number: int, config: Config) -> None:
    """Warn where Θ is not inferred, or from objects unlike the training's in what they lack."""
    size = len(catalogue.id)
    if blind:
        said = f"Θ is drawn from its prior, not inferred: its networks saw no survey without {' and '.join(blind)}"
        warnings.warn(f"{said}; the posteriors of the objects hold for that prior", TargetWarning, stacklevel=3)
        return
    warn_of_others(catalogue)
    if size < (1 - FEW) * number:
        said = f"{number - size:,} of {number:,} objects are left out, which count in their number and tell nothing else"
        warnings.warn(f"{said}: widths of Θ are those of all; train a configuration that covers them", TargetWarning, stacklevel=3)
    warn_of_redshifts(catalogue, config)


@gives_back
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
    output: str | Path | None = None,
    hosts: str | Path | None = None,
    overwrite: bool = False,
    command: str = "",
    report: Reporter = silent,
) -> arviz.InferenceData:
    """Joint posterior of Θ and of every host and supernova of a catalogue.

    Args:
        run: folder that `train` made.
        catalogue: objects in the bands of the run.
        draws: joint draws.
        seed: of the draws.
        device: torch device.
        hidden: inputs to leave out, "z_spec" or "sn". Where the networks of Θ never saw surveys without them, Θ is drawn from its prior,
            over which the posteriors of the objects are then averaged.
        drop_outside: leave out objects with a value beyond what training saw, or that lack what no object did there, and record how
            many, in place of refusing. They count in the number of objects, which carries the rates.
        exposure: area × time of the survey relative to the size that the run was configured for; the rates scale with it, so that
            they are wrong where it is.
        output: NetCDF file to write, block by block of objects, so that memory does not grow with their number; what is returned
            then reads from it. Without, everything is kept in memory.
        hosts: table to write, .fits, .parquet or .ecsv: mean, sd and quantiles of each object's unknowns, covariance with Ω_m.
        overwrite: replace files that exist.
        command: how this was called, for the record.
        report: progress, called as report("infer", done, total).

    Raises:
        CatalogueError: for objects, a number of them or an exposure outside what the run was trained on, ids that repeat, or ids that
            a FITS table of hosts cannot hold.
        FileError: where the draws do not fit into memory or on the disk, before anything is drawn, or a file exists.
        ValueError: for a folder that is not a run.

    Warns:
        TargetWarning: where the run was truncated for another catalogue, or the posterior piles up at an edge of its box, where Θ is
            drawn from its prior, where the rate is so far from its prior that the exposure may be wrong, where more than 1 % of the
            objects are left out, or expected to be of other types, and where spectroscopic redshifts are not read or not as in the
            training.
    """
    from inference.model import load_run
    from inference.posterior import GlobalPosterior

    check_outputs(catalogue, draws, output, hosts, overwrite)
    if output is None:
        check_memory(draws, len(catalogue.id))
    config = run_config(run)
    check_exposure(exposure, config)
    trained, identity, started = load_run(Path(run), device), target_hash(catalogue), time.monotonic()
    number, blind, whole = len(catalogue.id), _blind(hidden, config), catalogue
    catalogue = without_redshifts(catalogue._replace(observations=hide(catalogue.observations, hidden)), config)
    if drop_outside:
        catalogue = kept(trained, catalogue, None if blind else config)
    survey = survey_of(catalogue, exposure, number)
    check_trained(trained, survey, config, complete=not blind, remedy=DROP)
    _warn_of_theta(blind, catalogue, number, config)
    theta = draw_prior(config, draws, seed) if blind else GlobalPosterior(trained).sample(draws, survey, seed)[:, 0].cpu().numpy()
    drawn = dict(zip(trained.names, theta.T, strict=True))
    if not blind:
        warn_of_exposure(drawn, number, exposure, config)
    record = {
        "fingerprint": trained.meta["fingerprint"],
        "seed": seed,
        "command": command,
        "run": str(Path(run).resolve()),
        "hidden": ", ".join(hidden),
        "dropped": number - len(catalogue.id),
        "theta_from_prior": ", ".join(blind),
        "exposure": exposure,
        "catalogue": identity,
        "truncated_for": _warn_of_cut(run, whole, {} if blind else drawn, config),
    }
    size = len(catalogue.id)
    summaries = Summaries(size, drawn.get("Om0")) if hosts is not None else None

    def watched() -> Blocks:
        for rows, block in draw_hosts(trained, catalogue, theta, seed + 1):
            if summaries is not None:
                summaries.add(rows, block)
            yield rows, block
            report("infer", rows.stop, size)

    if output is None:
        local = gathered(watched(), draws, size)
        data = assemble(trained.names, theta, local, catalogue, config, record | {"seconds": time.monotonic() - started})
    else:
        shell = assemble(trained.names, theta, None, catalogue, config, record)
        with writing(output, shell, draws, overwrite) as file:
            for rows, block in watched():
                file.put(rows, block)
            file.note("seconds", time.monotonic() - started)
        data = read_posterior(output)
    if hosts is not None and summaries is not None:
        write_summaries(hosts, catalogue.id, summaries, {"fingerprint": record["fingerprint"], "draws": draws}, overwrite)
    return data


def check_outputs(catalogue: Catalogue, draws: int, output: str | Path | None, hosts: str | Path | None, overwrite: bool) -> None:
    """Raise FileError or CatalogueError where a posterior and its table of hosts could not be written, or ids repeat."""
    check_ids(np.asarray(catalogue.id).astype(np.str_))
    if output is not None:
        check_writable(output, overwrite)
        check_room(output, draws, len(catalogue.id))
    if hosts is not None:
        check_table(hosts, overwrite)
        check_texts(hosts, catalogue.id)


def gathered(blocks: Blocks, draws: int, objects: int) -> np.ndarray:
    """Blocks put together, [draw, object, unknown]."""
    local = np.empty((draws, objects, len(LOCALS)), np.float32)
    for rows, block in blocks:
        local[:, rows] = block
    return local


def draw_hosts(trained: Any, catalogue: Catalogue, theta: np.ndarray, seed: int) -> Blocks:
    """One draw of each object's unknowns at each Θ [draw, parameter], by blocks of objects: which, and [draw, block, unknown].

    An object's random numbers are those of its identifier.
    """
    import torch

    from inference.batches import pack
    from inference.posterior import LocalPosterior

    keys = [int.from_bytes(hashlib.blake2b(str(name).encode(), digest_size=7).digest()) for name in catalogue.id]
    packed = pack(as_survey(catalogue.observations), device=trained.device)
    at = torch.as_tensor(np.ascontiguousarray(theta), dtype=torch.float32, device=trained.device)
    for rows, block in LocalPosterior(trained).blocks(packed.observations, at, seed, keys):
        yield rows, block.cpu().numpy()


def _warn_of_cut(run: str | Path, catalogue: Catalogue, theta: Mapping[str, np.ndarray], config: Config) -> str:
    """Hash of the target that a run was truncated for, empty if for none; warns where its box cuts this posterior, if Θ was inferred,
    or where that was another catalogue than this one as it was given."""
    record = read_rounds(run)
    if record is None:
        return ""
    configured = {name: prior.marginal for name, prior in record.configured.items()}
    names = piled_up(theta, config.marginals, configured, config.prior.region) if theta else []
    if not names:
        warn_of_other_target(run, catalogue, stacklevel=5)
    else:
        same = target_hash(catalogue) == record.target
        made = "for this catalogue" if same else f"for another catalogue ({record.objects} objects, {record.target})"
        remedy = "with more surveys or fewer rounds" if same else "for this one, or without a target"
        warnings.warn(
            f"{run}: the posterior of {', '.join(names)} is cut by the box that was made {made}; train {remedy}",
            TargetWarning,
            stacklevel=4,
        )
    return record.target


def assemble(
    names: Sequence[str], theta: np.ndarray, local: np.ndarray | None, catalogue: Catalogue, config: Config, record: Mapping[str, Any]
) -> arviz.InferenceData:
    """Draws of Θ [draw, parameter] and of the objects [draw, object, unknown] (None leaves them out), and the catalogue, for ArviZ.

    Both may have chains as an axis before the draws.
    """
    import arviz

    from inference.model import versions

    attributes = {
        "config": config.model_dump_json(),
        "versions": json.dumps(versions()),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **record,
    }
    theta = theta if theta.ndim == 3 else theta[None]
    posterior = {name: theta[..., i] for i, name in enumerate(names)}
    if local is not None:
        local = local if local.ndim == 4 else local[None]
        posterior |= {name: local[..., i] for i, name in enumerate(LOCALS)}
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
