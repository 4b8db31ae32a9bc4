"""`cigars crosscheck`: the posterior of a run beside one by a second neural route."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from cigars.cli_infer import run_catalogue_exposure
from cigars.devices import Device, use_device
from cigars.files import check_writable
from cigars.progress import progress_bars
from cigars.terminal import console, duration, errors

__all__ = ["crosscheck"]


def crosscheck(
    first: Annotated[
        Path, typer.Argument(metavar="RUN", help="Run folder that `cigars train` made; left out with --pretrained, where the catalogue is.")
    ],
    second: Annotated[Path | None, typer.Argument(metavar="CATALOGUE", help="Objects with every band and their light.")] = None,
    pretrained: Annotated[str | None, typer.Option(metavar="NAME", help="A posterior that comes along, in place of a run folder.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON to write.")] = Path("crosscheck.json"),
    surveys: Annotated[int, typer.Option(min=64, help="Surveys to train the density of one object on.")] = 8000,
    objects: Annotated[int, typer.Option(min=1000, help="Objects of them.")] = 400_000,
    draws: Annotated[int, typer.Option(min=20, help="Of the second posterior, in all.")] = 600,
    warmup: Annotated[int, typer.Option(min=20, help="Steps of each chain before its draws.")] = 150,
    chains: Annotated[int, typer.Option(min=2, max=64)] = 2,
    exposure: Annotated[float | None, typer.Option(min=0, help="Of the catalogue, relative to the configured size.")] = None,
    folder: Annotated[
        Path | None,
        typer.Option(help="Of the training, which is continued if there is one; RUN/crosscheck, or crosscheck with --pretrained."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**31 - 1, help="Seed of training and draws.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")] = False,
) -> None:
    """Infer Θ a second time, by a density of single objects and chains on their product, and compare.

    Exit code 1 where the routes disagree although the second is good enough to say so.
    """
    from cigars import crosscheck as route
    from cigars.catalogue import read_catalogue
    from cigars.pipeline import run_config

    started = time.monotonic()
    check_writable(output, overwrite)
    run, catalogue, exposed = run_catalogue_exposure(first, second, pretrained, exposure)
    kept = Path("crosscheck") if folder is None and pretrained else folder
    table = read_catalogue(catalogue, run_config(run).band_names)
    use_device(Device.cpu)
    options: dict[str, Any] = {"surveys": surveys, "objects": objects, "draws": draws, "warmup": warmup, "chains": chains, "seed": seed}
    with progress_bars(errors) as bars:
        found = route.crosscheck(run, table, exposure=exposed, folder=kept, report=bars, **options)
    route.write_crosscheck(output, found, overwrite)
    shown = Table("parameter", "networks", "second route", "between / σ", "width ratio", "own errors / σ", "own scatter")
    for k, name in enumerate(found.names):
        said = [f"{draws[:, k].mean():.4g} ± {draws[:, k].std():.2g}" for draws in (found.networks, found.second)]
        own = f"{found.shift[k]:+.2f} ± {found.shift_error[k]:.2f}"
        scatter = f"{found.scatter[k]:.2f} ± {found.scatter_error[k]:.2f}"
        shown.add_row(name, *said, f"{found.between[k]:+.2f}", f"{found.widths[k]:.2f}", own, scatter)
    console.print(shown)
    chained = f"R̂ at most {found.r_hat.max():.3f}, {found.divergences} divergences"
    console.print(f"{chained}; the second route's own errors reach {route.TOLERANCE} σ at {found.limit}")
    console.print(f"the routes {found.verdict}; {duration(time.monotonic() - started)}; every number in {output}")
    if found.disagree:
        raise typer.Exit(1)
