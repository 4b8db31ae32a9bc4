"""Devices: what is asked for is given or refused, and compiled programs are kept apart by processor."""

import os

import jax
import pytest

from cigars import devices
from cigars.config import ConfigError
from cigars.devices import Device, processor, use_device


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
