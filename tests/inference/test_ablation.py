"""The information that goes with an input against its analytic value, of a linear-Gaussian survey."""

import numpy as np
import pytest
import torch

from benchmarks.linear_gaussian import MARGINALS, NOISE, PRIOR_MEAN, PRIOR_SD, SPREAD, ZERO, GaussianSurvey, configuration, log_normal
from cigars.ablate import compared
from cigars.config import Config
from cigars.inputs import hidden
from inference.ablation import trained_and_judged
from inference.batches import pack
from inference.blind import blinded, kept_scores
from inference.priors import Prior
from inference.stages import Stages

from .test_score import gaussian_score

COLUMNS = ("mag 0", "mag 1", "m", "x", "c")
ALIKE = 0.25  # nats by which a network of this training may miss the exact posterior, as in test_score


class SilentStretch(GaussianSurvey):
    """Its stretch is noise of its own, and says nothing of Θ."""

    def __init__(self):
        super().__init__(60)
        self.response[3] = self.local_response[3] = 0.0
        self.covariance = (self.local_response * SPREAD**2) @ self.local_response.T + NOISE**2 * np.eye(5)

    def ln_posterior(self, batch, without=()):
        """ln p of the truth [survey] given the columns that are left, exactly."""
        kept = [k for k, name in enumerate(COLUMNS) if name not in without]
        o = batch.observations
        y = np.concatenate([o.mag, np.stack([o.m, o.x, o.c], -1)], -1).astype(float)[..., kept] - ZERO[kept]
        weight = np.linalg.solve(self.covariance[np.ix_(kept, kept)], self.response[kept])
        linear = np.where(batch.observed[..., None], y, 0.0).sum(1) @ weight
        information = np.asarray(batch.number, float)[:, None, None] * (self.response[kept].T @ weight)
        covariance = np.linalg.inv(np.diag(PRIOR_SD**-2.0) + information)
        theta = pack(batch, tuple(MARGINALS)).theta.double().numpy()
        return log_normal(theta, PRIOR_MEAN + np.einsum("sij,sj->si", covariance, linear), covariance), covariance


@pytest.mark.slow
def test_nats_and_widths_lost_are_the_analytic_ones_and_noise_carries_nothing(distance, tmp_path):
    survey = SilentStretch()
    config = configuration(
        1536, "score", pilot_surveys=768, objects=40_000, validation_surveys=128, calibration_surveys=400, local_epochs=4, batch_surveys=50
    )

    def variant(name):
        one = hidden(name, Config()) if name else hidden("stretch", Config())._replace(columns={})
        score = kept_scores(gaussian_score(survey), tmp_path / "scores.pt", compute=not name)
        run = Stages(
            blinded(survey, one.bands, one.columns), config.training, config.seed, Prior(MARGINALS), distance, tmp_path / (name or "all"),
            torch.device("cpu"), lambda *_, **__: None, score,
        )  # fmt: skip
        return trained_and_judged(run)

    full = variant("")
    batch = survey(config.training.validation_surveys, 400)
    exact, before = survey.ln_posterior(batch)
    lost = {}
    for name, columns in {"colour": ("c",), "stretch": ("x",)}.items():
        found = variant(name)
        row = compared(name, found, full, list(MARGINALS))
        left, after = survey.ln_posterior(batch, columns)
        lost[name] = (exact - left).mean()
        assert abs(row.lost.value - lost[name]) < ALIKE + 5 * row.lost.error
        for judged, ln_p in ((full, exact), (found, left)):
            gap = judged.loss.numpy() + ln_p
            assert -5 * gap.std() / len(gap) ** 0.5 < gap.mean() < ALIKE
        for k, parameter in enumerate(MARGINALS):
            ratio = np.sqrt(after[:, k, k]).mean() / np.sqrt(before[:, k, k]).mean()
            assert row.widths[parameter].value == pytest.approx(ratio, rel=0.12), (name, parameter)
    assert lost["stretch"] == pytest.approx(0, abs=1e-9)
    assert lost["colour"] > 2 * ALIKE + 10 * row.lost.error  # the test tells one from the other
