"""What every benchmark writes: its question, its numbers, and the machine, versions and commit they were measured with."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cigars.files import write_json

__all__ = ["hardware", "versions", "write_result"]

PACKAGES = ("jax", "jaxlib", "numpyro", "numpy", "scipy", "torch", "sbi", "zuko", "astropy", "speclite", "zarr")


def write_result(path: str | Path, question: str, numbers: Mapping[str, Any]) -> None:
    """Write `numbers` as JSON beside the question they answer, the hardware, the versions and the git commit.

    Args:
        path: file to write, atomically; an older result is replaced.
        question: one sentence; with the expected answer, where there is one.
        numbers: results by name, as `write_json` takes them.
    """
    result = {"question": question, **numbers, "hardware": hardware(), "versions": versions(), "commit": _commit()}
    write_json(path, result, overwrite=True)
    print(f"wrote {path}")


def hardware() -> dict[str, Any]:
    """Processor, cores this process may use, memory in GiB, and the load of others while measuring (1 minute mean)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30 if hasattr(os, "sysconf") else None
    return {
        "processor": _processor(),
        "cores": cores,
        "memory_gib": pages and round(pages, 1),
        "system": platform.platform(),
        "load": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages a number can depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str | None:
    """Commit of the checkout, `+` where tracked files differ from it; None outside a checkout."""
    here = Path(__file__).resolve().parent
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(["git", "diff", "--quiet", "HEAD"], cwd=here, capture_output=True).returncode
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + "+" * bool(changed)
