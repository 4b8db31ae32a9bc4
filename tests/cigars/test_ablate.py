"""`ablate` on the tiny configuration: what it writes, what it refuses, and how it goes on; paired errors by known numbers."""

import json
import shutil

import numpy as np
import pytest
import torch

from cigars import ablate as module
from cigars.ablate import ABLATION, ablate, compared, variants
from cigars.config import ConfigError, load_config
from cigars.files import FileError
from cigars.schema import FIDUCIAL, Observations
from cigars.surveys import survey_source
from inference.ablation import Judged

DROP = "host photometry + stretch"
NAME = "host photometry + supernova stretch"


def arguments(workplace, folder, *more):
    return ["ablate", workplace.config, "--drop", DROP, "-o", folder, "--set", "training.ensemble=1", "--device", "cpu", *more]


@pytest.fixture(scope="module")
def made(workplace, tmp_path_factory):
    """The command's folder and what it found."""
    from cigars.cli import main

    folder = tmp_path_factory.mktemp("ablate") / "folder"
    assert main([str(a) for a in arguments(workplace, folder)]) == 0
    return folder, json.loads((folder / ABLATION).read_text())


def test_what_is_found_is_written_with_what_it_came_from(made, workplace):
    folder, found = made
    config = load_config(workplace.config, ["training.ensemble=1"])
    full, without = found["rows"]
    assert (full["hidden"], without["hidden"]) == ("nothing", NAME)
    assert full["lost"] == {"value": 0, "error": 0}
    assert without["lost"]["value"] == pytest.approx(without["loss"]["value"] - full["loss"]["value"])
    assert set(full["widths"]) == set(config.marginals) == set(without["sd"])
    assert all(width == {"value": 1, "error": 0} for width in full["widths"].values())
    assert without["widths"]["Om0"]["value"] == pytest.approx(without["sd"]["Om0"] / full["sd"]["Om0"])
    assert without["area"]["value"] > 0
    assert found["fresh_surveys"] == config.training.calibration_surveys
    assert found["configuration"] == config.model_dump(mode="json")
    assert {"fingerprint", "versions", "seed", "created", "meaning"} <= set(found)
    assert not list(folder.rglob("local.pt"))  # the local posterior is not trained


def test_a_finished_ablation_answers_again_and_is_not_overwritten(made, workplace, cigars, refused):
    folder, found = made
    assert "exists already" in refused(*arguments(workplace, folder))
    assert "expected a new folder" in refused(*arguments(workplace, folder, "--overwrite"))
    assert "expected fingerprint" in refused(*arguments(workplace, folder, "--overwrite", "--resume", "--seed", 1))
    said = cigars(*arguments(workplace, folder, "--overwrite", "--resume"))
    assert said.code == 0
    assert json.loads((folder / ABLATION).read_text())["rows"] == found["rows"]
    assert "2 of 2: host photometry + supernova stretch hidden" in said.err
    assert "√det" in said.out


def test_what_was_hidden_before_stays_in_the_table(workplace):
    config = load_config(workplace.config)
    found = [one.name for one in variants(config, ["colour", "stretch"], [NAME, "supernova colour"])]
    assert found == ["nothing", NAME, "supernova colour", "supernova stretch"]


def test_its_trainings_are_not_taken_for_runs(made, workplace, refused, tmp_path):
    folder, _ = made
    for variant in ("everything", "without-host-photometry-supernova-stretch"):
        assert "expected a finished training" in refused("infer", folder / variant, workplace.mock, "-o", tmp_path / "p.nc")
        resumed = refused("train", workplace.config, "-o", folder / variant, "--set", "training.ensemble=1", "--resume")
        assert "expected fingerprint" in resumed


