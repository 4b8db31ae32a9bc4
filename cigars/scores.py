"""Joint scores of the JAX simulator for training in torch: the arrays cross between the frameworks here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cigars.config import Config

if TYPE_CHECKING:
    from torch import Tensor

    from inference.batches import Packed
    from inference.score import JointScore

__all__ = ["joint_scores"]

CHUNK = 16384  # objects at a time, always this many: one compilation


def joint_scores(config: Config) -> JointScore:
    """`score(packed, theta)` of a configuration: joint score and ∂μ/∂Θ, both [object, parameter], at a Θ of each object's own."""
    import jax.numpy as jnp
    import torch

    from simulators.score import host_score, joint_score

    read = Config(prior=config.prior, supernovae=config.supernovae)  # all that a score depends on: no seed compiles it anew

    def score(packed: Packed, theta: Tensor) -> tuple[Tensor, Tensor]:
        if packed.latents is None:
            raise ValueError("joint score: expected simulated objects with their latents, got none; score simulations only")
        total, parts = len(theta), []
        leaves = [t.cpu().numpy() for t in (theta, *packed.observations, *packed.latents)]
        for start in range(0, total, CHUNK):
            rows = np.minimum(np.arange(start, start + CHUNK), total - 1)
            at, *rest = (jnp.asarray(leaf[rows]) for leaf in leaves)
            observations = type(packed.observations)(*rest[: len(packed.observations)])
            latents = type(packed.latents)(*rest[len(packed.observations) :])
            both = joint_score(at, observations, latents, read), host_score(at, latents.z, read)
            parts.append([torch.from_numpy(np.array(a))[: total - start] for a in both])
        first, second = (torch.cat(p).to(theta.device) for p in zip(*parts, strict=True))
        return first, second

    return score
