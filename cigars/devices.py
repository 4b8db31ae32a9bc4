"""Where to compute: JAX and torch pointed at one device before either starts."""

from __future__ import annotations

import enum
import os
from contextlib import suppress
from pathlib import Path

from cigars.config import ConfigError, fingerprint

__all__ = ["Device", "cores", "processor", "torch_device", "use_device"]


class Device(enum.StrEnum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


def torch_device(device: Device) -> str:
    """Torch's name of a device, before it starts; JAX is left alone, which takes a second to load.

    Raises:
        ConfigError: for a GPU where torch finds none, or fewer of them than torchrun started processes here.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads of torch that spin starve those of JAX
    if "LOCAL_RANK" in os.environ:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        own, started = _own_gpu(int(os.environ["LOCAL_RANK"]), visible), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        if device is not Device.cpu and own != visible and 0 < (found := _gpus()) < started:
            raise ConfigError(f"--nproc-per-node: expected at most {found}, one process a GPU, got {started}; give it, or --device cpu")
        os.environ["CUDA_VISIBLE_DEVICES"] = own
    chosen = "cuda" if device is not Device.cpu and _cuda() else "cpu"
    if device is Device.cuda and chosen == "cpu":
        raise ConfigError("--device: expected a CUDA device, torch finds none; use --device cpu, or install the cuda extra")
    return chosen


def use_device(device: Device) -> str:
    """Point JAX and torch at a device before either starts; each of the `cores` becomes a JAX device. Returns torch's name of it.

    Raises:
        ConfigError: for a GPU where torch finds none.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the two share the memory of a GPU
    chosen = torch_device(device)
    import jax

    from simulators.hosts import cache_folder

    if not jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]  # compiling a survey takes 20 s
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla" / fingerprint(processor())))
    if chosen == "cpu":
        jax.config.update("jax_platforms", "cpu")
        with suppress(RuntimeError):  # JAX runs already, as where a program calls `main` twice, and keeps its devices
            jax.config.update("jax_num_cpu_devices", cores())
    return chosen


def cores() -> int:
    """Number of CPU cores for this process: of those that it may use its share among the processes that torchrun started here."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(allowed // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)


def _own_gpu(rank: int, visible: str) -> str:
    """The GPU of process `rank` of those that torchrun started here: of the visible ones, or of all; one that is alone stays."""
    among = visible.split(",")
    return str(rank) if not visible else among[0] if len(among) == 1 else among[rank % len(among)]


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def processor() -> list[str]:
    """What a compiled program depends on: a folder shared by different machines must not mix theirs."""
    import platform

    cpu = Path("/proc/cpuinfo")
    flags = [line for line in cpu.read_text().splitlines() if line.startswith(("flags", "Features"))] if cpu.exists() else []
    return [platform.machine(), platform.processor(), *flags[:1]]
