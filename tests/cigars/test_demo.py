"""The demonstration writes all it promises into one folder, uses a finished training again, and no other."""

import shutil

import pytest

from cigars import pipeline
from cigars.config import load_config
from cigars.demo import run_demo
from cigars.files import FileError
from cigars.posterior_file import read_posterior


def silent(*_, **__):
    """Progress that nobody watches."""


def test_a_finished_training_is_used_again(workplace, tmp_path, monkeypatch):
    monkeypatch.delattr(pipeline, "train")
    folder = tmp_path / "deep" / "demo"
    shutil.copytree(workplace.run, folder / "run")
    made = run_demo(load_config(workplace.config), folder, "cpu", "a test", silent)
    assert {p.name for p in folder.iterdir()} == {"run", "mock.fits", "mock-truth.fits", "posterior.nc", "report.html"}
    assert made.page == folder / "report.html"
    assert "</html>" in made.page.read_text()
    posterior = read_posterior(folder / "posterior.nc")["posterior"]
    assert list(posterior["object"].values) == list(made.truth.id)
    assert posterior.attrs["command"] == "a test"


def test_another_training_in_the_folder_is_refused(workplace, tmp_path):
    shutil.copytree(workplace.run, tmp_path / "run")
    with pytest.raises(ValueError, match="expected fingerprint"):
        run_demo(load_config(workplace.config, ["training.flow_epochs=3"]), tmp_path, "cpu", "", silent)


@pytest.mark.parametrize("name", ["mock.fits", "mock-truth.fits", "posterior.nc", "report.html"])
def test_files_of_the_user_are_left_as_they_are(refused, tmp_path, monkeypatch, name):
    monkeypatch.delattr(pipeline, "simulate")
    (tmp_path / name).write_text("a year's work")
    assert f"{name}: exists already and is left as it is; name another file or allow overwriting (--overwrite)" in refused("demo", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "a year's work"


def test_a_shipped_posterior_needs_no_training(workplace, tmp_path, monkeypatch):
    monkeypatch.delattr(pipeline, "train")
    (tmp_path / "report.html").write_text("of before")
    with pytest.raises(FileError, match="exists already"):
        run_demo(load_config(workplace.config), tmp_path, "cpu", "a test", silent, workplace.run)
    made = run_demo(load_config(workplace.config), tmp_path, "cpu", "a test", silent, workplace.run, overwrite=True)
    assert "</html>" in made.page.read_text()
    assert {p.name for p in tmp_path.iterdir()} == {"mock.fits", "mock-truth.fits", "posterior.nc", "report.html"}
    assert list(made.posterior["posterior"]["object"].values) == list(made.truth.id)
