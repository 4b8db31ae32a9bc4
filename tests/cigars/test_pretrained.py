"""Posteriors that come with the package: named, found without a path, and the same as the run they were copied from."""

import runpy
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
import torch

import cigars as package
from cigars import pretrained
from cigars.config import ConfigError
from cigars.runs import stored_fingerprint

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """An empty folder in the place of the package's."""
    folder = tmp_path / "pretrained_runs"
    folder.mkdir()
    monkeypatch.setattr(pretrained, "root", lambda: folder)
    return folder


def test_the_package_has_a_place_for_them_and_ships_what_is_there():
    assert package.pretrained is pretrained
    assert pretrained.root() == Path(package.__file__).parent / "pretrained_runs"
    for name in pretrained.available():
        files = list(pretrained.path(name).iterdir())
        assert sum(f.stat().st_size for f in files) <= pretrained.LARGEST
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["cigars.pretrained_runs"]
    assert all(any(fnmatch(f"any/{name}", pattern) for pattern in patterns) for name in (*pretrained.WHOLE, pretrained.RECORD))


def test_a_shipped_run_infers_as_the_run_itself(cigars, workplace, shelf, tmp_path):
    assert pretrained.available() == []
    assert pretrained.ship(workplace.run, "tiny-1") == pretrained.path("tiny-1") == shelf / "tiny-1"
    assert pretrained.available() == ["tiny-1"]
    assert {p.name for p in shelf.iterdir()} == {"tiny-1"}
    assert {p.name for p in (shelf / "tiny-1").iterdir()} == set(pretrained.WHOLE)  # no checkpoints
    options = ["--draws", 20, "--device", "cpu", "-o"]
    assert cigars("infer", workplace.run, workplace.mock, *options, tmp_path / "a.nc").code == 0
    said = cigars("infer", "--pretrained", "tiny-1", workplace.mock, *options, tmp_path / "b.nc")
    assert said.code == 0, said
    one, other = (package.pipeline.read_posterior(tmp_path / name)["posterior"] for name in ("a.nc", "b.nc"))
    for name in one.data_vars:
        np.testing.assert_array_equal(one[name], other[name])


def test_a_report_takes_the_run_that_its_posterior_records(cigars, workplace, shelf, tmp_path):
    """What comes along has been calibrated, and the report says so unasked."""
    pretrained.ship(workplace.run, "tiny")
    assert cigars("infer", "--pretrained", "tiny", workplace.mock, "--draws", 20, "-o", tmp_path / "p.nc").code == 0
    assert cigars("report", tmp_path / "p.nc", "-o", tmp_path / "r.html").code == 0
    page = (tmp_path / "r.html").read_text()
    assert "Simulation-based calibration on 20 fresh surveys" in page
    assert 'id="figure-training"' in page


def test_a_recorded_run_is_the_one_that_made_the_posterior(workplace, shelf, tmp_path):
    """Of what comes along wherever the package is; a training by the same configuration has the fingerprint and other networks."""
    ours = pretrained.ship(workplace.run, "tiny")
    of = {"fingerprint": stored_fingerprint(workplace.run)}
    damaged = shutil.copytree(workplace.run, tmp_path / "damaged")
    (damaged / "run.json").write_text("{")
    for run, found in (
        (workplace.run, workplace.run), (ours, ours), ("/elsewhere/pretrained_runs/tiny", ours), ("/elsewhere/tiny", None),
        ("/elsewhere/pretrained_runs/large", None), (damaged, None),
    ):  # fmt: skip
        assert pretrained.recorded({**of, "run": str(run)}) == found
    assert pretrained.recorded(of) is None
    assert pretrained.recorded({"fingerprint": "other", "run": str(workplace.run)}) is None


def test_the_size_that_a_name_stands_for_is_inferred_and_checked(cigars, workplace, shelf, tmp_path, monkeypatch):
    """Rates at another exposure would be off by the factor."""
    monkeypatch.setattr(pretrained, "SIZES", {"tiny-large": ("tiny", 1.25)})
    pretrained.ship(workplace.run, "tiny")
    asked = []

    def stopped(*_, exposure, **__):
        asked.append(exposure)
        raise ConfigError("enough")

    for command, words in (("check", [workplace.mock]), ("crosscheck", [workplace.mock]), ("validate", [])):
        monkeypatch.setattr(f"cigars.{command}.{command}", stopped)
        assert "enough" in cigars(command, "--pretrained", "tiny-large", *words, "-o", tmp_path / "c.json").err
    assert asked == [1.25, 1.25, 1.25]
    options = ["--draws", 20, "--device", "cpu", "-o", tmp_path / "p.nc"]
    assert cigars("infer", "--pretrained", "tiny-large", workplace.mock, *options).code == 0
    assert package.pipeline.read_posterior(tmp_path / "p.nc")["posterior"].attrs["exposure"] == 1.25


def test_unknown_names_are_one_line_that_lists_those_there_are(refused, workplace, shelf, tmp_path):
    asked = ["infer", "--pretrained", "lsst", workplace.mock, "-o", tmp_path / "p.nc"]
    assert "pretrained: expected none, as none come with this version, got 'lsst'" in refused(*asked)
    for name in ("b", "a"):
        shutil.copytree(workplace.run, shelf / name)
    (shelf / "half").mkdir()
    assert "pretrained: expected one of a, b, got 'lsst'" in refused(*asked)
    for name in ("half", "../run", ""):
        with pytest.raises(ConfigError, match="expected one of a, b"):
            pretrained.path(name)


