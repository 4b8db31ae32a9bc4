"""The exact posterior as a command: what it writes, against brute force in numpy, and one line for what it refuses."""

import itertools
import json
import math
from typing import NamedTuple

import numpy as np
import pytest
from astropy.table import Table
from scipy import stats

from cigars.catalogue import Catalogue, CatalogueError, select, write_catalogue
from cigars.catalogue_checks import TargetWarning
from cigars.config import Config, ConfigError, to_toml
from cigars.convergence import Convergence, convergence
from cigars.exact import infer_exact
from cigars.pipeline import report
from cigars.posterior import load_posterior
from cigars.schema import FIDUCIAL, LOCALS, Observations
from cigars.targets import target_hash
from simulators.exact import ExactPosterior
from simulators.staged import Staged
from tests.simulators import banks

OBJECTS, YEARS = 15, 1.0
FREE = {"Om0": {"uniform": [0.05, 0.9]}, "M0": {"uniform": [-20.0, -19.0]}}
BANDS = tuple("ugrizy")


class Setting(NamedTuple):
    """A configuration with two free parameters on a bank of 80 hosts, and a survey drawn from it by numpy alone."""

    config: Config
    bank: object
    years: float
    catalogue: Catalogue
    latents: dict


@pytest.fixture(scope="module")
def setting():
    fixed = {f"prior.{name}": {"fixed": getattr(FIDUCIAL, name)} for name in FIDUCIAL._fields if name not in FREE}
    free = {f"prior.{name}": prior for name, prior in FREE.items()}
    config = Config().updated(
        **fixed, **free, **{"name": "small", "observation.host_sigma": 0.6, "size.expected_supernovae": OBJECTS, "size.capacity": 64}
    )
    bank = banks.synthetic_bank(80)
    rng = np.random.default_rng(5)
    years = OBJECTS / _count_per_year(bank, config, np.array([0.3]), np.array([-19.5]), rng)[0, 0]
    drawn = banks.direct_sample(bank, config, FIDUCIAL, years, rng)
    number = len(drawn["m"])
    nothing, unknown = np.zeros(number), np.full(number, np.nan)
    columns = {k: drawn[k] for k in ("mag", "m", "x", "c", "var_m", "var_x", "var_c")}
    columns |= {k: nothing for k in ("cov_mx", "cov_mc", "cov_xc")} | {k: unknown for k in ("z_spec", "z_spec_err")}
    columns["mag_err"] = np.full_like(drawn["mag"], 0.6)
    observations = Observations(*(columns[name].astype(np.float32) for name in Observations._fields))
    ids = np.array([f"sn-{i:02d}" for i in rng.permutation(number)])
    return Setting(config, bank, years, Catalogue(ids, observations), drawn)


@pytest.fixture(autouse=True)
def hosts_of_the_setting(setting, monkeypatch):
    monkeypatch.setattr("simulators.hosts.load_bank", lambda config, **_: setting.bank)


@pytest.fixture
def files(setting, tmp_path):
    (tmp_path / "small.toml").write_text(to_toml(setting.config))
    write_catalogue(tmp_path / "mock.fits", setting.catalogue, BANDS, {})
    return tmp_path / "small.toml", tmp_path / "mock.fits"


# Brute force: float64 numpy and scipy, distances by astropy


def _count_per_year(bank, config, om0, m0, rng, draws=20_000):
    """Expected number a year on a grid of Ω_m and M_0, by the mean detection probability of one sample of supernovae."""
    t = FIDUCIAL
    rate = banks.rates(bank, t.dtd_slope) / bank.keep_probability.astype(float)[:, None]
    host, age_bin = np.unravel_index(rng.choice(rate.size, draws, p=rate.ravel() / rate.sum()), rate.shape)
    z, edges = bank.z[host].astype(float), banks.age_edges_gyr(bank.z)
    age = rng.uniform(edges[host, age_bin], edges[host, age_bin + 1])
    r_v = stats.truncnorm.rvs((1.2 - 3) / 0.5, np.inf, 3, 0.5, draws, random_state=rng)
    rest = _shift(bank)[host] + t.gamma_age * age + t.alpha * rng.normal(size=draws) + t.beta * 0.1 * rng.normal(size=draws)
    rest = rest + t.sigma_int * rng.normal(size=draws) + rng.exponential(0.1, draws) * (1 + 1 / r_v) + 5 * np.log10(1 + z)
    scatter, error = rng.normal(size=(2, draws))
    out = np.empty((len(om0), len(m0)))
    for i, om in enumerate(om0):
        modulus = banks.transverse_modulus(t._replace(Om0=om), bank.z)[host]
        bright = (bank.magnitude[host] + modulus[:, None] < np.array(config.selection.host_thresholds)).all(1)
        for j, absolute in enumerate(m0):
            m = absolute + modulus + rest
            m = m + np.exp(0.5 * (0.2 * (m - 56) + 1.2 * scatter)) * error
            out[i, j] = np.mean(bright * _detected(z, m, config))
    return 10**t.dtd_logA * rate.sum() * out


