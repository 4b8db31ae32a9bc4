"""A path holds its old content, its new content or nothing, whatever happens while it is written."""

import errno
import json
import os
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from cigars import files
from cigars.files import FileError, check_writable, replacing, write_json


def write(path, text, error=None):
    """Write over whatever is there, with an error half-way."""
    with replacing(path, overwrite=True) as temporary:
        temporary.write_text(text)
        if error is not None:
            raise error


def test_new_content_takes_the_place_of_old_only_when_allowed(tmp_path):
    path = tmp_path / "a.txt"
    with replacing(path) as temporary:
        temporary.write_text("old")
    with pytest.raises(FileError, match="exists already"), replacing(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "old"
    with replacing(path, overwrite=True) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_json_is_valid_whatever_the_numbers(tmp_path):
    path = tmp_path / "a.json"
    Point = namedtuple("Point", ["x", "y"])
    content = {
        "σ": [1.5, np.float32("inf")],
        "point": Point(np.array([np.nan, 2.0]), {"z": -np.inf}),
        "none": None,
        "name": "nan",
        "true": True,
    }
    write_json(path, content)
    text = path.read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {
        "σ": [1.5, None], "point": {"x": [None, 2.0], "y": {"z": None}}, "none": None, "name": "nan", "true": True,
    }  # fmt: skip
    assert text.startswith('{\n "σ": [')
    assert text.endswith("}\n")
    with pytest.raises(FileError, match="exists already"):
        write_json(path, content)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("x"), OSError(errno.EIO, "Input/output error")])
def test_interrupted_write_leaves_the_old_content_and_no_debris(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises((KeyboardInterrupt, RuntimeError, FileError)):
        write(path, "ne", error)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("where", ["in the writer", "in the flush"])
def test_no_space_left_is_one_line_and_no_partial_file(tmp_path, monkeypatch, where):
    error = OSError(errno.ENOSPC, "No space left on device")

    def full(*_):
        raise error

    if where == "in the flush":
        monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(FileError, match="no space left") as caught:
        write(tmp_path / "a.txt", "x", error if where == "in the writer" else None)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_device_that_is_really_full_is_reported(tmp_path):
    with pytest.raises(FileError, match="no space left"), replacing(tmp_path / "a"):
        Path("/dev/full").write_text("x")
    assert os.listdir(tmp_path) == []


def test_content_is_on_disk_before_it_takes_the_name_and_the_name_before_it_is_reported(tmp_path, monkeypatch):
    """Else a power cut leaves an empty file, or the old one; the order of the calls is all that can be seen without one."""
    calls, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(files.os, "fsync", lambda fd: calls.append(os.readlink(f"/proc/self/fd/{fd}")) or fsync(fd))
    monkeypatch.setattr(files.os, "replace", lambda a, b: calls.append("replaced") or replace(a, b))
    write(tmp_path / "a.txt", "x")
    assert [Path(c).suffix or c for c in calls] == [".txt", "replaced", str(tmp_path)]
    assert "partial" in calls[0]


def test_missing_folder_and_folder_in_place_of_a_file_are_named(tmp_path):
    with pytest.raises(FileError, match=r"'.*nowhere' does not exist"), replacing(tmp_path / "nowhere" / "a"):
        pass
    with pytest.raises(FileError, match="got a folder"), replacing(tmp_path):
        pass


UNWRITABLE = Path("/sys/kernel")  # a folder of Linux in which not even root makes files


def test_what_could_not_be_written_is_refused_before_the_work(tmp_path):
    path = tmp_path / "a.txt"
    check_writable(path)
    assert os.listdir(tmp_path) == []
    path.write_text("old")
    check_writable(path, overwrite=True)
    assert path.read_text() == "old"
    for wrong, overwrite, says in (
        (path, False, "exists already"), (tmp_path, True, "got a folder"), (tmp_path / "no" / "a", True, "does not exist; make it first"),
        (path / "a", True, "cannot write"),
    ):  # fmt: skip
        with pytest.raises(FileError, match=says):
            check_writable(wrong, overwrite)


@pytest.mark.skipif(not UNWRITABLE.is_dir(), reason=f"needs {UNWRITABLE}")
def test_a_folder_that_takes_no_files_is_refused_before_the_work():
    with pytest.raises(FileError, match=r"a\.txt: cannot write"):
        check_writable(UNWRITABLE / "a.txt")


def test_file_has_the_permissions_of_the_umask(tmp_path):
    with replacing(tmp_path / "a") as temporary:
        temporary.write_text("x")
    (tmp_path / "b").write_text("x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode
