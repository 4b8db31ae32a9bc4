"""The commands `cigars store ...`, and `cigars simulate --store`."""

from __future__ import annotations

import itertools
from typing import Annotated

import typer
from rich.table import Table

from cigars.cluster import Cluster
from cigars.config import Config, ConfigError
from cigars.devices import Device, use_device
from cigars.manifest import numbers, spans
from cigars.progress import progress_bars
from cigars.store import Store, create_store, open_store
from cigars.terminal import console, errors, stopped

__all__ = ["fill_store", "store_app"]

store_app = typer.Typer(help="Stores of simulated surveys: what is in them, whether it is sound, several joined.", no_args_is_help=True)

StoreArgument = Annotated[str, typer.Argument(metavar="STORE", help="Folder or address (s3://…) of a store.")]


def fill_store(
    config: Config, url: str, device: Device, again: str, *, surveys: int = 1024, first: int = 0, stream: str = "training",
    shard: int = 256, scheduler: str | None = None, cluster: Cluster | None = None, workers: int | None = None,
) -> None:  # fmt: skip
    """Write surveys first … first + surveys − 1 of a stream into a store, on a cluster; `again` is the command that continues."""
    from cigars.cluster import connect, fill
    from cigars.surveys import survey_source

    for name, what in (("workers", workers), ("cluster", cluster)):
        if scheduler and what:
            raise ConfigError(f"--{name}: expected none with --scheduler, which has workers of its own, got both; leave one out")
    use_device(device)
    store = create_store(url, config, stream, shard)
    written = 0
    try:
        with progress_bars(errors) as bars:
            if store.missing(first, surveys):
                if not scheduler:
                    survey_source(config, stream, report=bars)  # the host bank: built once here rather than by every worker
                with connect(scheduler, cluster or Cluster.local, workers) as client:
                    errors.print(f"dashboard: {client.dashboard_link}", soft_wrap=True, highlight=False)
                    written = fill(client, store, first, surveys, bars)
    except KeyboardInterrupt:
        stopped(again)
        raise typer.Exit(130) from None
    console.print(f"{written} surveys written; {_content(store)}", soft_wrap=True)


def _content(store: Store) -> str:
    records = store.finished()
    count, objects = (sum(getattr(r, name) for r in records.values()) for name in ("count", "objects"))
    return f"{store.url} holds {count:,} surveys with {objects:,} objects in {sum(r.size for r in records.values()) / 1e6:,.1f} MB"


@store_app.command()
def info(store: StoreArgument) -> None:
    """What a store holds: surveys, what they were simulated with, and what is missing in between."""
    opened = open_store(store)
    m, records = opened.manifest, opened.finished()
    held = spans(records, m.shard)
    gaps = ", ".join(f"{before + 1}-{after - 1}" for (_, before), (after, _) in itertools.pairwise([(0, -1), *held]) if after > before + 1)
    versions = sorted({", ".join(f"{k} {v}" for k, v in r.versions.items()) for r in records.values()})
    table = Table(show_header=False)
    for name, value in (
        ("configuration", m.configuration.name),
        ("fingerprint", m.fingerprint),
        ("seed, stream", f"{m.configuration.seed}, {m.stream}"),
        ("surveys a shard", str(m.shard)),
        ("surveys", numbers(records, m.shard)),
        ("missing before the last", gaps or "none"),
        *(("made with", line) for line in versions),
    ):
        table.add_row(name, value)
    console.print(table)
    console.print(_content(opened), soft_wrap=True)


@store_app.command()
def verify(
    store: StoreArgument,
    discard: Annotated[
        bool,
        typer.Option("--discard", help="Remove what is damaged or left over, so that it can be written again; let nobody write meanwhile."),
    ] = False,
) -> None:
    """Compare every shard with its checksum; exit code 1 and a line for each that differs."""
    from cigars.store_upkeep import verify as check

    opened = open_store(store)
    with progress_bars(errors) as bars:
        verdict = check(opened, discard, bars)
    for fault in verdict.faults:
        errors.print(fault, style="red", soft_wrap=True, highlight=False)
    if verdict.leftovers:
        errors.print(f"{len(verdict.leftovers)} files without a record, of a writer that works or was interrupted: {verdict.leftovers[:3]}")
    sound = sum(r.count for r in verdict.sound.values())
    removed = "; the damaged and the left over were removed" if discard and (verdict.faults or verdict.leftovers) else ""
    console.print(f"{sound:,} surveys are sound, {len(verdict.faults)} shards are not{removed}")
    if verdict.faults:
        raise typer.Exit(1)


@store_app.command()
def merge(
    stores: Annotated[list[str], typer.Argument(metavar="STORE...", help="Stores of one configuration, seed and stream.")],
    output: Annotated[str, typer.Option("--output", "-o", help="Store to write; shards that it has stay as they are.")],
) -> None:
    """Copy the shards of several stores into one."""
    from cigars.store_upkeep import merge as join

    with progress_bars(errors) as bars:
        merged = join(stores, output, bars)
    console.print(_content(merged), soft_wrap=True)
