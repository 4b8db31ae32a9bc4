"""The command line: `cigars simulate | train | infer | report`, and what goes with them, see `cigars --help`."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from cigars.cli_ablate import ablate
from cigars.cli_check import check
from cigars.cli_compare import compare
from cigars.cli_crosscheck import crosscheck
from cigars.cli_hosts import hosts_app
from cigars.cli_infer import infer
from cigars.cli_posterior import combine, products
from cigars.cli_store import fill_store, store_app
from cigars.cli_validate import validate
from cigars.cluster import Cluster
from cigars.config import ConfigError, presets
from cigars.devices import Device, use_device
from cigars.files import check_writable
from cigars.progress import progress_bars
from cigars.terminal import (
    complain,
    console,
    duration,
    errors,
    given,
    one_line_warnings,
    print_parameters,
    print_redshifts,
    round_bars,
    stopped,
)

__all__ = ["app", "main"]

app = typer.Typer(
    name="cigars",
    help="Cosmology from type Ia supernovae and the photometry of their hosts, by simulation-based inference.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
config_app = typer.Typer(help="Configurations: what a run simulates and how it trains.", no_args_is_help=True)
app.add_typer(config_app, name="config")
app.add_typer(hosts_app, name="hosts")
app.add_typer(store_app, name="store")


SHIPPED = "lsst"  # the posterior that the demonstration uses

ConfigArgument = Annotated[str, typer.Argument(metavar="CONFIG", help="A preset (see `cigars config list`) or a TOML file.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key, e.g. size.expected_supernovae=800.")
]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of the random streams, in place of the configuration's.")]
DeviceOption = Annotated[Device, typer.Option("--device", help="cpu, cuda, or auto: cuda where there is one.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")]


@app.command()
def simulate(
    config: ConfigArgument,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Catalogue to write: .fits, .parquet, .ecsv or .csv.")] = None,
    truth: Annotated[Path | None, typer.Option(help="Where the truth goes; beside the catalogue by default.")] = None,
    theta: Annotated[
        list[str] | None, typer.Option("--theta", metavar="NAME=VALUE", help="A global parameter, in place of the fiducial value.")
    ] = None,
    from_prior: Annotated[bool, typer.Option("--from-prior", help="Draw the global parameters from the prior.")] = False,
    number: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Which mock of the seed's stream.")] = 0,
    settings: Settings = None,
    seed: Seed = None,
    device: DeviceOption = Device.auto,
    overwrite: Overwrite = False,
    store: Annotated[str | None, typer.Option(metavar="DIR|URL", help="Write --surveys into a store instead; again continues it.")] = None,
    surveys: Annotated[
        int | None, typer.Option(min=1, max=2**31 - 1, help="How many, for --store; 1,024 unless given; whole shards are written.")
    ] = None,
    first: Annotated[
        int | None, typer.Option(min=0, max=2**31 - 1, help="Number of the first survey, for --store; 0 unless given.")
    ] = None,
    stream: Annotated[str | None, typer.Option(help="Random stream, for --store; `training`, which train reads, unless given.")] = None,
    shard: Annotated[int | None, typer.Option(min=1, max=65536, help="Surveys a file of the store; 256 unless given.")] = None,
    scheduler: Annotated[str | None, typer.Option(metavar="tcp://…", help="A running Dask scheduler, for --store.")] = None,
    cluster: Annotated[
        Cluster | None, typer.Option(help="Workers to start for --store where there is no --scheduler; local unless given.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, max=4096, help="How many of them; one a core by default, one for slurm.")] = None,
) -> None:
    """Write one mock survey as a catalogue, with its truth in a separate file; or many surveys of the prior into a store."""
    from cigars import pipeline
    from cigars.tables import check_table

    chosen = pipeline.configured(config, settings or (), seed)
    filling = given(surveys=surveys, first=first, stream=stream, shard=shard, scheduler=scheduler, cluster=cluster, workers=workers)
    if store is not None:
        if output or truth or theta or from_prior or number or overwrite:
            raise ConfigError(
                "--store: expected none of -o, --truth, --theta, --from-prior, --number, --overwrite, got one; they write a catalogue"
            )
        fill_store(chosen, store, device, shlex.join(["cigars", *sys.argv[1:]]), **filling)
        return
    if output is None:
        raise ConfigError("simulate: expected where to write, got neither; give -o CATALOGUE or --store DIR")
    if filling:
        options = ", ".join(f"--{name}" for name in filling)
        raise ConfigError(f"simulate: expected --store with {options}, got -o; leave them out, --number chooses another mock")
    truth = truth or output.with_name(f"{output.stem}-truth{'.ecsv' if output.suffix.lower() == '.csv' else output.suffix}")
    for path in (output, truth):
        check_table(path, overwrite)
    if truth.suffix.lower() == ".csv" or truth == output:
        raise ConfigError(f"--truth: expected another .fits, .parquet or .ecsv file beside {output}, got {truth}")
    use_device(device)
    with progress_bars(errors) as bars:
        catalogue, true = pipeline.simulate(chosen, theta=_values(theta or []), from_prior=from_prior, number=number, report=bars)
    pipeline.write_mock(chosen, catalogue, true, output, truth, overwrite=overwrite)
    console.print(f"{len(catalogue.id)} supernovae in {output}, their truth in {truth}")


@app.command()
def train(
    config: ConfigArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Run folder to make.")],
    target: Annotated[
        Path | None, typer.Option(help="Catalogue to train for: after each round the prior is cut to where its posterior is.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds of that; 2 unless given.")] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="RUN",
            help="With --target: run folder of this model, whose summary the first round then has.",
        ),
    ] = None,
    pretrained: Annotated[
        str | None, typer.Option(metavar="NAME", help="A posterior that comes with the package, in place of the folder of --from.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the training in the run folder.")] = False,
    store: Annotated[str | None, typer.Option(metavar="DIR|URL", help="Store to read the surveys from; see simulate --store.")] = None,
    settings: Settings = None,
    seed: Seed = None,
    device: DeviceOption = Device.auto,
) -> None:
    """Train the posteriors of a configuration on live simulations, into a run folder; Ctrl-C keeps what --resume needs."""
    from cigars import pipeline
    from cigars.catalogue import read_catalogue
    from cigars.pretrained import chosen as chosen_run

    chosen = pipeline.configured(config, settings or (), seed)
    table = read_catalogue(target, chosen.band_names) if target else None
    begin = chosen_run(start, pretrained, None)[0] if start or pretrained else None
    torch_device = use_device(device)
    started = time.monotonic()
    try:
        with round_bars() as bars:
            pipeline.train(
                chosen, output, target=table, rounds=rounds, device=torch_device, resume=resume, report=bars, store=store, start=begin
            )
    except KeyboardInterrupt:
        options = {
            "--target": target, "--rounds": rounds, "--from": start, "--pretrained": pretrained, "--store": store, "--seed": seed,
            "--device": device.value,
        }  # fmt: skip
        again = ["cigars", "train", config, "-o", str(output), *(w for s in settings or () for w in ("--set", s))]
        again += [word for option, value in options.items() if value is not None for word in (option, str(value))]
        stopped(shlex.join([*again, "--resume"]))
        raise typer.Exit(130) from None
    console.print(f"trained {chosen.name} in {duration(time.monotonic() - started)}; run folder {output}")


app.command()(infer)


@app.command()
def report(
    posterior: Annotated[Path, typer.Argument(help="Posterior that `cigars infer` wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="HTML page to write.")],
    run: Annotated[
        Path | None, typer.Option(help="Run folder, for training curves and calibration; the one that made it unless given.")
    ] = None,
    truth: Annotated[Path | None, typer.Option(help="Truth of a mock.")] = None,
    check: Annotated[Path | None, typer.Option(help="JSON that `cigars check` wrote of the same catalogue.")] = None,
    validation: Annotated[
        Path | None, typer.Option(help="JSON that `cigars validate` wrote of the same training; by default what is in the run folder.")
    ] = None,
    figures: Annotated[Path | None, typer.Option(help="Folder that receives each figure as PDF.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write one self-contained HTML page about a posterior."""
    from cigars import pipeline
    from cigars.catalogue import read_truth

    check_writable(output, overwrite)
    data = pipeline.read_posterior(posterior)
    true = read_truth(truth) if truth else None
    pipeline.report(output, data, run=run, truth=true, check=check, validation=validation, overwrite=overwrite, figures=figures)
    console.print(f"report in {output}")


