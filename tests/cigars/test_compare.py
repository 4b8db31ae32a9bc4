"""`compare` on the tiny configuration: the same survey for every model, one line for what cannot be compared, training that goes on."""

import json

import numpy as np
import pytest

from cigars import compare as module
from cigars.catalogue import CatalogueError
from cigars.cli_compare import _print
from cigars.compare import COMPARISON, Comparison, Row, alternative, compare, on_one_survey, write_comparison
from cigars.config import ConfigError, load_config
from cigars.schema import FIDUCIAL

SURVEYS = 192
NO_STEP = "prior.mass_step={fixed=0}"
FAINT = "prior.M0={uniform=[-18.9,-18.8]}"  # the mock has -19.5; nearer, so few surveys tell it by less than their own scatter
HOST = "supernovae.dust=host"


def arguments(workplace, folder, *more):
    against = [word for name in (NO_STEP, FAINT) for word in ("--against", name)]
    return ["compare", workplace.config, workplace.mock, *against, "-o", folder, "--surveys", SURVEYS, "--device", "cpu", *more]


@pytest.fixture(scope="module")
def made(workplace, tmp_path_factory):
    """The command's folder and what it found."""
    from cigars.cli import main

    folder = tmp_path_factory.mktemp("compare") / "folder"
    assert main([str(a) for a in arguments(workplace, folder)]) == 0
    return folder, json.loads((folder / COMPARISON).read_text())


def test_a_wrong_model_is_told_from_right_ones(made):
    _, found = made
    rows = {row["model"]: row for row in found["rows"]}
    assert set(rows) == {"tiny", NO_STEP, FAINT}
    assert rows["tiny"]["ln_k"] == 0
    assert abs(rows[NO_STEP]["ln_k"]) < 2  # 60 objects do not see a step of 0.05 mag
    assert rows[FAINT]["ln_k"] < -1
    assert sum(row["probability"] for row in rows.values()) == pytest.approx(1)
    assert rows[FAINT]["calibration"]["slope"] > 0
    assert found["log_loss"] < found["log_loss_of_guessing"]
    assert found["likely"] > 0.01
    assert {"fingerprint", "catalogue", "versions", "seed", "models"} <= set(found)


def test_a_ratio_is_corrected_only_where_fresh_surveys_refute_it():
    """Two unit normals a mean of one apart, whose ln K is x - 1/2: said rightly, and three times too large."""
    rng = np.random.default_rng(0)
    made = np.arange(1000) % 2 == 0
    exact, here = rng.normal(size=1000) + made - 0.5, np.array([0.9, 1.1, 1.0])
    right = module._row("right", here, exact, made)
    assert (right.ln_k, right.uncorrected) == (pytest.approx(1.0), None)
    wrong = module._row("wrong", 3 * here, 3 * exact, made)
    assert wrong.uncorrected == pytest.approx(3.0)
    assert wrong.ln_k == pytest.approx(1.0, abs=5 * wrong.error)
    assert 0.05 < wrong.error < 0.3  # a third of the spread, and of slope and offset
    assert wrong.calibration.passed


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_ratios_of_models_that_no_fresh_survey_confuses_are_not_called_calibrated(scale, tmp_path, capsys):
    """ln K of two normals nine apart, and three times that: the size cannot be told, and is not corrected."""
    made = np.arange(1000) % 2 == 0
    fresh = np.random.default_rng(0).normal(np.where(made, 40, -40), 80**0.5)
    row = module._row("far", scale * np.array([39.7, 40.0, 40.3]), scale * fresh, made)
    assert (row.ln_k, row.uncorrected) == (pytest.approx(40 * scale), None)
    assert row.error == pytest.approx(0.3 * scale)  # the spread, and no error of a slope that there is not
    assert not row.calibration.passed
    found = Comparison([Row("first", 0.0, 0.0, 0.0, None, np.inf), row._replace(probability=1.0)], 0.5, {})
    write_comparison(tmp_path / "c.json", found)
    kept = json.loads((tmp_path / "c.json").read_text(), parse_constant=pytest.fail)["rows"]
    assert kept[0]["calibration"] is None
    assert not kept[1]["calibration"]["determined"]
    _print(found, {})
    said = " ".join(capsys.readouterr().out.split())
    assert "far: nearly all fresh surveys are told apart, which leaves the size of ln K uncalibrated: its sign stands and |ln K| is" in said
    assert "is above 6.2, by how much is not known" in said
    assert "not calibrated within 3" not in said
    _print(found._replace(rows=[found.rows[0], row._replace(model="[red]far", ln_k=1.0)]), {})
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("[red]far") == 2  # a name is no markup
    assert "even its sign is unsure" in said


