"""`cigars validate`: is the posterior of a run calibrated?"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from cigars.devices import Device, use_device
from cigars.files import check_writable
from cigars.progress import progress_bars
from cigars.terminal import console, duration, errors
from cigars.validate import VALIDATION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cigars.validate import Validation
    from inference.checks import Judged

__all__ = ["print_tests", "print_validation", "validate"]


def validate(
    run: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="Run folder that `cigars train` made; left out with --pretrained.")
    ] = None,
    pretrained: Annotated[
        str | None, typer.Option(metavar="NAME", help="A posterior that comes with the package, in place of a run folder.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="JSON to write; validation.json in the run folder by default, where reports look.")
    ] = None,
    surveys: Annotated[int, typer.Option(min=50, help="Fresh surveys; widths are seen to 1 / sqrt(2 surveys).")] = 500,
    catalogue: Annotated[Path | None, typer.Option(help="Also test the posterior at this very catalogue (L-C2ST).")] = None,
    drop_outside: Annotated[
        bool, typer.Option("--drop-outside", help="Leave out its objects unlike all of the training instead of refusing, as infer does.")
    ] = False,
    level: Annotated[float, typer.Option(min=1e-6, max=0.5, help="Chance that an exact posterior fails any of the tests.")] = 0.01,
    exposure: Annotated[
        float | None,
        typer.Option(min=0, help="Of all surveys and the catalogue, relative to the configured size; by default the run's range."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**31 - 1, help="Seed of the surveys and draws.")] = 0,
    device: Annotated[Device, typer.Option("--device", help="cpu, cuda, or auto: cuda where there is one.")] = Device.auto,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")] = False,
) -> None:
    """Test the posteriors of a run on fresh surveys that no training saw: ranks, coverage, TARP, widths, correlations, hosts.

    Exit code 1 if any test fails. Level is family-wise: the p-value of a test is corrected for its parameters (Bonferroni), and Holm's rule
    over all tests keeps the chance that an exact posterior fails any of them below it.
    """
    from cigars import pipeline
    from cigars.catalogue import read_catalogue
    from cigars.pretrained import chosen
    from cigars.validate import validate, write_validation

    folder, exposure = chosen(run, pretrained, exposure)
    # a posterior that comes along lies in the package, which is not written to
    output = output or (Path(VALIDATION) if pretrained else folder / VALIDATION)
    config, started = pipeline.run_config(folder), time.monotonic()
    check_writable(output, overwrite)
    table = read_catalogue(catalogue, config.band_names) if catalogue else None
    torch_device = use_device(device)
    with progress_bars(errors) as bars:
        found = validate(
            folder, surveys=surveys, catalogue=table, drop_outside=drop_outside, exposure=exposure, level=level, seed=seed,
            device=torch_device, report=bars,
        )  # fmt: skip
    write_validation(output, found, overwrite)
    print_validation(found)
    console.print(f"{duration(time.monotonic() - started)}; every number in {output}")
    if not found.passed:
        raise typer.Exit(1)


def print_tests(rows: Sequence[Judged]) -> None:
    """One row a test: its most extreme number, the band of exact ones, p-value corrected for the number of tests, verdict."""
    table = Table("test", "worst", "value", "99 % band", "p, corrected", "verdict")
    for row in rows:
        worst = row.worst
        band = f"{worst.low:.3f} to {worst.high:.3f}" if worst.low else f"up to {worst.high:.3f}"
        verdict = Text("passes", "green") if row.passed else Text("FAILS", "bold red")
        table.add_row(worst.test, worst.of, f"{worst.value:.3f}", band, _p(row.adjusted), verdict)
    console.print(table)


def print_validation(found: Validation) -> None:
    """The tests and what they say together."""
    print_tests(found.rows)
    failed = sum(not row.passed for row in found.rows)
    said = f"{failed} of {len(found.rows)} tests fail" if failed else f"all {len(found.rows)} tests pass"
    surveys = found.record["surveys"]
    console.print(f"{said} at the family-wise level {found.level:g} (Bonferroni within a test, Holm over tests); {surveys} fresh surveys")


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"
