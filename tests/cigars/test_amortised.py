"""The posterior that comes with the package serves every size: pulls and widths of fiducial mocks of 300 to 20,000 supernovae."""

import numpy as np
import pytest

from cigars import pretrained
from cigars.config import load_config
from cigars.pipeline import survey_source
from cigars.runs import run_config
from cigars.schema import FIDUCIAL, Globals

SIZES = (320, 800, 1600, 5000, 20000)
MOCKS = 10


@pytest.fixture(scope="module")
def widths():
    """Mean widths and pulls [size, mock, parameter] of the shipped run."""
    if "lsst" not in pretrained.available():
        pytest.skip("no posterior called lsst comes with this version")
    from inference.batches import pack
    from inference.model import load_run
    from inference.posterior import GlobalPosterior

    folder = pretrained.path("lsst")
    trained, config = load_run(folder), run_config(folder)
    posterior, truth = GlobalPosterior(trained), np.array([getattr(FIDUCIAL, k) for k in trained.names])
    out = []
    for size in SIZES:
        exposure = size / config.size.expected_supernovae
        mocks = load_config("lsst", **{"size.exposure": (exposure, exposure), "size.capacity": 65536, "hosts.effective_hosts": 1e5})
        survey = survey_source(mocks, "amortised", Globals(*FIDUCIAL))(0, MOCKS)
        draws = posterior.sample(500, pack(survey, trained.names)).numpy()
        out.append((draws.std(0), (draws.mean(0) - truth) / draws.std(0)))
    return tuple(trained.names), *(np.stack(a) for a in zip(*out, strict=True))


@pytest.mark.slow
def test_one_network_serves_five_sizes(widths):
    names, width, pull = widths
    for name in ("Om0", "M0", "alpha", "beta", "gamma_age"):
        mean = width[:, :, names.index(name)].mean(1)
        assert np.all(np.diff(mean) < 0), name  # more supernovae, tighter
    assert np.abs(pull.mean(1)).max() < 5 / MOCKS**0.5
    assert 0.6 < pull.std(1).mean() < 1.4


@pytest.mark.slow
def test_pulls_would_show_a_posterior_of_half_the_width(widths):
    _, _, pull = widths
    assert (2 * pull).std(1).mean() > 1.4
