"""A configuration is what was written, or one line that says which key is wrong."""

import math
import tomllib

import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
import torch
from astropy.cosmology import LambdaCDM
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats

from cigars.config import Config, ConfigError, Prior, fingerprint, load_config, presets, to_toml
from cigars.schema import FIDUCIAL, GLOBALS, Globals
from inference.priors import Prior as TorchPrior
from simulators.model import globals_model
from simulators.priors import log_prior

FILES = {"hosts.emulator_file": "e.npz", "hosts.bands_file": "b.npz", "selection.detection_file": "d.npz"}


def preset(name):
    return load_config(name, **(FILES if name == "cigars1" else {}))


DEFAULTS = {  # forward model §1: prior and fiducial value
    "Om0": ("uniform", 0, 1, 0.3),
    "Ode0": ("uniform", 0, 1, 0.7),
    "w0": ("uniform", -2, 0, -1),
    "wa": ("uniform", -3, 2, 0),
    "dtd_logA": ("normal", -12.15, 0.1, -12.15),
    "dtd_slope": ("normal", -1.34, 0.2, -1.34),
    "M0": ("uniform", -20, -19, -19.5),
    "sigma_int": ("uniform", 0.01, 0.2, 0.1),
    "alpha": ("uniform", -0.55, 0.25, -0.14),
    "beta": ("uniform", 0, 4, 2.2),
    "alpha_c": ("uniform", -0.03, 0.03, 0),
    "mass_step": ("uniform", -0.2, 0.2, -0.05),
    "mass_step_loc": ("uniform", 9, 11, 10),
    "gamma_Z": ("uniform", -2, 2, -0.1),
    "gamma_age": ("uniform", -0.1, 0.1, -0.03),
}


@pytest.mark.parametrize("config", [Config(), load_config("lsst")], ids=["plain", "lsst"])
def test_defaults_are_the_numbers_of_the_specification(config):
    """§1, and of §§7 and 8 the thresholds of hosts, the forms of detection and of errors: typed again, to the last digit."""
    assert list(DEFAULTS) == list(Globals._fields)
    for name, (kind, first, second, fiducial) in DEFAULTS.items():
        assert getattr(config.prior, name) == Prior(**{kind: (first, second)})
        assert getattr(FIDUCIAL, name) == fiducial
    assert config.prior.region is None
    s, o = config.selection, config.observation
    assert config.band_names == tuple("ugrizy")
    assert s.host_thresholds == o.host_depths == (25.73, 26.86, 26.88, 26.34, 25.63, 25.87)
    assert (s.host_efficiency, s.detection, s.z_max) == (None, "smooth", 1.2)
    assert s.m50[::-1] == (-4.822, 11.504, -10.370, 2.249, 24.138)
    assert s.ln_width[::-1] == (-0.247, 0.164, -0.947)
    assert (o.host_errors, o.host_sigma, o.host_sigma_sys, o.host_gamma) == ("constant", 0.01, 0.005, (0.038, *(0.039,) * 5))
    assert [(e.offset, e.slope, e.scatter, e.floor) for e in (o.sn_m, o.sn_x, o.sn_c)] == [(0, 0.2, 1.2, 0), (-3, 0, 1, 0), (-7, 0, 0.6, 0)]
    assert o.sn_m.pivot == 56


def written(tmp_path, text):
    path = tmp_path / "a.toml"
    path.write_text(text)
    return path


def refused(*args, **kwargs) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", presets())
def test_presets_are_written_out_and_read_back_equal(tmp_path, name):
    config = preset(name)
    assert config.name == name
    assert load_config(written(tmp_path, to_toml(config))) == config
    assert set(tomllib.loads(to_toml(config))["prior"]) == {c.name for c in GLOBALS}  # every default spelled out