def test_the_summary_of_a_run_tells_models_too(made, workplace, cigars, refused, tmp_path):
    """Its regressor serves, none is trained; the moments of it stay beside what the run has learned of Θ."""
    folder, before = made
    words = ["compare", workplace.config, workplace.mock, "--run", workplace.run, "--surveys", 96, "--device", "cpu", "-o"]
    assert cigars(*words, tmp_path / "f", "--against", FAINT).code == 0
    found = json.loads((tmp_path / "f" / COMPARISON).read_text())
    assert found["run"] == str(workplace.run)
    assert found["rows"][1]["ln_k"] < -1
    assert found["log_loss"] < found["log_loss_of_guessing"]
    assert found["summary_columns"] > before["summary_columns"]
    assert [(one / "checkpoints" / "regressor.pt").exists() for one in (folder, tmp_path / "f")] == [True, False]
    bands = f"hosts.bands={[f'lsst2023-{band}' for band in 'grizyu']}"
    assert "expected the bands" in refused(*words, tmp_path / "g", "--against", FAINT, "--set", bands)


def test_a_finished_comparison_answers_again_and_is_not_overwritten(made, workplace, cigars, refused, tmp_path):
    folder, found = made
    assert "exists already" in refused(*arguments(workplace, folder))
    other = tmp_path / "again.json"
    assert "expected a new folder" in refused(*arguments(workplace, folder, "--json", other))
    said = cigars(*arguments(workplace, folder, "--json", other, "--resume"))
    assert said.code == 0
    assert json.loads(other.read_text())["rows"] == found["rows"]
    assert "ln K against tiny" in said.out.replace("\n", " ")
    changed = [word if word != FAINT else "prior.M0={fixed=-19.1}" for word in arguments(workplace, folder, "--json", tmp_path / "c.json")]
    assert "resume with the models it began with" in refused(*changed, "--resume")


def test_an_interrupted_comparison_goes_on(made, workplace, catalogue, tmp_path, monkeypatch):
    """Interrupted after the summaries of the first model: what is there is read, and the result is the same."""
    config = load_config(workplace.config)
    models = {"tiny": config, NO_STEP: alternative(workplace.config, NO_STEP), FAINT: alternative(workplace.config, FAINT)}

    def stopping(stage, done, total, **metrics):
        if stage == "surveys of models" and done > total / 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(models, catalogue, tmp_path / "f", surveys=SURVEYS, report=stopping)
    assert len(list((tmp_path / "f" / "checkpoints").glob("model-*.pt"))) == 1
    found = compare(models, catalogue, tmp_path / "f", surveys=SURVEYS, resume=True)
    assert [row.ln_k for row in found.rows] == pytest.approx([row["ln_k"] for row in made[1]["rows"]], abs=1e-4)


def test_every_model_has_the_same_area_and_duration(workplace, monkeypatch):
    """The number that a model expects follows what it makes of one square degree and year."""
    config = load_config(workplace.config)
    monkeypatch.setattr(module, "sky_rate", lambda c: 0.7 if c.supernovae.dust == "host" else 1.0)
    models = on_one_survey({"a": config, HOST: alternative(workplace.config, HOST), NO_STEP: alternative(workplace.config, NO_STEP)})
    expected = config.size.expected_supernovae
    assert models["a"].size.expected_supernovae == expected == models[NO_STEP].size.expected_supernovae
    assert models[HOST].size.expected_supernovae == pytest.approx(0.7 * expected)
    assert models[HOST].size.exposure == config.size.exposure


def test_dust_of_hosts_hides_supernovae(workplace):
    """Exposure of both variants is the same, by the simulator itself: ln of the number before selection for log A = 0 and one slope."""
    from simulators.survey import load_simulator

    config = load_config(workplace.config)
    models = on_one_survey({"a": config, HOST: alternative(workplace.config, HOST)})
    assert models[HOST].size.expected_supernovae < 0.95 * config.size.expected_supernovae
    totals = [float(load_simulator(m).ln_total) for m in models.values()]
    assert totals[0] == pytest.approx(totals[1], abs=1e-3)
    wrong = float(load_simulator(alternative(workplace.config, HOST)).ln_total)
    assert abs(wrong - totals[0]) > 0.05