app.command()(validate)
app.command()(check)
app.command()(compare)
app.command()(crosscheck)
app.command()(ablate)
app.command()(products)
app.command()(combine)


@app.command()
def ingest(
    release: Annotated[str, typer.Argument(help="Release to read: des-sn5yr.")],
    directory: Annotated[Path, typer.Argument(help="Folder with the release's own files.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Catalogue to write.")],
    minimum_p_ia: Annotated[
        float, typer.Option("--minimum-p-ia", min=0, max=1, help="Keep objects at least this probably of type Ia.")
    ] = 0.5,
    overwrite: Overwrite = False,
) -> None:
    """Turn a public release of real supernovae into a catalogue, with the count of every quality cut."""
    from cigars import pipeline
    from cigars.catalogue import write_catalogue
    from cigars.ingest import DES_BANDS
    from cigars.tables import check_table

    check_table(output, overwrite)
    catalogue, cuts = pipeline.ingest(release, directory, minimum_p_ia)
    table = Table("cut", "removed", "kept", title=f"{release}: quality cuts")
    for cut in cuts:
        table.add_row(cut.name, f"{cut.removed:,}", f"{cut.kept:,}")
    console.print(table)
    write_catalogue(output, catalogue, DES_BANDS, {"release": release, "minimum_p_ia": minimum_p_ia}, overwrite=overwrite)
    console.print(f"{len(catalogue.id)} supernovae in {output}")


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Folder for the mock, the run, the posterior and the report.")] = Path("demo"),
    train: Annotated[bool, typer.Option("--train", help="Train a small network first, in minutes; --set implies it.")] = False,
    settings: Settings = None,
    seed: Seed = None,
    device: DeviceOption = Device.auto,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace mock, posterior and report if they exist.")] = False,
) -> None:
    """From nothing to a posterior: simulate a mock, infer it by the posterior that comes with the package, report."""
    from cigars.demo import run_demo
    from cigars.pipeline import configured
    from cigars.posterior import Posterior
    from cigars.pretrained import available, path

    shipped = path(SHIPPED) if SHIPPED in available() and not (train or settings) else None
    config, torch_device, started = configured(SHIPPED if shipped else "demo", settings or (), seed), use_device(device), time.monotonic()
    try:
        with progress_bars(errors) as bars:
            made = run_demo(config, folder, torch_device, shlex.join(["cigars", *sys.argv[1:]]), bars, shipped, overwrite)
    except KeyboardInterrupt:
        errors.print("stopped; the same command continues the training", style="yellow")
        raise typer.Exit(130) from None
    posterior = Posterior(made.posterior)
    print_parameters(posterior, {k: float(v) for k, v in made.truth.theta._asdict().items()})
    print_redshifts(posterior, made.truth)
    console.print(f"{duration(time.monotonic() - started)} in all; open {made.page}")


