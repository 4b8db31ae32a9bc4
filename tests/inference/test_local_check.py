"""L-C2ST accepts the exact posterior at the observed survey and rejects a wrong one, also one that is wrong only there."""

import pytest
import torch

from benchmarks.diagnostics_power import FAULTS, Known, checks, states
from benchmarks.linear_gaussian import GaussianSurvey
from inference.local_check import local_check


@pytest.fixture(scope="module")
def known():
    """500 surveys and their exact posteriors."""
    return states(GaussianSurvey(20), 0)


def checked(known: Known, fault: str, trials: int = 60):
    """L-C2ST at the survey in the middle, from the others."""
    generator = torch.Generator().manual_seed(5)
    draws, _ = checks(FAULTS[fault](known, generator), generator)
    distance = torch.linalg.vector_norm((known.mean - known.mean.mean(0)) / known.mean.std(0), dim=-1)
    here = int(distance.argmin())
    rest = [i for i in range(len(known.truth)) if i != here]
    return local_check(draws[:, rest], known.truth[rest], draws[:, here], trials=trials)


def test_exact_posterior_is_accepted(known):
    found = checked(known, "exact")
    assert found.p_value > 0.01
    assert found.value < found.high


@pytest.mark.parametrize("fault", ["20 % too narrow", "20 % too wide", "shifted by 0.2 sd", "correlations of other sign"])
def test_wrong_posteriors_are_rejected(known, fault):
    found = checked(known, fault)
    assert found.p_value < 0.001
    assert found.value > found.high


def test_state_of_torch_is_left_alone(known):
    """sbi seeds torch's generator; a caller's stream must not change."""
    torch.manual_seed(3)
    before = torch.get_rng_state()
    checked(known, "exact", trials=2)
    assert torch.equal(before, torch.get_rng_state())
