"""Priors have the moments of their laws, and are written as the forward model writes them."""

import math

import numpy as np
import pytest

from cigars.priors import prior_distribution, prior_text
from cigars.schema import Marginal


@pytest.mark.parametrize(
    ("marginal", "mean", "sd"),
    [
        (Marginal("uniform", 0.0, 1.0, -2.0, 4.0), 1.0, 6 / np.sqrt(12)),
        (Marginal("normal", -1.3, 0.2, -np.inf, np.inf), -1.3, 0.2),
        (Marginal("normal", 0.0, 1.0, 0.0, np.inf), np.sqrt(2 / np.pi), np.sqrt(1 - 2 / np.pi)),  # half normal
    ],
)
def test_prior_moments(marginal, mean, sd):
    assert prior_distribution(marginal).mean() == pytest.approx(mean)
    assert prior_distribution(marginal).std() == pytest.approx(sd)


def test_fixed_prior_has_no_distribution():
    with pytest.raises(ValueError, match="uniform or normal"):
        prior_distribution(Marginal("fixed", 0.3, 0.0, -np.inf, np.inf))


@pytest.mark.parametrize(
    ("marginal", "text"),
    [
        (Marginal("uniform", 0.0, 1.0, -20.0, -19.0), "U(−20, −19)"),
        (Marginal("uniform", 0.0, 1.0, 0.0401491, 0.4456579), "U(0.040149, 0.44566)"),
        (Marginal("normal", -1.34, 0.2, -math.inf, math.inf), "N(−1.34, 0.2)"),
        (Marginal("normal", 0.3, 0.1, 0.0, math.inf), "TN(0.3, 0.1; 0, ∞)"),
    ],
)
def test_priors_are_written_as_in_the_forward_model(marginal, text):
    assert prior_text(marginal) == text