def test_a_run_and_a_name_exclude_each_other(refused, workplace, shelf, tmp_path):
    said = refused("infer", "--pretrained", "a", workplace.run, workplace.mock, "-o", tmp_path / "p.nc")
    assert "expected a run folder or --pretrained NAME, got both" in said
    assert "expected a run folder and a catalogue, got one name" in refused("infer", workplace.mock, "-o", tmp_path / "p.nc")


def test_runs_that_cannot_be_shipped_are_refused(workplace, shelf, tmp_path, monkeypatch):
    for name in ("", "LSST", "../x", ".hidden"):
        with pytest.raises(ConfigError, match="lower-case letters, digits and dashes"):
            pretrained.ship(workplace.run, name)
    with pytest.raises(ConfigError, match=r"missing run\.json, weights\.pt, calibration\.json"):
        pretrained.ship(tmp_path, "x")
    (shelf / "taken").mkdir()
    with pytest.raises(ConfigError, match="expected a new name, got 'taken'"):
        pretrained.ship(workplace.run, "taken")
    monkeypatch.setattr(pretrained, "LARGEST", 1024**2)
    with pytest.raises(ConfigError, match=r"expected at most 1 MB, got \d\.\d MB"):
        pretrained.ship(workplace.run, "large")
    assert {p.name for p in shelf.iterdir()} == {"taken"}


def test_a_copy_with_another_posterior_is_refused(workplace, shelf, monkeypatch):
    copyfile = shutil.copyfile

    def changed(source, target):
        copyfile(source, target)
        if Path(target).name == "weights.pt":
            state = torch.load(target, weights_only=True)
            name = next(k for k in state if k.startswith("members.0.flow") and state[k].is_floating_point() and state[k].numel() > 1)
            state[name] += 0.01
            torch.save(state, target)

    monkeypatch.setattr(pretrained.shutil, "copyfile", changed)
    with pytest.raises(ConfigError, match="expected a copy with the same posterior, got another"):
        pretrained.ship(workplace.run, "x")
    assert not list(shelf.iterdir())


def test_the_script_of_the_maintainer(workplace, shelf, monkeypatch, capsys):
    script = str(ROOT / "benchmarks" / "ship_pretrained.py")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(script, run_name="__main__")
        return stop.value.code, *capsys.readouterr()

    assert run() == (2, "", "usage: python benchmarks/ship_pretrained.py RUN NAME\n")
    code, said, _ = run(workplace.run, "tiny")
    size = sum(f.stat().st_size for f in (shelf / "tiny").iterdir()) / 1024**2
    assert (code, said.startswith(f"tiny: {size:.1f} MB in {shelf / 'tiny'}; ")) == (0, True)
    code, _, error = run(workplace.run, "tiny")
    assert (code, error.startswith("error: pretrained: expected a new name")) == (2, True)


def test_a_name_may_stand_for_another_size_of_the_same_run(workplace, shelf, monkeypatch):
    monkeypatch.setattr(pretrained, "SIZES", {"tiny-large": ("tiny", 2.0)})
    assert pretrained.available() == []
    pretrained.ship(workplace.run, "tiny")
    assert pretrained.available() == ["tiny", "tiny-large"]
    assert pretrained.path("tiny-large") == pretrained.path("tiny")
    found = {name: [pretrained.chosen(None, name, given) for given in (None, 0.5)] for name in ("tiny", "tiny-large")}
    folder = shelf / "tiny"
    assert found == {"tiny": [(folder, None), (folder, 0.5)], "tiny-large": [(folder, 2.0), (folder, 0.5)]}
    with pytest.raises(ConfigError, match="expected another name, got 'tiny-large'"):
        pretrained.ship(workplace.run, "tiny-large")


MEASURE = """
import resource, sys, torch
from pathlib import Path
from cigars.pipeline import run_config
from cigars.surveys import survey_source
from cigars.schema import FIDUCIAL
from inference.batches import join, pack
from inference.model import load_run
from inference.posterior import GlobalPosterior
trained, wanted = load_run(Path(sys.argv[1])), int(sys.argv[2])
one = pack(survey_source(run_config(sys.argv[1]), "memory", FIDUCIAL)(0, 1), trained.names)
many = join([one] * (wanted // len(one.observations.m) + 1))
rows = type(one.observations)(*(leaf[:wanted] for leaf in many.observations))
survey = one._replace(observations=rows, latents=None, lengths=torch.tensor([wanted]), number=torch.tensor([float(wanted)]))
draws = GlobalPosterior(trained).sample(100, survey)
assert bool(torch.isfinite(draws).all())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


@pytest.mark.slow
@pytest.mark.skipif("lsst" not in pretrained.available(), reason="no posterior `lsst` comes with this copy of the package")
def test_a_hundred_thousand_objects_are_encoded_within_four_gib():
    """In a process of its own, whose largest resident size the system counts; simulator and libraries included."""
    command = [sys.executable, "-c", MEASURE, str(pretrained.path("lsst")), "100000"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert float(done.stdout.split()[-1]) < 4
