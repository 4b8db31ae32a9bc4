"""Hats are a partition of unity, and the dual projection is second order in each factor (so fourth in the product of smooth ones)."""

import numpy as np
import pytest

from simulators.sps.grid import WavelengthGrid, dual_weights, fine_points, hat_integrals


def projected(step, spectrum, throughput):
    grid = WavelengthGrid(0.0, step, round(6.0 / step) + 1)
    x = fine_points(grid)
    a = hat_integrals(spectrum(x), grid) / grid.step
    return a @ dual_weights(hat_integrals(throughput(x), grid))


def bell(centre, width):
    return lambda x: np.exp(-((x - centre) ** 2) / (2 * width**2))


def test_hats_sum_to_the_integral():
    grid = WavelengthGrid(0.0, 0.01, 601)
    x = fine_points(grid)
    inside = np.maximum(0.0, 1.0 - np.abs(x - 3.0))  # a triangle of unit area, its kinks on nodes of the fine grid
    integrals = hat_integrals(inside, grid)
    assert integrals.sum() == pytest.approx(1.0, abs=1e-5)  # trapezoidal rule with kinks
    assert dual_weights(integrals).sum() == pytest.approx(1.0, abs=1e-5)


def test_product_converges_at_fourth_order():
    """integral of exp(-(x-a)^2/2s^2) exp(-(x-b)^2/2t^2) over x is analytic; errors of the two projections multiply."""
    s, t, d = 0.05, 0.08, 0.06
    exact = np.sqrt(2 * np.pi * s**2 * t**2 / (s**2 + t**2)) * np.exp(-(d**2) / (2 * (s**2 + t**2)))
    error = [abs(projected(h, bell(3.0, s), bell(3.0 + d, t)) - exact) for h in (0.06, 0.03)]
    assert np.log2(error[0] / error[1]) == pytest.approx(4.0, abs=0.7)


def test_plain_averages_are_worse():
    """What is rejected: averages of both factors multiplied without the inverse mass matrix, second order with a large constant."""
    s, t = 0.05, 0.08
    exact = np.sqrt(2 * np.pi * s**2 * t**2 / (s**2 + t**2))
    grid = WavelengthGrid(0.0, 0.03, 201)
    x = fine_points(grid)
    plain = hat_integrals(bell(3.0, s)(x), grid) @ hat_integrals(bell(3.0, t)(x), grid) / grid.step
    dual = projected(0.03, bell(3.0, s), bell(3.0, t))
    assert abs(plain - exact) > 10 * abs(dual - exact)
