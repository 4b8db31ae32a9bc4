"""Two-level draws against float64 probabilities."""

import jax
import numpy as np
import pytest

from simulators.categorical import blocked_cdf, draw_index


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_frequencies_match_float64_weights(key, size):
    weights = np.random.default_rng(size).exponential(size=size) ** 3
    draws = 400_000
    counts = np.bincount(np.asarray(draw_index(key, blocked_cdf(weights), draws)), minlength=size)
    expected = draws * weights / weights.sum()
    well = expected > 25
    pulls = (counts - expected)[well] / np.sqrt(expected * (1 - expected / draws) + 1e-9)[well]
    assert np.abs(pulls).max() < 5
    if size == 1000:  # the same test rejects weights that are 5 % off
        wrong = draws * weights**1.05 / (weights**1.05).sum()
        assert np.abs((counts - wrong)[well] / np.sqrt(wrong)[well]).max() > 5


def test_zero_weights_are_never_drawn(key):
    weights = np.array([0.0, 1.0, 0.0, 2.0, 0.0, 0.0])
    assert set(np.asarray(draw_index(key, blocked_cdf(weights), 10_000)).tolist()) == {1, 3}


def test_every_one_of_many_equal_weights_is_drawable(key):
    """A flat float32 cumulative sum over 10⁶ weights loses indices; the two-level one leaves each with its share."""
    size = 1_000_000
    counts = np.bincount(np.asarray(jax.jit(draw_index, static_argnums=2)(key, blocked_cdf(np.ones(size)), 20 * size)), minlength=size)
    # Poisson(20) counts have variance 20; sd of the sample variance is about 20 √(2/10⁶) (1 + 1/40)
    assert counts.sum() == 20 * size
    assert abs(counts.var() - 20) < 5 * 20 * np.sqrt(2e-6) * 1.05 + 0.05
    assert (counts == 0).sum() <= 5
    flat = np.cumsum(np.full(size, np.float32(1 / size)), dtype=np.float32)
    assert np.diff(flat).max() / np.diff(flat).min() > 1.01  # what the flat sum would do


@pytest.mark.parametrize("weights", [[], [-1.0, 2.0], [0.0, 0.0], [np.nan, 1.0], [[1.0, 2.0]]])
def test_unusable_weights_are_refused(weights):
    with pytest.raises(ValueError, match="weights: expected"):
        blocked_cdf(np.asarray(weights))