def test_parameters_whose_priors_differ_are_found(workplace):
    config = load_config(workplace.config)
    flat = alternative(workplace.config, "supernovae.cosmology=flat-w0waCDM")
    assert module._differing({"a": config, "b": alternative(workplace.config, NO_STEP)}) == ("mass_step",)
    assert module._differing({"a": config, "b": flat}) == ("Ode0", "w0", "wa")
    assert module._differing({"a": config, "b": alternative(workplace.config, HOST)}) == ()


def test_several_changes_make_one_model(workplace, tmp_path):
    both = alternative(workplace.config, f"{NO_STEP}; prior.gamma_age={{fixed=0}}", ["size.capacity=512"])
    assert both.fixed["mass_step"] == both.fixed["gamma_age"] == 0
    assert both.size.capacity == 512
    assert alternative(workplace.config, "demo").name == "demo"
    assert alternative(workplace.config, str(workplace.config)) == load_config(workplace.config)
    assert FIDUCIAL.mass_step != 0


def test_what_cannot_be_compared_is_one_line(workplace, catalogue, refused, tmp_path):
    config = load_config(workplace.config)
    with pytest.raises(ConfigError, match="at least two models, got one"):
        on_one_survey({"a": config})
    with pytest.raises(ConfigError, match="b: expected a model that differs from 'a'"):
        on_one_survey({"a": config, "b": config.model_copy(update={"name": "other"})})
    flat = config.updated(**{"supernovae.cosmology": "flat-LCDM"})
    with pytest.raises(ConfigError, match="b: expected a model that differs from 'a'"):  # by a prior that a flat cosmology does not have
        on_one_survey({"a": flat, "b": flat.updated(**{"prior.Ode0": {"uniform": [0.1, 1.0]}})})
    with pytest.raises(ConfigError, match="b: expected the bands"):
        on_one_survey({"a": config, "b": config.updated(**{"hosts.bands": [f"lsst2023-{b}" for b in "grizyu"]})})
    area = config.updated(
        **{"size.expected_supernovae": None, "size.area_deg2": 1, "size.duration_yr": 1, "hosts.redshift_density": "volume"}
    )
    with pytest.raises(ConfigError, match=r"hosts.redshift_density: expected 'volume' for a size by area"):
        on_one_survey({"a": area, "b": config})
    with pytest.raises(ConfigError, match="at least 40 surveys"):
        compare({"a": config, "b": alternative(workplace.config, NO_STEP)}, catalogue, tmp_path, surveys=3)
    base = ["compare", workplace.config, workplace.mock, "-o", tmp_path / "x", "--device", "cpu"]
    assert "nearest valid key" in refused(*base, "--against", "prior.mass_stp={fixed=0}")
    assert "twice" in refused(*base, "--against", NO_STEP, "--against", NO_STEP)
    assert "expected a preset" in refused(*base, "--against", "nothing")
    assert "--against" in refused(*base)
    assert not (tmp_path / "x").exists()


def test_a_catalogue_that_lacks_a_band_is_refused_before_anything_is_simulated(workplace, catalogue, tmp_path):
    o = catalogue.observations
    mag, mag_err = o.mag.copy(), o.mag_err.copy()
    mag[2, 0] = mag_err[2, 0] = np.nan
    lacking = catalogue._replace(observations=o._replace(mag=mag, mag_err=mag_err))
    models = {"tiny": load_config(workplace.config), NO_STEP: alternative(workplace.config, NO_STEP)}
    with pytest.raises(CatalogueError, match="got 1 without mag_u"):
        compare(models, lacking, tmp_path / "f", surveys=SURVEYS)
    assert not (tmp_path / "f").exists()


def test_a_catalogue_unlike_the_simulations_is_refused(made, workplace, catalogue, tmp_path):
    folder, _ = made
    bright = catalogue._replace(observations=catalogue.observations._replace(mag=catalogue.observations.mag - np.float32(12)))
    config = load_config(workplace.config)
    models = {"tiny": config, NO_STEP: alternative(workplace.config, NO_STEP), FAINT: alternative(workplace.config, FAINT)}
    with pytest.raises(ValueError, match="expected objects like those of the training"):
        compare(models, bright, folder, surveys=SURVEYS, resume=True)
