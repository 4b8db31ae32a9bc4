"""Chains on pruned pairs reach the posterior of all of them, and say how far the cut is off."""

import numpy as np
import pytest

from simulators import staged
from simulators.exact import stacked
from simulators.pruning import kept, lowered, pair_count, subset
from simulators.staged import TOLERANCE, sample_staged
from tests.simulators.test_exact import SAMPLE, _pulls, grid, setting  # noqa: F401  the same survey and its posterior on a grid


@pytest.mark.slow  # the sampler compiles twice
def test_draws_agree_with_a_grid_over_all_pairs(setting, grid, monkeypatch):  # noqa: F811
    config, simulator, matches = setting
    monkeypatch.setattr(staged, "FEW", 0)
    seen = []
    found = sample_staged(
        matches, simulator, config, draws=300, warmup=150, seed=4, sample=SAMPLE, report=lambda stage, *_: seen.append(stage)
    )
    assert list(dict.fromkeys(seen)) == ["warm-up", "exact"]
    assert found.pairs == (pair_count(matches), pair_count(found.matches))
    assert found.pairs[1] < found.pairs[0]
    assert found.pruning_error <= TOLERANCE
    posterior = found.posterior
    assert posterior.r_hat.max() < 1.05
    assert np.abs(_pulls(posterior.theta, posterior.n_eff, *grid)).max() < 5
    assert np.abs(_pulls(posterior.theta + 0.5 * posterior.theta.std((0, 1)), posterior.n_eff, *grid)).max() > 5
    assert 1 < found.hosts_per_object < 80


@pytest.mark.slow  # compiles for half a minute
def test_the_error_of_a_cut_is_that_of_ln_l(setting):  # noqa: F811
    from simulators.likelihood import ln_rates

    config, _, matches = setting
    theta = stacked(np.array([[-19.5, 2.2], [-19.3, 1.5]]), config)
    keep = kept(matches, theta, config, 0.2)
    fewer = subset(matches, keep)
    full, part = ([float(ln_rates(type(theta)(*(leaf[k] for leaf in theta)), m, config).sum()) for k in range(2)] for m in (matches, fewer))
    # 20 objects in single precision
    np.testing.assert_allclose(lowered(matches, keep, theta, config), np.subtract(full, part), atol=2e-3)
    assert lowered(matches, keep, theta, config).max() > 0.05
    assert lowered(matches, np.asarray(matches.place) >= 0, theta, config) == pytest.approx(0, abs=1e-4)
