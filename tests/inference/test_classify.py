"""Bayes factors of a classifier are those of a linear-Gaussian survey, which are known; wrong ones are told apart."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
import torch

from benchmarks.linear_gaussian import MARGINALS, GaussianSurvey
from inference import classify
from inference.batches import join, pack
from inference.classify import Labelled, calibrate, recalibrate, train_classifier
from inference.embedding import FeatureMoments
from inference.standardise import Standardiser

FREE = (tuple(MARGINALS), ("M0", "beta"), ("alpha", "beta"))
TRAIN, HELD, TEST = 6000, 500, 500
ALLOWED = 0.2  # in ln K; the finite number of training surveys costs about 0.13
WITHIN = 4.0  # of |ln K|: beyond, hardly any training survey shows the less likely model


class Settled(NamedTuple):
    """Surveys to learn from, to stop by and to judge on, and the exact ln evidence of each model for the last."""

    train: Labelled
    held: Labelled
    test: Labelled
    exact: np.ndarray


@pytest.fixture(scope="module")
def setting():
    """A model with three free parameters and two in which one of them is fixed; the same summary of all."""
    models = [GaussianSurvey(40, free=free, stream=k) for k, free in enumerate(FREE)]
    edges = np.cumsum([0, TRAIN, HELD, TEST])
    surveys = [[model(int(a), int(b - a)) for model in models] for a, b in pairwise(edges)]
    packed = [[pack(s, tuple(MARGINALS)) for s in some] for some in surveys]
    summary = FeatureMoments(Standardiser(2).fit(join(packed[1]).observations))
    labelled = [
        Labelled(
            torch.cat([summary(p) for p in some]),
            torch.arange(len(models)).repeat_interleave(len(some[0].lengths)),
            torch.cat([p.theta for p in some])[:, :2],  # M0 and alpha have two priors, beta one
        )
        for some in packed
    ]
    exact = np.concatenate([np.stack([model.ln_evidence(s) for model in models], -1) for s in surveys[2]])
    return Settled(*labelled, exact)


@pytest.fixture(scope="module")
def trained(setting, tmp_path_factory):
    path = tmp_path_factory.mktemp("classifier") / "classifier.pt"
    return train_classifier(setting.train, setting.held, len(FREE), checkpoint=path)[0], path


def pair(setting, ln_evidence, k):
    """Surveys of models 0 and k: ln K of k against 0 [member, survey] and exactly, and whether k made them."""
    rows = (setting.test.model == 0) | (setting.test.model == k)
    found = (ln_evidence[..., k] - ln_evidence[..., 0])[:, rows].double().numpy()
    return found, (setting.exact[:, k] - setting.exact[:, 0])[rows.numpy()], (setting.test.model[rows] == k).numpy()


@pytest.mark.parametrize("k", [1, 2])
def test_bayes_factors_are_the_exact_ones(setting, trained, k):
    members, exact, made = pair(setting, trained[0].ln_evidence(setting.test.summary), k)
    near = np.abs(exact) < WITHIN
    assert np.ptp(exact[near]) > WITHIN
    error = (members.mean(0) - exact)[near]
    assert np.sqrt(np.mean(error**2)) < ALLOWED
    pulls = error / members.std(0, ddof=1)[near]
    assert 0.4 < np.sqrt(np.mean(pulls**2)) < 2.5  # the spread of the members is the error
    assert calibrate(members.mean(0), made).passed
    for wrong in (members.mean(0) + 0.5, 1.4 * members.mean(0), -members.mean(0)):
        assert np.sqrt(np.mean((wrong - exact)[near] ** 2)) > ALLOWED


def test_exact_bayes_factors_are_calibrated_and_wrong_ones_are_not(setting):
    exact, made = pair(setting, torch.zeros(1, len(setting.test.model), 3), 1)[1:]
    right = calibrate(exact, made)
    assert right.passed
    assert right.expected_error < 3 * right.noise
    for wrong in (exact + 1.0, 1.6 * exact, 0.6 * exact):
        assert not calibrate(wrong, made).passed
    assert calibrate(exact + 1.0, made).expected_error > 3 * right.noise


def test_bayes_factors_that_are_not_calibrated_are_corrected(setting):
    """What overconfident classifiers say of models that hardly differ; by surveys of unequal numbers too."""
    exact, made = pair(setting, torch.zeros(1, len(setting.test.model), 3), 1)[1:]
    kept = ~made | (np.arange(len(made)) % 3 > 0)
    for rows in (slice(None), kept):
        said, by = 3 * exact[rows] - 1, made[rows]
        assert not calibrate(said, by).passed
        correction, left = recalibrate(said, by)
        assert left.passed
        assert abs(correction.slope - 1 / 3) < 5 * correction.slope_error < 0.2
        assert abs(correction.offset - 1 / 3) < 5 * correction.offset_error < 1


def apart(mean, count, scale=1.0):
    """ln K of as many surveys of two models, normal with means ± `mean` and what variance goes with that, times `scale`."""
    made = np.arange(2 * count) % 2 == 0
    return scale * np.random.default_rng(0).normal(np.where(made, mean, -mean), (2 * mean) ** 0.5), made


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_surveys_that_are_all_told_apart_calibrate_nothing(scale):
    for mean, count in ((40, 200), (40, 1000), (20, 20)):
        said, made = apart(mean, count, scale)
        found = calibrate(said, made)
        assert not found.determined
        assert not found.passed
        correction, left = recalibrate(said, made)
        np.testing.assert_array_equal(correction.corrected(said), said)
        assert not left.passed


def test_models_that_overlap_or_hardly_differ_are_calibrated():
    """Of the latter the slope is as good as unknown, which changes no ln K."""
    for mean, count in ((4, 1000), (8, 1000), (0.5, 100), (0.01, 100), (0.001, 1000)):
        found = calibrate(*apart(mean, count))
        assert found.determined
        assert found.passed
        assert (found.slope_error > 0.5) == (mean < 0.1)
    wrong = calibrate(*apart(4, 1000, 3.0))
    assert wrong.determined
    assert not wrong.passed


def test_a_correction_is_judged_by_surveys_that_it_has_not_seen():
    """Of ln K that knows nothing a correction says nothing: judged by its own surveys it would seem to."""
    rng = np.random.default_rng(1)
    said, made = rng.normal(size=400) * 3, np.arange(400) % 2 == 0
    correction, left = recalibrate(said, made)
    assert abs(correction.slope) < 5 * correction.slope_error
    assert left.expected_error > 0
    assert calibrate(correction.corrected(said), made).slope == pytest.approx(1, abs=1e-6)  # of the surveys it was learned from
    assert left.slope != pytest.approx(1, abs=1e-2)


def test_unequal_numbers_are_accounted_for(setting):
    """A third of the surveys of model 1: with the odds of the training left in, ln K is off by ln 3."""
    kept = (setting.train.model != 1) | (torch.arange(len(setting.train.model)) % 3 == 0)
    net, _ = train_classifier(Labelled(*(leaf[kept] for leaf in setting.train)), setting.held, len(FREE))
    members, exact, _ = pair(setting, net.ln_evidence(setting.test.summary), 1)
    near, odds = np.abs(exact) < WITHIN, float(torch.log(net.share[1] / net.share[0]))
    assert odds == pytest.approx(-np.log(3), abs=1e-2)
    assert abs((members.mean(0) - exact)[near].mean()) < ALLOWED
    assert abs((members.mean(0) + odds - exact)[near].mean()) > 4 * ALLOWED


def test_shuffled_labels_say_nothing_and_are_rejected(setting):
    order = torch.randperm(len(setting.train.model), generator=torch.Generator().manual_seed(0))
    net, _ = train_classifier(setting.train._replace(model=setting.train.model[order]), setting.held, len(FREE))
    members, exact, _ = pair(setting, net.ln_evidence(setting.test.summary), 1)
    near = np.abs(exact) < WITHIN
    assert np.abs(members.mean(0)).max() < 1
    assert np.sqrt(np.mean((members.mean(0) - exact)[near] ** 2)) > 4 * ALLOWED


def test_models_that_differ_in_no_parameter_are_told_apart():
    """Two Gaussian summaries with other means: ln K is linear."""
    rng = np.random.default_rng(0)

    def surveys(count):
        model = np.arange(2 * count) % 2
        x = rng.normal(size=(2 * count, 6))
        x[:, 0] += model
        return Labelled(torch.tensor(x, dtype=torch.float32), torch.tensor(model), torch.empty(2 * count, 0)), x[:, 0] - 0.5

    train, held, (test, exact) = surveys(1500)[0], surveys(300)[0], surveys(300)
    net, _ = train_classifier(train, held, 2)
    ln_evidence = net.ln_evidence(test.summary).mean(0)
    found = (ln_evidence[:, 1] - ln_evidence[:, 0]).numpy()
    assert np.sqrt(np.mean((found - exact) ** 2)) < ALLOWED


def test_an_interrupted_training_goes_on_to_the_same_bayes_factors(setting, trained, tmp_path, monkeypatch):
    path = tmp_path / "classifier.pt"

    def stopping(stage, done, total, **metrics):
        if done > 300:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_classifier(setting.train, setting.held, len(FREE), checkpoint=path, report=stopping)
    net, history = train_classifier(setting.train, setting.held, len(FREE), checkpoint=path)
    assert torch.equal(net.ln_evidence(setting.test.summary), trained[0].ln_evidence(setting.test.summary))
    monkeypatch.setattr(classify, "RATE", 0.0)  # a finished training is not begun again
    again, _ = train_classifier(setting.train, setting.held, len(FREE), checkpoint=path)
    assert torch.equal(again.ln_evidence(setting.test.summary), net.ln_evidence(setting.test.summary))
    assert history.finished


def test_a_model_without_surveys_is_refused(setting):
    with pytest.raises(ValueError, match="at least two models, got"):
        train_classifier(setting.train, setting.held, 4)
    with pytest.raises(ValueError, match="at least two models"):
        train_classifier(setting.train._replace(model=torch.zeros_like(setting.train.model)), setting.held, 1)
