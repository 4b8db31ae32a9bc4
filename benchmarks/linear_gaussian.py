r"""How close do the estimators come to an exact posterior, global and local?

A survey whose objects are Gaussian around a linear function of three global parameters and seven unknowns of their own,
$y_i = y_0 + A(\Theta - \Theta_0) + B(\ell_i - \ell_0) + \epsilon_i$, has Gaussian posteriors: with $\Sigma = BSB^T + \sigma^2 I$
the global precision is $P_0 + N A^T \Sigma^{-1} A$. Expected: the gap E[-ln q] - E[-ln p] of the global posterior below 0.1 nats (three
parameters) in under three minutes on two cores, of the local one below 0.3 nats (seven unknowns); widths within 5 %.

usage: python benchmarks/linear_gaussian.py [--surveys 6000]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cigars.config import Config
from cigars.schema import FIDUCIAL, LOCALS, DistanceTable, Globals, Latents, Marginal, Observations, Survey

__all__ = ["MARGINALS", "GaussianSurvey", "configuration", "gap", "measure"]

MARGINALS = {
    "M0": Marginal("normal", -19.5, 0.3, -np.inf, np.inf),
    "alpha": Marginal("normal", -0.14, 0.2, -np.inf, np.inf),
    "beta": Marginal("normal", 2.2, 0.5, -np.inf, np.inf),
}
CENTRE = np.array([0.6, 10.5, -0.9, 1.5, -0.3, 0.0, 0.0, 6.0])  # of the unknowns, far from the edges of their supports
SPREAD = np.array([0.1, 0.3, 0.15, 0.25, 0.1, 1.0, 0.1, 0.8])
ZERO = np.array([20.0, 19.0, 22.0, 0.0, 0.0])  # of two magnitudes, m, x, c
NOISE = 0.5
PRIOR_MEAN = np.array([m.loc for m in MARGINALS.values()])
PRIOR_SD = np.array([m.scale for m in MARGINALS.values()])


class GaussianSurvey:
    """A source of surveys with an analytic posterior; N is Poisson or fixed and carries no information on Θ.

    Args:
        size: mean number of objects.
        fixed: every survey has exactly `size`.
        seed: of the response matrices and the draws.
        free: parameters that are drawn; the others stay at the prior's mean, as in a nested model.
        stream: of the draws; surveys of different streams are independent.
    """

    def __init__(
        self, size: int = 60, fixed: bool = False, seed: int = 1, free: Sequence[str] = tuple(MARGINALS), stream: int | None = None
    ) -> None:
        rng = np.random.default_rng(seed)
        self.free, self.stream = [k in free for k in MARGINALS], [seed] if stream is None else [seed, stream]
        self.size, self.fixed, self.seed, self.capacity = size, fixed, seed, size if fixed else size + 8 * int(size**0.5 + 1)
        self.response = rng.normal(size=(5, 3)) / PRIOR_SD * 0.7
        seen = rng.normal(size=(5, len(SPREAD) - 1)) / SPREAD[:-1] * 0.4
        self.local_response = np.column_stack([seen, np.zeros(5)])  # the last unknown, the age, does not show: its posterior is its prior
        self.covariance = (self.local_response * SPREAD**2) @ self.local_response.T + NOISE**2 * np.eye(5)

    def __call__(self, first: int, count: int) -> Survey:
        """Surveys by number; survey i is the same in every call."""
        return _stack([self._one(np.random.default_rng([*self.stream, first + k])) for k in range(count)])

    def _one(self, rng: np.random.Generator) -> Survey:
        theta = PRIOR_MEAN + PRIOR_SD * rng.normal(size=3) * self.free
        n = self.size if self.fixed else int(min(rng.poisson(self.size), self.capacity))
        seen, noise, hidden = (rng.normal(size=(self.capacity, k)) for k in (len(SPREAD) - 1, 5, 1))
        local = CENTRE + SPREAD * np.column_stack([seen, hidden])
        y = ZERO + self.response @ (theta - PRIOR_MEAN) + (local - CENTRE) @ self.local_response.T + NOISE * noise
        observed = np.arange(self.capacity) < n
        y = np.where(observed[:, None], y, np.nan).astype(np.float32)
        one, nothing = np.ones(self.capacity, np.float32), np.full(self.capacity, np.nan, np.float32)
        mag_err = np.full((self.capacity, 2), 0.01, np.float32)
        observations = Observations(
            y[:, :2], mag_err, *y[:, 2:].T, 0.01 * one, 0.05 * one, 0.01 * one, 0 * one, 0 * one, 0 * one, nothing, nothing
        )
        truth = dict.fromkeys(Latents._fields, 0 * one) | dict(zip(LOCALS, local.T.astype(np.float32), strict=True))
        values = Globals(*(np.float32(dict(zip(MARGINALS, theta, strict=True)).get(k, getattr(FIDUCIAL, k))) for k in Globals._fields))
        return Survey(values, observations, Latents(**truth), observed, np.zeros(self.capacity, np.int32), np.int32(n), np.float32(1))

    def posterior(self, survey: Survey) -> tuple[np.ndarray, np.ndarray]:
        """Exact mean [survey, 3] and covariance [survey, 3, 3] of Θ, all of it free."""
        linear, information = self.ln_likelihood_terms(survey)
        covariance = np.linalg.inv(np.diag(PRIOR_SD**-2.0) + information)
        return PRIOR_MEAN + np.einsum("sij,sj->si", covariance, linear), covariance

    def ln_likelihood_terms(self, survey: Survey) -> tuple[np.ndarray, np.ndarray]:
        """b [survey, 3] and J [survey, 3, 3] of ln L(Θ) - ln L(Θ_0) = b δ - δ J δ / 2, δ = Θ - Θ_0."""
        o = survey.observations
        y = np.concatenate([o.mag, np.stack([o.m, o.x, o.c], -1)], -1).astype(float) - ZERO
        total = np.where(survey.observed[..., None], y, 0.0).sum(1)
        weight = np.linalg.solve(self.covariance, self.response)
        return total @ weight, np.asarray(survey.number, float)[:, None, None] * (self.response.T @ weight)

    def ln_evidence(self, survey: Survey) -> np.ndarray:
        r"""ln of evidence over L(Θ_0) of the model of these `free` ones [survey]: $b (P_0 + J)^{-1} b / 2 - \ln|1 + P_0^{-1} J| / 2$."""
        linear, information = self.ln_likelihood_terms(survey)
        linear, information = linear[:, self.free], information[:, self.free][:, :, self.free]
        prior = np.diag(PRIOR_SD[self.free] ** -2.0)
        gained = np.linalg.slogdet(prior + information)[1] - np.linalg.slogdet(prior)[1]
        return 0.5 * (np.einsum("si,si->s", linear, np.linalg.solve(prior + information, linear[..., None])[..., 0]) - gained)

    def local_posterior(self, survey: Survey) -> tuple[np.ndarray, np.ndarray]:
        """Exact mean [survey, capacity, 8] and covariance [8, 8] of the unknowns of each object at the true Θ."""
        o = survey.observations
        theta = np.stack([getattr(survey.theta, k) for k in MARGINALS], -1) - PRIOR_MEAN
        y = np.concatenate([o.mag, np.stack([o.m, o.x, o.c], -1)], -1) - ZERO - (theta @ self.response.T)[:, None]
        covariance = np.linalg.inv(np.diag(SPREAD**-2.0) + self.local_response.T @ self.local_response / NOISE**2)
        return CENTRE + y @ self.local_response @ covariance / NOISE**2, covariance


def _stack(trees: list[Any]) -> Any:
    if isinstance(trees[0], tuple):
        return type(trees[0])(*(_stack([t[k] for t in trees]) for k in range(len(trees[0]))))
    return np.stack(trees)


def log_normal(value: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Multivariate normal log density over leading axes."""
    delta = value - mean
    solved = np.linalg.solve(covariance, delta[..., None])[..., 0]
    return -0.5 * ((delta * solved).sum(-1) + np.linalg.slogdet(covariance)[1] + delta.shape[-1] * np.log(2 * np.pi))


