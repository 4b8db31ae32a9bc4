"""The functions of the package: what they are called, and that mocks, trainings and truths do not mix."""

import logging
import shutil
import warnings
from importlib import import_module

import jax
import numpy as np
import pytest

import cigars
from cigars import pipeline, surveys
from cigars.catalogue import read_catalogue, read_truth, select
from cigars.catalogue_checks import TargetWarning
from cigars.config import Prior, load_config
from cigars.infer import infer
from cigars.posterior import Posterior
from cigars.schema import FIDUCIAL
from cigars.store import plan
from cigars.targets import target_hash
from cigars.truncation import Rounds, write_rounds
from cigars.truths import matched


def test_the_package_shows_the_functions_of_the_pipeline():
    import_module("cigars.ingest")
    import_module("cigars.report.page")  # modules of the same names
    for name in ("simulate", "train", "infer", "report", "ingest"):
        assert getattr(cigars, name) is getattr(pipeline, name)
        assert name in dir(cigars)
    assert cigars.load_config is load_config
    assert cigars.load_posterior.__module__ == "cigars.posterior"
    assert cigars.__version__.count(".") >= 2
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        cigars.nothing_of_the_kind  # noqa: B018


def test_truth_is_matched_by_name(posterior, workplace, tmp_path):
    truth = read_truth(workplace.truth)
    order = np.random.default_rng(0).permutation(len(truth.id))
    shuffled = truth._replace(id=truth.id[order], latents=type(truth.latents)(*(v[order] for v in truth.latents)))
    np.testing.assert_array_equal(matched(shuffled, Posterior(posterior)).z, truth.latents.z)
    assert truth.theta == pytest.approx(FIDUCIAL, rel=1e-6)


def test_the_truth_of_another_mock_is_refused(workplace, catalogue, posterior, tmp_path):
    """Identifiers are the same in every mock; its hash, and without one its number and stretches, tell them apart."""
    truth, config = read_truth(workplace.truth), load_config(workplace.config)
    assert truth.catalogue == target_hash(catalogue) == posterior["posterior"].attrs["catalogue"]
    for kind in ("fits", "parquet", "ecsv", "csv"):
        pipeline.write_mock(config, catalogue, truth, tmp_path / f"m.{kind}", tmp_path / f"t-{kind}.ecsv")
        assert target_hash(read_catalogue(tmp_path / f"m.{kind}", config.band_names)) == read_truth(tmp_path / f"t-{kind}.ecsv").catalogue
    with pytest.warns(TargetWarning, match="saw no survey without sn"):
        hidden = Posterior(infer(workplace.run, catalogue, draws=2, hidden=["sn"]))
    np.testing.assert_array_equal(matched(truth, hidden).z, truth.latents.z)
    np.testing.assert_array_equal(matched(truth._replace(catalogue=""), hidden).z, truth.latents.z)
    cut = Posterior(infer(workplace.run, select(catalogue, np.arange(3, len(catalogue.id))), draws=2))
    np.testing.assert_array_equal(matched(truth, cut).z, truth.latents.z[3:])
    mixed = truth._replace(latents=type(truth.latents)(*(v[::-1] for v in truth.latents)))
    for wrong, asked in (
        (truth._replace(catalogue="0123"), Posterior(posterior)),
        (mixed._replace(catalogue=""), Posterior(posterior)),
        (mixed, cut),
    ):
        with pytest.raises(ValueError, match=r"truth: expected that of the catalogue of the posterior, .* name the truth of this mock"):
            matched(wrong, asked)


def said_of(posterior, tmp_path, **options):
    """Inputs of the page that `report` would write."""
    with pytest.MonkeyPatch.context() as patch:
        given = []
        patch.setattr(import_module("cigars.report.page"), "write_report", lambda path, inputs, **_: given.append(inputs))
        pipeline.report(tmp_path / "r.html", posterior, **options)
    return given[0]


def test_the_prior_of_a_report_is_that_of_the_posterior(workplace, posterior, tmp_path):
    """What it was reweighted to; after rounds the configured one where their record is at hand, else what they left, and called so."""
    asked = Posterior(posterior.copy())
    configured = asked.config.marginals
    asked._group.attrs["reweighted"] = '{"M0": {"normal": [-19.4, 0.1]}}'
    shown = said_of(asked.to_arviz(), tmp_path, run=workplace.run)
    assert shown.prior["M0"].kind == "normal"
    assert shown.prior["Om0"] == configured["Om0"]
    assert not shown.cut
    asked._group.attrs["truncated_for"] = "0123"
    assert said_of(asked.to_arviz(), tmp_path).cut
    run = shutil.copytree(workplace.run, tmp_path / "run")
    before = {n: Prior(uniform=(-30.0, 30.0)) for n in configured}
    write_rounds(run, Rounds(target="0123", objects=7, rounds=2, fingerprint="0", configured=before))
    shown = said_of(asked.to_arviz(), tmp_path, run=run)
    assert not shown.cut
    assert (shown.prior["Om0"], shown.prior["M0"].kind) == (before["Om0"].marginal, "normal")


