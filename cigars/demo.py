"""The demonstration: simulate a mock, infer it by a posterior that comes with the package or is trained here, report; in one folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cigars import pipeline
from cigars.catalogue import Truth
from cigars.config import Config
from cigars.runs import CALIBRATION, stored_fingerprint

if TYPE_CHECKING:
    import arviz

__all__ = ["Demo", "run_demo"]


class Demo(NamedTuple):
    """What a demonstration made: the joint posterior, the truth of its mock, and the HTML report."""

    posterior: arviz.InferenceData
    truth: Truth
    page: Path


def run_demo(config: Config, folder: Path, device: str, command: str, report: Callable[..., None], pretrained: Path | None = None) -> Demo:
    """Write mock, run, posterior and report into a folder; a finished training is used again, an interrupted one continued.

    Args:
        config: the preset, with what was changed.
        folder: made where it does not exist.
        device: torch device of the networks.
        command: how this was called, for the record.
        report: progress.
        pretrained: run folder to infer with; None trains one for the configuration.
    """
    run, started, seconds = pretrained or folder / "run", time.monotonic(), {}
    folder.mkdir(parents=True, exist_ok=True)
    catalogue, truth = pipeline.simulate(config, report=report)
    seconds["mock"] = time.monotonic() - started
    pipeline.write_mock(config, catalogue, truth, folder / "mock.fits", folder / "mock-truth.fits", overwrite=True)
    if pretrained is None and not ((run / CALIBRATION).exists() and stored_fingerprint(run) == pipeline.run_fingerprint(config)):
        pipeline.train(config, run, device=device, resume=(run / "checkpoints").exists(), report=report)
    begun, page = time.monotonic(), folder / "report.html"
    posterior = pipeline.infer(run, catalogue, seed=config.seed, device=device, command=command)
    seconds["inference"] = time.monotonic() - begun
    pipeline.save_posterior(folder / "posterior.nc", posterior, overwrite=True)
    pipeline.report(page, posterior, run=run, truth=truth, timings=seconds, overwrite=True)
    return Demo(posterior, truth, page)
