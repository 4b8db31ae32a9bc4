"""Bars fit a narrow terminal, and nothing is drawn where nothing happens."""

import io
import re

import pytest
from rich.console import Console

from cigars.progress import NAMES, progress_bars


def drawn(width, *reports, terminal=True):
    """Text that remains on a terminal after some reports."""
    stream = io.StringIO()
    with progress_bars(Console(file=stream, width=width, force_terminal=terminal, color_system=None)) as bars:
        for stage, done, total, metrics in reports:
            bars(stage, done, total, **metrics)
    return re.sub(r"\x1b\[[0-9?]*[A-Za-z]", "", stream.getvalue()).replace("\r", "\n")


@pytest.mark.parametrize("done", [0.3, 1])
def test_eighty_columns_hold_every_stage_with_its_numbers(done):
    totals = dict.fromkeys(NAMES, 16_000) | {"objects": 800_000, "hosts": 1e6, "local": 99_999}
    reports = [(stage, round(done * t), t, {"loss": 123.456, "validation": -12.3456}) for stage, t in totals.items()]
    text = drawn(80, *reports)
    assert "…" not in text  # nothing is cut
    assert max(len(line) for line in text.splitlines()) <= 80
    for stage, total in totals.items():
        counts = f"{total:,.0f}" if total < 1e5 else f"{total / 1000:,.0f}k"
        assert re.search(rf"{NAMES[stage]} .*/{counts} .*loss -12\.3", text)


def test_rate_and_time_left_while_it_lasts_and_time_taken_after():
    now = [0.0]
    with progress_bars(Console(file=io.StringIO(), width=80), lambda: now[0]) as bars:

        def shown():
            return [str(column.render(bars._progress.tasks[-1])) for column in bars._progress.columns[2:]]

        for now[0] in (10.0, 20.0, 30.0, 40.0, 50.0):
            bars("global", 2 * now[0], 1000)
        assert shown()[:3] == ["100/1,000", "2/s", "7:30 left"]  # 900 steps at 2 a second
        now[0] = 4010.0
        bars("global", 1000, 1000, loss=1.5)
        assert shown() == ["1,000/1,000", "0.25/s", "in 1:06:50", "loss 1.5"]
        now[0] = 4110.0
        bars("local", 5, 5)
        assert shown()[2] == "in 1:40"  # from the end of the stage before, though its first report is its last


def test_silence_without_a_stage():
    assert drawn(80) == ""
    assert drawn(80, terminal=False) == ""


def test_a_log_gets_each_stage_once_when_it_is_over():
    reports = [("hosts", 1, 2, {}), ("hosts", 2, 2, {}), ("hosts", 2, 2, {}), ("infer", 1, 3, {})]
    lines = drawn(80, *reports, terminal=False).splitlines()
    assert [line.split("  ")[0] for line in lines] == ["host bank", "hosts drawn"]  # the last because it was left there
    assert "2/2" in lines[0]
    assert "1/3" in lines[1]


def test_a_log_is_not_silent_for_more_than_a_minute():
    now, stream = [0.0], io.StringIO()
    with progress_bars(Console(file=stream, width=80), lambda: now[0]) as bars:
        for now[0] in range(0, 601, 20):
            bars("global", now[0], 1000, loss=2.5)
            said = stream.getvalue().count("loss 2.5")
            assert (now[0] - 80) / 80 <= said <= now[0] / 60
    assert "600/1,000" in stream.getvalue()
    assert "1/s" in stream.getvalue()