finite = st.floats(-1e3, 1e3)
interval = st.tuples(finite, st.floats(1e-3, 1e3)).map(lambda t: (t[0], t[0] + t[1]))
priors = st.one_of(
    interval.map(lambda v: {"uniform": v}),
    finite.map(lambda v: {"fixed": v}),
    st.tuples(finite, st.floats(1e-3, 1e3)).map(lambda v: {"normal": v}),
    st.tuples(finite, st.floats(1e-3, 1e3), st.floats(-7, 7), st.floats(1e-3, 10)).map(  # of which an edge is near the mean
        lambda v: {"normal": v[:2], "within": (v[0] + v[1] * v[2], v[0] + v[1] * (v[2] + v[3]))}
    ),
)
sizes = st.one_of(
    st.floats(1, 1e5).map(lambda n: {"expected_supernovae": n}),
    st.tuples(st.floats(1, 4e4), st.floats(0.1, 10)).map(lambda v: {"expected_supernovae": "none", "area_deg2": v[0], "duration_yr": v[1]}),
)


@settings(deadline=None, max_examples=60)
@given(prior=priors, size=sizes, seed=st.integers(0, 2**32 - 1), missing=st.floats(0, 0.99), name=st.text(max_size=8))
def test_any_configuration_survives_the_round_trip(tmp_path_factory, prior, size, seed, missing, name):
    changes = {"prior.gamma_Z": prior, "size": size, "seed": seed, "observation.missing_probability": missing, "name": name}
    config = load_config("demo", **changes)
    path = tmp_path_factory.mktemp("config") / "a.toml"
    path.write_text(to_toml(config), encoding="utf-8")
    assert load_config(path) == config
    assert Config.model_validate_json(config.model_dump_json()) == config  # as posteriors carry it
    assert fingerprint(load_config(path)) == fingerprint(config)


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("size.expectd_supernovae", "size.expected_supernovae"),
        ("sizes.capacity", "size"),
        ("prior.Om1", "prior.Om0"),
        ("prior.Om0.unifrom", "prior.Om0.uniform"),
        ("training.batchsurveys", "training.batch_surveys"),
        ("observation.sn_m.ofset", "observation.sn_m.offset"),
        ("seeds", "seed"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest(key, nearest):
    said = refused("demo", [f"{key}=1"])
    assert repr(key.removesuffix(".capacity")) in said
    assert said.endswith(f"nearest valid key is {nearest!r}")


def test_no_key_of_another_table_is_suggested_within_a_list_or_a_region():
    region = "{names=['Om0'],centre=[0.3],directions=[[1.0]],limits=[[-1,1]],centr=3}"
    for setting, key in (
        ("observation.host_fitted=[{ofset=1}]", "observation.host_fitted.0.ofset"),
        (f"prior.region={region}", "prior.region.centr"),
    ):
        assert refused("demo", [setting]).endswith(f"unknown key {key!r}")


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("seed=-1", "seed: expected greater than or equal to 0, got -1"),
        ("seed=nan", "seed"),
        ("training.learning_rate=inf", "training.learning_rate"),
        ("size.area_deg2=10", "both or neither"),
        ("hosts.bands=u", "hosts.bands: expected a list, got 'u'"),
        ("hosts.bands=[]", "at least one band"),
        ('hosts.bands=["lsst2023-g", "lsst2023-g"]', "none twice"),
        ('hosts.bands=["lsst2023-g"]', "host_thresholds: expected 1 values, one a band, got 6"),
        ("hosts=3", "hosts: expected a table of keys, got 3"),
        ("hosts.backend=fsps", "hosts.backend: expected 'ssp', 'emulator' or 'table', got 'fsps'"),
        ("hosts.backend=emulator", "--set hosts.emulator_file=PATH"),
        ("selection.detection=table", "--set selection.detection_file=PATH"),
        ("selection.host_efficiency=['q', 22, 1]", "expected a band of"),
        ("observation.host_errors=fitted", "observation.host_fitted"),
        ("prior.Om0={uniform=[1, 0]}", "expected low < high"),
        ("prior.Om0={normal=[1, 0]}", "expected sd > 0"),
        ("prior.Om0={uniform=[0, 1], fixed=3}", "exactly one of uniform, normal, fixed"),
        ("prior.Om0={uniform=[0, 1], within=[0, 1]}", "within: expected [low, high]"),
        ("prior.Om0={}", "exactly one"),
        ("prior.w0={fixed=-0.8}", "prior.w0: expected supernovae.cosmology = 'flat-w0waCDM', without which nothing reads it"),
        ("prior.wa={uniform=[-1, 1]}", "prior.wa: expected supernovae.cosmology = 'flat-w0waCDM'"),
        ("observation.host_depths=[20, 20, 20, 20, 20, 20]", "observation.host_depths: expected observation.host_errors = 'lsst'"),
        ("observation={host_errors='lsst', host_sigma=0.1}", "observation.host_sigma: expected observation.host_errors = 'constant'"),
        ("observation={host_errors='lsst', host_gamma=[0.05, 0, 0, 0, 0, 0]}", "host_gamma"),
        ("observation.sn_correlation=[0.9, 0.9, -0.9]", "sn_correlation: expected a positive definite matrix"),
        ("observation.sn_correlation=[5, 0, 0]", "sn_correlation: expected a positive definite matrix"),
        ("prior.dtd_logA={normal=[-12.15, 0.1], within=[-10.75, -10.55]}", "within: expected an edge within 8 sd of the mean, got 14 sd"),
        ("hosts.table_file=a.fits", "hosts.table_file: expected hosts.backend = 'table'"),
        ("hosts.emulator_file=a.pickle", "hosts.emulator_file: expected hosts.backend = 'emulator'"),
        ("selection.detection_file=a.npz", "selection.detection_file: expected selection.detection = 'table'"),
        ("hosts.z_max=0.5", "hosts.z_max: expected at least selection.z_max, 1.2, got 0.5"),
        ("selection.z_max=1.3", "hosts.z_max: expected at least selection.z_max, 1.3, got 1.2"),
        ("selection.host_efficiency=['r', 22, -1]", "selection.host_efficiency"),
        ("size={expected_supernovae='none', area_deg2=50000, duration_yr=1}", "area_deg2"),
        ("prior.Om0={normal=[0.3, 0.1]}", "prior.Om0: expected nothing below 0, got values from -0.2; cut it"),
        ("prior.sigma_int={uniform=[-0.1, 0.2]}", "prior.sigma_int: expected nothing below 0"),
        ("prior.Ode0={uniform=[0, 1.5]}", "got one without a Big Bang at Om0 = 0 and Ode0 = 1.5"),
        ("foo", "--set: expected key=value, got 'foo'"),
        ("=3", "--set: expected key=value"),
    ],
)
def test_a_bad_value_is_named_in_one_line(setting, says):
    assert says in refused("demo", [setting])


