"""`cigars compare`: which of several models made a catalogue?"""

from __future__ import annotations

import shlex
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from cigars.catalogue_checks import TargetWarning
from cigars.cli_infer import Method
from cigars.compare import COMPARISON, LIKELY
from cigars.config import ConfigError
from cigars.devices import Device, use_device
from cigars.exact_checks import MAX_PAIRS
from cigars.files import check_writable
from cigars.progress import progress_bars
from cigars.terminal import console, duration, errors, given, stopped

if TYPE_CHECKING:
    from cigars.catalogue import Catalogue
    from cigars.compare import Comparison, Row
    from cigars.config import Config
    from cigars.posterior import Posterior
    from cigars.savage_dickey import Ratio

__all__ = ["compare"]


def compare(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="The first model: a preset or a TOML file.")],
    catalogue: Annotated[Path, typer.Argument(help="Catalogue of supernovae and hosts.")],
    against: Annotated[
        list[str],
        typer.Option(metavar="KEY=VALUE|FILE", help="Another model: changes of the first, `;` between several, or a preset or TOML file."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make, for checkpoints and the result.")],
    result: Annotated[Path | None, typer.Option("--json", help="JSON to write; comparison.json in the folder by default.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key of every model.")] = None,
    method: Annotated[
        Method,
        typer.Option(help="networks: classifiers; exact: the likelihood itself and the harmonic mean of its draws, for small catalogues."),
    ] = Method.networks,
    surveys: Annotated[int | None, typer.Option(min=40, help="Surveys of each model to learn from; 2,000 unless given.")] = None,
    run: Annotated[Path | None, typer.Option(help="Run folder whose summary to use; by default moments, in minutes.")] = None,
    posterior: Annotated[
        Path | None, typer.Option(help="Posterior of the catalogue under the first model, for Savage-Dickey ratios of nested models.")
    ] = None,
    exposure: Annotated[float, typer.Option(min=0, help="Of the catalogue, relative to the configured size.")] = 1.0,
    draws: Annotated[int | None, typer.Option(min=400, max=1_000_000, help="exact: draws of each model; 1,000 unless given.")] = None,
    chains: Annotated[int | None, typer.Option(min=2, max=64, help="exact: chains; 2 unless given.")] = None,
    warmup: Annotated[
        int | None, typer.Option(min=1, max=100_000, help="exact: steps of each chain before its draws; 300 unless given.")
    ] = None,
    target_accept: Annotated[
        float | None,
        typer.Option(metavar="0-1", help="exact: acceptance that steps are adapted to; 0.8 unless given, 0.95 against divergences."),
    ] = None,
    max_pairs: Annotated[
        int | None, typer.Option(min=1, help=f"exact: most pairs of object and host to attempt; {MAX_PAIRS:,} unless given.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue, or ask a finished comparison about another catalogue.")] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**31 - 1, help="Seed of surveys and networks.")] = 0,
    device: Annotated[Device, typer.Option("--device", help="cpu, cuda, or auto: cuda where there is one.")] = Device.auto,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the JSON if it exists.")] = False,
) -> None:
    """Bayes factors of other models against the first, by classification of simulated surveys or exactly, for equal prior odds.

    Each model is averaged over its own prior. ln K > 0 favours the other model; about 1 is hardly worth mentioning, 5 is strong.
    """
    from cigars.catalogue import read_catalogue
    from cigars.compare import alternative, compare, write_comparison
    from cigars.config import load_config
    from cigars.posterior import load_posterior

    exactly = given(draws=draws, chains=chains, warmup=warmup, target_accept=target_accept, max_pairs=max_pairs)
    learned = given(surveys=surveys, run=run, resume=resume or None)
    if wrong := learned if method is Method.exact else exactly:
        other = Method.networks if method is Method.exact else Method.exact
        options = ", ".join(f"--{name.replace('_', '-')}" for name in wrong)
        raise ConfigError(f"compare: expected --method {other} with {options}, got {method}; leave them out or change it")
    result, started = result or output / COMPARISON, time.monotonic()
    if result.parent != output or output.exists():  # the folder itself is made later
        check_writable(result, overwrite)
    first = load_config(config, settings or ())
    models = {first.name: first}
    for changes in against:
        if changes in models:
            raise ConfigError(f"--against: expected different models, got {changes!r} twice")
        models[changes] = alternative(config, changes, settings or ())
    table = read_catalogue(catalogue, first.band_names)
    ratios = _ratios(load_posterior(posterior), models, table, exposure, seed) if posterior else {}
    torch_device = use_device(device)
    common: dict[str, Any] = {"exposure": exposure, "seed": seed}
    try:
        with progress_bars(errors) as bars:
            if method is Method.exact:
                from cigars.evidence import compare_exactly

                found = compare_exactly(models, table, report=bars, **common, **exactly)
            else:
                found = compare(models, table, output, device=torch_device, report=bars, **common, **learned)
    except KeyboardInterrupt:
        if method is Method.exact:
            raise
        words = [w for w in sys.argv[1:] if w != "--resume"]
        stopped(shlex.join(["cigars", *words, "--resume"]))
        raise typer.Exit(130) from None
    found = found._replace(record={**found.record, "savage_dickey": {k: v._asdict() for k, v in ratios.items()}})
    result.parent.mkdir(parents=True, exist_ok=True)
    write_comparison(result, found, overwrite)
    _print(found, ratios)
    console.print(f"{duration(time.monotonic() - started)}; every number in {result}")


