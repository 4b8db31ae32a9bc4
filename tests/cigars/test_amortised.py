"""The posterior that comes with the package serves every size: ranks and widths on fresh surveys of 300 to 20,000 supernovae."""

import numpy as np
import pytest
from scipy import stats

from cigars import pretrained
from cigars.runs import run_config
from cigars.surveys import survey_source

SIZES = (320, 800, 1600, 5000, 20000)
SURVEYS, DRAWS = 64, 255


@pytest.fixture(scope="module")
def posteriors():
    """Names, draws [size, draw, survey, parameter] and truth [size, survey, parameter] of surveys from the prior at five sizes.

    On the bank it was trained with: 20,000 objects see by half a width that one of a tenth as many hosts has other means.
    """
    if "lsst" not in pretrained.available():
        pytest.skip("no posterior called lsst comes with this version")
    import torch

    from inference.batches import pack
    from inference.model import load_run
    from inference.posterior import GlobalPosterior

    folder = pretrained.path("lsst")
    trained, config = load_run(folder), run_config(folder)
    posterior, draws, truth = GlobalPosterior(trained), [], []
    for size in SIZES:
        source = survey_source(config.of_exposure(size / config.size.expected_supernovae), "amortised")
        batches = [pack(source(first, 16), trained.names) for first in range(0, SURVEYS, 16)]
        draws.append(torch.cat([posterior.sample(DRAWS, b, seed=k) for k, b in enumerate(batches)], 1).numpy())
        truth.append(torch.cat([b.theta for b in batches]).numpy())
    return tuple(trained.names), np.stack(draws), np.stack(truth)


def smallest_p_value(draws, truth):
    """Of the tests of uniform ranks, over sizes and parameters."""
    ranks = ((draws < truth[:, None]).sum(1) + 0.5) / (DRAWS + 1)
    return min(stats.kstest(ranks[s, :, k], "uniform").pvalue for s in range(ranks.shape[0]) for k in range(ranks.shape[2]))


@pytest.mark.slow
def test_ranks_are_uniform_at_five_sizes_and_those_of_half_the_width_are_not(posteriors):
    _, draws, truth = posteriors
    level = 1e-3 / truth[:, 0].size
    assert smallest_p_value(draws, truth) > level
    middle = draws.mean(1, keepdims=True)
    assert smallest_p_value(middle + 0.5 * (draws - middle), truth) < level


@pytest.mark.slow
def test_more_supernovae_are_tighter(posteriors):
    names, draws, _ = posteriors
    for name in ("Om0", "dtd_slope", "alpha", "beta", "gamma_age"):
        width = draws[..., names.index(name)].std(1).mean(1)
        assert np.all(np.diff(width) < 0), (name, width)
