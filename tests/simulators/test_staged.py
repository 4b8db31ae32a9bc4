"""Chains on pruned pairs reach the posterior of all of them, and say how far the cut is off."""

import jax.numpy as jnp
import numpy as np
import pytest

from simulators import staged
from simulators.exact import ExactPosterior, sample_exact, stacked
from simulators.pruning import kept, lowered, pair_count, subset
from simulators.staged import TOLERANCE, dispersed, sample_staged
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


def test_chains_begin_apart_within_the_prior(setting):  # noqa: F811
    """Halfway between its draws and the one Θ where all began before: spread over half of its width, the same for the same seed."""
    config, _, _ = setting
    begin = dispersed(config, 2, seed=4)
    assert begin.names == ("M0", "beta")
    m0, beta = begin.theta[0].T
    assert len(np.unique(m0)) == len(m0) >= 2
    assert -19.75 <= m0.min() < -19.65
    assert -19.35 < m0.max() <= -19.25
    assert 1.1 <= beta.min() < beta.max() <= 3.1
    assert np.array_equal(begin.theta, dispersed(config, 2, seed=4).theta)
    assert not np.array_equal(begin.theta, dispersed(config, 2, seed=5).theta)
    assert dispersed(config, 100).theta.shape == (1, 100, 2)


@pytest.mark.parametrize("few", [0, 20_000])
def test_the_first_chains_are_given_other_beginnings(setting, monkeypatch, few):  # noqa: F811
    config, simulator, matches = setting
    pilots = []

    def sampled(matches, pilot=None, draws=0, chains=0, **_):
        pilots.append(pilot)
        hosts = np.asarray(matches.row)[:, 0]
        return ExactPosterior(
            np.tile([-19.5, 2.2], (chains, draws, 1)), ("M0", "beta"), np.ones(2), np.ones(2), 0, np.tile(hosts, (chains * draws, 1))
        )

    monkeypatch.setattr(staged, "sample_exact", sampled)
    monkeypatch.setattr(staged, "FEW", few)
    sample_staged(matches, simulator, config, draws=30, chains=3, seed=4, sample=SAMPLE)
    assert np.array_equal(pilots[0].theta, dispersed(config, 3, seed=4).theta)


@pytest.mark.slow  # a sampler compiles twice
def test_a_mode_that_chains_from_one_point_never_see_is_seen(setting, monkeypatch):  # noqa: F811
    """Two modes of M_0, one of them at the Θ where all began before: R̂ was 1 there, and is not from different points."""
    config, simulator, matches = setting
    ln_modes = lambda theta, *_: jnp.logaddexp(-0.5 * ((theta.M0 + 19.5) / 0.01) ** 2, -0.5 * ((theta.M0 + 19.65) / 0.01) ** 2)  # noqa: E731
    monkeypatch.setattr("simulators.exact.ln_likelihood", ln_modes)
    monkeypatch.setattr("simulators.exact._draw_hosts", lambda key, theta, matches, config: np.zeros((len(theta.M0), len(matches.m)), int))
    together, apart = (
        sample_exact(matches, simulator, config, draws=100, warmup=100, chains=6, seed=4, pilot=pilot)
        for pilot in (None, dispersed(config, 6, seed=4))
    )
    assert together.r_hat[0] < 1.05 < apart.r_hat[0]
