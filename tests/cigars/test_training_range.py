"""A catalogue unlike what was, or would be, simulated is refused before any work, in one line."""

import shutil
import warnings
from importlib import import_module

import numpy as np
import pytest

from cigars.catalogue import Catalogue, CatalogueError, select
from cigars.catalogue_checks import TargetWarning
from cigars.check import check
from cigars.compare import compare
from cigars.config import load_config
from cigars.crosscheck import crosscheck
from cigars.evidence import compare_exactly
from cigars.exact import infer_exact
from cigars.infer import infer
from cigars.pipeline import train
from cigars.schema import Globals, Latents, Observations, Survey
from cigars.targets import target_hash, without_redshifts
from cigars.training_range import ENOUGH, SURVEYS, check_target, warn_of_exposure, warn_of_other_target, warn_of_others
from cigars.truncation import Rounds, write_rounds
from cigars.validate import validate

TWO_BANDS = {"hosts.bands": ["lsst2023-g", "lsst2023-r"], "selection.host_thresholds": [28.0, 28.0], "training.batch_surveys": 32}
SIZE = 400
COVARIANCES, PAIRS = ("cov_mx", "cov_mc", "cov_xc"), ((0, 1), (0, 2), (1, 2))


@pytest.fixture(scope="module")
def config():
    return load_config("demo", **TWO_BANDS)


def objects(rng, *shape, z_spec=True):
    uniform = lambda low, high, *more: rng.uniform(low, high, (*shape, *more)).astype(np.float32)  # noqa: E731
    values = {name: uniform(0.01, 0.02) for name in ("var_m", "var_x", "var_c")}
    values |= {name: np.zeros(shape, np.float32) for name in ("cov_mx", "cov_mc", "cov_xc")}
    unknown = np.full(shape, np.nan, np.float32)
    values |= {"z_spec": uniform(0, 1) if z_spec else unknown, "z_spec_err": uniform(1e-4, 2e-4) if z_spec else unknown}
    return Observations(
        mag=uniform(20, 25, 2), mag_err=uniform(0.01, 0.1, 2), m=uniform(20, 25), x=uniform(-1, 1), c=uniform(-1, 1), **values
    )


