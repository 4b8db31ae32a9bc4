"""Inverse of zuko's monotone rational-quadratic spline (Durkan+19), for drawing: twice as fast, without gradients.

Only the bin that holds a value is worked out, and each parameter is a row of its own, so that every step runs along memory.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["invert_spline"]

BOUND = 5.0  # zuko's: the spline maps (-5, 5) onto itself and is the identity outside
STEEPEST = -math.log(1e-3)  # zuko's least slope


def invert_spline(parameters: Float[Tensor, "knots row"], values: Float[Tensor, "row"]) -> Float[Tensor, "row"]:
    """Where `zuko.transforms.MonotonicRQSTransform` takes these values.

    Args:
        parameters: unconstrained widths [bins], heights [bins] and inner derivatives [bins - 1], one below the other.
        values: at which the inverse is wanted.
    """
    bins = (len(parameters) + 1) // 3
    widths, heights = _bounded(parameters[:bins], 2.0), _bounded(parameters[bins : 2 * bins], 2.0)
    right, top = widths.cumsum(0), heights.cumsum(0)
    # in units of the unnormalised heights
    at = (values * (0.5 / BOUND) + 0.5) * top[-1]
    inside = (at > 0) & (at < top[-1])
    bin_ = (top[:-1] < at).sum(0)[None]

    def here(rows: Tensor) -> Tensor:
        return rows.gather(0, bin_)[0]

    x_unit, y_unit = 2 * BOUND / right[-1], 2 * BOUND / top[-1]
    dx, dy = here(widths), here(heights)
    x0, rise = (here(right) - dx) * x_unit - BOUND, (at - here(top) + dy) * y_unit * inside
    dx, dy = dx * x_unit, dy * y_unit
    inner = torch.nn.functional.pad(parameters[2 * bins :], (0, 0, 1, 1))  # slope 1 at both ends
    first, last = _bounded(here(inner), 1.0), _bounded(inner.gather(0, bin_ + 1)[0], 1.0)
    slope = dy / dx
    bend = rise * (first + last - 2 * slope)
    a, b, c = dy * (slope - first) + bend, dy * first - bend, -slope * rise
    return torch.where(inside, x0 + dx * 2 * c / (-b - (b * b - 4 * a * c).sqrt()), values)


def _bounded(raw: Tensor, share: float) -> Tensor:
    """Exponential of what zuko squashes so that no slope is below its least."""
    return (raw / (raw.abs() * (share / STEEPEST) + 1)).exp_()
