"""What the command line shows: bars anew for every round, and warnings in one line."""

import warnings

import pytest

from cigars.catalogue_checks import TargetWarning
from cigars.terminal import complain, duration, one_line_warnings, round_bars, stopped


def test_every_round_has_bars_of_its_own_under_its_heading(capsys):
    with round_bars() as report:
        for number in (1, 2):
            report("round", number, 2)
            report("global", 3, 3, validation=float(number))
    lines = [line.rstrip() for line in capsys.readouterr().err.splitlines() if line]
    assert lines[0::2] == ["round 1 of 2", "round 2 of 2"]
    assert [line.endswith(f"loss {number}") for number, line in zip((1, 2), lines[1::2], strict=True)] == [True, True]


def test_a_training_without_rounds_has_no_heading(capsys):
    with round_bars() as report:
        report("global", 3, 3)
    assert "round" not in capsys.readouterr().err


def test_warnings_about_a_target_are_one_line_and_others_stay_as_they_are(capsys):
    with one_line_warnings():
        for _ in range(2):
            warnings.warn("posterior of [beta] is cut by the box " + 50 * "wide ", TargetWarning, stacklevel=1)
        with pytest.raises(RuntimeWarning):
            warnings.warn("something else", RuntimeWarning, stacklevel=1)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("warning: posterior of [beta] is cut")
    with pytest.raises(TargetWarning):  # as before
        warnings.warn("again", TargetWarning, stacklevel=1)


def test_errors_and_hints_are_one_line_whatever_is_in_them(capsys):
    assert complain("two\nlines [bold]") == 2
    assert complain("interrupted", 130) == 130
    stopped("cigars train 'a [b]' --resume")
    assert capsys.readouterr().err.splitlines() == [
        "error: two lines [bold]", "error: interrupted", "stopped; continue with: cigars train 'a [b]' --resume",
    ]  # fmt: skip


def test_durations_are_words():
    assert duration(63) == "1 min 3 s"
