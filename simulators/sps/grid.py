r"""Projection of spectra and throughputs onto a uniform grid in ln wavelength by hat functions.

A spectrum L and a throughput T enter photometry as \int T L dx, x = ln lambda. With hats h_i of the grid, the spectrum is kept as
averages a_i = \int L h_i dx / step and the throughput as dual weights d = M^{-1} \int T h_i dx, M the hats' mass matrix, so that
\sum_i a_i d_i is the integral of T against the least-squares projection of L: second order in what *both* leave out.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

__all__ = ["FINE", "WavelengthGrid", "dual_weights", "fine_points", "hat_integrals"]

FINE = 64  # sub-intervals a hat half-width is integrated with: 0.4 A at 7000 A for the default step

_ROOT = np.sqrt(3.0) - 2.0  # root of r^2 + 4 r + 1, the decay of the inverse mass matrix
_DUAL = np.sqrt(3.0) * _ROOT ** np.abs(np.arange(-24, 25))


class WavelengthGrid(NamedTuple):
    """Uniform grid x_i = ln_start + i step in ln(wavelength / A)."""

    ln_start: float
    step: float
    pixels: int

    @property
    def ln_wavelength(self) -> Float[np.ndarray, " pixel"]:
        """ln(wavelength / A) of the grid points."""
        return self.ln_start + self.step * np.arange(self.pixels)

    @property
    def wavelength(self) -> Float[np.ndarray, " pixel"]:
        """Wavelength of the grid points, A."""
        return np.exp(self.ln_wavelength)


def fine_points(grid: WavelengthGrid, fine: int = FINE) -> Float[np.ndarray, " point"]:
    """ln wavelength of the points at which a function is needed for `hat_integrals`: (pixels + 1) * fine + 1 values."""
    return grid.ln_start - grid.step + grid.step / fine * np.arange((grid.pixels + 1) * fine + 1)


def hat_integrals(values: Float[np.ndarray, "*batch point"], grid: WavelengthGrid, fine: int = FINE) -> Float[np.ndarray, "*batch pixel"]:
    """Integrals over ln wavelength of a function times each hat, by the trapezoidal rule, from its values at `fine_points`."""
    hat = 1.0 - np.abs(np.arange(-fine, fine + 1)) / fine
    windows = np.lib.stride_tricks.sliding_window_view(values, 2 * fine + 1, axis=-1)[..., ::fine, :]
    return windows @ hat * (grid.step / fine)


def dual_weights(integrals: Float[np.ndarray, "*batch pixel"]) -> Float[np.ndarray, "*batch pixel"]:
    """Hat integrals of a throughput times the inverse mass matrix of the hats (of unit step, on an unbounded grid).

    The mass matrix is tridiagonal, (1/6, 2/3, 1/6), so its inverse decays by sqrt(3) - 2 a pixel. Leave 24 pixels of margin.
    """
    return np.apply_along_axis(np.convolve, -1, integrals, _DUAL, "same")
