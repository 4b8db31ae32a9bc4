"""Two processes of one training: the loss curve and the weights of one process with the same batches."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.linear_gaussian import MARGINALS, configuration
from inference import parallel
from inference.fit import fit
from inference.train import shuffled
from tests.inference.shared_training import TRAINED, train

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = 1e-4  # asked for; sums in another order differ by 1e-7 a step, and AdamW takes 96


def run_together(folder, count=2):
    """What each of some processes wrote, which join through the variables that torchrun sets."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = os.environ | {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.inference.shared_training", str(folder)]
    started = [subprocess.Popen(command, cwd=ROOT, env=shared | {"RANK": str(r)}, stderr=subprocess.PIPE, text=True) for r in range(count)]
    for process in started:
        _, error = process.communicate(timeout=300)
        assert process.returncode == 0, error[-3000:]
        assert "Warning" not in error, error[-3000:]
    return [json.loads((folder / f"{r}.json").read_text()) for r in range(count)]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return run_together(tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def alone():
    return train()


@pytest.mark.parametrize("curve", ["train", "validation"])
def test_the_curve_of_two_processes_is_that_of_one(two, alone, curve):
    """With batches of 33, shared as 17 and 16: the mean over items is not the mean of two means."""
    expected, _ = alone
    for process in two:
        assert process["processes"] == 2
        assert process["whole"]["steps"] == expected["steps"]
        np.testing.assert_allclose(process["whole"][curve], expected[curve], rtol=TOLERANCE)
    assert two[0]["whole"] == two[1]["whole"]
    assert not np.allclose(two[0]["wrong"][curve], expected[curve], rtol=TOLERANCE)


def test_weights_are_the_same_everywhere(two, alone):
    for i, weights in enumerate(alone[1].parameters()):
        assert two[0]["weights"][i] == two[1]["weights"][i]
        np.testing.assert_allclose(two[0]["weights"][i], weights.tolist(), atol=TOLERANCE)


def test_processes_share_every_batch_between_them(two):
    whole = shuffled(TRAINED, 33, seed=3)(0).tolist()
    assert sorted(two[0]["share"] + two[1]["share"]) == sorted(whole)
    assert [len(p["share"]) for p in two] == [17, 16]
    assert [tuple(p["span"]) for p in two] == [(0, 32), (32, 32)]


def test_the_first_process_alone_writes_and_all_resume_from_what_it_wrote(two):
    """Each process was given a folder of its own: that of the second stays empty, and yet it resumes."""
    assert [p["files"] for p in two] == [["training.pt", "training.pt"], []]
    for process in two:
        assert process["resumed"] == process["whole"]
        assert process["same"]


def test_what_the_first_process_refuses_all_refuse(two):
    """With its message, rather than a broken connection."""
    assert [p["said"] for p in two] == ["refused by process 0"] * 2


def test_one_process_has_everything():
    assert (parallel.rank(), parallel.processes(), parallel.span(7)) == (0, 1, (0, 7))
    with parallel.joined("cpu"):
        assert parallel.from_first(lambda: "made") == "made"
        assert parallel.processes() == 1


def test_surveys_that_cannot_be_shared_evenly_are_refused(monkeypatch):
    monkeypatch.setattr(parallel, "processes", lambda: 3)
    with pytest.raises(ValueError, match="expected a multiple of the 3 processes, got 64; change either"):
        parallel.span(64)


def test_that_they_cannot_is_said_before_a_survey_is_asked_for(monkeypatch, distance, tmp_path):
    monkeypatch.setattr(parallel, "processes", lambda: 3)
    with pytest.raises(ValueError, match="expected a multiple of the 3 processes, got 64; change either"):
        fit(pytest.fail, configuration(128), MARGINALS, distance, tmp_path)
    assert not list(tmp_path.iterdir())