def _shift(bank):
    step = FIDUCIAL.mass_step * (bank.mass_log10_msun > FIDUCIAL.mass_step_loc)
    return FIDUCIAL.gamma_Z * bank.metallicity_log10_zsun.astype(float) + step


def _detected(z, m, config):
    m50, width = np.polyval(config.selection.m50[::-1], z), np.exp(np.polyval(config.selection.ln_width[::-1], z))
    return stats.norm.cdf((m50 - m) / width) * (z < config.selection.z_max)


def _density_of_light(o, i, kappa):
    """p(m, x, c, ln W_m) of object i for true magnitudes κ of the mean supernova before dust [node], dust by quadrature."""
    t, covariance = FIDUCIAL, np.zeros((4, 4))
    m = np.array([t.alpha, 0.1 * t.beta, t.sigma_int])
    mixing = np.stack([m, [1, 0, 0], [0, 0.1, 0], 0.2 * m])
    covariance[range(4), range(4)] = o.var_m[i], o.var_x[i], o.var_c[i], 1.2**2
    law = stats.multivariate_normal(np.zeros(4), covariance + mixing @ mixing.T)
    r_v = stats.truncnorm.ppf((np.arange(24) + 0.5) / 24, (1.2 - 3) / 0.5, np.inf, 3, 0.5)
    a_v = -0.1 * np.log1p(-(np.arange(120) + 0.5) / 120)
    total = np.zeros(len(kappa))
    for r in r_v:
        true = kappa[:, None] + (a_v * (1 + 1 / r))[None]
        colour = np.broadcast_to(o.c[i] - a_v / r, true.shape)
        light = np.stack([o.m[i] - true, np.full_like(true, o.x[i]), colour, np.log(o.var_m[i]) - 0.2 * (true - 56)], -1)
        total += law.pdf(light).mean(1)
    return total / len(r_v)


class Grid(NamedTuple):
    """Posterior of (Ω_m, M_0) on a grid [node], and the mean redshift of each object at each node [node, sn]."""

    nodes: np.ndarray
    probability: np.ndarray
    z: np.ndarray


def brute_force(setting) -> Grid:
    o, bank, config, ages = setting.catalogue.observations, setting.bank, setting.config, 10
    om0, m0 = np.linspace(0.06, 0.89, 28), np.linspace(-19.98, -19.02, 41)
    o = Observations(*(np.asarray(leaf, float) for leaf in o))
    kappa = np.linspace(15, 30, 1201)
    light = [np.log(np.maximum(_density_of_light(o, i, kappa), 1e-300)) for i in range(len(o.m))]
    rate = banks.rates(bank, FIDUCIAL.dtd_slope) / bank.keep_probability.astype(float)[:, None]
    edges, z = banks.age_edges_gyr(bank.z), bank.z.astype(float)
    age = edges[:, :-1, None] + (edges[:, 1:] - edges[:, :-1])[..., None] * (np.arange(ages) + 0.5) / ages
    expected = setting.years * _count_per_year(bank, config, om0, m0, np.random.default_rng(1))
    ln_p, mean_z = np.empty((len(om0), len(m0))), np.empty((len(om0), len(m0), len(o.m)))
    for i, om in enumerate(om0):
        modulus = banks.transverse_modulus(FIDUCIAL._replace(Om0=om), bank.z)
        template = bank.magnitude + modulus[:, None]
        bright = (template < np.array(config.selection.host_thresholds)).all(1)
        for j, absolute in enumerate(m0):
            at = (absolute + _shift(bank) + modulus + 5 * np.log10(1 + z))[:, None, None] + FIDUCIAL.gamma_age * age
            terms = np.empty((len(o.m), len(z)))
            for k in range(len(o.m)):
                made = (rate * np.exp(np.interp(at, kappa, light[k])).mean(-1)).sum(1) * bright * _detected(z, o.m[k], config)
                terms[k] = made * stats.norm.pdf(o.mag[k], template, 0.6).prod(1)
            ln_p[i, j] = np.log(terms.sum(1)).sum() - expected[i, j]
            mean_z[i, j] = terms @ z / terms.sum(1)
    p = np.exp(ln_p - ln_p.max()).ravel()
    nodes = np.array(list(itertools.product(om0, m0)))
    return Grid(nodes, p / p.sum(), mean_z.reshape(len(nodes), -1))


