"""What is done to real trainings, and to the files they leave: a clear line, and resuming finishes with the identical run."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


def finished(folder) -> dict:
    """Weights, curves and calibration of a run, without the clock."""
    out = {"weights": {k: v.numpy().tobytes() for k, v in torch.load(folder / "weights.pt", weights_only=True).items()}}
    for name in ("run.json", "calibration.json"):
        out[name] = json.loads((folder / name).read_text())
        out[name].pop("seconds", None)
        for curve in out[name].get("curves", {}).values():
            curve.pop("seconds", None)
    return out


def cut_short(path, whole):
    path.write_bytes(whole[: len(whole) // 2])


def emptied(path, whole):
    path.write_bytes(b"")


def flipped(path, whole):
    path.write_bytes(whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 16]) + whole[len(whole) // 2 + 1 :])


@pytest.fixture
def unfinished(workplace, tmp_path):
    """The shared run as it was before its last stage ended."""
    folder = tmp_path / "run"
    shutil.copytree(workplace.run, folder)
    for name in ("run.json", "weights.pt", "calibration.json"):
        (folder / name).unlink()
    return folder


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named_and_without_it_the_run_is_the_same(cigars, refused, workplace, unfinished):
    """What a power cut or a bad disk can leave: half a file, an empty one, a flipped bit."""
    again = ["train", workplace.config, "-o", unfinished, "--resume", "--device", "cpu"]
    for name in ("summaries-00000.pt", "local.pt"):
        path = unfinished / "checkpoints" / name
        whole = path.read_bytes()
        for damage in (cut_short, emptied, flipped):
            damage(path, whole)
            said = refused(*again)
            assert f"{path}: expected a whole file of tensors" in said, damage
            assert "remove it: --resume repeats" in said
        path.unlink()
    (unfinished / "checkpoints" / ".local.pt.x.partial.pt").write_bytes(whole[:1000])  # of a writer that was killed
    assert cigars(*again).code == 0
    assert finished(unfinished) == finished(workplace.run)


@pytest.mark.slow
def test_a_damaged_marker_is_one_line(refused, workplace, unfinished):
    (unfinished / "checkpoints" / "training.json").write_bytes(b"")
    said = refused("train", workplace.config, "-o", unfinished, "--resume", "--device", "cpu")
    assert "training.json: expected the fingerprint of a training, got a damaged file" in said


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)], ids=["kill -9", "Ctrl-C"])
def test_a_training_that_is_ended_continues_to_the_same_run(cigars, workplace, tmp_path, sent, code):
    command = ["train", workplace.config, "-o", tmp_path / "run", "--device", "cpu"]
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a child would inherit that it is ignored, as of tests in the background
    try:
        process = subprocess.Popen([sys.executable, "-m", "cigars", *map(str, command)], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    while process.poll() is None and not (tmp_path / "run/checkpoints/regressor.pt").exists():
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(sent)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == code, said
    if sent == signal.SIGINT:
        assert "Traceback" not in said
        assert "--resume" in said
    assert cigars(*command, "--resume").code == 0
    assert finished(tmp_path / "run") == finished(workplace.run)