@pytest.mark.parametrize(("dark", "z_max", "least"), [(2.0, 1.5, 0.53), (2.5, 1.5, 0.98), (2.5, 1.2, 0.95), (10.0, 0.3, 10.5)])
def test_no_prior_has_hosts_beyond_the_antipode(dark, z_max, least):
    """Refused exactly where astropy's distance of the last host is negative at the least matter beside most dark energy."""

    def distance(matter, energy=dark):
        return LambdaCDM(70, matter, energy, Tcmb0=0).comoving_transverse_distance(z_max).value

    def says(matter):
        prior = {"prior.Om0": {"uniform": (matter, 30)}, "prior.Ode0": {"uniform": (0, dark)}}
        try:
            load_config("demo", **{"hosts.z_max": z_max, "selection.z_max": min(z_max, 1.2)}, **prior)
        except ConfigError as error:
            return str(error)
        return ""

    matters = least + 0.01 * np.arange(12)
    said, there = [says(m) for m in matters], [distance(m) > 0 for m in matters]
    assert [text == "" for text in said] == there
    assert not there[0]
    assert (
        f"prior.Ode0: expected universes in which all hosts have a distance, got one with hosts beyond the antipode at Om0 = {least:g}"
        in said[0]
    )
    first = matters[there.index(True)]  # then all of the prior has distances
    assert min(distance(m, energy) for m in np.geomspace(first, 30, 10) for energy in np.linspace(0, dark, 5)) > 0


