"""`validate` passes a posterior that is right, fails one that is not, and says so by its exit code, its table and its JSON."""

import numpy as np
import pytest
import torch

from cigars import pipeline, surveys
from cigars.catalogue import CatalogueError, write_catalogue
from cigars.catalogue_checks import TargetWarning
from cigars.cli_validate import validate as command
from cigars.config import ConfigError
from cigars.files import FileError
from cigars.runs import run_config, stored_fingerprint
from cigars.schema import LOCALS
from cigars.validate import _objects, read_validation, validate, write_validation
from inference.batches import pack
from inference.model import load_run
from inference.posterior import GlobalPosterior, LocalPosterior

SURVEYS = 96


@pytest.fixture
def prior_for_posterior(monkeypatch):
    """The one posterior that is exact for any simulator without looking at its data: the prior; `scale` narrows it around its middle."""

    def sample(scale=1.0):
        def draw(self, draws, survey, seed=0):
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                count = len(survey.lengths) if hasattr(survey, "lengths") else len(survey.number)
                values = self.prior.sample((draws, count))
            return self.prior.mean + scale * (values - self.prior.mean)

        monkeypatch.setattr(GlobalPosterior, "sample", draw)
        monkeypatch.setattr(GlobalPosterior, "log_prob", lambda self, theta, survey: -((theta - self.prior.mean) ** 2).sum(-1))

    return sample


def of_theta(found):
    """Test -> verdict, without those of the hosts, whose network was trained for seconds."""
    return {row.worst.test: row for row in found.rows if not row.worst.test.startswith("host")}


@pytest.fixture(scope="module")
def found(workplace):
    """The shared run as it is, on fewest surveys."""
    return validate(workplace.run, surveys=50)


def test_prior_is_a_calibrated_posterior(workplace, catalogue, prior_for_posterior):
    """Fresh surveys have the run's own prior; so at the survey of a catalogue. Whose truth is whose the prior does not know."""
    prior_for_posterior()
    rows = of_theta(validate(workplace.run, surveys=SURVEYS, catalogue=catalogue))
    assert "L-C2ST" in rows
    assert all(row.passed for row in rows.values()), rows


def test_a_posterior_that_knows_whose_truth_it_is_passes(workplace, told):
    """What is compared belongs together: an exact posterior far narrower than the prior misses the truth of any other survey."""
    rows = of_theta(validate(workplace.run, surveys=50))
    assert all(row.passed for row in rows.values()), rows


def test_hosts_are_compared_with_truths_of_their_own(workplace):
    """The networks of the tests know little of redshifts, and that of an object alone."""
    trained, config = load_run(workplace.run), run_config(workplace.run)
    packed = pack(surveys.survey_source(config, "validate-0")(0, 64), trained.names)
    draws, truth = _objects(trained, packed, 64, 0)
    z = LOCALS.index("z")
    own, other = (abs(np.corrcoef(draws[..., z].mean(0), of)[0, 1]) for of in (truth[:, z], truth[:, z].flip(0)))
    assert other < 5 * len(truth) ** -0.5 < own


def test_half_the_prior_is_not_and_the_command_says_so(workplace, cigars, refused, prior_for_posterior, monkeypatch, tmp_path):
    prior_for_posterior(0.5)
    right, out = LocalPosterior.sample, tmp_path / "v.json"
    monkeypatch.setattr(LocalPosterior, "sample", lambda *a, **k: (d := right(*a, **k)).mean(0) + 0.3 * (d - d.mean(0)))
    said = cigars("validate", workplace.run, "-o", out, "--surveys", SURVEYS, "--exposure", 1, "--device", "cpu")
    assert said.code == 1
    assert "FAILS" in said.out
    assert "family-wise" in " ".join(said.out.split())
    back = read_validation(out)
    rows = {t["worst"]["test"]: t for t in back["tests"]}
    assert not any(rows[test]["passed"] for test in ("width", "coverage", "joint coverage", "host width"))
    assert rows["width"]["worst"]["value"] > 1.3
    assert rows["host width"]["worst"]["value"] > 2
    assert back["passed"] is False
    assert back["fingerprint"] == stored_fingerprint(workplace.run)
    assert back["exposure"] == 1
    assert {"torch", "sbi"} <= set(back["versions"])
    assert back["hardware"]["cores"] > 0
    assert len(back["curves"]["ranks"]["counts"]) == len(back["curves"]["pulls"]["sd"]) == 13
    assert "exists already" in refused("validate", workplace.run, "-o", out, "--device", "cpu")


def test_surveys_are_fresh_and_follow_the_seed(workplace, found):
    """No Θ of the stream that validates is one of the training's; the same seed gives the same numbers."""
    config = run_config(workplace.run)
    streams = [np.asarray(surveys.survey_source(config, name)(0, 32).theta.Om0) for name in ("training", "validate-0", "validate-1")]
    assert len(np.unique(np.concatenate(streams))) == 3 * 32
    assert validate(workplace.run, surveys=50).checks == found.checks
    assert len({c.test for c in found.checks}) == 12


def test_surveys_and_catalogue_have_the_exposure_that_is_asked_for(workplace, catalogue, monkeypatch):
    seen = []

    def sample(self, draws, survey, seed=0):
        seen.append(survey.exposure.tolist())
        return torch.zeros(draws, 1, len(self.names))

    def survey_source(config, stream, **_):
        seen.append(config.size.exposure)
        raise InterruptedError

    monkeypatch.setattr(GlobalPosterior, "sample", sample)
    monkeypatch.setattr("cigars.validate.survey_source", survey_source)
    with pytest.raises(InterruptedError):
        validate(workplace.run, surveys=50, catalogue=catalogue, exposure=1.25)
    assert seen == [[1.25], (1.25, 1.25)]


