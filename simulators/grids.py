"""Places on a grid of unit step, for linear interpolation in tables with uniform nodes."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

__all__ = ["cell_at"]


def cell_at(position: Float[Array, "*g"], nodes: int) -> tuple[Int[Array, "*g"], Float[Array, "*g"]]:
    """Cell of each position on the nodes 0, 1, … nodes − 1, and the place within it, 0 to 1; clamped at the ends of the grid."""
    position = jnp.clip(position, 0.0, nodes - 1.0)
    cell = jnp.minimum(position.astype(jnp.int32), nodes - 2)
    return cell, position - cell.astype(position.dtype)
