"""The inverse spline is zuko's."""

import torch
from zuko.transforms import MonotonicRQSTransform

from inference.splines import invert_spline

BINS, ROWS = 8, 4096


def splines(scale):
    torch.manual_seed(1)
    raw = scale * torch.randn(3 * BINS - 1, ROWS)
    columns = raw.T.double()
    return raw, MonotonicRQSTransform(columns[:, :BINS], columns[:, BINS : 2 * BINS], columns[:, 2 * BINS :])


def test_it_is_zukos_inverse():
    """In float64 for zuko's; the values reach beyond the bound. Where a spline is as flat as it may be, 1e-3, float32 has 1e-3 left."""
    values = torch.linspace(-7, 7, ROWS)
    for scale, tolerance in ((0.3, 2e-5), (1.0, 1e-4), (3.0, 5e-3)):
        raw, theirs = splines(scale)
        torch.testing.assert_close(invert_spline(raw, values).double(), theirs.inv(values.double()), atol=tolerance, rtol=0)


def test_it_is_undone_by_the_spline():
    raw, forward = splines(1.0)
    values = 2 * torch.randn(ROWS)
    torch.testing.assert_close(forward(invert_spline(raw, values).double()), values.double(), atol=1e-4, rtol=0)


def test_the_bound_is_the_identity():
    raw, _ = splines(1.0)
    for edge in (-5.0, 5.0, -5.5, 30.0):
        torch.testing.assert_close(invert_spline(raw, torch.full((ROWS,), edge)), torch.full((ROWS,), edge))
