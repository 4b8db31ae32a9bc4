"""The folder of checkpoints that a training keeps, and how it knows whose they are."""

from __future__ import annotations

import json
from pathlib import Path

from cigars.files import replacing

__all__ = ["NETWORKS", "prepare"]

NETWORKS = 2  # raised where weights that were kept would load into networks that they are not of


def prepare(folder: Path, fingerprint: str, resume: bool, began_with: str = "the configuration") -> Path:
    """The folder `checkpoints` inside a folder, new or, if `resume`, of the same training.

    Args:
        folder: of the run, made where there is none.
        fingerprint: identity of the training, kept as `training.json` beside the checkpoints, with NETWORKS.
        resume: continue one that is there.
        began_with: what a resumed training must be given again, in words.

    Raises:
        ValueError: if the folder holds a training and `resume` is False, or one of another fingerprint or of former networks.
    """
    checkpoints, marker = folder / "checkpoints", folder / "checkpoints" / "training.json"
    checkpoints.mkdir(parents=True, exist_ok=True)
    if not marker.exists():
        with replacing(marker) as partial:
            partial.write_text(json.dumps({"fingerprint": fingerprint, "networks": NETWORKS}))
        return checkpoints
    if not resume:
        raise ValueError(f"folder {folder}: expected a new folder, got one with a training; continue with --resume or name another")
    found, networks = _begun(marker)
    if found != fingerprint:
        raise ValueError(f"folder {folder}: expected fingerprint {fingerprint}, got {found}; resume with {began_with} it began with")
    if networks != NETWORKS:
        raise ValueError(
            f"folder {folder}: expected a training by networks of this version, got one by others; begin again in a new folder"
        )
    return checkpoints


def _begun(marker: Path) -> tuple[str, int]:
    """Fingerprint of the training that a folder of checkpoints belongs to, and which networks it trains."""
    try:
        kept = json.loads(marker.read_text())
        return str(kept["fingerprint"]), kept.get("networks", 1)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError(
            f"{marker}: expected the fingerprint of a training, got a damaged file; remove its folder and train again"
        ) from None
