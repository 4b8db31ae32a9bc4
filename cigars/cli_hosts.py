"""The commands `cigars hosts ...`."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from cigars.devices import Device, use_device
from cigars.progress import progress_bars
from cigars.terminal import console, errors

__all__ = ["hosts_app"]

hosts_app = typer.Typer(help="Host galaxies: template magnitudes of a table of galaxies.", no_args_is_help=True)


class Backend(enum.StrEnum):
    """SED model of `hosts magnitudes`."""

    ssp = "ssp"
    emulator = "emulator"


class Convention(enum.StrEnum):
    """How the SSPs are summed."""

    native = "native"
    fsps = "fsps"


@hosts_app.command("magnitudes")
def hosts_magnitudes(
    table: Annotated[Path, typer.Argument(help="Galaxies: .fits, .parquet, .ecsv or .csv.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Table to write, with columns M_{band} added.")],
    bands: Annotated[str, typer.Option(help="A speclite group such as lsst2023, or bands separated by commas.")] = "lsst2023",
    bands_file: Annotated[
        Path | None, typer.Option(help="Throughputs, .npz with {b}_wavelength and {b}_transmission; then --bands u,g,r.")
    ] = None,
    backend: Annotated[Backend, typer.Option(help="SED model.")] = Backend.ssp,
    emulator_file: Annotated[Path | None, typer.Option(help="Speculator network, for --backend emulator.")] = None,
    convention: Annotated[Convention, typer.Option(help="How the SSPs are summed.")] = Convention.native,
    nebular: Annotated[bool, typer.Option(help="Gas emission.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")] = False,
) -> None:
    """Template absolute magnitudes M_b of galaxies: m_b = M_b + 5 log10(d_M / 10 pc), d_M the transverse comoving distance."""
    from cigars.galaxies import add_magnitudes
    from cigars.tables import check_table

    check_table(output, overwrite)
    use_device(Device.cpu)
    with progress_bars(errors) as bars:
        number = add_magnitudes(
            table, output, bands, str(bands_file) if bands_file else None, backend.value, str(emulator_file) if emulator_file else None,
            convention.value, nebular, overwrite, lambda done, total: bars("galaxies", done, total),
        )  # fmt: skip
    console.print(f"magnitudes of {number} galaxies in {output}")
