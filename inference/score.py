r"""One-step summary: the score of the catalogue's likelihood at a first estimate of Θ.

Near a consistent first estimate $\hat\Theta$ the score $S = \sum_i \partial\ln p(d_i \mid \hat\Theta)/\partial\Theta$ and its
covariance J hold all the information there is, and $\hat\Theta + J^{-1} S$ is efficient (Le Cam 1956). The score of one object is a
conditional mean of joint scores, which the differentiable simulator gives (`simulators.score`), so a network learns it by regression
(Brehmer+20), and its sums are centred where they must vanish (`centring`). First estimates come from the physics moments; a refinement
evaluates the score again where the one before it led.

Everything is in units of the prior: $y = (\Theta - \bar\Theta)/s_\Theta$ with the prior's mean and standard deviation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cigars.schema import COSMOLOGY, FIDUCIAL, Observations

from .batches import Packed, thinned
from .centring import MeanScore, Polynomial
from .distances import distance_modulus
from .priors import Prior
from .regression import ridge
from .standardise import Standardiser, Whitening
from .summaries import STEP_WIDTH, Z_MIN, LocalRegressor, Moments, in_blocks, size_columns

__all__ = ["GREY_SCATTER", "JointScore", "OneStep", "Pilot", "ScoreNetwork"]

JointScore = Callable[[Packed, Tensor], tuple[Tensor, Tensor]]
"""`joint_score(packed, theta)`: for each object, at its row of `theta` [object, parameter], the joint score without host magnitudes
and ∂μ/∂Θ, both [object, parameter]."""

GREY_SCATTER = 0.15  # mag, of the grey shift that makes the score of host magnitudes learnable
CLIP = 6.0
PHYSICS = 7


def perceptron(inputs: int, outputs: int, width: int, layers: int) -> nn.Sequential:
    """Layers of `width` SiLU units and a linear map to the outputs."""
    sizes = [inputs] + [width] * layers
    hidden = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.SiLU(inplace=True))]
    return nn.Sequential(*hidden, nn.Linear(width, outputs))


class ScoreNetwork(nn.Module):
    r"""Scores of single objects, $E[t \mid d, \Theta] - E[t \mid \Theta]$ in units of the prior, from regression on joint scores.

    Args:
        prior: of the free parameters.
        bands: number of host bands.
        fixed: values of the parameters that are not free; fiducial where absent.
        width: units of the three layers of the main network.
        centring: networks that centre its sums; none, and polynomials do.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, prior: Prior, bands: int, fixed: Mapping[str, float] | None = None, width: int = 128, centring: int = 0) -> None:
        super().__init__()
        self.names, self.size = prior.names, len(prior.names)
        self.fixed = {**FIDUCIAL._asdict(), **(fixed or {})}
        self.flat = "Ode0" not in self.names and "Ode0" not in (fixed or {})
        self.register_buffer("centre", prior.mean)
        self.register_buffer("scale", prior.variance.sqrt())
        inputs = LocalRegressor(bands).standardiser.features + 8 + PHYSICS + self.size
        self.mean = perceptron(self.size, 2 * self.size, 64, 2)
        self.supernova = perceptron(inputs, self.size, width, 3)
        self.host = perceptron(inputs, self.size, 64, 2)
        self.centre_of_sums = Polynomial(self.size, self.size + 1)
        self.mean_of_sums = MeanScore(self.size, centring) if centring else None

    def standardise(self, theta: Float[Tensor, "*row parameter"]) -> Float[Tensor, "*row parameter"]:
        """Θ in units of the prior."""
        return (theta - self.centre) / self.scale

    def moments_of_score(self, y: Float[Tensor, "row parameter"]) -> tuple[Tensor, Tensor]:
        """Mean and ln sd of the joint score of detected objects at each y."""
        mean, ln_sd = self.mean(y).chunk(2, -1)
        return mean, ln_sd.clamp(-7, 7)

    def expected(self, y: Float[Tensor, "survey parameter"]) -> tuple[Tensor, Tensor, Tensor]:
        """At the truth y: mean over the objects of the score, ln(1 + N) at unit exposure, and its gradient."""
        mean, ln_number = self.centre_of_sums(y).split([self.size, 1], -1)
        mean = mean if self.mean_of_sums is None else self.mean_of_sums(y)
        return mean * self.moments_of_score(y)[1].exp(), ln_number[:, 0], self.centre_of_sums.slope(y, self.size)

    def inputs(
        self, observations: Observations, features: Tensor, estimate: tuple[Tensor, Tensor], y: Tensor, regressor: LocalRegressor
    ) -> Float[Tensor, "object input"]:
        """What both networks see of each object: its data, estimates of its redshift and host, its Hubble residual at Θ, and Θ."""
        return torch.cat([features, *self._physics(observations, estimate, y, regressor), y], -1)

    def _physics(self, o: Observations, estimate: tuple[Tensor, Tensor], y: Tensor, regressor: LocalRegressor) -> list[Tensor]:
        mean, ln_sd = estimate
        theta = dict(zip(self.names, (y * self.scale + self.centre).T, strict=True))
        of = {k: theta.get(k, torch.full_like(y[:, 0], v)) for k, v in self.fixed.items()}
        if self.flat:
            of["Ode0"] = 1 - of["Om0"]
        z, mass, metallicity, age = (mean * regressor.scale + regressor.centre).T
        z = z.clamp(Z_MIN, 1.6)
        cosmology = [of[k] for k in COSMOLOGY]
        mu = distance_modulus(z, *cosmology)
        slope = (distance_modulus(z + 0.01, *cosmology) - mu) / 0.01
        seen = torch.isfinite(o.m)
        m, x, c, var_m, var_x, var_c = (torch.where(seen, v, 0.0) for v in (o.m, o.x, o.c, o.var_m, o.var_x, o.var_c))
        step = of["mass_step"] * torch.sigmoid((mass - of["mass_step_loc"]) / STEP_WIDTH)
        delta_m = of["gamma_Z"] * metallicity + of["gamma_age"] * age + step
        r = torch.where(seen, m - mu - of["M0"] - delta_m - of["alpha"] * x / (1 + var_x) - of["beta"] * c, 0.0)
        photo_z = slope * ln_sd[:, 0].exp() * regressor.scale[0]
        variance = of["sigma_int"] ** 2 + var_m + 0.5 * photo_z**2 + 0.05**2 + of["beta"] ** 2 * var_c
        columns = [
            (r * 5).clamp(-CLIP, CLIP), (r / variance.sqrt()).clamp(-CLIP, CLIP), (r / variance / 10).clamp(-CLIP, CLIP),
            variance.log() + 3, (photo_z * 5).clamp(max=CLIP), (of["mass_step_loc"] - mass).clamp(-3, 3), (mu - 42) / 2,
        ]  # fmt: skip
        return [mean.clamp(-5, 5), (ln_sd + 1).clamp(-5, 4), torch.stack(columns, -1)]

    def forward(self, inputs: Float[Tensor, "object input"], ln_sd: Float[Tensor, "object parameter"]) -> tuple[Tensor, Tensor]:
        """Scores [object, parameter] of the supernova, and of the host's magnitudes as a distance indicator."""
        supernova = in_blocks(self.supernova, inputs).clamp(-CLIP, CLIP) * ln_sd.exp()
        return supernova, in_blocks(self.host, inputs) * (1 / GREY_SCATTER)