def test_an_interrupted_ablation_goes_on(made, workplace, tmp_path):
    """Interrupted in the flow of the second variant: what is there is read, and the result is the same."""
    folder, found = made
    shutil.copytree(folder, tmp_path / "f")
    for name in ("global.pt", "judged.pt"):
        (tmp_path / "f" / "without-host-photometry-supernova-stretch" / "checkpoints" / name).unlink()
    config, stages = load_config(workplace.config, ["training.ensemble=1"]), []

    def stopping(stage, done, total, **metrics):
        stages.append(stage)
        if stage == "global":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ablate(config, [DROP], tmp_path / "f", resume=True, report=stopping)
    assert stages[:2] == ["variant", "variant"]  # nothing to do for the first
    again = ablate(config, [DROP], tmp_path / "f", resume=True)
    assert [row.loss.value for row in again.rows] == [row["loss"]["value"] for row in found["rows"]]


def test_ctrl_c_says_how_to_go_on(workplace, cigars, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "ablate", interrupted)
    words = [str(w) for w in arguments(workplace, tmp_path / "f")]
    monkeypatch.setattr("sys.argv", ["cigars", *words])
    said = cigars(*words)
    assert said.code == 130
    assert said.err.splitlines()[-1].startswith("stopped; continue with: cigars ablate")
    assert said.err.splitlines()[-1].endswith(
        "--drop 'host photometry + stretch' -o " + f"{tmp_path / 'f'} " + " ".join(words[6:]) + " --resume"
    )


def test_what_cannot_be_hidden_is_one_line_before_anything_is_made(workplace, refused, tmp_path):
    said = refused("ablate", workplace.config, "-o", tmp_path / "f", "--drop", "host fotometry")
    assert said.startswith("--drop: expected inputs of")
    assert said.endswith("got 'host fotometry'; the nearest is 'host photometry'")
    assert "twice" in refused("ablate", workplace.config, "-o", tmp_path / "f", "--drop", "stretch", "--drop", "supernova stretch")
    assert not (tmp_path / "f").exists()


def test_every_input_but_single_bands_by_default(workplace):
    config = load_config(workplace.config)
    names = [one.name for one in variants(config)]
    assert names[0] == "nothing"
    assert "spectroscopic redshift" in names
    assert not any("band" in name for name in names)
    with pytest.raises(ConfigError, match="twice"):
        variants(config, ["band u, band g", "band g + band u"])


def test_an_ablation_that_goes_on_tabulates_what_it_had_hidden(made, workplace, tmp_path, monkeypatch):
    folder = shutil.copytree(made[0], tmp_path / "f")
    config = load_config(workplace.config, ["training.ensemble=1"])
    same = Judged(torch.arange(3.0), torch.eye(len(config.marginals)).expand(3, -1, -1))
    monkeypatch.setattr(module, "_variant", lambda *_: same)
    found = ablate(config, ["colour"], folder, resume=True)
    assert [row.hidden for row in found.rows] == ["nothing", NAME, "supernova colour"]
    (folder / ABLATION).write_text("[]")
    with pytest.raises(FileError, match="expected the rows of an ablation"):
        ablate(config, ["colour"], folder, resume=True)


def test_trainings_see_all_but_what_is_hidden(workplace, tmp_path, monkeypatch):
    """The first sees the surveys as they are; of the second no host has a magnitude, stretches are all the same, and the rest is equal."""
    seen, config = [], load_config(workplace.config)

    def looked_at(stages):
        seen.append(stages.source(0, 32))
        if len(seen) == 2:
            raise InterruptedError
        return judged(np.zeros(2), np.ones((3, 2)))

    monkeypatch.setattr("inference.ablation.trained_and_judged", looked_at)
    with pytest.raises(InterruptedError):
        ablate(config, [DROP], tmp_path / "f")
    whole = survey_source(config, "training")(0, 32)
    there = np.asarray(whole.observed)
    given, full, without = (Observations(*(np.asarray(leaf)[there] for leaf in s.observations)) for s in (whole, *seen))
    for name in Observations._fields:
        np.testing.assert_array_equal(getattr(full, name), getattr(given, name))
    hidden = {"mag": np.nan, "mag_err": np.nan, "x": 0.0, "var_x": 1.0, "cov_mx": 0.0, "cov_xc": 0.0}
    for name in Observations._fields:
        np.testing.assert_array_equal(getattr(without, name), hidden.get(name, getattr(given, name)))
    assert np.isfinite(given.mag).all()
    assert np.ptp(given.x) > 1


