r"""Per-object network inputs: one magnitude and colours, supernova light, errors, redshift, a flag for what is missing.

Every input is shifted and scaled, $u = (f - \bar f)/s_f$, with moments of the training objects over what was observed; what is
missing becomes its mean (u = 0) and raises its flag. An input that was the same for all of them is left out (u = 0): weights that never
saw it move are as they were drawn, and would make anything of another value. A missing band is first filled by the typical magnitude of
that band shifted by the object's mean offset in the bands it has, so that colours stay colours.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cigars.schema import Observations

__all__ = ["RANGE_NAMES", "Standardiser", "Whitening", "feature_count", "range_columns"]

CLIP = 10.0  # standard deviations: beyond, a network extrapolates; the range check reports such objects
RANGE_NAMES = ("m", "x", "c", "var_m", "var_x", "var_c", "z_spec", "z_spec_err")


def feature_count(bands: int) -> int:
    """Number of inputs for a number of bands: magnitudes, their errors and flags, and 13 of the supernova and redshift."""
    return 3 * bands + 13


def range_columns(observations: Observations) -> Float[Tensor, "object column"]:
    """What the range check compares: magnitudes, their errors, then `RANGE_NAMES`."""
    rest = torch.stack([getattr(observations, n) for n in RANGE_NAMES], -1)
    return torch.cat([observations.mag, observations.mag_err, rest], -1)


def _finite(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mask, count and mean over rows of what is finite (mean zero where nothing is)."""
    seen = torch.isfinite(values)
    count = seen.sum(0).clamp(min=1)
    return seen, count, torch.where(seen, values, 0.0).double().sum(0) / count


def _moments(values: Tensor) -> tuple[Tensor, Tensor]:
    seen, count, mean = _finite(values)
    sd = (torch.where(seen, values - mean, 0.0).double() ** 2).sum(0).div(count).sqrt()
    return mean.float(), torch.where(sd > 1e-4 * (1 + mean.abs()), sd, torch.inf).float()


class Standardiser(nn.Module):
    """Maps `Observations` of packed objects to network inputs; its statistics are buffers.

    Args:
        bands: number of host bands.
    """

    mag_mean: Tensor
    mean: Tensor
    sd: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, bands: int) -> None:
        super().__init__()
        if bands < 1:
            raise ValueError(f"bands: expected at least 1, got {bands}; configure host bands")
        self.bands, self.features = bands, feature_count(bands)
        scaled = 2 * bands + 11
        for name, value in (("mag_mean", torch.zeros(bands)), ("mean", torch.zeros(scaled)), ("sd", torch.ones(scaled))):
            self.register_buffer(name, value)
        self.register_buffer("low", torch.full((2 * bands + len(RANGE_NAMES),), torch.inf))
        self.register_buffer("high", torch.full((2 * bands + len(RANGE_NAMES),), -torch.inf))

    def fit(self, observations: Observations) -> Standardiser:
        """Set the statistics and the trained ranges from the training objects; returns itself."""
        if observations.mag.shape[-1] != self.bands:
            raise ValueError(f"magnitudes: expected {self.bands} bands, got {observations.mag.shape[-1]}; train for these bands")
        if len(observations.mag) == 0:
            raise ValueError("training objects: expected at least one, got none; the surveys are empty under this prior")
        self.mag_mean.copy_(_finite(observations.mag)[2].float())
        mean, sd = _moments(self._scaled(observations))
        self.mean.copy_(mean)
        self.sd.copy_(sd)
        columns = range_columns(observations)
        seen = torch.isfinite(columns)
        self.low.copy_(torch.where(seen, columns, torch.inf).amin(0))
        self.high.copy_(torch.where(seen, columns, -torch.inf).amax(0))
        return self

    def _filled(self, mag: Tensor) -> Tensor:
        seen = torch.isfinite(mag)
        offset = torch.where(seen, mag - self.mag_mean, 0.0).sum(-1, keepdim=True) / seen.sum(-1, keepdim=True).clamp(min=1)
        return torch.where(seen, mag, self.mag_mean + offset)

    def _scaled(self, o: Observations) -> Float[Tensor, "object scaled"]:
        mag = self._filled(o.mag)
        sd_m, sd_x, sd_c = o.var_m.sqrt(), o.var_x.sqrt(), o.var_c.sqrt()
        pairs = ((o.cov_mx, sd_m * sd_x), (o.cov_mc, sd_m * sd_c), (o.cov_xc, sd_x * sd_c))
        correlation = [torch.nan_to_num(cov / scale) for cov, scale in pairs]
        single = [o.m, o.x, o.c, sd_m.log(), sd_x.log(), sd_c.log(), *correlation, o.z_spec, o.z_spec_err.log()]
        middle = self.bands // 2
        return torch.cat([mag[:, middle : middle + 1], mag[:, :-1] - mag[:, 1:], o.mag_err.log(), torch.stack(single, -1)], -1)

    def forward(self, observations: Observations) -> Float[Tensor, "object feature"]:
        """Network inputs of packed objects."""
        o = observations
        u = torch.nan_to_num((self._scaled(o) - self.mean) / self.sd, nan=0.0, posinf=CLIP, neginf=-CLIP).clamp(-CLIP, CLIP)
        flags = torch.cat([~torch.isfinite(o.mag), ~torch.isfinite(o.m)[:, None], torch.isfinite(o.z_spec)[:, None]], -1)
        return torch.cat([u, flags.to(u.dtype)], -1)


class Whitening(nn.Module):
    """Standardise, clip, project on the leading principal components at unit variance, clip.

    Components with a singular value below `cut` of the first are dropped: whitening all of them explodes off the
    training set.

    Args:
        inputs: length of a summary.
        outputs: number of components kept.
    """

    mean: Tensor
    sd: Tensor
    projection: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("sd", torch.ones(inputs))
        self.register_buffer("projection", torch.zeros(inputs, outputs))

    @classmethod
    def fit(cls, summary: Float[Tensor, "survey summary"], cut: float = 1e-3, rows: int = 8000) -> Whitening:
        """Whitening of the given summaries (their first `rows` fix the components)."""
        some = summary.double()
        mean, sd = some.mean(0), some.std(0)
        sd = torch.where(sd > 1e-4 * mean.abs().clamp(min=1e-5), sd, torch.inf)  # constant but for the rounding of float32 sums
        u = ((some[:rows] - mean) / sd).clamp(-6, 6)
        _, values, vectors = torch.linalg.svd(u / len(u) ** 0.5, full_matrices=False)
        kept = int((values > cut * values[0]).sum())
        out = cls(summary.shape[1], kept).to(summary.device)
        for name, value in (("mean", mean), ("sd", sd), ("projection", (vectors[:kept] / values[:kept, None]).T)):
            getattr(out, name).copy_(value)
        return out

    def forward(self, summary: Float[Tensor, "survey summary"]) -> Float[Tensor, "survey component"]:
        """Whitened components, within ±6."""
        return (((summary - self.mean) / self.sd).clamp(-6, 6) @ self.projection).clamp(-6, 6)
