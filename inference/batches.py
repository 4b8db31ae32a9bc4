"""From simulated surveys to packed torch objects: the one hand-off between the frameworks.

A survey arrives padded, [survey, capacity]; here its objects are packed end to end, [object], with the length of each
survey beside them, so that no arithmetic is spent on padding and a set is a contiguous run of rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cigars.schema import Globals, Latents, Observations, Survey

__all__ = ["Packed", "Source", "hide", "join", "pack", "parameters", "segment_mean", "select", "subset", "thinned", "to_torch"]

Source = Callable[[int, int], Survey]
"""`source(first, count)` simulates the surveys numbered first, ..., first + count - 1."""

SN_FIELDS = ("m", "x", "c", "var_m", "var_x", "var_c", "cov_mx", "cov_mc", "cov_xc")


class Packed(NamedTuple):
    """Objects of several surveys end to end.

    `observations` and `latents` have leaves [object] (`mag` [object, band]); the objects of survey s are
    `lengths[s]` consecutive rows. `number` is the true size of each catalogue (not that of a subset), `theta` the
    free global parameters [survey, parameter], `exposure` relative to the configured size.
    """

    observations: Observations
    latents: Latents | None
    theta: Tensor
    lengths: Tensor
    number: Tensor
    exposure: Tensor


def to_torch(tree: Any, device: str | torch.device = "cpu") -> Any:
    """A tree of arrays as torch tensors on a device, without a copy where the framework of origin allows it.

    Args:
        tree: NamedTuples of numpy arrays, torch tensors, numbers, or anything that speaks DLPack (JAX arrays).
        device: where the tensors shall live.
    """
    if isinstance(tree, tuple):
        return type(tree)(*(to_torch(leaf, device) for leaf in tree))
    return _tensor(tree).to(device)


def _tensor(leaf: Any) -> Tensor:
    if isinstance(leaf, Tensor):
        out = leaf
    elif isinstance(leaf, np.ndarray | float | int | bool | np.generic):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch warns of read-only memory, which nothing here writes to
            out = torch.as_tensor(np.asarray(leaf))
    else:
        out = torch.from_dlpack(leaf)
    return out.float() if out.is_floating_point() else out


def parameters(theta: Globals, names: Sequence[str]) -> Float[Tensor, "survey parameter"]:
    """The named global parameters as a matrix, one row a survey."""
    return torch.stack([torch.atleast_1d(_tensor(getattr(theta, n)).float()) for n in names], -1)


def pack(survey: Survey, names: Sequence[str] = (), device: str | torch.device = "cpu") -> Packed:
    """Pack one survey, leaves [capacity], or a batch of them, leaves [survey, capacity].

    Args:
        survey: any framework's arrays.
        names: free global parameters, in the order of the parameter vector; with none, `theta` is empty.
        device: where the result lives.

    Raises:
        ValueError: if `number` and the mask disagree.
    """
    observed = to_torch(survey.observed, device).bool()
    single = observed.ndim == 1
    observed = observed[None] if single else observed

    index = observed.flatten().nonzero()[:, 0]  # once: a boolean mask would be searched again for every leaf

    def rows(leaf: Any) -> Tensor:
        leaf = to_torch(leaf, device)
        return (leaf if single else leaf.flatten(0, 1))[index]

    lengths = observed.sum(1)
    number = torch.atleast_1d(to_torch(survey.number, device)).long()
    if number.shape != lengths.shape or bool((number < lengths).any()):
        raise ValueError(
            f"survey: expected at most number = {number.tolist()[:8]} objects, got {lengths.tolist()[:8]} in the mask; rebuild the survey"
        )
    latents = None if survey.latents is None else Latents(*(rows(leaf) for leaf in survey.latents))
    exposure = to_torch(survey.exposure, device).expand(lengths.shape)
    theta = parameters(survey.theta, names).to(device) if names else torch.empty(len(lengths), 0, device=device)
    packed = Packed(Observations(*(rows(leaf) for leaf in survey.observations)), latents, theta, lengths, number, exposure)
    if index.is_cuda:  # the survey may be gone on return, and JAX would use its memory before torch has read it
        torch.cuda.current_stream().synchronize()
    return packed


def _rows(tree: Any, index: Tensor) -> Any:
    return None if tree is None else type(tree)(*(leaf[index] for leaf in tree))


def subset(packed: Packed, limit: int | Int[Tensor, "survey"], generator: torch.Generator) -> Packed:
    """At most `limit` random objects of each survey, a number for all or one for each; `number` keeps the true size."""
    limits = torch.as_tensor(limit).expand(packed.lengths.shape)
    owner = torch.repeat_interleave(torch.arange(len(packed.lengths)), packed.lengths.cpu())
    shuffled = torch.randperm(len(owner), generator=generator)
    order = shuffled[torch.argsort(owner[shuffled], stable=True)]
    start = torch.cumsum(packed.lengths.cpu(), 0) - packed.lengths.cpu()
    place = torch.arange(len(owner)) - start[owner]
    keep = order[place < limits.cpu()[owner]].to(packed.lengths.device)
    return Packed(
        _rows(packed.observations, keep),
        _rows(packed.latents, keep),
        packed.theta,
        packed.lengths.minimum(limits.to(packed.lengths)),
        packed.number,
        packed.exposure,
    )


def thinned(packed: Packed, limit: int) -> tuple[Packed, Int[Tensor, "kept"] | slice]:
    """At most `limit` objects of each survey, and which rows they are; `number` keeps the true size.

    The digits of an object's magnitudes beyond what is measured say whether it is kept: as good as random, and the same in whatever order.
    """
    if not len(packed.lengths) or int(packed.lengths.max()) <= limit:
        return packed, slice(None)
    mag = torch.nan_to_num(packed.observations.mag).double()
    weights = (1 + torch.arange(1, mag.shape[1] + 1, dtype=mag.dtype, device=mag.device) ** 2).sqrt()  # irrational: for rounded magnitudes
    start = packed.lengths.cumsum(0) - packed.lengths
    owner = torch.repeat_interleave(packed.lengths, output_size=len(mag))
    order = (owner + torch.remainder(1e4 * (mag @ weights), 1.0)).argsort()
    keep = order[torch.arange(len(mag), device=mag.device) - start[owner] < limit]
    fewer = packed._replace(
        observations=_rows(packed.observations, keep), latents=_rows(packed.latents, keep), lengths=packed.lengths.clamp(max=limit)
    )
    return fewer, keep


def select(packed: Packed, surveys: Sequence[int] | Tensor) -> Packed:
    """The surveys at the given places, in that order."""
    surveys = torch.as_tensor(surveys, device=packed.lengths.device)
    start = torch.cumsum(packed.lengths, 0) - packed.lengths
    lengths = packed.lengths[surveys]
    offset = torch.repeat_interleave(start[surveys] - (torch.cumsum(lengths, 0) - lengths), lengths)
    index = torch.arange(len(offset), device=offset.device) + offset
    observations, latents = _rows(packed.observations, index), _rows(packed.latents, index)
    return Packed(observations, latents, packed.theta[surveys], lengths, packed.number[surveys], packed.exposure[surveys])


def join(parts: Sequence[Packed]) -> Packed:
    """Concatenate packed surveys."""

    def cat(trees: Sequence[Any]) -> Any:
        return None if trees[0] is None else type(trees[0])(*(torch.cat(leaves) for leaves in zip(*trees, strict=True)))

    observations, latents, *rest = zip(*parts, strict=True)
    return Packed(cat(observations), cat(latents), *(torch.cat(r) for r in rest))


def segment_mean(values: Float[Tensor, "object feature"], lengths: Int[Tensor, "survey"]) -> Float[Tensor, "survey feature"]:
    """Mean over the objects of each survey; zero for an empty one. The sum over a chunk of objects is exact, so chunks add."""
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=values.device), lengths, output_size=len(values))
    total = torch.zeros(len(lengths), values.shape[1], dtype=values.dtype, device=values.device).index_add(0, owner, values)
    return total / lengths.clamp(min=1)[:, None]


def hide(
    observations: Observations,
    bands: Bool[Tensor, "object band"] | None = None,
    supernova: Bool[Tensor, "object"] | None = None,
    redshift: Bool[Tensor, "object"] | None = None,
) -> Observations:
    """Mark as not observed (NaN) the host bands, the supernova light and the spectroscopic redshift where the masks are True."""
    o = observations
    new: dict[str, Tensor] = {}
    if bands is not None:
        new |= {k: getattr(o, k).masked_fill(bands, torch.nan) for k in ("mag", "mag_err")}
    if supernova is not None:
        new |= {k: getattr(o, k).masked_fill(supernova, torch.nan) for k in SN_FIELDS}
    if redshift is not None:
        new |= {k: getattr(o, k).masked_fill(redshift, torch.nan) for k in ("z_spec", "z_spec_err")}
    return o._replace(**new)
