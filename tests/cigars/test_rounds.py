"""Training for one target: each round simulates where the last one pointed, resumes to the same, and knows what it was made for."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

import cigars as package
from cigars import inheritance, pipeline, rounds, surveys
from cigars.catalogue import Catalogue, CatalogueError, select, write_catalogue
from cigars.catalogue_checks import TargetWarning
from cigars.cli import main
from cigars.cli_infer import _config_and_catalogue
from cigars.config import ConfigError, Prior, load_config
from cigars.files import FileError
from cigars.pretrained import available, path
from cigars.runs import read_calibration, run_config, stored_fingerprint
from cigars.schema import FIDUCIAL
from cigars.targets import as_survey, target_hash
from cigars.truncation import RECORD, STEPS, TAIL, Rounds, prior_mass, read_rounds, truncated, untruncated, volume, write_rounds
from inference.batches import pack, to_torch
from inference.model import load_run
from inference.standardise import Standardiser

BANDS = tuple("ugrizy")


def command(workplace, run, *more):
    return ["train", str(workplace.config), "-o", str(run), "--target", str(workplace.mock), "--rounds", "2", "--device", "cpu", *more]


@pytest.fixture(scope="module")
def made(workplace, tmp_path_factory):
    """A run of two rounds for the shared mock, made by the command; the summary of its first is that of the shared run."""
    run = tmp_path_factory.mktemp("rounds") / "run"
    learned = import_module("inference.fit").learn_summary

    def resumed(source, config, marginals, distance, folder, **options):
        if folder.name == "round-1":
            shutil.copytree(workplace.run / "checkpoints", folder / "checkpoints")
        return learned(source, config, marginals, distance, folder, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("inference.fit.learn_summary", resumed)
        assert main(command(workplace, run)) == 0
    return run


def same_weights(one, other):
    a, b = (torch.load(folder / "weights.pt", weights_only=True) for folder in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_the_record_says_what_each_round_did(made, catalogue, workplace):
    config, record = load_config(workplace.config), read_rounds(made)
    assert (record.target, record.objects, record.rounds) == (target_hash(catalogue), len(catalogue.id), 2)
    assert record.fingerprint == surveys.run_fingerprint(config)
    first, last = record.history
    assert [r.folder for r in record.history] == ["round-1", "round-2"]
    assert first.volume_ratio == 1
    assert last.volume_ratio == volume(config, truncated(config, first.box, first.region))
    # boxes are inside those before; of regions, each by surveys of its own, so small a training may leave one larger than that before
    boxes = [prior_mass(config.marginals, inner) for inner in ({n: p.marginal for n, p in last.prior.items()}, run_config(made).marginals)]
    assert 0 < boxes[1] <= boxes[0] < 1
    assert 0 < volume(config, run_config(made)) <= boxes[1]
    assert last.volume_ratio <= boxes[0]
    for step in (*first.steps, *last.steps):
        assert set(step.box) == set(step.cut) == set(step.outside) == set(config.marginals)
        assert max(step.cut.values()) <= 2 * TAIL * (1 + 1e-9)
        assert 0 < step.cut_by_region <= 2 * TAIL * len(config.marginals) * (1 + 1e-9)
        assert all(step.outside[name] <= step.cut[name] for name in step.cut)
        assert step.surveys == config.training.surveys  # so few that no round has fewer
    assert last.fingerprint == surveys.run_fingerprint(truncated(config, first.box, first.region))
    for one in record.history:
        assert one.surveys >= config.training.surveys
        assert one.seconds > 0
    assert read_calibration(made)[0].names == tuple(config.marginals)


def test_what_the_last_round_leaves_is_an_ordinary_run_of_the_truncated_configuration(made, catalogue, workplace):
    config, record, final = load_config(workplace.config), read_rounds(made), run_config(made)
    for name, (low, high) in record.history[-1].box.items():
        old, new = config.marginals[name], final.marginals[name]
        assert (new.low, new.high) == (low, high)
        assert old.low <= low < high <= old.high
        assert (new.kind, new.loc, new.scale) == (old.kind, old.loc, old.scale)
    assert final.prior.region == record.history[-1].region
    assert final.updated(prior=config.prior.model_dump(), **{"prior.region": None}) == config
    assert stored_fingerprint(made) == surveys.run_fingerprint(final)
    learned = [(made / folder / "checkpoints" / "regressor.pt").exists() for folder in (".", "round-2")]
    assert learned == [False, True]  # the posteriors are those of the last round's summary


def test_without_networks_a_run_is_asked_under_the_prior_before_its_rounds(made, workplace):
    """The box was made by the data of its target, and the exact likelihood has none of its region."""
    assert untruncated(made) == load_config(workplace.config) == untruncated(workplace.run)
    assert run_config(made).prior != load_config(workplace.config).prior
    assert _config_and_catalogue(made, workplace.mock, None, ())[0] == load_config(workplace.config)


@pytest.mark.filterwarnings("ignore::cigars.catalogue_checks.TargetWarning")
def test_inference_stays_in_the_box_and_names_the_target(made, catalogue):
    posterior = package.infer(made, catalogue, draws=200)["posterior"]
    for name, (low, high) in read_rounds(made).history[-1].box.items():
        assert low - 1e-6 <= float(posterior[name].min()) <= float(posterior[name].max()) <= high + 1e-6
    assert posterior.attrs["truncated_for"] == target_hash(catalogue)


def test_a_posterior_that_the_box_cuts_is_one_warning(cigars, made, workplace, catalogue, tmp_path, monkeypatch):
    """As for a catalogue far from the target: its draws pile up at an edge that the original prior does not have."""
    box = run_config(made).marginals
    name = next(n for n, m in box.items() if m.low > load_config(workplace.config).marginals[n].low)

    def stuck(draws, *_, **__):
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


def test_inference_says_that_its_run_was_made_for_another_catalogue_and_of_which_it_knows_what_was_left_out(workplace, catalogue, tmp_path):
    run = shutil.copytree(workplace.run, tmp_path / "run")
    prior = {n: Prior(uniform=(m.low, m.high)) for n, m in run_config(run).marginals.items() if m.kind == "uniform"}
    prior |= {n: Prior(normal=(m.loc, m.scale)) for n, m in run_config(run).marginals.items() if m.kind == "normal"}
    strange = catalogue._replace(observations=catalogue.observations._replace(mag=np.array(catalogue.observations.mag)))
    strange.observations.mag[:3, 0] = 45
    for target, count in ((strange, 0), (catalogue, 1)):
        write_rounds(run, Rounds(target=target_hash(target), objects=7, rounds=2, fingerprint="0", configured=prior))
        for options in ({}, {"hidden": ["sn"]}):
            with pytest.warns(TargetWarning) as found:
                made = pipeline.infer(run, strange, draws=2, drop_outside=True, **options)
            cut = [w for w in found if "was cut for another catalogue (7 objects" in str(w.message)]
            assert [w.filename for w in cut] == [__file__] * count
            assert not [w for w in found if "box that was made" in str(w.message)]
            assert made["posterior"].attrs["truncated_for"] == target_hash(target)


def without_seconds(run):
    """The history of a run but for what depends on when it was interrupted."""
    return [r.model_copy(update={"seconds": 0.0, "surveys": 0}) for r in read_rounds(run).history]


def interrupt_and_resume(cigars, workplace, made, run, monkeypatch, name, train):
    """Interrupt the rounds where they first call a function of theirs, then resume."""
    calls = []

    def interrupted(config, folder, *rest, **options):
        calls.append(folder)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return train(config, folder, *rest, **options)

    monkeypatch.setattr(rounds, name, interrupted)
    said = cigars(*command(workplace, run))
    assert said.code == 130
    assert said.err.splitlines()[-1] == (
        f"stopped; continue with: cigars train {workplace.config} -o {run} --target {workplace.mock} --rounds 2 --device cpu --resume"
    )
    assert not (run / "run.json").exists()
    finished = len(read_rounds(run).history)
    assert cigars(*command(workplace, run, "--resume")).code == 0
    assert without_seconds(run) == without_seconds(made)
    before = len(calls)
    assert cigars(*command(workplace, run, "--resume")).code == 0  # finished: nothing to do
    assert len(calls) == before == {"train_run": 2, "_searched": 3}[name]
    return finished


def test_an_interrupted_training_goes_on_with_the_unfinished_round(cigars, made, workplace, tmp_path, monkeypatch):
    """The last training is copied from the one that was made, under the same configuration."""

    def copied(config, folder, **options):
        assert run_config(made) == config
        assert options["resume"]
        for name in ("run.json", "weights.pt", "calibration.json"):
            shutil.copyfile(made / name, folder / name)

    steps = {r.folder: r.steps for r in read_rounds(made).history}
    monkeypatch.setattr(rounds, "_searched", lambda _, folder, *rest: rounds._Searched(torch.nn.Identity(), steps[folder.name], 0))
    assert interrupt_and_resume(cigars, workplace, made, tmp_path / "run", monkeypatch, "train_run", copied) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["_searched", "train_run"])
def test_an_interrupted_training_goes_on_to_the_same_weights(cigars, made, workplace, tmp_path, monkeypatch, name):
    finished = interrupt_and_resume(cigars, workplace, made, tmp_path / "run", monkeypatch, name, getattr(rounds, name))
    assert finished == ["_searched", "train_run"].index(name)
    assert same_weights(tmp_path / "run", made)


class Number(torch.nn.Module):
    """How many supernovae a survey has, which tells the amplitude of the rate if all else that it depends on is fixed."""

    def __init__(self, observations):
        super().__init__()
        self.standardiser = Standardiser(len(BANDS)).fit(to_torch(observations))

    def forward(self, packed):
        return torch.log1p(packed.number.float())[:, None]


def test_the_box_closes_about_the_target_where_the_summary_sees_it_and_nowhere_else(workplace, catalogue):
    """Some 60 objects know lg A to .06, fewer of a lower rate to .15: some 6 times that on either side is left of 1.6."""
    known = {f"prior.{name}": {"fixed": getattr(FIDUCIAL, name)} for name in ("Om0", "Ode0", "M0", "dtd_slope", "sigma_int", "beta")}
    config = load_config(workplace.config, **{"prior.dtd_logA": {"uniform": [-12.95, -11.35]}}, **known)
    steps = list(rounds.narrowed(Number(catalogue.observations), config, catalogue, 512))
    assert 1 <= len(steps) <= rounds.STEPS
    low, high = steps[-1].box["dtd_logA"]
    assert low < FIDUCIAL.dtd_logA < high
    assert 0.4 < high - low < 1.2
    for name in ("alpha", "alpha_c", "mass_step_loc"):
        assert steps[-1].box[name] == (config.marginals[name].low, config.marginals[name].high)
    volumes = [volume(config, truncated(config, step.box, step.region)) for step in steps]
    assert all(later < 1.1 * before for before, later in pairwise(volumes))  # the last may be a little larger, by the noise of its errors


@pytest.fixture(scope="module")
def begun(workplace, tmp_path_factory):
    """A run of two rounds for the shared mock, of which the first has the summary of the shared run, made by the command."""
    run = tmp_path_factory.mktemp("rounds") / "from"
    assert main(from_the_shared(workplace, run)) == 0
    return run


def from_the_shared(workplace, run, *more):
    return [*command(workplace, run), "--from", str(workplace.run), *more]


def test_rounds_from_a_run_at_hand_are_those_that_learn_the_same_summary(begun, made, workplace):
    """As that of the first round of the other is, which is resumed from the checkpoints of the run at hand."""
    mine, its = read_rounds(begun), read_rounds(made)
    assert (mine.start, its.start) == (stored_fingerprint(workplace.run), None)
    first, last = without_seconds(begun)
    assert first.fingerprint == mine.start
    assert [first.model_copy(update={"fingerprint": its.history[0].fingerprint}), last] == without_seconds(made)
    assert same_weights(begun, made)
    learned = [(begun / f"round-{k}" / "checkpoints" / "regressor.pt").exists() for k in (1, 2)]
    assert learned == [False, True]
    assert mine.history[0].surveys == sum(step.surveys for step in mine.history[0].steps)


def test_an_inherited_summary_is_told_the_size_that_it_was_trained_for(workplace, catalogue):
    """Surveys of 90 of exposure 1 are of exposure 1.5 to a run of 60."""
    summary = load_run(workplace.run).summary
    wide = load_config(workplace.config, **{"size.expected_supernovae": 90, "size.exposure": (0.8, 1.2)})
    inherited = inheritance.inherited_summary(wide, workplace.run)
    packed = pack(as_survey(catalogue.observations))
    torch.testing.assert_close(inherited(packed), summary(packed._replace(exposure=torch.tensor([1.5]))))
    assert not torch.allclose(inherited(packed), summary(packed))


def test_rounds_from_a_run_at_hand_go_on_from_that_run_alone_and_need_it_in_the_first(
    cigars, refused, begun, workplace, tmp_path, monkeypatch
):
    run, gone = tmp_path / "run", tmp_path / "gone"

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(rounds, "_searched", interrupted)
        said = cigars(*from_the_shared(workplace, run))
    assert said.code == 130
    assert said.err.splitlines()[-1].endswith(f"--rounds 2 --from {workplace.run} --device cpu --resume")
    assert f"expected start {stored_fingerprint(workplace.run)}, got None" in refused(*command(workplace, run, "--resume"))
    with monkeypatch.context() as patch:
        patch.setattr(rounds, "train_run", interrupted)
        assert cigars(*from_the_shared(workplace, run, "--resume")).code == 130
        first = read_rounds(run).history
        assert len(first) == 1
        assert cigars(*command(workplace, run, "--resume", "--from", gone)).code == 130  # in the second round
    assert read_rounds(run).history == first
    assert without_seconds(run) == without_seconds(begun)[:1]


def test_the_posterior_that_comes_along_can_start_rounds_of_the_presets_of_its_model():
    if "lsst" not in available():
        pytest.skip("no posterior called lsst comes with this version")
    for preset, unit in (("lsst", 1), ("lsst-16k", 10)):
        assert inheritance.inherited_summary(load_config(preset), path("lsst")).unit == unit
    other = load_config("lsst", **{"hosts.effective_hosts": 1e5, "hosts.bank_seed": 3})  # the same hosts, sampled otherwise
    assert inheritance.inherited_summary(other, path("lsst")).unit == 1


def test_sizes_by_area_and_by_number_are_compared_by_what_the_sky_has(workplace):
    """A run by number, 60 in its unit, and surveys of ten square degree years, which have as many as the sky says."""
    volume = {"hosts.redshift_density": "volume"}
    by_number = load_config(workplace.config, **volume)
    by_area = load_config(
        workplace.config, **volume, **{"size.expected_supernovae": "none", "size.area_deg2": 0.5, "size.duration_yr": 1.0}
    )
    number = [np.asarray(surveys.survey_source(c.of_exposure(1.0), "sizes", FIDUCIAL)(0, 64).number).mean() for c in (by_area, by_number)]
    error = (sum(1 / (64 * n) for n in number)) ** 0.5
    assert inheritance._unit(by_area, by_number) == pytest.approx(number[0] / number[1], rel=5 * error)
    assert error < 0.05


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--set", "size.expected_supernovae=1000"], "an exposure from 0.5 to 2 in its units, for which it was trained, got 16.67"),
        (["--set", "size.expected_supernovae=20"], "got 0.3333; choose another run"),
        (["--rounds", "1"], "expected at least 2 from a run at hand, whose summary only the first has, got 1"),
        (["--set", "supernovae.dust=host"], "expected supernovae.dust = host, as configured, got independent"),
        (["--set", "prior.dtd_slope={normal=[-1.34, 5]}"], "expected a prior of dtd_slope that holds -26.34 to 23.66, as configured, got"),
        (["--set", "prior.beta={fixed=2.2}"], "expected free parameters"),
        (["--set", "prior.Om0={uniform=[0.05, 0.9]}"], "expected a prior of Om0 that holds 0.05 to 0.9, as configured, got"),
        (["--pretrained", "lsst"], "expected a run folder or --pretrained NAME, got both"),
    ],
)  # fmt: skip
def test_a_start_of_another_model_or_size_is_refused(refused, workplace, tmp_path, options, says):
    assert says in refused(*from_the_shared(workplace, tmp_path / "run", *options))
    assert not (tmp_path / "run").exists()


def test_rounds_do_not_start_from_what_rounds_made(refused, made, workplace, tmp_path):
    asked = [str(made) if word == str(workplace.run) else word for word in from_the_shared(workplace, tmp_path / "run")]
    assert "expected a run of its whole prior, got one that rounds cut for a target" in refused(*asked)


def test_odd_objects_count_in_the_number_and_do_not_say_where_the_target_is(catalogue):
    """Else the box is made for other data than those that `infer --drop-outside` takes: one light curve of mag 60 would move it."""
    odd = catalogue.observations.m.copy()
    odd[7] = 60.0
    target = catalogue._replace(observations=catalogue.observations._replace(m=odd))
    observed = rounds._observed(Number(catalogue.observations), select(target, np.arange(len(odd))[::-1]))
    assert observed.number.tolist() == [len(odd)]
    by_id = np.argsort(catalogue.id)
    np.testing.assert_array_equal(observed.observations.m[0], odd[by_id[by_id != 7]])


def test_a_box_is_found_once(made, workplace, catalogue, tmp_path, monkeypatch):
    """On other threads a sum differs in its last digits: a training that is resumed there is that of the box it was begun in."""
    steps, number = read_rounds(made).history[-1].steps, Number(catalogue.observations)
    moved = steps[-1].model_copy(update={"box": {n: (low, np.nextafter(high, 2 * high)) for n, (low, high) in steps[-1].box.items()}})
    monkeypatch.setattr("inference.fit.learn_summary", lambda *_, **__: number)
    asked = load_config(workplace.config), tmp_path, catalogue, "cpu", lambda *_, **__: None, 512, None
    monkeypatch.setattr(rounds, "narrowed", lambda *_: iter(steps))
    assert rounds._searched(*asked) == (number, steps, sum(step.surveys for step in steps))
    monkeypatch.setattr(rounds, "narrowed", lambda *_: iter([moved]))
    assert rounds._searched(*asked) == (number, steps, 0)
    (tmp_path / STEPS).write_text("[{}]")
    with pytest.raises(FileError, match=f"cannot read {STEPS}: Field required; train again"):
        rounds._searched(*asked)


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
        (["--pretrained", "lsst"], "expected a target catalogue with the run to start from"),
    ],
)
def test_rounds_that_cannot_be_are_refused(refused, workplace, tmp_path, options, says):
    assert says in refused("train", workplace.config, "-o", tmp_path / "run", *options)
    assert not (tmp_path / "run").exists()


def test_a_target_is_a_survey_of_exposure_one(workplace, catalogue, tmp_path):
    """Surveys of other exposures may have as many objects: against them a target of three times the number would pass."""
    longer = load_config(workplace.config, **{"size.exposure": (2.0, 4.0)})
    with pytest.raises(CatalogueError, match=r"exposure: expected within \[2, 4\], got 1"):
        rounds.train_rounds(longer, tmp_path / "run", catalogue, 1, device="cpu", resume=False, report=lambda *_, **__: None)
    assert not (tmp_path / "run").exists()
    wide = load_config(workplace.config, **{"size.exposure": (0.5, 20.0)})
    names = np.array([f"{name}-{k}" for k in range(12) for name in catalogue.id])
    many = Catalogue(names, type(catalogue.observations)(*(np.concatenate([leaf] * 12) for leaf in catalogue.observations)))
    with pytest.raises(CatalogueError, match="number of objects"):
        rounds._check(many, wide, lambda *_, **__: None)


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


def test_all_rounds_but_the_last_are_smaller_within_limits():
    for pilots, objects in ((4_000, 2_400_000), (1_500, 400_000), (500, 100_000)):
        sizes = {"training.objects": objects, "training.pilot_surveys": pilots, "training.anchored": True}
        config = load_config("lsst", **sizes)
        fewer = rounds.reduced(config)
        assert fewer.training.objects == min(max(objects // 4, 200_000), objects)
        assert fewer.training.pilot_surveys == min(max(pilots // 2, 1_000), pilots)
        assert not fewer.training.anchored
        assert fewer.updated(**sizes) == config


@pytest.mark.parametrize(
    ("objects", "surveys", "first", "last"), [(1_600, 32_000, 1_024, 2_048), (16_000, 20_000, 512, 1_024), (0, 64, 64, 64)]
)
def test_surveys_that_cut_are_twice_as_many_in_the_last_round_and_fewer_of_large_ones(objects, surveys, first, last):
    config = load_config("lsst", **{"training.surveys": surveys})
    assert (rounds.nearby(config, objects, False), rounds.nearby(config, objects, True)) == (first, last)


# Several processes


def one_of_several(run: Path, out: Path) -> None:
    """Rounds in which nothing is simulated nor learned, by a process that comes late unless it is the first."""
    number, written = int(os.environ["RANK"]), []
    began = Rounds(target="t", objects=1, rounds=2, fingerprint="f", configured={})

    def late(*_):
        end = time.monotonic() + 3 * number  # if the others wait for this process, there is nothing to see
        while time.monotonic() < end and not (run / RECORD).exists():
            time.sleep(0.01)
        return began

    def write(folder, record):
        written.append(record.rounds)
        write_rounds(folder, record)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounds, "_begun", late)
        patch.setattr(rounds, "write_rounds", write)
        patch.setattr(rounds, "survey_source", lambda *_, **__: None)
        patch.setattr(rounds, "without_redshifts", lambda target, _: target)
        for name in ("_check", "warn_of_others", "warn_of_redshifts"):
            patch.setattr(rounds, name, lambda *_: None)
        patch.setattr(rounds, "_round", lambda config, run, target, record, *_: record)
        patch.setattr(rounds, "read_calibration", lambda _: (None if number else "calibration", {}))  # the others may look too early
        found = rounds.train_rounds(None, run, None, 2, device="cpu", resume=False, report=lambda *_: None)
    (out / f"{number}.json").write_text(json.dumps([found, written]))


def test_of_several_processes_the_first_reads_and_writes_the_record(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.cigars.test_rounds", str(tmp_path / "run"), str(tmp_path)]
    root = Path(__file__).resolve().parents[2]
    started = [subprocess.Popen(command, cwd=root, env=shared | {"RANK": str(r)}, stderr=subprocess.PIPE, text=True) for r in range(2)]
    for process in started:
        _, error = process.communicate(timeout=300)
        assert process.returncode == 0, error[-3000:]
    assert [json.loads((tmp_path / f"{r}.json").read_text()) for r in range(2)] == [["calibration", [2]], ["calibration", []]]


if __name__ == "__main__":
    one_of_several(Path(sys.argv[1]), Path(sys.argv[2]))