@pytest.mark.slow  # the sampler compiles for minutes
def test_draws_agree_with_brute_force(setting, files, cigars, tmp_path):
    config, mock = files
    out = tmp_path / "p.nc"
    options = ["--method", "exact", "--draws", 1200, "--warmup", 300, "--seed", 2, "--device", "cpu"]
    said = cigars("infer", config, mock, "-o", out, *options)
    assert said.code == 0, said
    assert "effective draws, 0 divergences" in said.out
    posterior = load_posterior(out)
    found, grid = convergence(posterior.attributes), brute_force(setting)
    assert max(found.r_hat.values()) < 1.05
    number = min(found.n_eff.values())
    assert number > 150

    def pulls(theta):
        spread = grid.nodes - grid.probability @ grid.nodes
        around = theta - grid.probability @ grid.nodes
        moments = lambda d: np.stack([d[:, 0], d[:, 1], d[:, 0] ** 2, d[:, 1] ** 2, d[:, 0] * d[:, 1]], -1)  # noqa: E731
        drawn = moments(around)
        return (drawn.mean(0) - grid.probability @ moments(spread)) / (drawn.std(0) / math.sqrt(number))

    theta = posterior.marginal("Om0", "M0")
    mean, sd = theta.mean(0), theta.std(0)
    assert np.abs(pulls(theta)).max() < 5
    for wrong in (theta + 0.5 * sd, mean + 1.5 * (theta - mean), mean + 0.6 * (theta - mean), theta * [1, -1] + [0, 2 * mean[1]]):
        assert np.abs(pulls(wrong)).max() > 5
    z, expected = posterior["z"], grid.probability @ grid.z
    error = z.std(0) / math.sqrt(number) + 1e-4
    assert np.all(np.abs(z.mean(0) - expected) < 5 * error)
    assert not np.all(np.abs(z.mean(0) - np.roll(expected, 1)) < 5 * error)
    assert posterior.ids == list(setting.catalogue.id)

    row = Table.read(tmp_path / "p-hosts.fits")
    assert list(row["id"]) == posterior.ids
    np.testing.assert_allclose(row["z_mean"], z.mean(0, dtype=float), rtol=1e-5)


# The glue, with draws given in place of chains


@pytest.fixture
def given(setting, monkeypatch):
    """Θ near the fiducial and hosts at random, as a sampler would return them: 2 chains of 30 draws; what it was given."""

    def sampled(matches, simulator, config, *, draws, chains, exposure, **_):
        exposures.append(exposure)
        rng, objects = np.random.default_rng(0), len(matches.m)
        theta = np.stack([rng.normal(0.3, 0.03, (chains, draws)), rng.normal(-19.5, 0.03, (chains, draws))], -1).astype(np.float32)
        hosts = np.asarray(matches.row)[
            np.arange(objects), rng.integers(0, (np.asarray(matches.place) >= 0).sum(1), (chains * draws, objects))
        ]
        found = ExactPosterior(theta, tuple(config.marginals), np.array([1.01, r_hat[0]]), np.array([58.0, 60.0]), diverged[0], hosts)
        return Staged(found, matches, (900, 800), 0.01, 30.0)

    r_hat, diverged, exposures = [1.02], [0], []
    monkeypatch.setattr("simulators.staged.sample_staged", sampled)
    return r_hat, diverged, exposures


