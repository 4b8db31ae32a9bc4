"""What the command line shows: tables, progress by round, one-line warnings and errors."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cigars.catalogue_checks import TargetWarning
from cigars.progress import Reporter, progress_bars

if TYPE_CHECKING:
    from cigars.catalogue import Truth
    from cigars.posterior import Posterior

__all__ = [
    "complain",
    "console",
    "duration",
    "errors",
    "given",
    "one_line_warnings",
    "print_parameters",
    "print_redshifts",
    "round_bars",
    "stopped",
]

# names of files, objects and models are shown as they are
console = Console(markup=False, emoji=False)
errors = Console(stderr=True, markup=False, emoji=False)


def print_parameters(posterior: Posterior, truth: dict[str, float] | None = None) -> None:
    """Posterior mean and standard deviation of every global parameter, beside the truth where it is known."""
    from cigars.report.inputs import ReportInputs
    from cigars.report.tables import format_value, label_text, parameter_table

    table = Table("parameter", "posterior", "±", *(["truth", "pull"] if truth else []))
    for row in parameter_table(ReportInputs(posterior, theta_true=truth)):
        true = [format_value(row.truth, row.sd), f"{row.pull:+.1f}"] if truth and row.truth is not None else []
        table.add_row(label_text(row.name), format_value(row.mean, row.sd), format_value(row.sd, row.sd), *true)
    console.print(table)


def print_redshifts(posterior: Posterior, truth: Truth) -> None:
    """How well the posterior means of the redshifts agree with the truth of a mock."""
    from cigars.report.statistics import redshift_statistics

    s = redshift_statistics(posterior["z"].mean(0, dtype=np.float64), truth.latents.z)
    console.print(f"host redshifts: NMAD {s.nmad:.4f}, outliers (> 0.15) {s.outliers:.2%}, bias {s.bias:+.4f}")


@contextmanager
def round_bars(
    heading: str = "round", words: Callable[[int, int], str] = lambda number, of: f"round {number} of {of}"
) -> Iterator[Reporter]:
    """Progress bars as `progress_bars`, anew under the `words` of its number and their number whenever the stage `heading` is reported."""
    with ExitStack() as stack:
        bars = stack.enter_context(progress_bars(errors))

        def report(stage: str, done: float, total: float, **metrics: float) -> None:
            nonlocal bars
            if stage != heading:
                bars(stage, done, total, **metrics)
                return
            stack.close()
            errors.print(words(int(done), int(total)), style="bold")
            bars = stack.enter_context(progress_bars(errors))

        yield report


@contextmanager
def one_line_warnings() -> Iterator[None]:
    """Show each `TargetWarning` as one line on standard error, where a program would show its source."""
    with warnings.catch_warnings():
        otherwise = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, TargetWarning):
                errors.print(Text.assemble(("warning:", "yellow"), " ", str(message)), soft_wrap=True, highlight=False)
            else:
                otherwise(message, category, *where, **more)

        warnings.simplefilter("always", TargetWarning)
        warnings.showwarning = show  # type: ignore[assignment]
        yield


def given(**options: Any) -> dict[str, Any]:
    """Those options of a command that were given, whose default is None, by name."""
    return {name: value for name, value in options.items() if value is not None}


def stopped(command: str) -> None:
    """Say how an interrupted training goes on."""
    errors.print(f"stopped; continue with: {command}", style="yellow", soft_wrap=True, highlight=False)


def duration(seconds: float) -> str:
    """Seconds in words."""
    from cigars.report.tables import format_duration

    return format_duration(seconds)


def complain(message: str, code: int = 2) -> int:
    """Show an error in one line; returns the exit code."""
    line = " ".join(message.split())
    errors.print(Text.assemble(("error:", "red"), " ", line), soft_wrap=True, highlight=False)
    return code