def one_size(config):
    return config.model_copy(update={"size": config.size.model_copy(update={"exposure": (1.0, 1.0)})})


def test_a_mock_is_of_the_configured_size_which_is_said_where_no_training_survey_is(workplace):
    config = load_config(workplace.config, **{"size.exposure": (0.2, 0.2)})
    with pytest.warns(TargetWarning, match=r"exposure 1, outside size\.exposure = \[0\.2, 0\.2\], .* change size\.expected_supernovae"):
        mock, _ = pipeline.simulate(config)
    same, _ = pipeline.simulate(load_config(workplace.config))
    np.testing.assert_array_equal(mock.observations.m, same.observations.m)


def test_a_mock_outside_the_prior_is_said_to_be(workplace):
    config = load_config(workplace.config, **{"prior.M0": {"uniform": [-19.6, -19.4]}})
    with pytest.warns(TargetWarning, match=r"mock: M0 = -19\.3 outside the prior, .* give another value with --theta, or widen"):
        pipeline.simulate(config, theta={"M0": -19.3})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline.simulate(config, theta={"M0": -19.45})


def test_a_mock_never_repeats_a_training_survey(workplace):
    """Streams differ by name: the first mock of the prior is not the first survey of the training.

    Of two numbers at a time: thousands of float32 magnitudes within three, of 2e-6 apart, hold a chance pair more often than not.
    """
    config = load_config(workplace.config)
    survey = surveys.survey_source(config, "training")(0, 32)
    catalogue, _ = pipeline.simulate(config)

    def both(o):
        return (np.asarray(o.m, np.float64) + 1j * np.asarray(o.x, np.float64)).ravel()

    assert not np.isin(both(catalogue.observations), both(survey.observations)).any()
    assert np.isin(both(catalogue.observations), both(surveys.survey_source(one_size(config), "mock", FIDUCIAL)(0, 1).observations)).all()
    again = surveys.survey_source(config, "training")(0, 32)
    np.testing.assert_array_equal(survey.observations.m, again.observations.m)


def test_ranks_of_a_calibration_are_of_the_survey_s_own_truth(workplace, told, tmp_path):
    """Of an exact posterior far narrower than the prior 2 of 256 ranks are at an end, most where it is another survey's truth."""
    run = shutil.copytree(workplace.run, tmp_path / "run")
    found = pipeline.train(load_config(workplace.config), run, resume=True)
    assert ((found.ranks == 0) | (found.ranks == found.draws)).mean() < 0.05  # of 260


def test_another_seed_compiles_nothing(workplace, tmp_path, caplog):
    """The programs of the shared mock and run serve every seed: a process that goes on and on would keep the others."""
    small = {"training.surveys": 32, "training.objects": 1000, "training.flow_epochs": 1}
    config = load_config(workplace.config, **small, seed=7)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        pipeline.simulate(config)
        pipeline.train(config, tmp_path / "run")
        compiled = [record.message for record in caplog.records if record.message.startswith("Compiling")]
        assert not compiled
        jax.jit(lambda x: x + 1)(1.0)
    assert caplog.records[-1].message.startswith(("Compiling", "Finished XLA compilation"))


def test_another_detection_table_of_the_same_name_is_another_run_and_another_store(tmp_path):
    path = tmp_path / "detection.npz"
    config = load_config("demo", **{"selection.detection": "table", "selection.detection_file": str(path)})
    with pytest.raises(ValueError, match=r"detection table: expected an \.npz file, found nothing"):
        surveys.run_fingerprint(config)
    found = []
    for probability in (1.0, 1.0, 0.1):
        np.savez(path, z=[0.0, 1.0], m=[0.0, 1.0], probability=np.full((2, 2), probability))
        found.append((surveys.run_fingerprint(config), plan(config).fingerprint))
    assert found[0] == found[1]
    assert all(a != b for a, b in zip(found[1], found[2], strict=True))


def test_another_random_stream_is_another_run_and_another_store(monkeypatch):
    """Else what was begun with a simulator that makes other surveys would be continued."""
    from cigars import manifest

    config = load_config("demo")
    store = manifest.Manifest(configuration=config, hosts="h", stream="s", shard=4, fingerprint="")
    before = surveys.run_fingerprint(config), store.expected_fingerprint
    monkeypatch.setattr("cigars.surveys.RANDOM_STREAM", -1)
    monkeypatch.setattr("cigars.manifest.RANDOM_STREAM", -1)
    after = surveys.run_fingerprint(config), store.expected_fingerprint
    assert all(a != b for a, b in zip(before, after, strict=True))
