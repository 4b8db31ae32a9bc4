"""Every diagnostic accepts an exact posterior and rejects a too wide, a too narrow and a shifted one."""

import numpy as np
import pytest
import torch
from sbi.diagnostics.tarp import _run_tarp

from inference.diagnostics import (
    calibration,
    coverage,
    rank_band,
    tarp,
    tarp_references,
    tarp_shares,
)

WRONG = {"wide": (1.5, 0.0), "narrow": (1 / 1.5, 0.0), "shifted": (1.0, 0.5)}


def draws(scale: float = 1.0, shift: float = 0.0, surveys: int = 600, seed: int = 0):
    """Draws of a correlated Gaussian posterior, rescaled and shifted in its standard deviations, and the truths."""
    generator = torch.Generator().manual_seed(seed)
    factor = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0], [0.0, -0.3, 0.9]])
    mean = 3 * torch.randn(surveys, 3, generator=generator)
    truth = mean + torch.randn(surveys, 3, generator=generator) @ factor.T
    noise = scale * torch.randn(400, surveys, 3, generator=generator) + shift
    return mean + noise @ factor.T, truth


def test_ranks_of_an_exact_posterior_are_uniform():
    result = calibration(*draws())
    assert bool((result.p_value > 1e-3).all())
    np.testing.assert_allclose(result.spread, 12**-0.5, atol=4 * 0.289 / (2 * 600) ** 0.5)
    outside = (result.counts < result.low) | (result.counts > result.high)
    assert outside.mean() < 0.05  # 1 % expected


@pytest.mark.parametrize("kind", WRONG)
def test_ranks_of_a_wrong_posterior_are_not(kind):
    result = calibration(*draws(*WRONG[kind]))
    assert bool((result.p_value < 1e-3).any())
    assert ((result.counts < result.low) | (result.counts > result.high)).mean() > 0.1
    if kind != "shifted":
        assert bool((np.sign(result.spread - 12**-0.5) == (1 if kind == "narrow" else -1)).all())


def test_coverage_is_nominal_for_the_exact_posterior_and_only_for_it():
    error = 5 * (0.68 * 0.32 / 600) ** 0.5
    level = np.array([0.68])
    assert bool((np.abs(coverage(*draws(), level) - 0.68) < error).all())
    assert bool((coverage(*draws(1.5), level) - 0.68 > error).all())
    assert bool((coverage(*draws(1 / 1.5), level) - 0.68 < -error).all())


def test_tarp_band_holds_the_diagonal_for_the_exact_posterior_and_only_for_it():
    def outside(result):
        inner = (result.credibility > 0.05) & (result.credibility < 0.95)
        return ((result.low > result.credibility) | (result.high < result.credibility))[inner].mean()

    assert outside(tarp(*draws())) < 0.1
    for kind in WRONG:
        assert outside(tarp(*draws(*WRONG[kind]))) > 0.3, kind


def test_tarp_agrees_with_sbi_on_its_grid():
    """sbi bins the same shares between the least and the largest of them."""
    sample, truth = draws(1.2, 0.1)
    centre, scale = truth.mean(0), truth.std(0)
    ecp, alpha = _run_tarp((sample - centre) / scale, (truth - centre) / scale, tarp_references((truth - centre) / scale, 0), num_bins=20)
    share = tarp_shares(sample, truth)
    # ours sit in the middle of their cells, half a draw up: a grid point in between counts a cell more or less
    below = (share[:, None] < alpha.numpy()).mean(0)
    np.testing.assert_allclose(below, ecp.numpy(), atol=2.5 / 400)


def test_tarp_p_value_tells_the_exact_posterior_from_wrong_ones():
    assert tarp(*draws()).p_value > 0.01
    assert all(tarp(*draws(*WRONG[kind])).p_value < 1e-3 for kind in WRONG)


def test_band_of_a_rank_bin_is_binomial():
    low, high = rank_band(1000, 20)
    counts = np.random.default_rng(0).multinomial(1000, np.full(20, 0.05), size=4000)
    inside = ((counts >= low) & (counts <= high)).mean()
    assert 0.985 < inside < 0.999
