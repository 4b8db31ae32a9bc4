"""The folder of checkpoints that a training keeps, and how it knows whose they are."""

from __future__ import annotations

import json
from pathlib import Path

from cigars.files import replacing

__all__ = ["prepare"]


def prepare(folder: Path, fingerprint: str, resume: bool, began_with: str = "the configuration") -> Path:
    """The folder `checkpoints` inside a folder, new or, if `resume`, of the same training.

    Args:
        folder: of the run, made where there is none.
        fingerprint: identity of the training, kept as `training.json` beside the checkpoints.
        resume: continue one that is there.
        began_with: what a resumed training must be given again, in words.

    Raises:
        ValueError: if the folder holds a training and `resume` is False, or one of another fingerprint.
    """
    checkpoints, marker = folder / "checkpoints", folder / "checkpoints" / "training.json"
    checkpoints.mkdir(parents=True, exist_ok=True)
    if not marker.exists():
        with replacing(marker) as partial:
            partial.write_text(json.dumps({"fingerprint": fingerprint}))
        return checkpoints
    if not resume:
        raise ValueError(f"folder {folder}: expected a new folder, got one with a training; continue with --resume or name another")
    if (found := _begun(marker)) != fingerprint:
        raise ValueError(f"folder {folder}: expected fingerprint {fingerprint}, got {found}; resume with {began_with} it began with")
    return checkpoints


def _begun(marker: Path) -> str:
    """Fingerprint of the training that a folder of checkpoints belongs to."""
    try:
        return str(json.loads(marker.read_text())["fingerprint"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(
            f"{marker}: expected the fingerprint of a training, got a damaged file; remove its folder and train again"
        ) from None
