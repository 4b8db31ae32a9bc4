"""Pruning keeps the likelihood where it was asked to, and every pair it keeps stays with its object and host."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cigars.config import Config
from cigars.schema import FIDUCIAL, Globals, Observations
from simulators.candidates import candidates
from simulators.likelihood import host_probabilities, ln_rates
from simulators.pruning import _largest, prune
from simulators.survey import draw_surveys, prepare
from tests.simulators import banks

LOST = 1e-3


@pytest.fixture(scope="module")
def setting(key):
    config = Config().updated(**{"observation.host_sigma": 0.6, "size.expected_supernovae": 20.0, "size.capacity": 64})
    simulator = prepare(config, banks.synthetic_bank(80))
    survey = jax.device_get(draw_surveys(key, jnp.arange(1), simulator, config, FIDUCIAL))
    observations = Observations(*(leaf[survey.observed] for leaf in survey.observations))
    return config, candidates(observations, simulator, config)


@pytest.fixture(scope="module")
def draws() -> Globals:
    """Two Θ that put the hosts at different distances."""
    leaves = {name: np.full(2, value, np.float32) for name, value in FIDUCIAL._asdict().items()}
    return Globals(**leaves | {"Om0": np.float32([0.2, 0.4]), "Ode0": np.float32([0.8, 0.5])})


@pytest.fixture(scope="module")
def pruned(setting, draws):
    config, matches = setting
    return prune(matches, draws, config, LOST)


def at(draws: Globals, k: int) -> Globals:
    return Globals(*(jnp.float32(leaf[k]) for leaf in draws))


@pytest.mark.slow  # the likelihood compiles for half a minute
def test_no_object_loses_more_than_it_may(setting, draws, pruned):
    config, matches = setting
    for k in range(2):
        change = np.asarray(ln_rates(at(draws, k), matches, config) - ln_rates(at(draws, k), pruned, config), float)
        assert change.max() < LOST * 1.01 + 2e-5  # 1.01: ln(1 − x) against −x; 2e-5: float32 of ln λ
        assert change.min() > -2e-5


@pytest.mark.slow
def test_it_drops_most_of_what_holds_nothing(setting, draws, pruned):
    config, matches = setting
    full, kept = (int((np.asarray(m.place) >= 0).sum()) for m in (matches, pruned))
    probability = np.stack([np.asarray(host_probabilities(at(draws, k), matches, config)) for k in range(2)])
    assert kept < full
    assert kept <= (probability > 0).any(0).sum()
    assert kept >= (probability > LOST).any(0).sum()


@pytest.mark.slow
def test_what_is_kept_has_the_same_probability(setting, draws, pruned):
    """Object by object and host by host: a pair that changed its owner or its host would move these."""
    config, matches = setting

    def table(m):
        probability = np.asarray(host_probabilities(at(draws, 0), m, config), float)
        return [dict(zip(np.asarray(m.row)[i][p > 0].tolist(), p[p > 0].tolist(), strict=True)) for i, p in enumerate(probability)]

    for before, after in zip(table(matches), table(pruned), strict=True):
        assert set(after) <= set(before)
        for row, p in after.items():
            assert p == pytest.approx(before[row], rel=2 * LOST, abs=1e-6)


@pytest.mark.slow
def test_a_larger_loss_drops_more(setting, draws, pruned):
    config, matches = setting
    rough = prune(matches, draws, config, 0.3)
    assert (np.asarray(rough.place) >= 0).sum() < (np.asarray(pruned.place) >= 0).sum()
    change = np.asarray(ln_rates(at(draws, 0), matches, config) - ln_rates(at(draws, 0), rough, config))
    assert change.max() > LOST * 1.01 + 2e-5


def test_the_fewest_that_hold_enough_are_kept():
    probability = np.array([[0.05, 0.6, 0.25, 0.1], [0.25, 0.25, 0.25, 0.25]])
    assert _largest(probability, 0.14).tolist() == [[False, True, True, True], [True] * 4]  # .85 is not yet .86
    assert _largest(probability, 0.16).tolist() == [[False, True, True, False], [True] * 4]


@pytest.mark.parametrize("lost", [0.0, 1.0, -1.0])
def test_impossible_losses_are_refused(setting, draws, lost):
    with pytest.raises(ValueError, match="prune: expected 0 < lost < 1"):
        prune(setting[1], draws, setting[0], lost)
