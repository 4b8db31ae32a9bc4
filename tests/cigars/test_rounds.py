"""Training for one target: each round simulates where the last one pointed, resumes to the same, and knows what it was made for."""

import shutil
from importlib import import_module

import numpy as np
import pytest
import torch

import cigars as package
from cigars import pipeline, rounds
from cigars.catalogue import write_catalogue
from cigars.cli import main
from cigars.config import ConfigError, load_config
from cigars.runs import Calibration, read_calibration, run_config, stored_fingerprint
from cigars.targets import TargetWarning, target_hash
from cigars.truncation import RECORD, TAIL, prior_mass, read_rounds, write_rounds

BANDS = tuple("ugrizy")


def command(workplace, run, *more):
    return ["train", str(workplace.config), "-o", str(run), "--target", str(workplace.mock), "--rounds", "2", "--device", "cpu", *more]


@pytest.fixture(scope="module")
def made(workplace, tmp_path_factory):
    """A run of two rounds for the shared mock, made by the command; its first is the shared run, which is trained alike."""
    run = tmp_path_factory.mktemp("rounds") / "run"
    shutil.copytree(workplace.run, run / "round-1", ignore=shutil.ignore_patterns("checkpoints"))
    assert main(command(workplace, run)) == 0
    return run


def same_weights(one, other):
    a, b = (torch.load(folder / "weights.pt", weights_only=True) for folder in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_the_record_says_what_each_round_did(made, catalogue, workplace):
    config, record = load_config(workplace.config), read_rounds(made)
    assert (record.target, record.objects, record.rounds) == (target_hash(catalogue), len(catalogue.id), 2)
    assert record.fingerprint == pipeline.run_fingerprint(config)
    first, last = record.history
    assert [r.folder for r in record.history] == ["round-1", "."]
    assert first.volume_ratio == 1
    assert last.volume_ratio == pytest.approx(prior_mass(config.marginals, run_config(made).marginals))
    assert 0 < last.volume_ratio < 1
    assert set(first.box) == set(first.cut) == set(first.outside) == set(config.marginals)
    assert max(first.cut.values()) <= 2 * TAIL
    assert all(first.outside[name] <= first.cut[name] for name in first.cut)
    assert first.draws >= 20_000
    assert not last.box
    for one in record.history:
        assert one.fingerprint == stored_fingerprint(made / one.folder)
        assert one.surveys == config.training.surveys  # so few that no round has fewer
        assert one.seconds > 0
        assert read_rounds(made / one.folder).target == record.target
        assert read_calibration(made / one.folder)[0].names == tuple(config.marginals)


def test_the_last_round_is_an_ordinary_run_of_the_truncated_configuration(made, catalogue, workplace):
    config, record, final = load_config(workplace.config), read_rounds(made), run_config(made)
    for name, (low, high) in record.history[0].box.items():
        old, new = config.marginals[name], final.marginals[name]
        assert (new.low, new.high) == (low, high)
        assert old.low <= low < high <= old.high
        assert (new.kind, new.loc, new.scale) == (old.kind, old.loc, old.scale)
    assert final.updated(prior=config.prior.model_dump()) == config
    assert stored_fingerprint(made) == pipeline.run_fingerprint(final)


@pytest.mark.filterwarnings("ignore::cigars.targets.TargetWarning")
def test_inference_stays_in_the_box_and_names_the_target(made, catalogue):
    posterior = package.infer(made, catalogue, draws=200)["posterior"]
    for name, (low, high) in read_rounds(made).history[0].box.items():
        assert low - 1e-6 <= float(posterior[name].min()) <= float(posterior[name].max()) <= high + 1e-6
    assert posterior.attrs["truncated_for"] == target_hash(catalogue)


def test_a_posterior_that_the_box_cuts_is_one_warning(cigars, made, workplace, catalogue, tmp_path, monkeypatch):
    """As for a catalogue far from the target: its draws pile up at an edge that the original prior does not have."""
    box = run_config(made).marginals
    name = next(n for n, m in box.items() if m.low > load_config(workplace.config).marginals[n].low)

    def stuck(draws, *_):
        return [name] if draws[name].shape == (7,) else []

    monkeypatch.setattr(import_module("cigars.infer"), "piled_up", stuck)  # not the function of the same name
    with pytest.warns(TargetWarning, match=f"the posterior of {name} is cut by the box that was made for this catalogue; train with more"):
        pipeline.infer(made, catalogue, draws=7)
    with pytest.warns(TargetWarning, match=f"made for another catalogue \\({len(catalogue.id)} objects, {target_hash(catalogue)}\\)"):
        pipeline.infer(made, catalogue._replace(id=catalogue.id[::-1]), draws=7)
    other = tmp_path / "other.fits"
    write_catalogue(other, catalogue._replace(id=catalogue.id[::-1]), BANDS)
    said = cigars("infer", made, other, "-o", tmp_path / "p.nc", "--draws", 7, "--device", "cpu")
    assert said.code == 0
    assert next(line for line in said.err.splitlines() if "warning" in line).startswith(f"warning: {made}: the posterior of {name} is cut")
    assert said.err.count("warning:") == 1


def interrupting(train, calls, at):
    """`train` that is interrupted when it is called for the `at`-th time."""

    def interrupted(config, folder, **options):
        calls.append(folder)
        if len(calls) == at:
            raise KeyboardInterrupt
        return train(config, folder, **options)

    return interrupted


def without_seconds(run):
    return [r.model_copy(update={"seconds": 0.0}) for r in read_rounds(run).history]


def interrupt_and_resume(cigars, workplace, made, run, monkeypatch, train):
    calls = []
    monkeypatch.setattr(rounds, "train_run", interrupting(train, calls, at=2))
    said = cigars(*command(workplace, run))
    assert said.code == 130
    assert said.err.splitlines()[-1] == (
        f"stopped; continue with: cigars train {workplace.config} -o {run} --target {workplace.mock} --rounds 2 --device cpu --resume"
    )
    assert len(read_rounds(run).history) == 1
    assert not (run / "run.json").exists()
    assert cigars(*command(workplace, run, "--resume")).code == 0
    assert calls == [run / "round-1", run, run]  # the first round was not trained again
    assert without_seconds(run) == without_seconds(made)
    assert cigars(*command(workplace, run, "--resume")).code == 0  # finished: nothing to do
    assert len(calls) == 3


def test_an_interrupted_training_goes_on_with_the_unfinished_round(cigars, made, workplace, tmp_path, monkeypatch):
    """Trainings are copied from those that were made, under the same configuration."""

    def copied(config, folder, **options):
        source = made / folder.relative_to(tmp_path / "run")
        assert run_config(source) == config
        assert options["resume"]
        for name in ("run.json", "weights.pt", "calibration.json"):
            shutil.copyfile(source / name, folder / name)

    interrupt_and_resume(cigars, workplace, made, tmp_path / "run", monkeypatch, copied)


@pytest.mark.slow
def test_an_interrupted_training_goes_on_to_the_same_weights(cigars, made, workplace, tmp_path, monkeypatch):
    interrupt_and_resume(cigars, workplace, made, tmp_path / "run", monkeypatch, rounds.train_run)
    assert same_weights(tmp_path / "run", made)
    assert same_weights(tmp_path / "run" / "round-1", made / "round-1")


def test_what_was_begun_otherwise_is_not_continued(refused, made, workplace, catalogue, tmp_path):
    other = tmp_path / "other.fits"
    write_catalogue(other, catalogue._replace(id=catalogue.id[::-1]), BANDS)
    asked = command(workplace, made, "--resume")
    assert f"expected target {target_hash(catalogue)}, got" in refused(*[other if a == str(workplace.mock) else a for a in asked])
    assert "expected rounds 2, got 3" in refused(*["3" if a == "2" else a for a in asked])
    assert "expected fingerprint" in refused(*asked, "--set", "training.flow_epochs=3")
    assert "expected a new folder" in refused(*command(workplace, made))
    assert "expected a training without rounds" in refused("train", workplace.config, "-o", made, "--resume")
    assert f"expected a training in rounds with {RECORD}" in refused(*command(workplace, workplace.run, "--resume"))
    assert len(read_rounds(made).history) == 2


def test_a_target_unlike_the_simulations_stops_before_training(refused, workplace, catalogue, tmp_path):
    o, path, run = catalogue.observations, tmp_path / "bright.fits", tmp_path / "run"
    write_catalogue(path, catalogue._replace(observations=o._replace(m=o.m - np.float32(15), mag=o.mag + np.float32(12))), BANDS)
    said = refused("train", workplace.config, "-o", run, "--target", path, "--device", "cpu")
    assert said.startswith("target: expected objects like those that 'tiny' simulates, got mag_u: ")
    assert "; m: " in said
    assert not run.exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--rounds", "3"], "expected a target catalogue with 3 rounds"),
        (["--rounds", "0"], "--rounds"),
        (["--target", "nowhere.fits"], "nowhere.fits"),
    ],
)
def test_rounds_that_cannot_be_are_refused(refused, workplace, tmp_path, options, says):
    assert says in refused("train", workplace.config, "-o", tmp_path / "run", *options)
    assert not (tmp_path / "run").exists()


