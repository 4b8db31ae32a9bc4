"""A trained model and its run folder: weights as tensors, everything else as JSON, never a pickle.

`run.json` holds the resolved configuration, versions, fingerprint, training curves and the ranges seen in training;
`weights.pt` the state of all networks. Either is written whole or not at all.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cigars.config import Region
from cigars.files import replacing
from cigars.schema import DistanceTable, Marginal

from .density import SummaryDensity
from .embedding import FeatureMoments, SetEncoder
from .estimators import GlobalEstimator
from .local import LocalEstimator
from .priors import Prior, prior_within
from .score import OneStep, Pilot, ScoreNetwork
from .standardise import Standardiser, Whitening
from .summaries import LocalRegressor, Moments
from .train import load_checkpoint, save_checkpoint

__all__ = ["FORMAT", "Trained", "build_summary", "load_run", "save_run", "versions"]

FORMAT = 6
META, WEIGHTS = "run.json", "weights.pt"
DAMAGED = (ValueError, LookupError, TypeError, AttributeError, RuntimeError, ArithmeticError)  # what reading damaged metadata raises


class Trained(nn.Module):
    """All networks of a run.

    Args:
        summary: fixed summary of packed surveys.
        members: global estimators of the ensemble.
        local: per-object estimator.
        density: of summaries.
        meta: plain values: `configuration`, `fingerprint`, `versions`, `marginals`, `architecture`, `curves`, `number_range`, ...
    """

    def __init__(
        self,
        summary: nn.Module,
        members: list[GlobalEstimator],
        local: LocalEstimator,
        meta: dict[str, Any],
        density: SummaryDensity,
    ) -> None:
        super().__init__()
        self.summary, self.members, self.local, self.meta, self.density = summary, nn.ModuleList(members), local, meta, density

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the free global parameters, in order."""
        return tuple(self.meta["marginals"])

    @property
    def prior(self) -> Prior:
        """Prior of the free global parameters, without the region that the flows of a truncated run are in."""
        return self.local.globals_prior

    @property
    def estimators(self) -> list[GlobalEstimator]:
        """Members of the ensemble."""
        return list(self.members)  # type: ignore[arg-type]

    @property
    def device(self) -> torch.device:
        """Where the weights live."""
        return next(self.local.parameters()).device


def build_summary(architecture: Mapping[str, Any], distance: DistanceTable, prior: Prior) -> nn.Module:
    """The fixed summary network that an architecture names: the one-step score, physics moments, or moments of the inputs ("set")."""
    bands, size = architecture["bands"], len(prior.names)
    if architecture["encoder"] == "set":
        return FeatureMoments(Standardiser(bands))
    moments = Moments(LocalRegressor(bands, architecture["regressor_width"]), distance)
    if architecture["encoder"] != "score":
        return moments
    pilots = [Pilot(Whitening(*shape), size, torch.zeros(2, size)) for shape in architecture["pilots"]]
    score = ScoreNetwork(prior, bands, architecture["fixed"], centring=architecture["centring"])
    return OneStep(moments, score, pilots, architecture["few"], architecture["anchored"])


def build_members(architecture: Mapping[str, Any], summary: nn.Module, prior: Prior, components: list[int]) -> list[GlobalEstimator]:
    """Global estimators of the right shapes; each ensemble member has its own encoder if there is a learned one."""
    members = []
    for kept in components:
        encoder = None if architecture["encoder"] in ("score", "moments") else SetEncoder(summary.standardiser)  # type: ignore[arg-type]
        members.append(GlobalEstimator(prior, Whitening(architecture["summary"], kept), encoder))
    return members


def save_run(path: Path, trained: Trained) -> None:
    """Write a run folder; `run.json` comes last, so a folder with one is complete."""
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    save_checkpoint(path / WEIGHTS, trained.state_dict())
    with replacing(path / META, overwrite=True) as partial:
        partial.write_text(json.dumps(_plain(trained.meta), indent=1))