def test_one_key_of_an_error_law_changes_that_alone(tmp_path):
    """By a setting, a file and in Python: the laws are defaults, which no preset repeats."""
    path = tmp_path / "mine.toml"
    path.write_text('extends = "lsst"\n[observation]\nsn_c = { floor = 0.02 }\n')
    plain = load_config("lsst").observation
    by_setting, by_keyword = load_config("lsst", ["observation.sn_c.floor=0.02"]), load_config("lsst", **{"observation.sn_c.floor": 0.02})
    for config in (by_setting, by_keyword, load_config("lsst").updated(**{"observation.sn_c.floor": 0.02}), load_config(path)):
        assert config.observation.sn_c == plain.sn_c.model_copy(update={"floor": 0.02})
        assert (config.observation.sn_m, config.observation.sn_x) == (plain.sn_m, plain.sn_x)
    louder = load_config("lsst", ["observation.sn_m.scatter=0.8", "observation.sn_x={offset=-2}"]).observation
    assert (louder.sn_m.slope, louder.sn_m.pivot, louder.sn_m.scatter) == (0.2, 56, 0.8)
    assert (louder.sn_x.offset, louder.sn_x.scatter) == (-2, 1)


def test_settings_that_only_their_variant_reads_are_taken_with_it():
    assert load_config("demo", ["supernovae.cosmology=flat-w0waCDM", "prior.w0={fixed=-0.8}"]).fixed["w0"] == -0.8
    assert load_config("demo", ["prior.w0={fixed=-1}", "prior.wa={fixed=0}"]).fixed["w0"] == -1  # which it is in any case
    assert load_config("demo", ["hosts.z_max=1.4", "selection.z_max=1.4"]).hosts.z_max == 1.4
    assert load_config("demo", ["prior.Ode0={uniform=[0, 1.5]}", "prior.Om0={uniform=[0.2, 0.8]}"]).limits("Ode0") == (0, 1.5)
    flat = "supernovae.cosmology=flat-LCDM"
    assert "expected no fixed value in flat-LCDM" in refused("demo", [flat, "prior.Ode0={fixed=0.7}"])
    for prior in ("{normal=[0.69, 0.01]}", "{uniform=[0.6, 0.8]}"):
        assert "prior.Ode0: expected none in flat-LCDM, where it is 1 - Om0" in refused("demo", [flat, f"prior.Ode0={prior}"])
    assert load_config("demo", [flat, "prior.Om0={normal=[0.3, 0.05]}"]).flat  # with the Ode0 that the preset has
    assert "prior.Om0: expected nothing above 1 in a flat cosmology" in refused("demo", [flat, "prior.Om0={uniform=[0, 1.6]}"])
    assert load_config("lsst", ["observation.host_errors=lsst", "observation.host_sigma_sys=0.02"]).observation.host_sigma_sys == 0.02
    table = ["hosts.backend=table", "hosts.table_file=a.fits"]
    for changes in (["observation.spectroscopic_fraction=0"], ["observation.host_errors=constant"], table):
        assert load_config("des5yr", changes) != load_config("des5yr")  # what the preset says of the other kind is no mistake of the user's
    assert load_config("demo", ["prior.M0={normal=[-19.5, 0.1], within=[-18.75, 0]}"]).limits("M0") == (-18.75, 0)  # 7.5 sd
    emulated = ["hosts.backend=emulator", "hosts.emulator_file=a.pickle", "hosts.nebular=false"]
    assert "hosts.nebular: expected hosts.backend = 'ssp'" in refused("demo", emulated)