class Pilot(nn.Module):
    """A point estimate of y from a summary: ridge regression and a small network beside it, trained on squared errors.

    Args:
        whitening: of the summary.
        size: number of parameters.
        limit: largest |y| per parameter, shape [2, parameter]: just inside the prior's support.
        dropout: on the whitened components, before the small network.
    """

    limit: Tensor

    def __init__(self, whitening: Whitening, size: int, limit: Float[Tensor, "2 parameter"], dropout: float = 0.1) -> None:
        super().__init__()
        self.whitening = whitening
        components = whitening.projection.shape[1]
        self.linear = nn.Linear(components, size)
        self.correction = nn.Sequential(nn.Dropout(dropout), perceptron(components, size, 96, 2))
        self.register_buffer("limit", limit)

    def fit_linear(self, summary: Tensor, y: Float[Tensor, "survey parameter"]) -> Pilot:
        """Start at the ridge regression; returns itself."""
        found = ridge(self.whitening(summary), y)
        with torch.no_grad():
            self.linear.weight.copy_(found.weight.T)
            self.linear.bias.copy_(found.bias)
            self.correction[-1][-1].weight.mul_(0.1)  # type: ignore[index,operator,union-attr]
        return self

    def raw(self, summary: Float[Tensor, "survey summary"]) -> Float[Tensor, "survey parameter"]:
        """The estimate before it is kept inside the prior."""
        w = self.whitening(summary)
        return self.linear(w) + self.correction(w)

    def loss(self, y: Float[Tensor, "survey parameter"], summary: Float[Tensor, "survey summary"]) -> Float[Tensor, "survey"]:
        """Squared error, summed over the parameters."""
        return ((self.raw(summary) - y) ** 2).sum(-1)

    def forward(self, summary: Float[Tensor, "survey summary"]) -> Float[Tensor, "survey parameter"]:
        """The estimate, inside the prior."""
        return torch.minimum(torch.maximum(self.raw(summary), self.limit[0]), self.limit[1])


