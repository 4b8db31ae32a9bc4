"""The command line: `cigars simulate | train | infer | report | ingest | demo | config | hosts`."""

from __future__ import annotations

import enum
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cigars.config import Config, ConfigError, fingerprint, presets
from cigars.progress import progress_bars

if TYPE_CHECKING:
    import arviz

__all__ = ["app", "main"]

app = typer.Typer(
    name="cigars",
    help="Cosmology from type Ia supernovae and the photometry of their hosts, by simulation-based inference.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
config_app = typer.Typer(help="Configurations: what a run simulates and how it trains.", no_args_is_help=True)
hosts_app = typer.Typer(help="Host galaxies: template magnitudes of a table of galaxies.", no_args_is_help=True)
app.add_typer(config_app, name="config")
app.add_typer(hosts_app, name="hosts")
console = Console()
errors = Console(stderr=True)


class Device(enum.StrEnum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Backend(enum.StrEnum):
    """SED model of `hosts magnitudes`."""

    ssp = "ssp"
    emulator = "emulator"


class Convention(enum.StrEnum):
    """How the SSPs are summed."""

    native = "native"
    fsps = "fsps"


ConfigArgument = Annotated[str, typer.Argument(metavar="CONFIG", help="A preset (see `cigars config list`) or a TOML file.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key, e.g. size.expected_supernovae=800.")
]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of the random streams, in place of the configuration's.")]
DeviceOption = Annotated[Device, typer.Option("--device", help="cpu, cuda, or auto: cuda where there is one.")]
PosteriorSeed = Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Seed of the draws.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")]


@app.command()
def simulate(
    config: ConfigArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Catalogue to write: .fits, .parquet, .ecsv or .csv.")],
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
) -> None:
    """Write one mock survey as a catalogue, with its truth in a separate file."""
    from cigars import pipeline

    chosen = pipeline.configured(config, settings or (), seed)
    truth = truth or output.with_name(f"{output.stem}-truth{'.ecsv' if output.suffix.lower() == '.csv' else output.suffix}")
    _check_tables([output, truth], overwrite)
    if truth.suffix.lower() == ".csv" or truth == output:
        raise ConfigError(f"--truth: expected another .fits, .parquet or .ecsv file beside {output}, got {truth}")
    use_device(device)
    with progress_bars(errors) as bars:
        catalogue, true = pipeline.simulate(chosen, theta=_values(theta or []), from_prior=from_prior, number=number, report=bars)
    _write_mock(chosen, catalogue, true, output, truth, overwrite)
    console.print(f"{len(catalogue.id)} supernovae in {output}, their truth in {truth}")


@app.command()
def train(
    config: ConfigArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Run folder to make.")],
    resume: Annotated[bool, typer.Option("--resume", help="Continue the training in the run folder.")] = False,
    settings: Settings = None,
    seed: Seed = None,
    device: DeviceOption = Device.auto,
) -> None:
    """Train the posteriors of a configuration on live simulations, into a run folder; Ctrl-C keeps what --resume needs."""
    from cigars import pipeline

    chosen = pipeline.configured(config, settings or (), seed)
    torch_device = use_device(device)
    started = time.monotonic()
    try:
        with progress_bars(errors) as bars:
            pipeline.train(chosen, output, device=torch_device, resume=resume, report=bars)
    except KeyboardInterrupt:
        again = ["cigars", "train", config, "-o", str(output), *(w for s in settings or () for w in ("--set", s))]
        again += [*(["--seed", str(seed)] if seed is not None else []), "--device", device.value, "--resume"]
        errors.print(f"stopped; continue with: {_escaped(shlex.join(again))}", style="yellow", soft_wrap=True, highlight=False)
        raise typer.Exit(130) from None
    console.print(f"trained {chosen.name} in {_duration(time.monotonic() - started)}; run folder {output}")


@app.command()
def infer(
    run: Annotated[Path, typer.Argument(help="Run folder that `cigars train` made.")],
    catalogue: Annotated[Path, typer.Argument(help="Catalogue: .fits, .parquet, .ecsv or .csv.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Posterior to write, NetCDF (ArviZ InferenceData).")],
    draws: Annotated[int, typer.Option(min=1, max=1_000_000, help="Joint posterior draws.")] = 1000,
    hide: Annotated[
        list[str] | None, typer.Option(metavar="z_spec|sn", help="Leave out spectroscopic redshifts or supernova light.")
    ] = None,
    drop_outside: Annotated[
        bool, typer.Option("--drop-outside", help="Leave out objects beyond the range of the training instead of refusing.")
    ] = False,
    seed: PosteriorSeed = 0,
    device: DeviceOption = Device.auto,
    overwrite: Overwrite = False,
) -> None:
    """Joint posterior of the global parameters and of every host and supernova in a catalogue."""
    from cigars import pipeline
    from cigars.catalogue import read_catalogue

    _check_outputs([output], overwrite)
    table = read_catalogue(catalogue, pipeline.run_config(run).band_names)
    pipeline.hide(table.observations, hide or ())
    torch_device = use_device(device)
    command = shlex.join(["cigars", *sys.argv[1:]])
    with console.status(f"drawing {draws} times Θ and {len(table.id)} objects"):
        posterior = pipeline.infer(
            run, table, draws=draws, seed=seed, device=torch_device, hidden=hide or (), drop_outside=drop_outside, command=command
        )
    pipeline.save_posterior(output, posterior, overwrite=overwrite)
    print_parameters(posterior)
    kept = posterior["posterior"].sizes["object"]
    left = f"; {len(table.id) - kept} outside the range of the training were left out" if kept < len(table.id) else ""
    console.print(f"posterior of {kept} objects in {output}{left}")


@app.command()
def report(
    posterior: Annotated[Path, typer.Argument(help="Posterior that `cigars infer` wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="HTML page to write.")],
    run: Annotated[Path | None, typer.Option(help="Run folder, for training curves and calibration.")] = None,
    truth: Annotated[Path | None, typer.Option(help="Truth of a mock.")] = None,
    figures: Annotated[Path | None, typer.Option(help="Folder that receives each figure as PDF.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write one self-contained HTML page about a posterior."""
    from cigars import pipeline
    from cigars.catalogue import read_truth

    _check_outputs([output], overwrite)
    data = pipeline.read_posterior(posterior)
    true = read_truth(truth) if truth else None
    pipeline.report(output, data, run=run, truth=true, overwrite=overwrite, figures=figures)
    console.print(f"report in {output}")


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

    _check_tables([output], overwrite)
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
    settings: Settings = None,
    seed: Seed = None,
    device: DeviceOption = Device.auto,
) -> None:
    """From nothing to a posterior in minutes: simulate, train, infer a mock that training never saw, report."""
    from cigars import pipeline

    config = pipeline.configured("demo", settings or (), seed)
    torch_device = use_device(device)
    run, mock, truth_file, posterior_file, page = (
        folder / n for n in ("run", "mock.fits", "mock-truth.fits", "posterior.nc", "report.html")
    )
    folder.mkdir(parents=True, exist_ok=True)
    seconds: dict[str, float] = {}
    started = time.monotonic()
    with progress_bars(errors) as bars:
        catalogue, truth = pipeline.simulate(config, report=bars)
        seconds["mock"] = time.monotonic() - started
        _write_mock(config, catalogue, truth, mock, truth_file, overwrite=True)
        finished = (run / pipeline.CALIBRATION).exists() and pipeline.stored_fingerprint(run) == pipeline.run_fingerprint(config)
        try:
            if not finished:
                pipeline.train(config, run, device=torch_device, resume=(run / "checkpoints").exists(), report=bars)
        except KeyboardInterrupt:
            errors.print("stopped; the same command continues the training", style="yellow")
            raise typer.Exit(130) from None
    begun = time.monotonic()
    posterior = pipeline.infer(run, catalogue, seed=config.seed, device=torch_device, command=shlex.join(["cigars", *sys.argv[1:]]))
    seconds["inference"] = time.monotonic() - begun
    pipeline.save_posterior(posterior_file, posterior, overwrite=True)
    pipeline.report(page, posterior, run=run, truth=truth, timings=seconds, overwrite=True)
    print_parameters(posterior, {k: float(v) for k, v in truth.theta._asdict().items()})
    _print_redshifts(posterior, truth)
    console.print(f"{_duration(time.monotonic() - started)} in all; open [bold]{page}[/bold]")


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

    console.print(to_toml(pipeline.configured(config, settings or ())), markup=False, highlight=False, soft_wrap=True)


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
    overwrite: Overwrite = False,
) -> None:
    """Template absolute magnitudes M_b of galaxies: m_b = M_b + 5 log10(d_M / 10 pc), d_M the transverse comoving distance."""
    from cigars.galaxies import add_magnitudes

    _check_tables([output], overwrite)
    use_device(Device.cpu)
    with progress_bars(errors) as bars:
        number = add_magnitudes(
            table, output, bands, str(bands_file) if bands_file else None, backend.value, str(emulator_file) if emulator_file else None,
            convention.value, nebular, overwrite, lambda done, total: bars("galaxies", done, total),
        )  # fmt: skip
    console.print(f"magnitudes of {number} galaxies in {output}")


def use_device(device: Device) -> str:
    """Point JAX and torch at a device before either starts; every CPU core becomes a JAX device. Returns torch's name of it."""
    import os

    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads of torch that spin starve those of JAX
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the two share the memory of a GPU
    import jax

    from simulators.hosts import cache_folder

    chosen = "cuda" if device is not Device.cpu and _cuda() else "cpu"
    if device is Device.cuda and chosen == "cpu":
        raise ConfigError("--device: expected a CUDA device, torch finds none; use --device cpu, or install the cuda extra")
    if not jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]  # compiling a survey takes 20 s
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla" / fingerprint(_processor())))
    if chosen == "cpu":
        jax.config.update("jax_platforms", "cpu")
        with suppress(RuntimeError):  # JAX runs already, as where a program calls `main` twice, and keeps its devices
            jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    return chosen


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _processor() -> list[str]:
    """What a compiled program depends on: a folder shared by different machines must not mix theirs."""
    import platform

    cpu = Path("/proc/cpuinfo")
    flags = [line for line in cpu.read_text().splitlines() if line.startswith(("flags", "Features"))] if cpu.exists() else []
    return [platform.machine(), platform.processor(), *flags[:1]]


def print_parameters(posterior: arviz.InferenceData, truth: dict[str, float] | None = None) -> None:
    """Posterior mean and standard deviation of every global parameter, beside the truth where it is known."""
    from cigars.report.inputs import ReportInputs
    from cigars.report.tables import format_value, label_text, parameter_table

    table = Table("parameter", "posterior", "±", *(["truth", "pull"] if truth else []))
    for row in parameter_table(ReportInputs(posterior, theta_true=truth)):
        true = [format_value(row.truth, row.sd), f"{row.pull:+.1f}"] if truth and row.truth is not None else []
        table.add_row(label_text(row.name), format_value(row.mean, row.sd), format_value(row.sd, row.sd), *true)
    console.print(table)


def _print_redshifts(posterior: arviz.InferenceData, truth: Any) -> None:
    from cigars.report.statistics import redshift_statistics

    z = posterior["posterior"]["z"].mean(("chain", "draw")).values
    s = redshift_statistics(z, truth.latents.z)
    console.print(f"host redshifts: NMAD {s.nmad:.4f}, outliers (> 0.15) {s.outliers:.2%}, bias {s.bias:+.4f}")


def _write_mock(config: Config, catalogue: Any, truth: Any, output: Path, truth_file: Path, overwrite: bool) -> None:
    from cigars import pipeline
    from cigars.catalogue import write_catalogue, write_truth

    meta = {"config": config.name, "seed": config.seed, "fingerprint": pipeline.run_fingerprint(config)}
    write_catalogue(output, catalogue, config.band_names, meta, overwrite=overwrite)
    write_truth(truth_file, truth.id, truth.latents, truth.theta, meta, overwrite=overwrite)


def _values(assignments: Sequence[str]) -> dict[str, float]:
    values = {}
    for assignment in assignments:
        name, _, text = assignment.partition("=")
        try:
            values[name.strip()] = float(text)
        except ValueError:
            raise ConfigError(f"--theta: expected name=number, got {assignment!r}") from None
    return values


def _check_outputs(paths: Sequence[Path], overwrite: bool) -> None:
    """Whether the outputs can be written, before the work rather than after it."""
    for path in paths:
        if path.exists() and not overwrite:
            raise ConfigError(f"{path}: exists already and is left as it is; name another file or add --overwrite")
        if not path.parent.is_dir():
            raise ConfigError(f"{path}: folder {str(path.parent)!r} does not exist; make it first")


def _check_tables(paths: Sequence[Path], overwrite: bool) -> None:
    from cigars.tables import format_of

    for path in paths:
        format_of(path)
    _check_outputs(paths, overwrite)


def _duration(seconds: float) -> str:
    from cigars.report.tables import format_duration

    return format_duration(seconds)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; bad input gives one line on standard error and exit code 2."""
    try:
        code = app(args=list(arguments) if arguments is not None else None, standalone_mode=False)
        return int(code or 0)
    except typer.Exit as stop:
        return stop.exit_code
    except OSError as error:
        return _complain(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))
    except (ValueError, OverflowError, MemoryError) as error:
        return _complain(str(error))
    except (KeyboardInterrupt, typer.Abort):
        return _complain("interrupted", 130)
    except Exception as error:
        if hasattr(error, "format_message"):  # a usage error of the command line itself; without words it has shown the help
            return _complain(message) if (message := error.format_message()) else 2
        raise


def _complain(message: str | None, code: int = 2) -> int:
    line = " ".join(str(message or "unknown error").split())
    errors.print(f"[red]error:[/red] {_escaped(line)}", soft_wrap=True, highlight=False)
    return code


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
