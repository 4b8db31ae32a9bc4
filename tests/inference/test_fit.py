"""The whole training: against an exact posterior, and resumed against uninterrupted."""

import json
import shutil
import threading

import pytest
import torch

import inference.fit as module
from benchmarks.linear_gaussian import MARGINALS, GaussianSurvey, configuration, gap, log_normal, measure
from inference.batches import pack
from inference.checkpoints import prepare
from inference.fit import fit, random_hiding, split, stream
from inference.posterior import GlobalPosterior

from .conftest import observations, tiny


def test_the_exact_posterior_of_the_benchmark_is_calibrated():
    """Its own check: pulls of the truth under the analytic posterior are standard normal, and a wrong width is seen."""
    survey = GaussianSurvey(30)
    batch = survey(0, 800)
    mean, covariance = survey.posterior(batch)
    theta = pack(batch, tuple(MARGINALS)).theta.double().numpy()
    chi2 = ((theta - mean) * (torch.linalg.solve(torch.tensor(covariance), torch.tensor(theta - mean)[..., None])[..., 0]).numpy()).sum(1)
    assert abs(chi2.mean() - 3) < 5 * (6 / 800) ** 0.5
    assert gap(log_normal(theta, mean, 2 * covariance), log_normal(theta, mean, covariance))[0] > 0.1


def test_gap_to_the_exact_posterior(distance, tmp_path):
    """Global and local posterior of the linear-Gaussian survey, through every stage with the set encoder."""
    survey, config = (
        GaussianSurvey(40),
        configuration(1500, batch_surveys=50, validation_surveys=200, objects=40000, local_epochs=6),
    )
    trained = fit(survey, config, MARGINALS, distance, tmp_path)
    result = measure(trained, survey, 10**7, 400)
    assert result["gap"] < 0.3, result
    assert result["gap"] > -0.05  # below the exact posterior: a mistake in one of the two
    assert result["local_gap"] < 0.5, result


def test_posterior_draws_are_calibrated_where_the_exact_one_is(run, source):
    """The tiny run is not accurate, but its draws and its density are of one law: E[-log q] of its own draws is its entropy."""
    posterior, packed = GlobalPosterior(run[0]), pack(source(10**6, 4))
    draws = posterior.sample(4000, packed)
    log_q = posterior.log_prob(draws, packed).double()
    gauss = 0.5 * torch.stack([torch.logdet(2 * torch.pi * torch.e * torch.cov(draws[:, k].double().T)) for k in range(4)])
    assert bool((-log_q.mean(0) < gauss + 0.1).all())  # of all laws with this covariance the Gaussian has the largest entropy
    assert bool((-log_q.mean(0) > gauss - 1.0).all())


class Interrupting:
    """A source that is interrupted, as by Ctrl-C, at a given call."""

    def __init__(self, source, call):
        self.source, self.left = source, call

    def __call__(self, first, count):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return self.source(first, count)


@pytest.mark.parametrize("call", [5, 12])
def test_a_resumed_fit_is_the_uninterrupted_one(run, source, distance, tmp_path, call):
    trained, _ = run
    arguments = (tiny(ensemble=2), MARGINALS, distance, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fit(Interrupting(source, call), *arguments, fingerprint="abc")
    again = fit(source, *arguments, fingerprint="abc", resume=True)
    assert all(torch.equal(a, b) for a, b in zip(trained.state_dict().values(), again.state_dict().values(), strict=True))


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_local_flow_and_density_are_the_same_beside_the_heads_as_after_them(source, distance, tmp_path, monkeypatch):
    seen = {}

    def fitted(name, chosen):
        def report(stage, done, total, **metrics):
            if stage in ("global", "local", "density") and done:
                seen.setdefault(name, {}).setdefault(stage, threading.get_ident())

        monkeypatch.setattr(module, "beside", chosen)
        return fit(source, tiny(encoder="moments", ensemble=2), MARGINALS, distance, tmp_path / name, report=report).state_dict()

    beside = module.beside
    apart, after = fitted("beside", beside), fitted("after", lambda work, apart: beside(work, False))
    assert all(torch.equal(a, b) for a, b in zip(apart.values(), after.values(), strict=True))
    assert seen["beside"]["density"] == seen["beside"]["local"] != seen["beside"]["global"] == threading.get_ident()
    assert set(seen["after"].values()) == {threading.get_ident()}


def test_a_folder_in_use_is_not_overwritten(run, source, distance):
    _, folder = run
    with pytest.raises(ValueError, match="got one with a training"):
        fit(source, tiny(), MARGINALS, distance, folder, fingerprint="abc")
    with pytest.raises(ValueError, match="expected fingerprint other, got abc"):
        fit(source, tiny(), MARGINALS, distance, folder, fingerprint="other", resume=True)
    assert json.loads((folder / "run.json").read_text())["fingerprint"] == "abc"


@pytest.mark.parametrize("resume", [False, True])
def test_a_finished_run_without_checkpoints_is_not_trained_over(run, source, distance, tmp_path, resume):
    shipped = tmp_path / "shipped"
    shutil.copytree(run[1], shipped, ignore=shutil.ignore_patterns("checkpoints"))
    before = (shipped / "weights.pt").read_bytes()
    with pytest.raises(ValueError, match="got a finished run without checkpoints; name another"):
        fit(source, tiny(), MARGINALS, distance, shipped, fingerprint="abc", resume=resume)
    assert (shipped / "weights.pt").read_bytes() == before
    assert not (shipped / "checkpoints").exists()


def test_survey_numbers_of_different_uses_do_not_overlap():
    training = tiny().training
    at = split(training)
    assert at.calibration - at.validation == training.validation_surveys
    assert at.regression - at.calibration == training.calibration_surveys
    assert at.live - at.summaries == at.summaries - at.regression == training.surveys


def test_the_stream_asks_for_whole_batches_and_gives_exactly_what_was_wanted(source):
    asked = []

    def recording(first, count):
        asked.append((first, count))
        return source(first, count)

    parts = list(stream(recording, 100, 70, 32, tuple(MARGINALS)))
    assert asked == [(100, 32), (132, 32), (164, 32)]
    assert [len(p.lengths) for p in parts] == [32, 32, 6]


def test_hiding_at_random_hits_the_asked_share():
    hidden = random_hiding(observations(4000), 0.1, 0.5, torch.Generator().manual_seed(0))
    assert abs(float(torch.isnan(hidden.m).float().mean()) - 0.1) < 5 * (0.09 / 4000) ** 0.5
    assert abs(float(torch.isnan(hidden.z_spec).float().mean()) - 0.5) < 5 * (0.25 / 4000) ** 0.5
    assert torch.equal(torch.isnan(hidden.mag), torch.isnan(hidden.mag_err))


def test_a_training_by_former_networks_is_not_continued(tmp_path):
    """Their heads have as many weights of the same shapes as those of now, behind another first layer."""
    marker = prepare(tmp_path, "abc", resume=False) / "training.json"
    assert prepare(tmp_path, "abc", resume=True) == marker.parent
    kept = json.loads(marker.read_text())
    for former in ({"fingerprint": "abc"}, kept | {"networks": kept["networks"] - 1}):
        marker.write_text(json.dumps(former))
        with pytest.raises(ValueError, match=r"expected a training by networks of this version, got one by others; begin again"):
            prepare(tmp_path, "abc", resume=True)