def _ratios(joint: Posterior, models: Mapping[str, Config], catalogue: Catalogue, exposure: float, seed: int) -> dict[str, Ratio]:
    """Savage-Dickey ratios of the models that are nested in the first, from its posterior of this catalogue and no other.

    Warns:
        TargetWarning: of a model without one, which is left out.
    """
    from cigars.savage_dickey import check_posterior, nested_values, savage_dickey

    first, *_ = models.values()
    check_posterior(joint, first, catalogue, exposure)
    found = {}
    for name, config in models.items():
        if at := nested_values(first, config):
            try:
                found[name] = savage_dickey(joint, at, wide=first, seed=seed)
            except ValueError as error:
                warnings.warn(f"{name}: {error}; it has no Savage-Dickey ratio here", TargetWarning, stacklevel=2)
    return found


def _print(found: Comparison, ratios: Mapping[str, Ratio]) -> None:
    learned = found.likely is not None
    more = [*(["calibration slope"] if learned else []), *(["Savage-Dickey"] if ratios else [])]
    table = Table("model", "ln K", "±", "probability", *more)
    first, *others = found.rows
    table.add_row(first.model, "0", "", f"{first.probability:.3f}")
    for row in others:
        cells = []
        if row.calibration is not None:
            known = row.calibration.determined
            cells = [f"{row.calibration.slope:.2f} ± {row.calibration.slope_error:.2f}" if known else "unknown"]
        if ratios:
            cells += [f"{r.ln_k:+.2f} ± {r.error:.2f}" if (r := ratios.get(row.model)) else ""]
        beyond = "" if abs(row.ln_k) < row.tested else " beyond what was tested"
        table.add_row(row.model, f"{row.ln_k:+.2f}{beyond}", f"{row.error:.2f}", f"{row.probability:.3f}", *cells)
    console.print(table)
    console.print(f"ln K against {first.model}, above zero for the other model; probabilities for equal prior odds of all of them")
    if mended := [f"{row.model} ({row.uncorrected:+.2f} before)" for row in others if row.uncorrected is not None]:
        console.print(f"corrected by fresh surveys, which showed ln K not to be calibrated: {', '.join(mended)}")
    for row in others:
        if row.calibration and not row.calibration.determined:
            console.print(_uncalibrated(row), style="yellow")
    if wrong := [row.model for row in others if row.calibration and row.calibration.determined and not row.calibration.passed]:
        console.print(f"not calibrated within 3 standard errors: {', '.join(wrong)}; simulate more --surveys", style="yellow")
    if found.likely is not None and found.likely < LIKELY:
        console.print(f"the catalogue is unlike the surveys of every model (p = {found.likely:.2g}); see `cigars check`", style="yellow")


def _uncalibrated(row: Row) -> str:
    far = f"its sign stands and |ln K| is above {row.tested:.1f}, by how much is not known"
    said = far if abs(row.ln_k) >= row.tested else "this catalogue lies between those surveys, so that even its sign is unsure"
    return f"{row.model}: nearly all fresh surveys are told apart, which leaves the size of ln K uncalibrated: {said}"
