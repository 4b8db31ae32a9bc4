"""Progress of long steps in a terminal: a bar for each stage, with rate and time left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

__all__ = ["Bars", "progress_bars"]

NAMES = {
    "hosts": "host bank",
    "validation": "held-out surveys",
    "objects": "objects to learn from",
    "regressor": "local regressor",
    "summaries": "surveys and summaries",
    "encoder": "set encoder",
    "global": "global posterior",
    "local": "local posterior",
    "calibration": "calibration",
}


class _Rate(ProgressColumn):
    """Steps a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s" if speed >= 10 else f"{speed:.2g}/s", style="progress.data.speed")


class Bars:
    """A callback `bars(stage, done, total, **metrics)` that draws one bar a stage."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: float, total: float, **metrics: float) -> None:
        """Set a stage to `done` of `total`; metrics such as `loss` are shown beside the bar."""
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(NAMES.get(stage, stage), total=total, shown="")
        shown = "  ".join(f"{name} {value:.3g}" for name, value in metrics.items() if isinstance(value, int | float))
        changed = {"shown": shown} if metrics else {}
        self._progress.update(self._tasks[stage], completed=done, total=total, **changed)  # type: ignore[arg-type]


@contextmanager
def progress_bars(console: Console) -> Iterator[Bars]:
    """Bars that stay on the screen when their stage is over."""
    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
        _Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[shown]}", style="dim"),
    )
    with Progress(*columns, console=console) as progress:
        yield Bars(progress)