@config_app.command("list")
def config_list() -> None:
    """Names of the presets."""
    for name in presets():
        console.print(name)


@config_app.command("show")
def config_show(config: ConfigArgument, settings: Settings = None) -> None:
    """The whole configuration behind a preset or file, every default written out, as TOML."""
    from cigars import pipeline
    from cigars.config import to_toml

    console.print(to_toml(pipeline.configured(config, settings or ())), highlight=False, soft_wrap=True)


@config_app.command("exposure")
def config_exposure(config: ConfigArgument, settings: Settings = None) -> None:
    """Area × time of a survey of exposure 1, in deg² yr; that of a catalogue over it is its --exposure."""
    from cigars import pipeline
    from cigars.surveys import area_time

    chosen = pipeline.configured(config, settings or ())
    with console.status("hosts"):
        found = area_time(chosen)
    console.print(f"exposure 1 of {chosen.name}: {found:.4g} deg² yr", highlight=False, markup=False)


def _values(assignments: Sequence[str]) -> dict[str, float]:
    values = {}
    for assignment in assignments:
        name, _, text = assignment.partition("=")
        try:
            values[name.strip()] = float(text)
        except ValueError:
            raise ConfigError(f"--theta: expected name=number, got {assignment!r}") from None
    return values


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; bad input gives one line on standard error and exit code 2, with CIGARS_TRACEBACK set where it arose as well."""
    try:
        with one_line_warnings():
            code = app(args=list(arguments) if arguments is not None else None, standalone_mode=False)
        return int(code or 0)
    except typer.Exit as stop:
        return stop.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return complain("interrupted", 130)
    except Exception as error:
        if os.environ.get("CIGARS_TRACEBACK") or (said := _said(error)) is None:
            raise
        return complain(said) if said else 2


def _said(error: Exception) -> str | None:
    """What is wrong with what was asked for, in one line; None for an error that can only be the program's own."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, OSError | ValueError | OverflowError | MemoryError):
        return str(error) or repr(error)
    # a usage error of the command line itself; without words it has shown the help
    return error.format_message() if hasattr(error, "format_message") else None