class OneStep(nn.Module):
    """Estimate Θ from the physics moments, then evaluate the score there, as often as there are refinements.

    Args:
        moments: with its trained local regressor.
        score: trained on joint scores.
        pilots: the first from moments, the others from the summary at the estimate before.
        few: objects of a survey at most that estimates use beyond the moments, which is most of the cost of a large survey; all count at
            the last estimate, and 0 takes all everywhere.
        anchored: give the mean score at the middle of the prior as well. It is farther from the truth, and says less of what is not
            linear there, but does not have the errors of an estimate and of the centring: the larger the survey, the more they count.
    """

    def __init__(self, moments: Moments, score: ScoreNetwork, pilots: list[Pilot], few: int = 0, anchored: bool = False) -> None:
        super().__init__()
        self.moments, self.score, self.pilots, self.few, self.anchored = moments, score, nn.ModuleList(pilots), few, anchored

    @property
    def regressor(self) -> LocalRegressor:
        """The local regressor of the moments."""
        return self.moments.regressor

    @property
    def standardiser(self) -> Standardiser:
        """Of its inputs."""
        return self.regressor.standardiser

    @torch.no_grad()
    def forward(self, packed: Packed) -> Float[Tensor, "survey summary"]:
        """Each survey: estimate, estimate after one Newton step, that step, mean scores, ln widths, numbers, exposure, anchor."""
        features, estimate = self._objects(packed)
        anchor = self._anchor(packed, features, estimate)
        y, _ = self._estimated(packed, features, estimate, anchor)
        return torch.cat([self._at(packed, features, estimate, y), anchor], -1)

    @torch.no_grad()
    def towards(self, packed: Packed) -> Float[Tensor, "survey summary"]:
        """The summary of a few objects of each survey, but for the anchor, which is of all; the next refinement reads it."""
        features, estimate = self._objects(packed)
        anchor = self._anchor(packed, features, estimate)
        y, some = self._estimated(packed, features, estimate, anchor)
        return torch.cat([self._at(*some, y), anchor], -1)

    def _anchor(self, packed: Packed, features: Tensor, estimate: tuple[Tensor, Tensor]) -> Float[Tensor, "survey *"]:
        """Mean score of each survey at the middle of the prior, if there is to be one; its mean there is the same for all surveys."""
        middle = torch.zeros(len(packed.lengths), self.score.size, device=features.device)
        return self._means(packed, features, estimate, middle)[0] if self.anchored else middle[:, :0]

    def _estimated(
        self, packed: Packed, features: Tensor, estimate: tuple[Tensor, Tensor], anchor: Tensor
    ) -> tuple[Tensor, tuple[Packed, Tensor, tuple[Tensor, Tensor]]]:
        """Last estimate of y, and what `_at` wants of the few objects that led to it."""
        y = self.pilots[0](self.moments(packed, estimate))
        fewer, rows = thinned(packed, self.few) if self.few else (packed, slice(None))
        some = fewer, features[rows], (estimate[0][rows], estimate[1][rows])
        for refine in self.pilots[1:]:
            y = refine(torch.cat([self._at(*some, y), anchor], -1))
        return y, some

    @torch.no_grad()
    def at(self, packed: Packed, y: Float[Tensor, "survey parameter"]) -> tuple[Tensor, Tensor]:
        """Score of each survey at y, summed over its objects, and the part of it that host magnitudes give, both [survey, parameter]."""
        mean, host, _ = self._means(packed, *self._objects(packed), y)
        count = packed.lengths[:, None]
        return count * (mean - self.score.expected(y)[0]), count * host

    @torch.no_grad()
    def at_truth(self, packed: Packed) -> Float[Tensor, "survey column"]:
        """What `centring` learns from: mean scores at the true Θ over their spread, ln(1 + N) at unit exposure, the number of objects."""
        y = self.score.standardise(packed.theta)
        mean, _, _ = self._means(packed, *self._objects(packed), y)
        mean = mean * torch.exp(-self.score.moments_of_score(y)[1])
        return torch.cat([mean, _ln_number(packed)[:, None], packed.lengths[:, None].float()], 1)

    @torch.no_grad()
    def of_objects(self, packed: Packed, y: Float[Tensor, "survey parameter"]) -> Float[Tensor, "object parameter"]:
        """Score of each object at the y of its survey, not centred."""
        supernova, host = self._scores(packed, *self._objects(packed), y)
        return supernova + host

    def _objects(self, packed: Packed) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Network inputs of each object, and the local regressor's estimate."""
        features = self.regressor.standardiser(packed.observations)
        return features, self.regressor.estimate(packed.observations, features)

    def _scores(self, packed: Packed, features: Tensor, estimate: tuple[Tensor, Tensor], y: Tensor) -> tuple[Tensor, Tensor]:
        """Scores [object, parameter] at the y of each survey, of supernovae and of host magnitudes."""
        rows = torch.repeat_interleave(y, packed.lengths, 0, output_size=len(features))
        ln_sd = torch.repeat_interleave(self.score.moments_of_score(y)[1], packed.lengths, 0, output_size=len(features))
        return self.score(self.score.inputs(packed.observations, features, estimate, rows, self.regressor), ln_sd)

    def _means(
        self, packed: Packed, features: Tensor, estimate: tuple[Tensor, Tensor], y: Float[Tensor, "survey parameter"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mean score at y over the objects of each survey, the part of host magnitudes, and N times its covariance."""
        supernova, host = self._scores(packed, features, estimate, y)
        sizes = packed.lengths.tolist()
        means, hosts, spreads = [], [], []
        for s, h, n in zip(supernova.split(sizes), host.split(sizes), sizes, strict=True):
            total = s + h
            means.append(total.sum(0) / max(n, 1))
            hosts.append(h.sum(0) / max(n, 1))
            spreads.append(total.T @ total - n * means[-1][:, None] * means[-1])
        return torch.stack(means), torch.stack(hosts), torch.stack(spreads)

    def _at(self, packed: Packed, features: Tensor, estimate: tuple[Tensor, Tensor], y: Float[Tensor, "survey parameter"]) -> Tensor:
        """The summary with the score taken at y."""
        mean, host, spread = self._means(packed, features, estimate, y)
        expected, ln_number, slope = self.score.expected(y)
        mean, more = mean - expected, _ln_number(packed) - ln_number
        count = packed.lengths[:, None].float()
        number = packed.number[:, None].float()
        # ln L = Σ ln p(d | Θ) + N ln Λ - Λ, and the prior
        gradient = count * mean + number * more[:, None] * slope - y
        identity = torch.eye(y.shape[1], device=y.device)
        information = spread + number[..., None] * slope[:, :, None] * slope[:, None, :] + identity
        covariance = torch.cholesky_inverse(torch.linalg.cholesky(information))
        step = (covariance @ gradient[..., None])[..., 0].clamp(-CLIP, CLIP)
        ln_width = 0.5 * covariance.diagonal(dim1=1, dim2=2).log()
        parts = [y, (y + step).clamp(-CLIP, CLIP), step, mean, host, ln_width, more[:, None], size_columns(packed)]
        return torch.cat(parts, -1)


def _ln_number(packed: Packed) -> Float[Tensor, "survey"]:
    """ln(1 + N) at unit exposure."""
    ln_number, ln_exposure = size_columns(packed).T
    return ln_number - ln_exposure
