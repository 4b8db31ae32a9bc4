r"""Distance modulus of ΛCDM and CPL cosmologies in torch: an input of the score network, one cosmology an object.

$\mu = 5 \log_{10}[(1+z)\, d_M / 10\,{\rm pc}]$ by Gauss-Legendre quadrature of 1/E between 0 and z (h = 0.7, no radiation).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cigars.schema import HUBBLE_DISTANCE_MPC

__all__ = ["distance_modulus"]

NODES, WEIGHTS = np.polynomial.legendre.leggauss(10)


def distance_modulus(z: Float[Tensor, "object"], Om0: Tensor, Ode0: Tensor, w0: Tensor, wa: Tensor) -> Float[Tensor, "object"]:
    """μ(z) in mag for positive z, each object in a cosmology of its own; good to 1e-3 mag for z ≤ 1.5.

    Where E² or the distance would be negative (no Big Bang, antipode) both are floored, so that μ stays finite.
    """
    curvature = 1 - Om0 - Ode0
    total = torch.zeros_like(z)
    for node, weight in zip(NODES, WEIGHTS, strict=True):
        a = 1 + 0.5 * z * (1 + float(node))
        dark = Ode0 * torch.exp(3 * ((1 + w0 + wa) * torch.log(a) - wa * (1 - 1 / a)))
        total = total + float(weight) * (a * a * (Om0 * a + curvature) + dark).clamp(min=1e-4).rsqrt()
    sight = 0.5 * z * total
    x, series = curvature * sight**2, torch.ones_like(z)
    for n in range(6, 0, -1):  # sinh or sin of the curvature as one power series
        series = 1 + series * x / (2 * n * (2 * n + 1))
    return 5 / math.log(10) * torch.log((1 + z) * HUBBLE_DISTANCE_MPC * sight * series.clamp(min=1e-3)) + 25