def load_run(path: Path, device: str | torch.device = "cpu", fingerprint: str | None = None) -> Trained:
    """Read a run folder onto a device.

    Args:
        path: the folder.
        device: where the networks shall live.
        fingerprint: of the configuration at hand; None accepts any.

    Raises:
        ValueError: if the folder is incomplete, damaged, of another format or of another fingerprint.
    """
    path = Path(path)
    if not (path / META).exists():
        raise ValueError(f"run folder {path}: expected a finished training with {META}, got none; train first, or resume it")
    try:
        meta = json.loads((path / META).read_text())
        architecture, marginals = meta["architecture"], {k: Marginal(*_infinite(v)) for k, v in meta["marginals"].items()}
    except DAMAGED as error:
        raise ValueError(
            f"run folder {path}: expected {META} as this program writes it, got a damaged one ({error}); train again"
        ) from None
    if meta.get("format") != FORMAT:
        raise ValueError(f"run folder {path}: expected format {FORMAT}, got {meta.get('format')}; train again with this version")
    if fingerprint is not None and meta["fingerprint"] != fingerprint:
        raise ValueError(
            f"run folder {path}: expected fingerprint {fingerprint}, got {meta['fingerprint']}; use its own configuration or train again"
        )
    state = load_checkpoint(path / WEIGHTS)
    try:
        _check_sizes(architecture, state)
        with torch.random.fork_rng(devices=[]):
            trained = _build(meta, architecture, marginals)
        trained.load_state_dict(state)
    except DAMAGED as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"run folder {path}: expected weights of the networks in {META}, got others ({reason}); train again") from None
    return _to(trained, device).eval()


def _check_sizes(architecture: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> None:
    """Refuse networks that are larger than their weights, before they are given memory."""
    largest = max(size for tensor in state.values() for size in (0, *tensor.shape))
    plain = (architecture[name] for name in ("bands", "regressor_width", "summary", "centring"))
    sizes = [*plain, *architecture["components"], *(size for shape in architecture["pilots"] for size in shape)]
    if not all(isinstance(size, int) and 0 <= size <= largest for size in sizes):
        raise ValueError(f"expected sizes from 0 to {largest}, those of the weights, got {sizes}")


def _build(meta: dict[str, Any], architecture: Mapping[str, Any], marginals: dict[str, Marginal]) -> Trained:
    prior = Prior(marginals)
    distance = DistanceTable(*(np.asarray(v) for v in meta["distance"]))
    summary = build_summary(architecture, distance, prior)
    members = build_members(architecture, summary, prior_within(marginals, _region(meta)), architecture["components"])
    reference = Prior({k: Marginal(*_infinite(v)) for k, v in meta["local_marginals"].items()})
    local = LocalEstimator(reference, prior, architecture["bands"])
    whitening = Whitening(architecture["summary"], architecture["components"][0])
    return Trained(summary, members, local, meta, SummaryDensity(whitening))


def _region(meta: Mapping[str, Any]) -> Region | None:
    """The region of the prior that a run was trained in."""
    found = meta.get("configuration", {}).get("prior", {}).get("region")
    return Region.model_validate(found) if found else None


def _to(trained: Trained, device: str | torch.device) -> Trained:
    """Move networks and the priors beside them."""
    trained.to(device)
    for prior in {id(p): p for p in (*(m.prior for m in trained.estimators), trained.local.prior, trained.local.globals_prior)}.values():
        prior.to(device)
    return trained


def versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    out = {"python": platform.python_version()}
    for name in ("cigars-sn", "torch", "sbi", "zuko", "numpy", "jax", "numpyro", "astropy"):
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            out[name] = "absent"
    return out


def _plain(value: Any) -> Any:
    """Values as JSON has them; infinite numbers as words."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, torch.Tensor | np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return value


def _infinite(values: list[Any]) -> list[Any]:
    return [float(v) if v in ("inf", "-inf", "nan") else v for v in values]
