r"""Local regression and the physics moments of a survey: a fixed-length summary that costs O(N).

A small network gives $\hat z, \log\hat M, \log\hat Z$, age and their errors object by object. With them the fiducial Hubble residual
$r = m - \mu_{\rm fid}(\hat z) - M_0 - \alpha x - \beta c$ has the variance
$1/w = \sigma_0^2 + W_m + (\mu' \hat\sigma_z)^2 + \alpha^2 W_x + \beta^2 W_c + \ldots$, and the summary is the mean over the set of products
of (r, ẑ, log M̂, log Ẑ, age, x, c, m, ln σ̂_z) up to degree two, the same times w, r and wr, high powers of r of the sharpest objects,
logistic steps in mass times r, and ln N, which carries the rates.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from cigars.schema import FIDUCIAL, DistanceTable, Latents, Observations

from .batches import Packed
from .standardise import Standardiser

__all__ = ["TARGETS", "LocalRegressor", "Moments", "in_blocks", "local_targets", "size_columns"]

TARGETS = ("z", "mass_log10_msun", "metallicity_log10_zsun", "age_gyr")
STEPS = (9.0, 9.5, 10.0, 10.5, 11.0)  # log10 M/Msun
STEP_WIDTH = 0.12  # dex: the error of log M
BLOCK = 4096  # rows of a network at a time
Z_MIN = 0.005  # the distance modulus diverges at zero


def in_blocks(network: nn.Module, rows: Float[Tensor, "row input"]) -> Float[Tensor, "row output"]:
    """A network row by row; on a CPU in blocks whose activations stay in its cache, twice as fast for many rows."""
    if rows.device.type != "cpu" or len(rows) <= BLOCK or torch.is_grad_enabled():
        return network(rows)  # type: ignore[no-any-return]
    return torch.cat([network(block) for block in rows.split(BLOCK)])


def size_columns(packed: Packed) -> Float[Tensor, "survey 2"]:
    """ln(1 + N) and the log exposure: together they carry the rates."""
    return torch.stack([torch.log1p(packed.number.float()), packed.exposure.log()], -1)


def local_targets(latents: Latents) -> Float[Tensor, "object target"]:
    """What the regressor learns: z, log M, log Z, age [Gyr]."""
    return torch.stack([getattr(latents, n) for n in TARGETS], -1).float()


class LocalRegressor(nn.Module):
    """d_i → mean and ln sd of (z, log M, log Z, age), a Gaussian per target.

    Args:
        bands: number of host bands.
        width: hidden units of its three layers.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, bands: int, width: int = 96) -> None:
        super().__init__()
        self.standardiser = Standardiser(bands)
        sizes = [self.standardiser.features, width, width, width]
        layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.SiLU(inplace=True))]
        self.network = nn.Sequential(*layers, nn.Linear(width, 2 * len(TARGETS)))
        self.register_buffer("centre", torch.zeros(len(TARGETS)))
        self.register_buffer("scale", torch.ones(len(TARGETS)))

    def fit_scales(self, observations: Observations, targets: Tensor) -> LocalRegressor:
        """Set the standardisation of inputs and targets from training objects; returns itself."""
        self.standardiser.fit(observations)
        self.centre.copy_(targets.mean(0))
        self.scale.copy_(targets.std(0).clamp(min=1e-6))
        return self

    def forward(self, features: Float[Tensor, "object feature"]) -> tuple[Float[Tensor, "object target"], Float[Tensor, "object target"]]:
        """Mean and ln sd of the standardised targets from standardised inputs."""
        mean, ln_sd = in_blocks(self.network, features).chunk(2, -1)
        return mean, ln_sd.clamp(-7, 3)

    def loss(self, features: Tensor, targets: Float[Tensor, "object target"]) -> Float[Tensor, "object"]:
        """Negative Gaussian log density of the standardised targets, without the constant."""
        mean, ln_sd = self(features)
        error = (targets - self.centre) / self.scale - mean
        return (0.5 * error**2 * torch.exp(-2 * ln_sd) + ln_sd).sum(-1)

    def estimate(self, observations: Observations, features: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and ln sd of the standardised targets; a spectroscopic redshift, where there is one, takes the place of ẑ.

        `features` are the standardised inputs, where they are at hand.
        """
        mean, ln_sd = self(self.standardiser(observations) if features is None else features)
        known = torch.isfinite(observations.z_spec)
        z = torch.where(known, (torch.nan_to_num(observations.z_spec) - self.centre[0]) / self.scale[0], mean[:, 0])
        err = torch.where(
            known, torch.log(torch.nan_to_num(observations.z_spec_err, nan=1e-3).clamp(min=1e-6) / self.scale[0]), ln_sd[:, 0]
        )
        return torch.cat([z[:, None], mean[:, 1:]], -1), torch.cat([err[:, None], ln_sd[:, 1:]], -1)


class Moments(nn.Module):
    """The physics moments of packed surveys.

    Args:
        regressor: the trained local regressor.
        distance: distance modulus of the fiducial cosmology.
    """

    mu: Tensor

    def __init__(self, regressor: LocalRegressor, distance: DistanceTable, cells: int = 2048) -> None:
        super().__init__()
        self.regressor = regressor
        z, mu = (np.asarray(a, dtype=float) for a in distance)
        positive = z > 0
        self.z_max, self.cells = float(z[-1]), cells
        grid = np.linspace(0, math.log1p(self.z_max), cells + 1)  # uniform in ln(1 + z): a look-up is one multiplication
        self.register_buffer(
            "mu", torch.tensor(np.interp(np.maximum(np.expm1(grid), Z_MIN), z[positive], mu[positive]), dtype=torch.float32)
        )

    @property
    def standardiser(self) -> Standardiser:
        """Of the local regressor's inputs."""
        return self.regressor.standardiser

    def _modulus(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """μ_fid(z) and dμ/dz, linear within a cell."""
        step = math.log1p(self.z_max) / self.cells
        place = (torch.log1p(z) / step).clamp(0, self.cells - 1e-3)
        low = place.long()
        left, right = self.mu[low], self.mu[low + 1]
        return torch.lerp(left, right, place - low), (right - left) / (step * (1 + z))

    def per_object(
        self, o: Observations, estimate: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Float[Tensor, "object 9"], Float[Tensor, "object"], Float[Tensor, "object"]]:
        """The nine variables of each object, its inverse variance w (in units of σ_0^-2) and log10 M̂."""
        mean, ln_sd = self.regressor.estimate(o) if estimate is None else estimate
        centre, scale, s = self.regressor.centre, self.regressor.scale, self.regressor.standardiser
        z = (mean[:, 0] * scale[0] + centre[0]).clamp(Z_MIN, self.z_max)
        mu, slope = self._modulus(z)
        f = FIDUCIAL
        seen = torch.isfinite(o.m)
        m, x, c = (torch.where(seen, v, 0.0) for v in (o.m, o.x, o.c))
        r = torch.where(seen, m - mu - f.M0 - f.alpha * x - f.beta * c, 0.0)
        photo_z = slope * torch.exp(ln_sd[:, 0]) * scale[0]
        cov = 2 * (
            f.alpha * f.beta * torch.nan_to_num(o.cov_xc) - f.alpha * torch.nan_to_num(o.cov_mx) - f.beta * torch.nan_to_num(o.cov_mc)
        )
        variance = f.sigma_int**2 + o.var_m + f.alpha**2 * o.var_x + f.beta**2 * o.var_c + cov + photo_z**2 + 0.05**2
        w = torch.where(seen, f.sigma_int**2 / variance.clamp(min=f.sigma_int**2), 0.0)
        m_u = (m - s.mean[2 * s.bands]) / s.sd[2 * s.bands]
        columns = [
            (r / 0.3).clamp(-5, 5), *mean.clamp(-6, 6).T, (x / (1 + torch.nan_to_num(o.var_x))).clamp(-4, 4),
            (c * 10).clamp(-5, 6), torch.where(seen, m_u, 0.0).clamp(-4, 4), (ln_sd[:, 0] + 2.3).clamp(-3, 3),
        ]  # fmt: skip
        return torch.stack(columns, -1), w, mean[:, 1] * scale[1] + centre[1]

    def _one(self, v: Tensor, w: Tensor, mass: Tensor) -> Tensor:
        """Moments of one survey from its rows: weighted means are products of two thin matrices."""
        n = max(len(v), 1)
        upper = torch.triu_indices(9, 9, device=v.device)
        second = v[:, upper[0]] * v[:, upper[1]]
        first = torch.cat([torch.ones_like(w)[:, None], v, second], 1)
        r, mean_w = v[:, 0], w.sum() / n
        sharp = (w / mean_w.clamp(min=1e-12)) ** 2
        plain = torch.stack([torch.ones_like(w), w], 0) @ first / n
        triple = torch.stack([r, w * r, v[:, 1]], 0) @ second / n
        powers = torch.stack([r**2, r, r**4 / 10, torch.ones_like(r), r**2 * v[:, 1], r**2 * v[:, 6], r**2 * v[:, 5], w * r**2, w], 1)
        edges = torch.tensor(STEPS, device=v.device, dtype=v.dtype)
        steps = torch.stack([torch.ones_like(w), w * r, w], 0) @ torch.sigmoid((mass[:, None] - edges) / STEP_WIDTH) / n
        return torch.cat([plain[:, 1:].flatten(), mean_w[None], triple.flatten(), sharp @ powers / n, steps.flatten()])

    @torch.no_grad()
    def forward(self, packed: Packed, estimate: tuple[Tensor, Tensor] | None = None) -> Float[Tensor, "survey moment"]:
        """Moments of each survey, ln(1 + N) and the log exposure; `estimate` is the local regressor's, where it is at hand."""
        v, w, mass = self.per_object(packed.observations, estimate)
        rows = zip(*(a.split(packed.lengths.tolist()) for a in (v, w, mass)), strict=True)
        return torch.cat([torch.stack([self._one(*row) for row in rows]), size_columns(packed)], 1)
