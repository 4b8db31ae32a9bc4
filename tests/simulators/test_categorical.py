"""Draws by alias and by two-level inversion against float64 probabilities."""

import jax
import numpy as np
import pytest

from simulators.categorical import alias_table, blocked_cdf, draw_alias, draw_index

WAYS = pytest.mark.parametrize(("build", "draw"), [(alias_table, draw_alias), (blocked_cdf, draw_index)], ids=["alias", "inversion"])


@WAYS
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_frequencies_match_float64_weights(key, size, build, draw):
    weights = np.random.default_rng(size).exponential(size=size) ** 3
    draws = 400_000
    counts = np.bincount(np.asarray(draw(key, build(weights), draws)), minlength=size)
    expected = draws * weights / weights.sum()
    well = expected > 25
    pulls = (counts - expected)[well] / np.sqrt(expected * (1 - expected / draws) + 1e-9)[well]
    assert np.abs(pulls).max() < 5
    if size == 1000:  # the same test rejects weights that are 5 % off
        wrong = draws * weights**1.05 / (weights**1.05).sum()
        assert np.abs((counts - wrong)[well] / np.sqrt(wrong)[well]).max() > 5


@WAYS
def test_zero_weights_are_never_drawn(key, build, draw):
    weights = np.array([0.0, 1.0, 0.0, 2.0, 0.0, 0.0])
    assert set(np.asarray(draw(key, build(weights), 10_000)).tolist()) == {1, 3}


@WAYS
def test_every_one_of_many_equal_weights_is_drawable(key, build, draw):
    """A flat float32 cumulative sum over 10⁶ weights loses indices; the two-level one leaves each with its share."""
    size = 1_000_000
    counts = np.bincount(np.asarray(jax.jit(draw, static_argnums=2)(key, build(np.ones(size)), 20 * size)), minlength=size)
    # Poisson(20) counts have variance 20; sd of the sample variance is about 20 √(2/10⁶) (1 + 1/40)
    assert counts.sum() == 20 * size
    assert abs(counts.var() - 20) < 5 * 20 * np.sqrt(2e-6) * 1.05 + 0.05
    assert (counts == 0).sum() <= 5
    flat = np.cumsum(np.full(size, np.float32(1 / size)), dtype=np.float32)
    assert np.diff(flat).max() / np.diff(flat).min() > 1.01  # what the flat sum would do


@pytest.mark.parametrize("weights", [[], [-1.0, 2.0], [0.0, 0.0], [np.nan, 1.0], [[1.0, 2.0]]])
@WAYS
def test_unusable_weights_are_refused(weights, build, draw):
    with pytest.raises(ValueError, match="weights: expected"):
        build(np.asarray(weights))


def _law(slots: np.ndarray, size: int) -> np.ndarray:
    """Probability of each index, read off an alias table."""
    own = slots[:, 0] / 2.0**32
    law = np.zeros(len(slots))
    np.add.at(law, np.arange(len(slots)), own / len(slots))
    np.add.at(law, slots[:, 1], (1 - own) / len(slots))
    assert np.all(law[size:] == 0)  # what fills the table up to a power of two
    return law[:size]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000, 4096, 300_001])
@pytest.mark.parametrize("power", [0, 1, 5])
def test_the_law_of_an_alias_table_is_that_of_the_weights(size, power):
    """Exactly, from the table itself: to the 2⁻³² of a slot, with sums in float64 over `size` slots."""
    rng = np.random.default_rng(size)
    weights = rng.exponential(size=size) ** power * (rng.uniform(size=size) < 0.9) + 1e-9 * (np.arange(size) == 0)
    law, expected = _law(np.asarray(alias_table(weights).slots), size), weights / weights.sum()
    np.testing.assert_allclose(law, expected, rtol=0, atol=3e-6 / size)
    assert np.all(law[weights == 0] == 0)
    if size > 3 and power:
        assert not np.allclose(law, np.roll(expected, 1), rtol=0, atol=3e-6 / size)
