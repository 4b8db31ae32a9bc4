"""Devices: what is asked for is given or refused, and compiled programs are kept apart by processor."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from cigars import devices
from cigars.config import ConfigError
from cigars.devices import Device, processor, torch_device, use_device
from cigars.runs import stored_fingerprint
from inference.train import load_checkpoint


@pytest.mark.parametrize(
    ("asked", "there", "given"), [("auto", False, "cpu"), ("cpu", True, "cpu"), ("auto", True, "cuda"), ("cuda", True, "cuda")]
)
def test_the_device_asked_for_is_given_where_there_is_one(monkeypatch, asked, there, given):
    monkeypatch.setattr(devices, "_cuda", lambda: there)
    assert use_device(Device(asked)) == given
    assert os.environ["OMP_WAIT_POLICY"]
    assert jax.config.jax_compilation_cache_dir


def test_cuda_without_a_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(devices, "_cuda", lambda: False)
    with pytest.raises(ConfigError, match="expected a CUDA device, torch finds none"):
        use_device(Device.cuda)


def test_the_processor_is_named_the_same_every_time():
    assert processor() == processor()
    assert processor()[0]


@pytest.mark.parametrize(("given", "used"), [(None, "1"), ("6,7", "7"), ("6", "6")])
def test_every_process_of_torchrun_has_a_gpu_of_its_own(monkeypatch, given, used):
    monkeypatch.setattr(devices, "_cuda", lambda: False)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given or "")
    for _ in range(2):  # asked again, a process stays where it is
        use_device(Device.cpu)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == used


def test_more_processes_than_gpus_are_refused_before_some_take_the_cpu(monkeypatch):
    monkeypatch.setattr(devices, "_cuda", lambda: True)
    monkeypatch.setattr(devices, "_gpus", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ConfigError, match="expected at most 2, one process a GPU, got 3"):
        torch_device(Device.auto)
    assert torch_device(Device.cpu) == "cpu"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert torch_device(Device.auto) == "cuda"


ALLOWED = """
import os
os.cpu_count, os.sched_getaffinity = lambda: 64, lambda _: set(range(6))  # of 64 cores, as taskset or Slurm leave
from cigars.devices import Device, use_device
use_device(Device.cpu)
import jax
print(jax.device_count())
"""


@pytest.mark.parametrize(("processes", "share"), [("1", 6), ("2", 3), ("8", 1)])
def test_a_process_has_its_share_of_the_cores_that_it_may_use(processes, share):
    environment = os.environ | {"LOCAL_WORLD_SIZE": processes}
    done = subprocess.run([sys.executable, "-c", ALLOWED], capture_output=True, text=True, env=environment)
    assert done.stdout == f"{share}\n", done.stderr


@pytest.mark.slow
def test_two_processes_train_one_run(workplace, cigars, tmp_path):
    """The first stage, where nothing is dropped out or hidden, follows the curve of one process; the run serves like any other."""
    run = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-ranks-filter", "0", "--nproc-per-node", "2"]
    command += ["-m", "cigars", "train", str(workplace.config), "-o", str(run), "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    ours, theirs = (load_checkpoint(folder / "checkpoints" / "regressor.pt")["history"] for folder in (run, workplace.run))
    assert ours["steps"] == theirs["steps"]
    for curve in ("train", "validation"):
        np.testing.assert_allclose(ours[curve], theirs[curve], rtol=1e-4)
    assert stored_fingerprint(run) == stored_fingerprint(workplace.run)
    assert cigars("infer", run, workplace.mock, "-o", tmp_path / "posterior.nc", "--draws", 20).code == 0
