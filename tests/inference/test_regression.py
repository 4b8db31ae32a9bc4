"""Errors of surveys left out are those of surveys never seen."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from inference.regression import PENALTY, regress
from inference.standardise import Whitening

SURVEYS, COLUMNS, PARAMETERS = 80, 12, 2


def surveys(count, seed=0):
    """Θ of a unit normal prior and a noisy linear summary of it, with columns that say nothing and one that never varies."""
    generator = torch.Generator().manual_seed(seed)
    theta = torch.randn(count, PARAMETERS, generator=generator)
    mixing = torch.randn(PARAMETERS, COLUMNS - 1, generator=torch.Generator().manual_seed(99))
    noise = torch.randn(count, COLUMNS - 1, generator=generator)
    return torch.cat([theta @ mixing + 2 * noise, torch.ones(count, 1)], 1), theta


def test_leaving_out_is_what_ridge_regressions_without_each_survey_give():
    summary, theta = surveys(SURVEYS)
    observed, _ = surveys(1, seed=1)
    found, whitening = regress(summary, theta, observed[0]), Whitening.fit(summary)
    x, y = whitening(summary).double().numpy(), theta.double().numpy()
    ridge = Ridge(alpha=PENALTY)
    for i in range(0, SURVEYS, 7):
        rest = np.arange(SURVEYS) != i
        expected = y[i] - ridge.fit(x[rest], y[rest]).predict(x[i : i + 1])[0]
        assert found.errors[i].numpy() == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert found.estimate.numpy() == pytest.approx(ridge.fit(x, y).predict(whitening(observed).double().numpy())[0], rel=1e-6, abs=1e-9)


def test_errors_are_as_large_as_those_of_surveys_never_seen_and_residuals_are_not():
    """Ratio of the spreads over 60 regressions, each with its own surveys and a new one, within 5 standard errors of one."""
    left_out, residual, new = [], [], []
    for seed in range(60):
        summary, theta = surveys(SURVEYS, seed=2 * seed)
        other, true = surveys(1, seed=2 * seed + 1)
        found = regress(summary, theta, other[0], penalty=1.0)
        left_out.append(float((found.errors**2).mean()))
        new.append(((true[0] - found.estimate) ** 2).numpy())
        fitted = torch.stack([regress(summary, theta, row, penalty=1.0).estimate for row in summary[:4]])
        residual.append(float(((theta[:4] - fitted) ** 2).mean()))
    squares = np.concatenate(new)
    error = squares.std() / len(squares) ** 0.5
    assert abs(np.mean(left_out) - squares.mean()) < 5 * error
    assert np.mean(left_out) > 1.2 * np.mean(residual)  # some 12 coefficients of 80 surveys


@pytest.mark.parametrize("wrong", ["few", "nan"])
def test_what_cannot_be_regressed_is_refused(wrong):
    summary, theta = surveys(SURVEYS)
    with pytest.raises(ValueError, match="expected finite summaries of three surveys or more"):
        regress(summary[:2] if wrong == "few" else summary * torch.nan, theta[:2] if wrong == "few" else theta, summary[0])