def test_the_file_is_that_of_infer_with_chains(setting, given, cigars, tmp_path, monkeypatch):
    out = tmp_path / "p.nc"
    data = infer_exact(setting.config, setting.catalogue, draws=60, chains=2, output=out, hosts=tmp_path / "h.fits")
    posterior = load_posterior(out)
    assert dict(posterior.to_arviz()["posterior"].sizes) == {"chain": 2, "draw": 30, "object": len(setting.catalogue.id)}
    assert posterior.ids == list(setting.catalogue.id)
    assert all(np.isfinite(posterior[name]).all() for name in (*FREE, *LOCALS))
    np.testing.assert_array_equal(posterior["Om0"], data["posterior"]["Om0"].values.reshape(-1))
    hosts = set(setting.bank.z.tolist())
    assert set(posterior["z"].ravel().tolist()) <= hosts
    assert convergence(data["posterior"].attrs) == Convergence(
        {"Om0": 1.01, "M0": 1.02}, {"Om0": 58.0, "M0": 60.0}, 0, data["posterior"].attrs["hosts_per_object"]
    )
    assert json.loads(posterior.attributes["r_hat"]) == {"Om0": 1.01, "M0": 1.02}
    rows = Table.read(tmp_path / "h.fits")
    np.testing.assert_allclose(rows["mass_log10_msun_mean"], posterior["mass_log10_msun"].mean(0, dtype=float), rtol=1e-5)
    assert posterior.reweight({"Om0": {"normal": [0.3, 0.1], "within": [0.05, 0.9]}}).draws == 60
    with pytest.raises(ValueError, match="one by the exact likelihood, of which only the draws are known"):
        posterior.log_prob({"Om0": 0.3, "M0": -19.5})
    assert posterior.attributes["catalogue"] == target_hash(setting.catalogue)
    for what in ({"run": tmp_path}, {"validation": tmp_path / "v.json"}):
        monkeypatch.setattr("cigars.pipeline.stored_fingerprint", lambda _: posterior.attributes["fingerprint"])
        with pytest.raises(ValueError, match="no run folder and no validation of an exact posterior, which no network made"):
            report(tmp_path / "no.html", data, **what)
    assert cigars("report", out, "-o", tmp_path / "r.html").code == 0
    page = (tmp_path / "r.html").read_text()
    assert "exact likelihood, by Hamiltonian Monte Carlo" in page
    assert "which recognises single ones" not in page
    data["posterior"].attrs["hosts_per_object"] = 2.0
    report(tmp_path / "s.html", data)
    assert "which recognises single ones" in (tmp_path / "s.html").read_text()
    assert cigars("products", out, "-o", tmp_path / "products").code == 0
    assert np.isfinite(Table.read(tmp_path / "products" / "hubble.fits")["mu_sn_mean"]).all()


def test_the_package_offers_it():
    import cigars

    assert cigars.infer_exact is infer_exact


def test_results_follow_the_ids(setting, given, monkeypatch):
    order = np.random.default_rng(1).permutation(len(setting.catalogue.id))
    one, two = (infer_exact(setting.config, c, draws=60) for c in (setting.catalogue, select(setting.catalogue, order)))
    for name in ("z", "x_int"):
        np.testing.assert_array_equal(one["posterior"][name].values[..., order], two["posterior"][name].values)
    assert not np.array_equal(one["posterior"]["z"].values, two["posterior"]["z"].values)


def test_chains_that_disagree_are_said(setting, given, files, cigars, tmp_path):
    said = cigars("infer", "--method", "exact", *files, "-o", tmp_path / "p.nc", "--draws", 60, "--device", "cpu")
    assert said.code == 0, said
    assert "R̂ at most 1.020, at least 58 effective draws, 0 divergences" in said.out
    assert "warning" not in said.err
    given[0][0], given[1][0] = 1.3, 4
    said = cigars("infer", "--method", "exact", *files, "-o", tmp_path / "q.nc", "--draws", 60, "--device", "cpu")
    assert said.code == 0
    assert "warning: exact: the chains have not converged (R̂ above 1.05: M0 1.30); raise" in said.err
    assert "warning: exact: 4 divergences of the sampler" in said.err
    with pytest.warns(TargetWarning, match="not converged"), pytest.warns(TargetWarning, match="4 divergences"):
        infer_exact(setting.config, setting.catalogue, draws=60)