def test_less_than_one_round_is_refused(workplace, catalogue, tmp_path):
    with pytest.raises(ConfigError, match="rounds: expected at least 1, got 0"):
        package.train(load_config(workplace.config), tmp_path / "run", target=catalogue, rounds=0)


def test_a_damaged_record_is_one_line(refused, made, workplace, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(made, run, ignore=shutil.ignore_patterns("checkpoints", "round-1"))
    (run / RECORD).write_text("{")
    assert "cannot read rounds.json" in refused("infer", run, workplace.mock, "-o", tmp_path / "p.nc")
    write_rounds(run, read_rounds(made))
    (run / "calibration.json").unlink()
    assert "expected calibration.json of a finished training" in refused(*command(workplace, run, "--resume"))


def test_all_rounds_but_the_last_simulate_a_quarter_within_limits():
    for surveys, expected in ((40_000, 10_000), (5_000, 2_000), (500, 500)):
        sizes = {"training.surveys": surveys, "training.objects": 20 * surveys, "training.pilot_surveys": surveys // 4}
        config = load_config("lsst", **sizes)
        fewer = rounds.reduced(config)
        assert fewer.training.surveys == expected
        assert fewer.training.objects == min(max(5 * surveys, 200_000), 20 * surveys)
        assert fewer.training.pilot_surveys == min(max(surveys // 8, 1000), surveys // 4)
        assert fewer.updated(**sizes) == config


def test_a_round_that_is_too_narrow_is_named():
    """Uniform ranks pass; those of a posterior a third as wide as it should be do not."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(500, 2))
    ranks = (rng.normal(size=(255, 500, 2)) * [1, 1 / 3] < truth).sum(0)
    assert rounds.overconfident(Calibration(("right", "narrow"), ranks, 255)) == ["narrow"]
