"""`cigars check`: does a catalogue look like anything that the model simulates?"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from cigars.cli_infer import assumed
from cigars.cli_validate import print_tests
from cigars.devices import Device, use_device
from cigars.files import check_writable
from cigars.progress import progress_bars
from cigars.terminal import console, duration, errors

__all__ = ["check"]

SHOWN = 10  # odd objects in the terminal


def check(
    catalogue: Annotated[Path, typer.Argument(help="Catalogue of supernovae and hosts.")],
    run: Annotated[Path | None, typer.Option(help="Run folder that `cigars train` made.")] = None,
    pretrained: Annotated[str | None, typer.Option(metavar="NAME", help="A posterior that comes along, in place of a run folder.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON to write.")] = Path("check.json"),
    objects: Annotated[
        Path | None, typer.Option(help="Table to write, .fits, .parquet or .ecsv: p-value of every object and what makes it odd.")
    ] = None,
    surveys: Annotated[int, typer.Option(min=50, help="Surveys to simulate at draws of the catalogue's posterior.")] = 400,
    exposure: Annotated[float | None, typer.Option(min=0, help="Of the catalogue, relative to the configured size.")] = None,
    level: Annotated[float, typer.Option(min=1e-6, max=0.5, help="Chance that a catalogue which the model describes is rejected.")] = 0.01,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**31 - 1, help="Seed of draws and surveys.")] = 0,
    device: Annotated[Device, typer.Option("--device", help="cpu, cuda, or auto: cuda where there is one.")] = Device.auto,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")] = False,
) -> None:
    """Compare a catalogue with surveys simulated at its own posterior: numbers, magnitudes, colours, light curves, single objects.

    Exit code 1 if the model is rejected at the family-wise level. What the parameters of the model can explain is not held against it.
    """
    from cigars import pipeline
    from cigars.catalogue import read_catalogue
    from cigars.check import check, write_check, write_odd_objects
    from cigars.pretrained import chosen
    from cigars.tables import check_table, check_texts

    started = time.monotonic()
    folder, exposure = chosen(run, pretrained, exposure)
    check_writable(output, overwrite)
    if objects is not None:
        check_table(objects, overwrite)
    config = pipeline.run_config(folder)
    table = read_catalogue(catalogue, config.band_names)
    if objects is not None:
        check_texts(objects, table.id)
    exposed, torch_device = assumed(folder, exposure), use_device(device)
    with progress_bars(errors) as bars:
        found = check(folder, table, surveys=surveys, exposure=exposed, level=level, seed=seed, device=torch_device, report=bars)
    write_check(output, found, overwrite)
    if objects is not None:
        write_odd_objects(objects, found, overwrite)
    print_tests(found.rows)
    odd = [i for i in found.objects["p_value"].argsort(kind="stable") if found.objects["odd"][i]]
    if odd:
        listed = Table("odd object", "p", "most ordinary without", "p without")
        for i in odd[:SHOWN]:
            listed.add_row(str(found.ids[i]), *(_said(found.objects[name][i]) for name in ("p_value", "reason", "p_without")))
        console.print(listed)
    said = "looks like what the model simulates" if found.passed else "does NOT look like what the model simulates"
    console.print(
        f"the catalogue {said} (family-wise level {found.level:g}); {len(odd)} of {found.record['objects']} objects are odd, "
        f"{found.record['outside']} of them outside the range of the training"
    )
    console.print(f"{duration(time.monotonic() - started)}; every number in {output}")
    if not found.passed:
        raise typer.Exit(1)


def _said(value: object) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)