def configuration(surveys: int = 6_000, encoder: str = "set", **changes: Any) -> Config:
    """Training set-up of this survey."""
    training = {
        "surveys": surveys, "validation_surveys": 512, "objects": 20 * surveys, "batch_surveys": 64, "encoder": encoder,
        "hide_sn": 0.0, "hide_z_spec": 0.0, "local_epochs": 10, **changes,
    }  # fmt: skip
    return Config.model_validate({"name": "linear-gaussian", "training": training})


def gap(log_q: np.ndarray, log_p: np.ndarray) -> tuple[float, float]:
    """E[ln p - ln q] in nats over the same truths, and its standard error."""
    difference = log_p - log_q
    return float(difference.mean()), float(difference.std() / len(difference) ** 0.5)


def measure(trained: Any, survey: GaussianSurvey, first: int, count: int) -> dict[str, float]:
    """Gaps in nats and width ratios on fresh surveys, against the exact posteriors."""
    import torch

    from inference.batches import pack
    from inference.posterior import GlobalPosterior, LocalPosterior

    batch = survey(first, count)
    packed = pack(batch, trained.names, trained.device)
    posterior = GlobalPosterior(trained)
    mean, covariance = survey.posterior(batch)
    log_p = log_normal(packed.theta.cpu().double().numpy(), mean, covariance)
    log_q = posterior.log_prob(packed.theta[None], packed)[0].cpu().double().numpy()
    draws = posterior.sample(500, packed)
    ratio = (draws.std(0).cpu().numpy() / np.sqrt(np.einsum("sii->si", covariance))).mean(0)
    lean, local_covariance = survey.local_posterior(batch)
    local = np.stack([np.asarray(getattr(batch.latents, k)) for k in LOCALS], -1)[batch.observed].astype(float)
    local_p = log_normal(local, lean[batch.observed], local_covariance)
    theta = packed.theta.repeat_interleave(packed.lengths, 0)
    with torch.no_grad():
        local_q = LocalPosterior(trained).log_prob(torch.tensor(local, dtype=torch.float32), packed.observations, theta).double().numpy()
    (g, ge), (lg, lge) = gap(log_q, log_p), gap(local_q, local_p)
    widths = {f"width_ratio_{k}": float(v) for k, v in zip(MARGINALS, ratio, strict=True)}
    return {"gap": g, "gap_error": ge, "local_gap": lg, "local_gap_error": lge, **widths}


def main() -> None:
    """Train, measure, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--surveys", type=int, default=6_000)
    parser.add_argument("--encoder", choices=("set", "both"), default="set")
    arguments = parser.parse_args()
    from common import write_result

    from inference.fit import fit, split

    survey, config, start = GaussianSurvey(), configuration(arguments.surveys, arguments.encoder), time.time()
    z = np.linspace(0, 2, 201)
    with tempfile.TemporaryDirectory() as folder:
        trained = fit(survey, config, MARGINALS, DistanceTable(z, 5 * np.log10(z + 1e-3) + 43), Path(folder))
        seconds = time.time() - start
    result = measure(trained, survey, split(config.training).live + 10**7, 2000)
    row = {"surveys": arguments.surveys, "encoder": arguments.encoder, "training_s": seconds, **result}
    write_result(Path(__file__).with_suffix(".json"), str(__doc__).splitlines()[0], row)


if __name__ == "__main__":
    main()