def uniform_source(asked=None, z_spec=True):
    """Surveys of about SIZE objects with every column uniform."""

    def source(first, count):
        if asked is not None:
            asked.append((first, count))
        rng = np.random.default_rng(first)
        number = rng.integers(SIZE // 2, 2 * SIZE, count).astype(np.int32)
        observed = np.arange(2 * SIZE) < number[:, None]
        nothing = np.zeros((count, 2 * SIZE), np.float32)
        observations = objects(rng, count, 2 * SIZE, z_spec=z_spec)
        return Survey(
            Globals(*[nothing[:, 0]] * len(Globals._fields)), observations, Latents(*[nothing] * len(Latents._fields)), observed,
            nothing.astype(np.int32), number,
        )  # fmt: skip

    return source


@pytest.fixture
def target():
    return Catalogue(np.array([f"{i:04d}" for i in range(SIZE)]), objects(np.random.default_rng(7), SIZE))


def changed(target, name, value, rows=1):
    leaf = getattr(target.observations, name).copy()
    leaf[:rows] = value
    return target._replace(observations=target.observations._replace(**{name: leaf}))


def test_a_target_like_the_simulations_passes_in_silence(target, config):
    asked = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_target(target, uniform_source(asked), config)
    assert asked == [(32 * i, 32) for i in range(len(asked))]  # whole batches, none twice
    assert 32 * len(asked) >= SURVEYS[0]
    assert 32 * len(asked) * 1.25 * SIZE > 0.9 * ENOUGH


@pytest.mark.parametrize(
    ("name", "value", "rows", "says"),
    [
        ("m", 35.0, 2, r"m: 2 outside \[20, 25\], the farthest 35"),
        ("c", -1.1, 40, r"c: 40 outside \[-1, 1\], the farthest -1\.1"),
        ("mag", 19.0, 3, r"mag_g: 3 outside .*; mag_r: 3 outside"),
    ],
)
def test_columns_outside_the_simulated_range_are_named(target, config, name, value, rows, says):
    with pytest.raises(CatalogueError, match=rf"target: expected objects like those that 'demo' simulates, got {says}"):
        check_target(changed(target, name, value, rows), uniform_source(), config)


def test_a_few_strange_objects_are_a_warning(target, config):
    with pytest.warns(TargetWarning, match=r"a few objects are unlike all that were simulated: m: 1 outside"):
        check_target(changed(target, "m", 35.0), uniform_source(), config)


@pytest.mark.parametrize("size", [SIZE // 4, 4 * SIZE])
def test_a_number_of_objects_that_no_survey_has_is_refused(target, config, size):
    rows = np.arange(size) % SIZE
    some = select(target, rows)._replace(id=np.arange(size).astype(str))
    with pytest.raises(CatalogueError, match="number of objects: 1 outside"):
        check_target(some, uniform_source(), config)


def test_what_is_never_simulated_is_refused_however_little(target, config):
    o = target.observations
    one = target._replace(observations=o._replace(z_spec=np.where(np.arange(SIZE) == 0, 0.5, np.nan), z_spec_err=o.z_spec * np.nan))
    with pytest.raises(CatalogueError, match="z_spec: 1 given, which the training never had"):
        check_target(one, uniform_source(z_spec=False), config)


def test_another_number_of_bands_is_refused(target, config):
    o = target.observations
    narrow = target._replace(observations=o._replace(mag=o.mag[:, :1], mag_err=o.mag_err[:, :1]))
    with pytest.raises(CatalogueError, match="expected the 2 bands of the configuration, got 1"):
        check_target(narrow, uniform_source(), config)


def test_bands_missing_more_or_less_often_than_in_the_training_are_refused(target, config):
    """Every survey of a training has one share of missing bands: a catalogue with another is like none of them."""
    trained, rng = config.updated(**{"observation.missing_probability": (0.3, 0.0)}), np.random.default_rng(0)

    def lacking(share):
        mag = target.observations.mag.copy()
        mag[rng.uniform(size=SIZE) < share, 0] = np.nan
        return target._replace(observations=target.observations._replace(mag=mag))

    check_target(lacking(0.3), uniform_source(), trained)
    with pytest.raises(CatalogueError, match=r"100% without mag_g in place of 30%; train with .*missing_probability = \[0.99, 0\], or wi"):
        check_target(lacking(1.0), uniform_source(), trained)
    with pytest.raises(CatalogueError, match="0% without mag_g in place of 30%"):
        check_target(target, uniform_source(), trained)


def test_of_bands_that_all_may_be_missing_the_first_is_kept(target, config):
    """Two bands at .5: of the quarter of the objects that would lack both, none lacks the first."""
    mag, rng = target.observations.mag.copy(), np.random.default_rng(0)
    missing = rng.uniform(size=mag.shape) < 0.5
    missing[missing.all(1), 0] = False
    mag[missing] = np.nan
    lacking, trained = target.observations._replace(mag=mag), config.updated(**{"observation.missing_probability": 0.5})
    check_target(target._replace(observations=lacking), uniform_source(), trained)
    mag[rng.uniform(size=SIZE) < 1 / 3, 0] = np.nan  # as if it were not kept
    with pytest.raises(CatalogueError, match="without mag_g in place of 25%"):
        check_target(target._replace(observations=lacking), uniform_source(), trained)


def test_correlations_of_errors_that_the_training_did_not_have_are_refused(target, config):
    o, rng = target.observations, np.random.default_rng(0)

    def correlated(*mean, scatter=0.0):
        drawn = [m + scatter * rng.standard_normal(SIZE) for m in mean]
        sd = [np.sqrt(v) for v in (o.var_m, o.var_x, o.var_c)]
        covariances = {n: (r * sd[i] * sd[j]).astype(np.float32) for n, r, (i, j) in zip(COVARIANCES, drawn, PAIRS, strict=True)}
        return target._replace(observations=o._replace(**covariances))

    as_trained = config.updated(**{"observation.sn_correlation": (0.6, 0.6, 0.3)})
    check_target(correlated(0.6, 0.55, 0.3, scatter=0.2), uniform_source(), as_trained)
    with pytest.raises(CatalogueError, match=r"correlations of the training, 0.60, 0.60, 0.30, got 0.00, 0.00, 0.00; train with .*_corr"):
        check_target(target, uniform_source(), as_trained)
    with pytest.raises(CatalogueError, match=r"of the training, 0.00, 0.00, 0.00, got 0.60, 0.60, 0.30"):
        check_target(correlated(0.6, 0.6, 0.3), uniform_source(), config)


def test_objects_of_other_types_are_a_warning_as_p_ia_is_not_used(target):
    warn_of_others(target)
    warn_of_others(target._replace(p_ia=np.full(SIZE, 0.995)))
    with pytest.warns(TargetWarning, match=r"by p_ia 40 of 400 objects are not of type Ia; .* cut the catalogue by it"):
        warn_of_others(target._replace(p_ia=np.where(np.arange(SIZE) < 2, np.nan, 0.9).astype(np.float32)))


def test_a_rate_that_its_prior_all_but_excludes_asks_for_the_exposure():
    """6,000 supernovae taken for a survey of 1,600; a truth at 2.5 sd, of which one catalogue in eighty is, asks nothing."""
    config, unit = load_config("lsst"), np.random.default_rng(0).normal(size=1000)
    of = lambda mean, sd=0.058: {"dtd_logA": mean + sd * unit}  # noqa: E731
    for mean in (-12.15, -12.40, -11.90):
        warn_of_exposure(of(mean), 1600, 1.0, config)
    said = r"dtd_logA = -11\.80 ± 0\.06 is 3\.5 sd .*, -12\.15: is the exposure of these 6,000 objects 1, 1,600 supernovae expected at"
    with pytest.warns(TargetWarning, match=said):
        warn_of_exposure(of(-11.80), 6000, 1.0, config)
    area = config.updated(
        **{"size.expected_supernovae": "none", "size.area_deg2": 9000, "size.duration_yr": 5, "hosts.redshift_density": "volume"}
    )
    with pytest.warns(TargetWarning, match=r"is the exposure of these 700 objects 0\.2, 9,000 deg² yr\?"):
        warn_of_exposure(of(-12.50), 700, 0.2, area)
    for other in ({"uniform": [-13, -11]}, {"fixed": -12.15}):  # in which a posterior is nowhere improbable, or there is none
        warn_of_exposure(of(-11.80), 6000, 1.0, config.updated(**{"prior.dtd_logA": other}))


def test_a_run_that_was_cut_for_another_catalogue_is_a_warning(target, config, tmp_path):
    warn_of_other_target(tmp_path, target)
    record = Rounds(target=target_hash(target), objects=SIZE, rounds=2, fingerprint="0", configured={})
    write_rounds(tmp_path, record)
    warn_of_other_target(tmp_path, target)
    with pytest.warns(TargetWarning, match=r"its prior was cut for another catalogue \(400 objects, .*\); .* train for it, or without"):
        warn_of_other_target(tmp_path, select(target, np.arange(SIZE - 1)))


class Enough(Exception):
    """What would come next takes long."""


def enough(*_, **__):
    raise Enough


@pytest.mark.parametrize("asked", [check, crosscheck, lambda run, catalogue: validate(run, catalogue=catalogue)])
def test_whoever_asks_a_run_says_whether_it_was_cut_for_another(asked, workplace, catalogue, tmp_path, monkeypatch):
    run = shutil.copytree(workplace.run, tmp_path / "run")
    record = Rounds(target="another", objects=7, rounds=2, fingerprint="0", configured={})
    write_rounds(run, record)
    monkeypatch.setattr("inference.model.load_run", enough)
    with pytest.warns(TargetWarning, match=r"its prior was cut for another catalogue \(7 objects, another\)"), pytest.raises(Enough):
        asked(run, catalogue)


def asked_exactly(workplace, catalogue, monkeypatch):
    monkeypatch.setattr("cigars.exact.check_memory", enough)
    infer_exact(load_config(workplace.config), catalogue)


def compared_exactly(workplace, catalogue, monkeypatch):
    monkeypatch.setattr("simulators.hosts.load_bank", enough)
    config = load_config(workplace.config)
    compare_exactly({"a": config, "b": config.updated(**{"prior.M0": {"fixed": -19.5}})}, catalogue)


def compared(workplace, catalogue, monkeypatch):
    monkeypatch.setattr("cigars.compare._comparison_fingerprint", enough)
    config = load_config(workplace.config)
    compare({"a": config, "b": config.updated(**{"prior.M0": {"fixed": -19.5}})}, catalogue, "nowhere")


def inferred(workplace, catalogue, monkeypatch):
    monkeypatch.setattr("inference.posterior.GlobalPosterior.sample", enough)
    infer(workplace.run, catalogue)


def validated(workplace, catalogue, monkeypatch):
    monkeypatch.setattr("inference.posterior.GlobalPosterior.sample", enough)
    validate(workplace.run, catalogue=catalogue)


def trained_for(workplace, catalogue, monkeypatch):
    monkeypatch.setattr("cigars.rounds.check_target", enough)
    train(load_config(workplace.config), workplace.run.parent / "never", target=catalogue)


def checked(workplace, catalogue, monkeypatch):
    monkeypatch.setattr("inference.posterior.GlobalPosterior.sample", enough)
    check(workplace.run, catalogue)


def crosschecked(workplace, catalogue, monkeypatch):
    monkeypatch.setattr("inference.posterior.GlobalPosterior.sample", enough)
    crosscheck(workplace.run, catalogue)


@pytest.mark.filterwarnings("ignore:the networks of Θ saw no survey:UserWarning")  # of the run that is cross-checked
@pytest.mark.parametrize("asked", [asked_exactly, compared_exactly, compared, inferred, validated, trained_for, checked, crosschecked])
def test_whoever_takes_all_to_be_of_type_ia_says_so(asked, workplace, catalogue, monkeypatch):
    mixed = catalogue._replace(p_ia=np.full(len(catalogue.id), 0.9, np.float32))
    with pytest.warns(TargetWarning, match="by p_ia 6 of 58 objects are not of type Ia"), pytest.raises(Enough):
        asked(workplace, mixed, monkeypatch)


@pytest.mark.filterwarnings("ignore:0% of the objects have a spectroscopic redshift:UserWarning")  # the run had some
@pytest.mark.parametrize("asked", [compared, inferred, validated, trained_for, checked])
def test_redshifts_are_not_read_where_the_training_had_none_and_said_where_it_had_others(asked, workplace, catalogue, monkeypatch):
    """Else each object with one would be refused as beyond the training, and leaving those out is a selection."""
    o, read = catalogue.observations, []
    z = np.full(len(o.m), 0.5, np.float32)
    every = catalogue._replace(observations=o._replace(z_spec=z, z_spec_err=z / 1e3))
    said = "100% of the objects have a spectroscopic redshift, of those of the training 30%"
    with pytest.warns(TargetWarning, match=said), pytest.raises(Enough):
        asked(workplace, every, monkeypatch)

    def photometric(given, config):
        none = config.observation.model_copy(update={"spectroscopic_fraction": 0.0})
        return without_redshifts(given, config.model_copy(update={"observation": none}))

    def next_step(given, *_, **__):
        read.append(getattr(given, "observations", given))
        raise Enough

    for module in map(import_module, ("cigars.infer", "cigars.compare", "cigars.validate", "cigars.rounds", "cigars.check")):
        monkeypatch.setattr(module, "without_redshifts", photometric)
        monkeypatch.setattr(
            module, "warn_of_redshifts" if module.__name__ in ("cigars.compare", "cigars.rounds") else "survey_of", next_step
        )
    said = "58 of 58 objects have z_spec, which no simulated object has; it is not read"
    with pytest.warns(TargetWarning, match=said), pytest.raises(Enough):
        asked(workplace, every, monkeypatch)
    assert np.isnan(read[0].z_spec).all()
    assert len(read[0].mag) == len(o.mag)