def test_a_size_by_area_counts_hosts_by_volume():
    area = {"expected_supernovae": "none", "area_deg2": 10.0, "duration_yr": 1.0}
    assert load_config("demo", size=area).hosts.redshift_density == "volume"
    assert load_config("demo").hosts.redshift_density == "tabulated"
    assert load_config("demo", ["size.area_deg2=none", "size.duration_yr=none"]).hosts.redshift_density == "tabulated"
    with pytest.raises(ConfigError, match="redshift_density: expected 'volume' for a size by area, got 'tabulated'"):
        load_config("demo").updated(size=area)


def test_bad_files_are_named_in_one_line(tmp_path):
    assert "got 'nope'" in refused("nope")
    assert "cannot read" in refused(tmp_path / "absent.toml")
    assert "not valid TOML" in refused(written(tmp_path, "a = = 1"))
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe\x00")
    assert "not valid TOML" in refused(tmp_path / "b.toml")
    assert "extends: expected a preset" in refused(written(tmp_path, 'extends = "nope"'))
    assert "extends: expected a preset" in refused(written(tmp_path, "extends = [1]"))


def test_a_file_starts_from_its_preset_and_changes_what_it_lists(tmp_path):
    base = load_config("demo")
    config = load_config(
        written(tmp_path, 'extends = "demo"\nname = "mine"\n[size]\ncapacity = 4096\n[prior]\nOm0 = { normal = [0.3, 0.05] }')
    )
    assert config == base.updated(**{"name": "mine", "size.capacity": 4096, "prior.Om0": {"normal": (0.3, 0.05)}})
    assert config.size.expected_supernovae == base.size.expected_supernovae
    assert config.prior.Om0.uniform is None  # replaced, not merged with demo's
    assert load_config("demo", ["prior.Om0.fixed=0.3"]).fixed["Om0"] == 0.3


def test_settings_follow_the_file_and_keywords_follow_settings():
    assert load_config("demo", ["seed=1", "seed=2"]).seed == 2
    assert load_config("demo", ["seed=1"], seed=3).seed == 3
    assert load_config("demo", ["name=plain text"]).name == "plain text"


def test_every_change_changes_the_fingerprint_and_nothing_else_does():
    config = load_config("demo")
    changed = [config.updated(**c) for c in ({"seed": 1}, {"prior.Om0": {"fixed": 0.3}}, {"hosts.nebular": False}, {"name": "x"})]
    assert len({fingerprint(c) for c in (config, *changed)}) == 5
    assert fingerprint(load_config("demo")) == fingerprint(config)
    assert fingerprint(config, "a") != fingerprint(config, "b")
    assert fingerprint(config.updated(**{"training.anchored": True})) != fingerprint(config)


def test_a_setting_that_came_later_leaves_fingerprints_of_before_what_they_were():
    tree = load_config("demo").model_dump(mode="json")
    assert tree["training"].pop("anchored") is False
    assert fingerprint(load_config("demo")) == fingerprint(tree)


def test_nothing_can_be_changed_in_place():
    config = load_config("demo")
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 3
    with pytest.raises(ValidationError, match="frozen"):
        config.prior.Om0.fixed = 3
    assert hash(config) == hash(load_config("demo"))


@pytest.mark.parametrize(("cosmology", "absent"), [("LCDM", {"w0", "wa"}), ("flat-LCDM", {"w0", "wa", "Ode0"}), ("flat-w0waCDM", {"Ode0"})])
def test_a_cosmology_frees_its_own_parameters(cosmology, absent):
    config = Config().updated(**{"supernovae.cosmology": cosmology})
    assert set(Globals._fields) - set(config.marginals) == absent
    assert set(config.fixed) == absent - {"Ode0"}  # which follows Om0


def test_short_band_names_unless_they_are_ambiguous():
    config = Config().updated(**{"hosts.bands": ["lsst2023-g", "decam2014-r"], "selection.host_thresholds": [25.0, 25.0]})
    assert config.band_names == ("g", "r")
    both = ("lsst2023-g", "decam2014-g")
    assert config.updated(**{"hosts.bands": both}).band_names == both


