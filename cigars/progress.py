"""Progress of long steps: in a terminal a bar for each stage, with rate and time left, in 80 columns; in a log the same as lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

__all__ = ["Bars", "Reporter", "progress_bars", "silent"]

Reporter = Callable[..., None]
"""`report(stage, done, total, **metrics)` is told how far a stage is, metrics being numbers such as `loss` and `validation`."""

SILENCE = 60.0  # seconds
NAMES = {
    "hosts": "host bank",
    "validation": "held-out surveys",
    "objects": "objects to learn from",
    "regressor": "local regressor",
    "summaries": "surveys and summaries",
    "encoder": "set encoder",
    "centring": "centring of scores",
    "global": "global posterior",
    "density": "density of summaries",
    "local": "local posterior",
    "calibration": "calibration",
    "fresh": "fresh surveys judged",
    "classifier": "classifier of models",
    "infer": "hosts drawn",
    "pairs": "hosts of each object",
    "pilot": "pilot surveys",
    "estimate": "estimate of Θ",
    "score": "scores of objects",
    "centre": "surveys at their Θ",
    "nearby": "surveys in the box",
    "warm-up": "pilot chains",
    "exact": "exact chains",
}


def silent(*_: object, **__: object) -> None:
    """A reporter that says nothing."""


class _Rate(ProgressColumn):
    """Steps a second: of late, or once the stage is over on the whole."""

    def render(self, task: Task) -> Text:
        speed = task.completed / task.finished_time if task.finished_time else task.speed
        return Text("" if speed is None else f"{_short(speed)}/s" if speed >= 10 else f"{speed:.2g}/s", style="progress.data.speed")


class _Count(ProgressColumn):
    """Steps done, of all."""

    def render(self, task: Task) -> Text:
        return Text(f"{_short(task.completed)}/{_short(task.total or 0)}", style="progress.download")


class _Clock(ProgressColumn):
    """Time left, or once the stage is over the time that it took."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        if task.finished:
            return Text(f"in {_time(task.finished_time or 0)}", style="progress.elapsed")
        return Text("" if task.time_remaining is None else f"{_time(task.time_remaining)} left", style="progress.remaining")


def _short(number: float) -> str:
    if number < 1e5:
        return f"{number:,.0f}"
    return f"{number / 1e3:,.0f}k" if number < 1e8 else f"{number / 1e6:,.0f}M"


def _time(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Bars:
    """A callback `bars(stage, done, total, **metrics)` that draws one bar a stage.

    Where there is no terminal, as in a log, a stage is a line when it is over, and before that one every `SILENCE` seconds.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._live = progress.console.is_terminal or progress.console.is_jupyter
        self._tasks: dict[str, TaskID] = {}
        self._before = self._said = progress.get_time()
        self._over: set[str] = set()  # stages of which a log has the last line

    def stop(self) -> None:
        """Leave the bars as they are; nothing was drawn if no stage began."""
        if self._live and self._tasks:
            self._progress.stop()
        for stage in self._tasks if not self._live else ():
            if stage not in self._over:
                self._say(stage)

    def __call__(self, stage: str, done: float, total: float, **metrics: float) -> None:
        """Set a stage to `done` of `total`; the held-out loss is shown beside the bar, `validation` or else `loss` of the metrics."""
        if self._live and not self._tasks:
            self._progress.start()
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(NAMES.get(stage, stage), total=total, shown="")
            self._progress.tasks[-1].start_time = self._before  # a stage begins where the one before ended, not with its first report
        loss = metrics.get("validation", metrics.get("loss"))
        changed = {} if loss is None else {"shown": f"loss {loss:.3g}"}
        self._progress.update(self._tasks[stage], completed=done, total=total, **changed)  # type: ignore[arg-type]
        self._before = self._progress.get_time()
        if not self._live and stage not in self._over and (done >= total or self._before - self._said > SILENCE):
            self._say(stage)

    def _say(self, stage: str) -> None:
        task = self._progress.tasks[self._progress.task_ids.index(self._tasks[stage])]
        self._progress.console.print(self._progress.make_tasks_table([task]))
        self._said = self._progress.get_time()
        if task.finished:
            self._over.add(stage)


@contextmanager
def progress_bars(console: Console, clock: Callable[[], float] | None = None) -> Iterator[Bars]:
    """Bars that stay on the screen when their stage is over; `clock` gives seconds, by default since the machine started."""
    columns = (
        TextColumn("{task.description:<21}"),
        BarColumn(bar_width=12),
        _Count(),
        _Rate(),
        _Clock(),
        TextColumn("{task.fields[shown]}", style="dim"),
    )
    bars = Bars(Progress(*columns, console=console, get_time=clock))
    try:
        yield bars
    finally:
        bars.stop()
