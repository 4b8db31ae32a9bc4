"""`check` passes a mock of the model, rejects one that is not, and names the objects that are odd."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.table import Table

from cigars.catalogue import CatalogueError, read_catalogue, select, write_catalogue
from cigars.catalogue_checks import TargetWarning
from cigars.check import _fewest, check, compared, read_check, references, write_check
from cigars.config import Config, ConfigError
from cigars.pipeline import survey_source
from cigars.runs import run_config
from cigars.seen import REDSHIFT_BINS, Seen, input_names, pool, see, statistics_of
from cigars.targets import as_survey, target_hash
from inference.checks import judge_among
from inference.misspecification import column_statistics, comparable, predictive_checks
from inference.model import load_run
from inference.posterior import GlobalPosterior

SURVEYS = 112
SEED = 0  # of references
# The shared mock is a rare one: the 5 % quantile of its z - y is lower than in all but some 3 of 1,000 simulated surveys, and quantiles of
# 58 objects are skewed where the t law is not. By references of seeds 0 to 4 its least corrected p-value is .006, .002, .08, .02, .35.
LEVEL = 0.001
BANDS = tuple("ugrizy")


@pytest.fixture(scope="module")
def found(workplace, catalogue):
    """The mock of the shared run, which the model made."""
    return check(workplace.run, catalogue, surveys=SURVEYS, level=LEVEL, seed=SEED)


class Enough(Exception):
    """Raised in place of simulating."""


def changed(catalogue, **leaves):
    return catalogue._replace(observations=catalogue.observations._replace(**leaves))


def test_a_mock_of_the_model_passes(found, catalogue):
    assert found.passed, found.rows
    tests = {"statistics", "all statistics", "network summary", "summary density", "objects together", "odd objects"}
    assert {row.worst.test for row in found.rows} == tests
    assert len(found.objects["p_value"]) == len(catalogue.id)
    assert found.record["outside"] == 0


def test_few_surveys_of_the_model_are_rejected_and_all_of_another(workplace, catalogue):
    """Fresh ones at the posterior of the shared mock, and the same with g fainter by half a magnitude.

    Of ten such sets of 32 two were rejected at most, 3 % in all where the level is 1 %: quantiles of so few objects are skewed.
    """
    trained, config, survey = load_run(workplace.run, "cpu"), run_config(workplace.run), as_survey(catalogue.observations)
    theta = GlobalPosterior(trained).sample(32, survey, seed=1)[:, 0].numpy()
    source = survey_source(config.of_exposure(1.0), "fresh", config.globals_of(dict(zip(trained.names, theta.T, strict=True))))
    right = [source(first, 16) for first in (0, 16)]
    wrong = [one._replace(observations=one.observations._replace(mag=one.observations.mag + 0.5 * (np.arange(6) == 1))) for one in right]
    simulated = references(trained, survey, config, 1.0, SURVEYS, SEED)
    observed = see(trained, [*right, *wrong], config, SEED)
    tests = compared(simulated, observed, [0] * 64, trained, config, reasons=False)
    passed = np.array([all(row.passed for row in judge_among(families, 0.01)) for families, _ in tests])
    assert passed[:32].sum() >= 28
    assert not passed[32:].any()


def test_the_odd_object_is_named_with_its_reason(workplace, catalogue, found):
    o, row = catalogue.observations, 7
    x = np.array(o.x)
    x[row] = 5.5  # stretches have a spread of one
    wrong = check(workplace.run, changed(catalogue, x=x), surveys=SURVEYS, seed=SEED)
    assert wrong.objects["p_value"][row] < found.objects["p_value"][row]
    assert wrong.objects["p_value"][row] < 0.01
    assert wrong.objects["reason"][row] in ("x", "outside the range of the training")


def test_rows_may_come_in_any_order(workplace, catalogue, found):
    order = np.random.default_rng(0).permutation(len(catalogue.id))
    other = check(workplace.run, select(catalogue, order), surveys=SURVEYS, seed=SEED)
    assert np.array_equal(other.objects["p_value"], found.objects["p_value"][order])
    for one, two in zip(other.rows, found.rows, strict=True):
        assert one.worst.of == two.worst.of
        assert one.worst.value == pytest.approx(two.worst.value, rel=1e-6)


def test_a_wrong_zero_point_is_rejected_and_the_command_says_so(workplace, catalogue, cigars, refused, tmp_path):
    mag = catalogue.observations.mag.copy()
    mag[:, 1] += 0.5
    wrong, out, table = tmp_path / "wrong.fits", tmp_path / "check.json", tmp_path / "odd.fits"
    write_catalogue(wrong, changed(catalogue, mag=mag), BANDS, {})
    arguments = ["check", wrong, "--run", workplace.run, "-o", out, "--objects", table, "--surveys", SURVEYS, "--device", "cpu"]
    said = cigars(*arguments)
    assert said.code == 1, said
    assert "does NOT look like what the model simulates" in said.out.replace("\n", " ")
    content, rows = json.loads(out.read_text()), Table.read(table)
    assert content["passed"] is False
    tests = {test["worst"]["test"]: test for test in content["tests"]}
    assert not tests["all statistics"]["passed"]
    assert {"u - g", "g - r"} & {tests["statistics"]["worst"]["of"].split(":")[0]}
    assert {"fingerprint", "catalogue", "versions", "seed"} <= set(content)
    assert list(rows["id"]) == list(read_catalogue(wrong, BANDS).id)
    assert int(rows["odd"].sum()) == content["odd"] == len(content["odd_objects"])
    assert "exists already" in refused(*arguments)


def test_numbers_that_json_has_not_are_read_as_no_numbers(found, tmp_path):
    """The report writes them as such, and does not fail at them."""
    worst = found.rows[0].worst._replace(value=np.nan, high=np.inf)
    record = {**found.record, "remark": None}
    write_check(tmp_path / "check.json", found._replace(rows=[found.rows[0]._replace(worst=worst), *found.rows[1:]], record=record))
    back = read_check(tmp_path / "check.json")
    assert np.isnan([back["tests"][0]["worst"][name] for name in ("value", "high")]).all()
    assert back["remark"] is None


def test_the_report_shows_the_check_of_its_own_catalogue_alone(workplace, catalogue, found, posterior, cigars, refused, tmp_path):
    from cigars.pipeline import save_posterior

    save_posterior(tmp_path / "p.nc", posterior)
    write_check(tmp_path / "check.json", found)
    arguments = ["report", tmp_path / "p.nc", "-o", tmp_path / "r.html", "--check"]
    content = read_check(tmp_path / "check.json")
    for name, value, says in (
        ("catalogue", "0123", "expected catalogue"), ("fingerprint", "4567", "got 4567; check the catalogue of this posterior"),
    ):  # fmt: skip
        (tmp_path / "other.json").write_text(json.dumps(content | {name: value}))
        assert says in refused(*arguments, tmp_path / "other.json")
    (tmp_path / "other.json").write_text('{"passed": true}')
    assert "expected what `cigars check` writes, got another file" in refused(*arguments, tmp_path / "other.json")
    assert "cannot read the check" in refused(*arguments, tmp_path / "none.json")
    assert not (tmp_path / "r.html").exists()
    assert cigars(*arguments, tmp_path / "check.json").code == 0
    html = (tmp_path / "r.html").read_text()
    assert "the catalogue looks like what the model simulates" in html
    assert html.index("figure-residuals") > html.index("Does the catalogue look like the simulations?")
    assert '<th scope="row">inference</th>' in html  # time spent
    assert '<th scope="row">check</th>' in html


def test_objects_that_lack_a_band_are_not_odd(workplace, catalogue, found, cigars, tmp_path):
    """They are counted and not judged: a fifth of the catalogue without u would otherwise be a fifth of gross outliers."""
    few = np.arange(len(catalogue.id)) % 5 == 0
    without = few[:, None] & (np.array(BANDS) == "u")
    leaves = {name: np.where(without, np.nan, getattr(catalogue.observations, name)) for name in ("mag", "mag_err")}
    write_catalogue(tmp_path / "few.fits", changed(catalogue, **leaves), BANDS, {})
    words = ["--run", workplace.run, "-o", tmp_path / "c.json", "--objects", tmp_path / "odd.fits"]
    said = cigars("check", tmp_path / "few.fits", *words, "--surveys", SURVEYS, "--level", LEVEL, "--seed", SEED, "--device", "cpu")
    assert "exposure 1 is assumed, 60 supernovae expected" in said.err
    assert said.code == 0, said
    assert (
        f"warning: check: {few.sum()} without mag_u, which every simulated object has; these are not judged, the others taken" in said.err
    )
    content, rows = json.loads((tmp_path / "c.json").read_text()), Table.read(tmp_path / "odd.fits")
    assert (content["objects"], content["outside"], content["incomplete"]) == (len(few), 0, few.sum())
    assert set(rows["reason"][few]) == {"lacks mag_u"}
    assert np.isnan(np.asarray(rows["p_value"][few], float)).all()
    assert np.isfinite(np.asarray(rows["p_value"][~few], float)).all()


def test_the_number_is_that_of_the_catalogue_not_of_those_that_take_part(workplace, catalogue):
    some = select(catalogue, np.arange(len(catalogue.id)) % 5 > 0)
    survey = as_survey(some.observations, number=len(catalogue.id))
    (seen,) = see(load_run(workplace.run, "cpu"), [survey], run_config(workplace.run), SEED)
    assert seen.statistics["ln number"] == pytest.approx(np.log(len(catalogue.id)))
    assert len(seen.inputs) == len(some.id)


def test_as_large_a_share_of_simulated_objects_takes_part(workplace, catalogue):
    """Statistics of all of them would scatter less than those of the observed survey, which would be rejected for its noise."""
    some = select(catalogue, np.arange(len(catalogue.id)) % 3 > 0)
    trained, config = load_run(workplace.run, "cpu"), run_config(workplace.run)
    every, thinned = (
        references(trained, as_survey(some.observations, number=number), config, 1.0, 16, SEED) for number in (None, len(catalogue.id))
    )
    share = len(some.id) / len(catalogue.id)
    for seen, part in ((every, 1.0), (thinned, share)):
        number = np.exp([s.statistics["ln number"] for s in seen]).round()
        assert [len(s.inputs) for s in seen] == np.round(part * number).tolist()


def test_simulated_surveys_have_the_exposure_of_the_catalogue(workplace, catalogue):
    """At the same draws of Θ twice the exposure gives twice the objects; the simulator of the other tests serves the first."""
    trained, config, survey = load_run(workplace.run, "cpu"), run_config(workplace.run), as_survey(catalogue.observations)
    once, twice = (sum(len(seen.inputs) for seen in references(trained, survey, config, exposure, 16, SEED)) for exposure in (1.0, 2.0))
    assert twice / once == pytest.approx(2, rel=5 * (1 / once + 1 / twice) ** 0.5)  # a fifth


def test_those_that_lack_a_band_count_in_the_number(workplace, catalogue, monkeypatch):
    def references(trained, survey, config, exposure, *_):
        assert survey.exposure == np.float32(exposure) == np.float32(1.3)
        assert survey.observed.sum() == len(catalogue.id) - 3
        assert survey.number == len(catalogue.id)
        raise Enough

    monkeypatch.setattr("cigars.check.references", references)
    mag = catalogue.observations.mag.copy()
    mag[:3, 0] = np.nan
    with pytest.warns(TargetWarning, match="3 without mag_u"), pytest.raises(Enough):
        check(workplace.run, changed(catalogue, mag=mag), surveys=SURVEYS, exposure=1.3)


def test_redshifts_that_no_simulated_object_has_are_not_read(workplace, catalogue, monkeypatch):
    """Each would be beyond the training of a run without; the record is of the catalogue as it is, for `cigars report --check`."""
    config = run_config(workplace.run)
    photometric = config.model_copy(update={"observation": config.observation.model_copy(update={"spectroscopic_fraction": 0.0})})
    monkeypatch.setattr("cigars.check.run_config", lambda _: photometric)
    monkeypatch.setattr("cigars.check.references", lambda trained, survey, _, *others: references(trained, survey, config, *others))
    z = np.full(len(catalogue.id), 9.0, np.float32)  # beyond all of the training
    far = changed(catalogue, z_spec=z, z_spec_err=z / 1e4)
    with pytest.warns(TargetWarning, match=f"{len(z)} of {len(z)} objects have z_spec, which no simulated object has; it is not read"):
        found = check(workplace.run, far, surveys=SURVEYS, seed=SEED)
    assert found.record["outside"] == 0
    assert found.record["catalogue"] == target_hash(far)


def test_another_share_of_redshifts_or_bands_than_that_of_the_training_is_said(workplace, catalogue, monkeypatch):
    def references(trained, survey, *_):
        raise Enough

    config = run_config(workplace.run)
    some_missing = config.model_copy(update={"observation": config.observation.model_copy(update={"missing_probability": 0.5})})
    none = np.full(len(catalogue.id), np.nan, np.float32)
    monkeypatch.setattr("cigars.check.references", references)
    monkeypatch.setattr("cigars.check.run_config", lambda _: some_missing)
    with pytest.warns(TargetWarning) as said, pytest.raises(Enough):
        check(workplace.run, changed(catalogue, z_spec=none, z_spec_err=none), surveys=SURVEYS)
    redshifts, bands = (str(warning.message) for warning in said)
    assert "0% of the objects have a spectroscopic redshift, of those of the training 30%" in redshifts
    assert bands.startswith("check: expected bands missing as often as in the training, got 0% without mag_u in place of 48%")


def test_n_of_z_is_compared(found):
    shares = [c for c in found.checks if c.of.startswith("N(z)")]
    assert len(shares) == REDSHIFT_BINS
    assert all(np.isfinite(c.value) for c in shares)


@pytest.mark.parametrize(("objects", "size"), [([399] * 200, 40_000), ([10, 0, 90, 400], 100), ([3, 4], 10)])
def test_a_pool_has_objects_of_every_survey_in_proportion(objects, size):
    """To within one, and all different; taken in whole steps, the last surveys had none."""
    ids = np.split(np.arange(sum(objects)), np.cumsum(objects)[:-1])
    pooled, survey = pool(ids, size), np.repeat(np.arange(len(objects)), objects)
    assert len(np.unique(pooled)) == len(pooled) == min(size, sum(objects))
    expected = np.array(objects) * len(pooled) / sum(objects)
    assert np.all(np.abs(np.bincount(survey[pooled], minlength=len(objects)) - expected) < 1)


def test_the_fewest_surveys_are_enough_where_estimates_run_away():
    """A quarter of them less one, in all directions, is left out; those that remain can still be judged."""
    names, parameters = input_names(Config()), 11  # 22 of 95 run away, two in each direction
    whitening = SimpleNamespace(projection=np.empty((269, 40)))
    fewest = _fewest(SimpleNamespace(estimators=[SimpleNamespace(whitening=whitening)], names=range(parameters)), Config())
    rng, away = np.random.default_rng(1), fewest // 4 - 1
    known = 1e-3 * rng.normal(size=(fewest, parameters))
    known[range(away), np.arange(away) % parameters] += 1.0 - 2 * (np.arange(away) // parameters % 2)
    near = comparable(known, known.mean(0))
    assert near.sum() == fewest - away
    columns = list(statistics_of(*_as_seen(rng, fewest, names))[1])
    assert len(columns) == 1 + 5 * (len(names) + 1) + REDSHIFT_BINS
    simulated = rng.normal(size=(fewest, len(columns)))
    each, together = predictive_checks(columns, simulated[near], known[near], simulated[0], known.mean(0))
    assert np.isfinite([check.p_value for check in (*each.checks, *together.checks)]).all()


def _as_seen(rng, surveys, names):
    """Surveys of 30 objects at random, and one more of them."""
    seen = []
    for _ in range(surveys + 1):
        objects = rng.normal(size=(30, len(names) + 1))
        statistics = {"ln number": 3.4} | column_statistics(objects, [*names, "photo-z"])
        seen.append(Seen(statistics, np.empty(0), np.empty(0), objects, objects[:, -1]))
    return seen[1:], seen[0]


def test_bad_input_is_refused(workplace, catalogue, refused):
    with pytest.raises(ConfigError, match=r"expected at least \d+ surveys, with which all statistics can be judged"):
        check(workplace.run, catalogue, surveys=20)
    assert "got 50 and 0.01; simulate more" in refused("check", workplace.mock, "--run", workplace.run, "--surveys", 50, "--device", "cpu")
    with pytest.raises(CatalogueError, match="in the range of the training, got none"):
        check(workplace.run, changed(catalogue, mag=catalogue.observations.mag + 50), surveys=SURVEYS)
    assert "expected a run folder or --pretrained NAME, got neither" in refused("check", workplace.mock)