def test_a_run_folder_gives_its_configuration(given, setting, files, cigars, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    content = {"configuration": setting.config.model_dump(mode="json"), "fingerprint": "0", "curves": {}}
    (run / "run.json").write_text(json.dumps(content))
    assert cigars("infer", "--method", "exact", run, files[1], "-o", tmp_path / "p.nc", "--draws", 60, "--device", "cpu").code == 0
    assert load_posterior(tmp_path / "p.nc").config == setting.config


# What is refused


def changed(catalogue, **leaves):
    return catalogue._replace(observations=catalogue.observations._replace(**leaves))


def test_objects_unlike_any_host_are_named_or_left_out(setting, given):
    mag = setting.catalogue.observations.mag.copy()
    mag[3] += np.array([6, -6, 6, -6, 6, -6], np.float32)
    odd, name = changed(setting.catalogue, mag=mag), str(setting.catalogue.id[3])
    with pytest.raises(CatalogueError, match=rf"within 6 σ of a host of the bank, got none for 1 of \d+: '{name}'; leave them out"):
        infer_exact(setting.config, odd, draws=60)
    number = len(odd.id)
    with pytest.warns(TargetWarning, match=rf"1 of {number} objects are left out, which count in the rates .* log A is 0\.0\d+ too high"):
        data = infer_exact(setting.config, odd, draws=60, drop_outside=True, exposure=2.0)
    assert name not in data["posterior"]["object"].values
    assert data["posterior"].attrs["dropped"] == 1
    assert data["posterior"].attrs["exposure"] == 2.0
    # the rates that N − 1 objects of a share (N − 1) / N of the exposure give are those of N in all of it
    assert given[2] == [pytest.approx(2.0 * (number - 1) / number)]
    far = setting.catalogue.observations.m + 15  # too faint to be detected anywhere: exp(-400) of a chance
    with pytest.raises(CatalogueError, match=rf"got none for {len(far)} of \d+: "):
        infer_exact(setting.config, changed(setting.catalogue, m=far), draws=60, drop_outside=True)


def test_the_rate_is_held_against_its_prior_at_the_exposure_of_all_objects(setting, given, monkeypatch):
    asked = []
    monkeypatch.setattr("cigars.exact.warn_of_exposure", lambda *words: asked.append(words))
    data = infer_exact(setting.config, setting.catalogue, draws=60, chains=2, exposure=2.0)
    ((theta, number, exposure, config),) = asked
    assert (number, exposure, config) == (len(setting.catalogue.id), 2.0, setting.config)
    np.testing.assert_array_equal(theta["M0"], data["posterior"]["M0"].values.reshape(-1))


def test_too_many_pairs_are_refused_with_their_cost(setting, given):
    line = r"at most 20 pairs of object and host, got about [\d,]+ \(\d+ objects with \d+ hosts each\): .* GB and .* s for one value"
    with pytest.raises(CatalogueError, match=line):
        infer_exact(setting.config, setting.catalogue, draws=60, max_pairs=20)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"supernovae.dust": "local"}, "got 'local'"),
        ({"observation.host_errors": "lsst", "observation.host_sigma": 0.01}, "expected observation.host_errors 'constant'"),
        ({f"prior.{name}": {"fixed": 0.3} for name in FREE}, "at least one free parameter"),
        (
            {"prior.region": {"names": ["Om0"], "centre": [0.3], "directions": [[1.0]], "limits": [[-0.1, 0.1]]}},
            "prior.region: expected none, whose edges chains do not see",
        ),
    ],
)
def test_configurations_that_are_not_covered_are_refused(setting, given, changes, message):
    with pytest.raises(ValueError, match=message):
        infer_exact(setting.config.updated(**changes), setting.catalogue, draws=60)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draws": 6}, "at least four draws a chain, got 6 of 2"),
        ({"chains": 0}, "at least four draws a chain"),
        ({"warmup": 0}, "warm-up of at least one step"),
        ({"target_accept": 1.0}, "target acceptance between 0 and 1, got 1"),
        ({"exposure": 0.0}, "exposure: expected a number above zero"),
        ({"exposure": math.nan}, "exposure: expected a number above zero"),
        ({"hidden": ["sn"]}, "expected supernova light, got --hide sn"),
    ],
)
def test_numbers_that_make_no_chain_are_refused(setting, options, message):
    with pytest.raises(ConfigError, match=message):
        infer_exact(setting.config, setting.catalogue, **options)


def test_objects_without_light_are_named(setting):
    m = setting.catalogue.observations.m.copy()
    m[2] = np.nan
    with pytest.raises(CatalogueError, match=rf"missing for 1 of \d+: '{setting.catalogue.id[2]}'"):
        infer_exact(setting.config, changed(setting.catalogue, m=m))


def test_the_command_refuses_the_same_in_one_line(refused, files, tmp_path):
    before = sorted(tmp_path.iterdir())
    said = refused("infer", "--method", "exact", *files, "--max-pairs", 20, "-o", tmp_path / "p.nc", "--device", "cpu")
    assert "expected at most 20 pairs" in said
    assert sorted(tmp_path.iterdir()) == before


def test_the_sampler_adapts_to_the_acceptance_that_is_asked_for(setting, monkeypatch):
    class Reached(Exception):
        pass

    def kernel(*_, target_accept_prob, **__):
        raise Reached(target_accept_prob)

    monkeypatch.setattr("simulators.exact.NUTS", kernel)
    for options, expected in (({}, "0.8"), ({"target_accept": 0.95}, "0.95")):
        with pytest.raises(Reached, match=f"^{expected}$"):
            infer_exact(setting.config, setting.catalogue, draws=60, **options)


def test_an_output_that_exists_is_kept(refused, files, tmp_path):
    (tmp_path / "p.nc").write_text("precious")
    assert "exists already" in refused("infer", "--method", "exact", *files, "-o", tmp_path / "p.nc")
    assert (tmp_path / "p.nc").read_text() == "precious"