def test_flows_of_a_cut_prior_have_its_region_as_support(workplace, tmp_path, monkeypatch):
    """Beyond it they would lose to all variants what is not there, to the blunt ones more."""
    config = load_config(workplace.config)
    names = tuple(config.marginals)
    centre, limits = [getattr(FIDUCIAL, name) for name in names], [(-1.0, 1.0)] * len(names)
    region = {"names": names, "centre": centre, "directions": np.eye(len(names)).tolist(), "limits": limits}

    def supports(stages):
        raise InterruptedError(type(stages.support).__name__)

    monkeypatch.setattr("inference.ablation.trained_and_judged", supports)
    for cut, kind in (({"prior.region": region}, "RegionPrior"), ({}, "Prior")):
        with pytest.raises(InterruptedError, match=f"^{kind}$"):
            ablate(config.updated(**cut), [DROP], tmp_path / kind)


def judged(loss, sd, correlation=0.0):
    """Posteriors of two parameters of these widths, and one more."""
    covariance = torch.zeros(len(loss), 3, 3, dtype=torch.float64)
    for k in range(3):
        covariance[:, k, k] = torch.as_tensor(sd[k] ** 2)
    covariance[:, 0, 1] = covariance[:, 1, 0] = torch.as_tensor(correlation * sd[0] * sd[1])
    return Judged(torch.as_tensor(loss), covariance)


def test_differences_are_paired():
    """Variants that differ by constants lose exactly these, however much surveys differ; a constant that is not the same has its error."""
    rng, names = np.random.default_rng(0), ["Om0", "Ode0", "beta"]
    loss, sd = rng.normal(0, 5, 400), np.exp(rng.normal(0, 0.5, (3, 400)))
    full = judged(loss, sd)
    row = compared("a", judged(loss + 1.5, sd * [[2.0], [3.0], [1.0]], correlation=0.6), full, names)
    assert row.lost == pytest.approx((1.5, 0), abs=1e-9)
    assert row.widths["Om0"] == pytest.approx((2, 0), abs=1e-9)
    assert row.widths["beta"] == pytest.approx((1, 0), abs=1e-9)
    assert row.area == pytest.approx((6 * 0.8, 0), abs=1e-9)
    assert row.loss.error == pytest.approx(loss.std(ddof=1) / 20)
    noisy = compared("b", judged(loss + rng.normal(1.5, 0.4, 400), sd * np.exp(rng.normal(0, 0.1, (3, 400)))), full, names)
    assert noisy.lost.error == pytest.approx(0.4 / 20, rel=5 * (2 * 400) ** -0.5)
    assert abs(noisy.lost.value - 1.5) < 5 * noisy.lost.error
    assert abs(noisy.widths["Om0"].value - 1) < 5 * noisy.widths["Om0"].error < 0.2
    assert compared("c", full, full, ["M0", "Ode0", "beta"]).area is None


def test_the_error_of_a_ratio_is_that_of_repetitions():
    rng = np.random.default_rng(1)
    sd = np.exp(rng.normal(0, 0.5, (600, 3, 100)))
    other = sd * np.exp(rng.normal(0.3, 0.2, sd.shape))
    rows = [
        compared("a", judged(np.zeros(100), b), judged(np.zeros(100), a), ["Om0", "Ode0", "beta"]) for a, b in zip(sd, other, strict=True)
    ]
    values, errors = np.array([row.widths["Om0"] for row in rows]).T
    assert errors.mean() == pytest.approx(values.std(), rel=5 * (2 * 600) ** -0.5)