SHARED_PRIOR = {
    "prior.dtd_slope": {"normal": [-1.34, 0.2], "within": [-1.5, -1.0]},
    "prior.dtd_logA": {"normal": [-12.15, 0.1], "within": [-12.1, -11.0]},  # above the mean
    "prior.alpha": {"fixed": -0.14},
}


def scipy_log_density(config, theta) -> np.ndarray:
    total = 0.0
    for name, prior in config.prior:
        if name not in theta:  # fixed, by the prior or the cosmology
            continue
        x = theta[name]
        if prior.uniform:
            total = total + stats.uniform(prior.uniform[0], prior.uniform[1] - prior.uniform[0]).logpdf(x)
        elif prior.normal:
            (loc, scale), (low, high) = prior.normal, prior.within or (-math.inf, math.inf)
            total = total + stats.truncnorm((low - loc) / scale, (high - loc) / scale, loc, scale).logpdf(x)
    return total


def test_numpyro_torch_and_scipy_share_one_prior(key):
    """1e-4: float32 sums of 14 log densities; magnitudes near -12 are resolved to 1e-6 of an sd of 0.1, squared."""
    config = Config().updated(**SHARED_PRIOR, **{"supernovae.cosmology": "flat-w0waCDM"})
    torch_prior = TorchPrior(config.marginals)
    draws = torch_prior.sample((200,), torch.Generator().manual_seed(1))
    theta = {name: draws[:, i].numpy() for i, name in enumerate(torch_prior.names)}
    expected = scipy_log_density(config, {k: v.astype(float) for k, v in theta.items()})

    def sites(row):
        model = numpyro.handlers.substitute(globals_model, {k: jnp.asarray(v[row]) for k, v in theta.items()})
        trace = numpyro.handlers.trace(model).get_trace(config)
        return {k: s for k, s in trace.items() if s["type"] == "sample"}

    numpyro_density = [sum(float(s["fn"].log_prob(s["value"])) for s in sites(row).values()) for row in range(10)]
    assert set(sites(0)) == set(config.marginals) == set(torch_prior.names)
    full = Globals(**{k: jnp.asarray(theta.get(k, np.zeros(200, np.float32))) for k in Globals._fields})
    np.testing.assert_allclose(torch_prior.log_prob(draws), expected, atol=1e-4)
    np.testing.assert_allclose(log_prior(full, config.marginals), expected, atol=1e-4)
    np.testing.assert_allclose(numpyro_density, expected[:10], atol=1e-4)
    wrong = config.updated(**{"prior.dtd_logA": {"normal": [-12.15, 0.11], "within": [-12.1, -11.0]}})
    assert np.abs(np.asarray(TorchPrior(wrong.marginals).log_prob(draws)) - expected).max() > 1e-2


def test_all_agree_on_what_is_impossible():
    config = Config().updated(**SHARED_PRIOR)
    torch_prior = TorchPrior(config.marginals)
    inside = torch_prior.sample((1,), torch.Generator().manual_seed(2))
    for i, name in enumerate(torch_prior.names):
        marginal = config.marginals[name]
        if math.isfinite(marginal.high):
            outside = inside.clone()
            outside[0, i] = marginal.high + 0.01
            full = Globals(
                **{k: jnp.asarray(0.0) for k in Globals._fields}
                | {k: jnp.asarray(float(outside[0, j])) for j, k in enumerate(torch_prior.names)}
            )
            assert torch_prior.log_prob(outside) == -math.inf
            assert log_prior(full, config.marginals) == -math.inf


@pytest.mark.parametrize("exposure", [(0.0, 1.0), (2.0, 1.0)])
def test_exposures_are_positive_and_in_order(exposure):
    with pytest.raises(ConfigError, match="exposure: expected 0 < low <= high"):
        load_config("demo", **{"size.exposure": exposure})