def test_catalogue_must_be_like_those_of_the_training(workplace, catalogue):
    with pytest.raises(CatalogueError, match="exposure"):
        validate(workplace.run, surveys=SURVEYS, catalogue=catalogue, exposure=40.0)
    strange = catalogue._replace(observations=catalogue.observations._replace(m=catalogue.observations.m + 20))
    for drop_outside, says in ((False, "like those of the training, got .* with --drop-outside"), (True, "got none of")):
        with pytest.raises(CatalogueError, match=says):
            validate(workplace.run, surveys=SURVEYS, catalogue=strange, drop_outside=drop_outside)


def test_objects_beyond_the_training_can_be_left_out_and_count_in_the_number(workplace, catalogue, monkeypatch, refused, tmp_path):
    odd = catalogue.observations.m.copy()
    odd[3] = 45.0
    mixed = catalogue._replace(observations=catalogue.observations._replace(m=odd))
    seen = []

    def sample(self, draws, survey, seed=0):
        seen.append((survey.number.tolist(), float(survey.observations.m.max())))
        raise InterruptedError

    monkeypatch.setattr(GlobalPosterior, "sample", sample)
    with pytest.raises(InterruptedError):
        validate(workplace.run, surveys=50, catalogue=mixed, drop_outside=True)
    assert seen == [([len(odd)], pytest.approx(catalogue.observations.m[np.arange(len(odd)) != 3].max()))]
    path = tmp_path / "odd.fits"
    write_catalogue(path, mixed, tuple("ugrizy"))
    assert "with --drop-outside" in refused("validate", workplace.run, "--catalogue", path, "-o", tmp_path / "v.json")


def test_command_succeeds_where_nothing_fails(workplace, found, cigars, monkeypatch):
    """The verdict alone decides the exit code; the default output is where reports look."""
    rows = [row._replace(passed=True) for row in found.rows]
    monkeypatch.setattr("cigars.validate.validate", lambda *a, **k: found._replace(rows=rows, passed=True))
    said = cigars("validate", workplace.run, "--device", "cpu")
    try:
        assert said.code == 0, said.err
        assert "all 12 tests pass" in said.out
        assert read_validation(workplace.run / "validation.json")["passed"] is True
    finally:
        (workplace.run / "validation.json").unlink(missing_ok=True)


def test_validation_of_another_training_is_refused(workplace, found, tmp_path):
    """That in the run folder, and one that is named: a posterior that comes with the package has no folder to leave it in."""
    path, elsewhere, of = workplace.run / "validation.json", tmp_path / "validation.json", {"fingerprint": found.record["fingerprint"]}
    try:
        write_validation(path, found)
        assert pipeline._validation(workplace.run, None, of)["surveys"] == 50
        other = found._replace(record={**found.record, "fingerprint": "other"})
        write_validation(path, other, overwrite=True)
        with pytest.raises(ValueError, match="got other"):
            pipeline._validation(workplace.run, None, of)
        write_validation(elsewhere, found)
        assert pipeline._validation(workplace.run, elsewhere, of) == pipeline._validation(None, elsewhere, of) != {}
        write_validation(elsewhere, other, overwrite=True)
        with pytest.raises(ValueError, match="got other"):
            pipeline._validation(None, elsewhere, of)
    finally:
        path.unlink(missing_ok=True)
    assert pipeline._validation(workplace.run, None, of) == pipeline._validation(None, None, of) == {}


@pytest.mark.parametrize(("name", "value"), [("catalogue", "75d1"), ("exposure", 10.0)])
def test_a_validation_at_another_catalogue_or_exposure_is_not_one_of_the_posterior(workplace, found, tmp_path, name, value):
    """L-C2ST is of one catalogue alone: left out of the report by default, and refused where it was named."""
    folder, of = tmp_path / "run", {"fingerprint": found.record["fingerprint"], "catalogue": "fadf", "exposure": 1.0}
    folder.mkdir()
    write_validation(folder / "validation.json", found._replace(record={**found.record, name: value}))
    with pytest.warns(TargetWarning, match=f"is of another {name} than the posterior and is not shown"):
        assert pipeline._validation(folder, None, of) == {}
    with pytest.raises(ValueError, match=f"expected {name} {of[name]}, that of the posterior, got {value}; run `cigars validate` again"):
        pipeline._validation(None, folder / "validation.json", of)
    assert pipeline._validation(folder, None, of | {name: value}) != {}


def test_bad_requests_are_one_line(workplace, refused, tmp_path):
    assert "expected a run folder or --pretrained" in refused("validate")
    assert "got both" in refused("validate", workplace.run, "--pretrained", "lsst")
    with pytest.raises(ConfigError, match="at least 50 surveys"):
        validate(workplace.run, surveys=10)
    (tmp_path / "x.json").write_text("[1]")
    with pytest.raises(FileError, match="cigars validate"):
        read_validation(tmp_path / "x.json")
    assert command.__doc__ is not None
    assert "Holm" in command.__doc__


def test_round_trip_of_the_json(found, tmp_path):
    write_validation(tmp_path / "v.json", found)
    back = read_validation(tmp_path / "v.json")
    assert [t["p_value"] for t in back["tests"]] == [row.p_value for row in found.rows]
    assert back["seed"] == 0
    with pytest.raises(FileError, match="exists already"):
        write_validation(tmp_path / "v.json", found)
