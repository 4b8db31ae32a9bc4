"""`cigars ablate`: which data carry the information?"""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from cigars.ablate import ABLATION, DENSITIES
from cigars.devices import Device, use_device
from cigars.files import check_writable
from cigars.terminal import console, duration, round_bars, stopped

if TYPE_CHECKING:
    from cigars.ablate import Ablation, Estimate

__all__ = ["ablate"]


def ablate(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="A preset or a TOML file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make, for checkpoints and the result.")],
    drop: Annotated[
        list[str] | None,
        typer.Option(
            metavar="INPUT", help='What to hide, e.g. "host photometry", "band u" or "stretch + colour"; all but single bands by default.'
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue in the folder; --drop may name inputs beside those of before.")
    ] = False,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of surveys and networks, in place of the configuration's.")] = None,
    device: Annotated[Device, typer.Option("--device", help="cpu, cuda, or auto: cuda where there is one.")] = Device.auto,
    overwrite: Annotated[bool, typer.Option("--overwrite", help=f"Replace {ABLATION} if it exists.")] = False,
) -> None:
    """Retrain with one input hidden at a time: what its loss costs in nats, and in the widths of the posterior.

    Selection still knows what is hidden: the same objects are detected, and their number and the exposure are never hidden.
    """
    from cigars.ablate import ablate, tabulated, variants, write_ablation
    from cigars.pipeline import configured

    result, started = output / ABLATION, time.monotonic()
    if output.exists():  # it is made later
        check_writable(result, overwrite)
    chosen = configured(config, settings or (), seed)
    names = [one.name for one in variants(chosen, drop or (), tabulated(output) if resume else ())]
    torch_device = use_device(device)
    try:
        with round_bars("variant", lambda number, of: f"{number} of {of}: {names[number - 1]} hidden") as bars:
            found = ablate(chosen, drop or (), output, device=torch_device, resume=resume, report=bars)
    except KeyboardInterrupt:
        words = [w for w in sys.argv[1:] if w != "--resume"]
        stopped(shlex.join(["cigars", *words, "--resume"]))
        raise typer.Exit(130) from None
    write_ablation(result, found, overwrite)
    _print(found)
    console.print(f"{duration(time.monotonic() - started)}; every parameter in {result}")


def _print(found: Ablation) -> None:
    free = [name for name in DENSITIES[:1] if name in found.rows[0].widths]
    area = found.rows[0].area is not None
    numbers = ["loss / nats", "lost / nats", *("σ(Ω_m)", "ratio") * len(free), *["√det ratio"] * area]
    table = Table("hidden", *(Column(title, no_wrap=True) for title in numbers))
    for number, row in enumerate(found.rows):
        ratios = [*(row.widths[name] for name in free), *([row.area] if row.area else [])]
        said = [_said(e) if number else "1" for e in ratios]
        values = [word for name in free for word in (f"{row.sd[name]:.3f}", said.pop(0))]
        table.add_row(row.hidden, f"{row.loss.value:.2f}", _said(row.lost, "+") if number else "0", *values, *said)
    console.print(table)
    surveys = found.record["fresh_surveys"]
    console.print(f"±: paired, over {surveys} fresh surveys; of the networks only another --seed tells. √det: of (Ω_m, Ω_Λ)")


def _said(estimate: Estimate, sign: str = "") -> str:
    return f"{estimate.value:{sign}.2f} ± {estimate.error:.2f}"
