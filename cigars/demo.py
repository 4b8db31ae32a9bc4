"""The demonstration: simulate a mock, infer it by a posterior that comes with the package or is trained here, report; in one folder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cigars import pipeline
from cigars.catalogue import Truth
from cigars.config import Config
from cigars.files import check_writable
from cigars.progress import Reporter
from cigars.runs import CALIBRATION, stored_fingerprint
from cigars.surveys import run_fingerprint

if TYPE_CHECKING:
    import arviz

__all__ = ["Demo", "run_demo"]

OUTPUTS = ("mock.fits", "mock-truth.fits", "posterior.nc", "report.html")


class Demo(NamedTuple):
    """What a demonstration made: the joint posterior, the truth of its mock, and the HTML report."""

    posterior: arviz.InferenceData
    truth: Truth
    page: Path


def run_demo(
    config: Config,
    folder: Path,
    device: str,
    command: str,
    report: Reporter,
    pretrained: Path | None = None,
    overwrite: bool = False,
) -> Demo:
    """Write run, mock, posterior and report into a folder; a finished training is used again, an interrupted one continued.

    Args:
        config: the preset, with what was changed.
        folder: made where it does not exist.
        device: torch device of the networks.
        command: how this was called, for the record.
        report: progress.
        pretrained: run folder to infer with; None trains one for the configuration.
        overwrite: replace mock, truth, posterior and report where they exist; the run is never replaced.

    Raises:
        FileError: one of these files exists and `overwrite` is false, or cannot be written, before anything is simulated.
        ValueError: the run in the folder is of another configuration.
    """
    mock, true, file, page = outputs = [folder / name for name in OUTPUTS]
    folder.mkdir(parents=True, exist_ok=True)
    for path in outputs:
        check_writable(path, overwrite)
    run, started, seconds = pretrained or folder / "run", time.monotonic(), {}
    catalogue, truth = pipeline.simulate(config, report=report)
    seconds["mock"] = time.monotonic() - started
    if pretrained is None and not ((run / CALIBRATION).exists() and stored_fingerprint(run) == run_fingerprint(config)):
        pipeline.train(config, run, device=device, resume=(run / "checkpoints").exists(), report=report)
    begun = time.monotonic()
    posterior = pipeline.infer(run, catalogue, seed=config.seed, device=device, command=command)
    seconds["inference"] = time.monotonic() - begun
    # all at the end, so that what an interrupted training left is continued without --overwrite
    pipeline.write_mock(config, catalogue, truth, mock, true, overwrite=overwrite)
    pipeline.save_posterior(file, posterior, overwrite=overwrite)
    pipeline.report(page, posterior, run=run, truth=truth, timings=seconds, overwrite=overwrite)
    return Demo(posterior, truth, page)
