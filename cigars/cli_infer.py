"""`cigars infer`: the posterior of a catalogue, by the networks of a run or by the exact likelihood."""

from __future__ import annotations

import enum
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cigars.config import Config, ConfigError, presets
from cigars.convergence import convergence
from cigars.devices import Device, torch_device, use_device
from cigars.exact_checks import MAX_PAIRS
from cigars.progress import progress_bars
from cigars.runs import METADATA
from cigars.terminal import console, duration, errors, given, print_parameters

__all__ = ["Method", "assumed", "infer", "run_catalogue_exposure"]


class Method(enum.StrEnum):
    """By networks trained on simulations, or by the exact likelihood."""

    networks = "networks"
    exact = "exact"


def infer(
    first: Annotated[
        Path,
        typer.Argument(metavar="RUN|CONFIG", help="Run folder that `cigars train` made; left out with --pretrained. exact: or a preset."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Posterior to write, NetCDF (ArviZ InferenceData).")],
    second: Annotated[Path | None, typer.Argument(metavar="CATALOGUE", help="Catalogue: .fits, .parquet, .ecsv or .csv.")] = None,
    pretrained: Annotated[
        str | None, typer.Option(metavar="NAME", help="A posterior that comes with the package, in place of a run folder.")
    ] = None,
    method: Annotated[
        Method, typer.Option(help="networks, or exact: the likelihood itself by Hamiltonian Monte Carlo, for small catalogues.")
    ] = Method.networks,
    draws: Annotated[int, typer.Option(min=1, max=1_000_000, help="Joint posterior draws, in all.")] = 1000,
    hide: Annotated[
        list[str] | None, typer.Option(metavar="z_spec|sn", help="Leave out spectroscopic redshifts or supernova light.")
    ] = None,
    exposure: Annotated[
        float | None,
        typer.Option(
            min=0, help="Area × time of the survey relative to the size that the run was configured for, see `cigars config exposure`."
        ),
    ] = None,
    drop_outside: Annotated[
        bool,
        typer.Option("--drop-outside", help="Leave out objects unlike all of the training, or beyond the bank, instead of refusing."),
    ] = False,
    hosts: Annotated[
        Path | None, typer.Option(help="Table of every host's posterior, .fits, .parquet or .ecsv; OUTPUT-hosts.fits by default.")
    ] = None,
    chains: Annotated[int | None, typer.Option(min=1, max=64, help="exact: chains; 2 unless given.")] = None,
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
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="exact: change one key of the configuration.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Seed of the draws.")] = 0,
    device: Annotated[Device, typer.Option("--device", help="cpu, cuda, or auto: cuda where there is one.")] = Device.auto,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")] = False,
) -> None:
    """Joint posterior of the global parameters and of every host and supernova in a catalogue."""
    from cigars import pipeline
    from cigars.catalogue import read_catalogue
    from cigars.posterior import Posterior

    hosts = hosts or output.with_name(f"{output.stem}-hosts.fits")
    if hosts == output:
        raise ConfigError(f"--hosts: expected another file than the posterior {output}, got the same")
    own = given(chains=chains, warmup=warmup, target_accept=target_accept, max_pairs=max_pairs)
    options: dict[str, Any] = {
        "draws": draws, "seed": seed, "hidden": hide or (), "drop_outside": drop_outside, "output": output, "hosts": hosts,
        "overwrite": overwrite, "command": shlex.join(["cigars", *sys.argv[1:]]),
    }  # fmt: skip
    if method is Method.exact:
        config, catalogue = _config_and_catalogue(first, second, pretrained, settings or ())
        table = read_catalogue(catalogue, config.band_names)
        pipeline.hide(table.observations, hide or ())
        use_device(device)
        with progress_bars(errors) as bars:
            posterior = pipeline.infer_exact(config, table, exposure=1.0 if exposure is None else exposure, report=bars, **own, **options)
    else:
        if wrong := [f"--{name.replace('_', '-')}" for name in own] + ["--set"] * bool(settings):
            raise ConfigError(f"infer: expected --method exact with {', '.join(wrong)}, got networks; leave them out or add it")
        run, catalogue, exposed = run_catalogue_exposure(first, second, pretrained, exposure)
        table = read_catalogue(catalogue, pipeline.run_config(run).band_names)
        pipeline.hide(table.observations, hide or ())
        where = torch_device(device)
        with progress_bars(errors) as bars:
            posterior = pipeline.infer(run, table, device=where, exposure=exposed, report=bars, **options)
    asked = Posterior(posterior)
    print_parameters(asked)
    if (found := convergence(asked.attributes)) is not None:
        console.print(f"{found.said}; {duration(float(asked.attributes['seconds']))}")
    kept = len(asked.ids)
    of = "the bank of hosts" if method is Method.exact else "the training"
    left = f"; {len(table.id) - kept} outside the range of {of} were left out" if kept < len(table.id) else ""
    console.print(f"posterior of {kept} objects in {output}, a row for each in {hosts}{left}")


def run_catalogue_exposure(first: Path, second: Path | None, pretrained: str | None, exposure: float | None) -> tuple[Path, Path, float]:
    """Folder of a run, catalogue and its exposure, from RUN CATALOGUE or --pretrained NAME CATALOGUE; raises ConfigError for others."""
    from cigars.pretrained import chosen

    if second is None and pretrained is None:
        raise ConfigError("expected a run folder and a catalogue, got one name; give RUN CATALOGUE, or --pretrained NAME CATALOGUE")
    run, exposed = chosen(first if second else None, pretrained, exposure)
    return run, second or first, assumed(run, exposed)


def assumed(run: Path, exposure: float | None) -> float:
    """The exposure of a catalogue that was given, else 1, which is said where the run knows others."""
    from cigars.runs import run_config
    from cigars.training_range import size_in_words

    if exposure is not None:
        return exposure
    config = run_config(run)
    if config.size.exposure[0] < config.size.exposure[1]:
        said = f"exposure 1 is assumed, {size_in_words(config, 1.0)}; give --exposure for another"
        errors.print(said, style="yellow", soft_wrap=True, highlight=False)
    return 1.0


def _config_and_catalogue(first: Path, second: Path | None, pretrained: str | None, settings: list[str] | tuple) -> tuple[Config, Path]:
    """Configuration of a preset, a TOML file or a run folder, before any truncation, and the catalogue."""
    from cigars import pipeline
    from cigars.truncation import untruncated

    if pretrained is not None:
        raise ConfigError("infer: expected no --pretrained with --method exact, which needs no network; give CONFIG CATALOGUE")
    if second is None:
        raise ConfigError("infer: expected a configuration and a catalogue, got one name; give CONFIG CATALOGUE with --method exact")
    # a folder that happens to be called like a preset, as `cigars demo` makes one, is no run
    preset = str(first) in presets() and not (first / METADATA).is_file()
    if preset or not first.is_dir():
        return pipeline.configured(str(first), settings), second
    if settings:
        raise ConfigError("infer: expected no --set with a run folder, whose configuration is used as it is; give a preset or a TOML file")
    return untruncated(first), second
