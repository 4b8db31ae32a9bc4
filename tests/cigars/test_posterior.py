"""What can be asked of a posterior, against its own draws, exact products of Gaussians and brute-force conditioning."""

import json
import shutil
import tracemalloc

import arviz
import numpy as np
import pytest
import torch
import xarray
from scipy.stats import multivariate_normal

from cigars.catalogue import select
from cigars.config import Prior
from cigars.files import FileError
from cigars.importance import Gaussian
from cigars.infer import infer
from cigars.posterior import Posterior, load_posterior
from cigars.runs import METADATA
from cigars.schema import LOCALS
from cigars.targets import as_survey
from cigars.truncation import Rounds, truncated, write_rounds
from inference.model import load_run
from inference.posterior import GlobalPosterior

from .synthetic import synthetic


@pytest.fixture(scope="module")
def asked(posterior):
    return load_posterior(posterior)


def test_marginals_and_summary_are_those_of_the_draws(asked, posterior):
    om0 = posterior["posterior"]["Om0"].values[0]
    np.testing.assert_array_equal(asked["Om0"], om0)
    np.testing.assert_allclose(asked.marginal("Ode0", "Om0")[:, 1], om0)
    row = {r["name"]: r for r in asked.summary()}["Om0"]
    assert (row["mean"], row["sd"], row["q50"]) == pytest.approx((om0.mean(), om0.std(ddof=1), np.median(om0)), rel=1e-5)
    assert set(asked.summary()["name"]) == set(asked.names)
    assert "40 draws of 13 parameters" in repr(asked)
    with pytest.raises(KeyError, match="got H0"):
        asked.marginal("H0")
    with pytest.raises(KeyError, match="got 'H0'"):
        asked["H0"]


def test_parameters_are_also_those_that_are_fixed_and_that_a_flat_cosmology_implies():
    made = synthetic(draws=20)
    group = made.to_arviz()["posterior"].drop_vars("Ode0")
    flat = {"supernovae.cosmology": "flat-w0waCDM", "prior.w0": {"fixed": -0.9}, "prior.wa": {"fixed": 0.0}}
    for changes, check in (
        (flat, lambda p: np.testing.assert_allclose(p["Om0"] + p["Ode0"], 1.0)),
        (flat, lambda p: np.testing.assert_array_equal(p["w0"], np.full(20, -0.9))),
        ({"prior.Ode0": {"fixed": 0.6}}, lambda p: np.testing.assert_array_equal(p["Ode0"], np.full(20, 0.6))),
    ):
        config = made.config.updated(**changes).model_dump_json()
        check(Posterior(arviz.InferenceData(posterior=group.assign_attrs(config=config))).parameters())


def test_draws_of_chains_and_of_weights_are_worth_fewer():
    made = synthetic(draws=200)
    group = made.to_arviz()["posterior"]
    assert (made.draws, made.chains, made.effective_draws) == (200, 1, 200)
    for attributes, worth in (
        ({"n_eff": json.dumps({"Om0": 50.0, "M0": 80.0})}, 50),
        ({"n_eff": json.dumps({"Om0": 900.0})}, 200),
        ({"effective_draws": 60.0}, 60),
        ({"effective_draws": 60.0, "n_eff": json.dumps({"Om0": 50.0})}, 50),
    ):
        assert Posterior(arviz.InferenceData(posterior=group.assign_attrs(attributes))).effective_draws == pytest.approx(worth)


def test_a_host_comes_with_the_parameters_it_goes_with(asked, posterior, catalogue):
    name = catalogue.id[4]
    host = asked.host(name)
    np.testing.assert_array_equal(host["z"], posterior["posterior"]["z"].values[0, :, 4])
    np.testing.assert_array_equal(host["Om0"], asked["Om0"])
    assert set(host.data_vars) == set(LOCALS) | set(asked.names)
    with pytest.raises(KeyError, match=f"got 'X{name}'; the nearest is"):
        asked.host(f"X{name}")


def test_fewer_draws_are_some_of_them_and_more_are_new(asked):
    few = asked.sample(10, seed=1)
    assert few.draws == 10
    rows = [np.flatnonzero(asked["Om0"] == v)[0] for v in few["Om0"]]
    assert len(set(rows)) == 10
    np.testing.assert_array_equal(few["z"], asked["z"][rows])
    more = asked.sample(90, seed=1)
    assert more.draws == 90
    assert not np.isin(more["Om0"], asked["Om0"]).any()
    assert more.ids == asked.ids
    with pytest.raises(ValueError, match="at least one draw"):
        asked.sample(0)


def test_a_few_draws_of_a_large_file_are_read_alone(tmp_path):
    """Also of several chains, one after another; the whole is 13 MB."""
    post = synthetic(2000, objects=200)
    group = post.to_arviz()["posterior"]
    for chains in (1, 4):
        data = arviz.InferenceData(observed_data=post.to_arviz()["observed_data"], posterior=in_chains(group, chains))
        asked = load_posterior(Posterior(data).save(tmp_path / f"{chains}.nc"))
        tracemalloc.start()
        few = asked.sample(10, seed=1)
        values, peak = few["z"], tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        rows = [np.flatnonzero(post["Om0"] == v)[0] for v in few["Om0"]]
        assert len(set(rows)) == few.draws == 10
        np.testing.assert_array_equal(values, post["z"][rows])
        assert few.chains == 1
        assert peak < 5e6


def in_chains(group, number):
    """The same draws as those of chains, one after another."""
    index = np.arange(group.sizes["draw"]).reshape(number, -1)
    parts = [group.isel(draw=rows).assign_coords(draw=np.arange(len(rows)), chain=[k]) for k, rows in enumerate(index)]
    return xarray.concat(parts, "chain").assign_attrs(group.attrs)


def test_density_is_that_of_the_networks(asked, workplace):
    """Its mean over its own draws is minus the entropy, below that of the Gaussian with their covariance; outside the prior it is -inf."""
    draws = asked.sample(3000)
    ln_q = asked.log_prob(draws.marginal())
    scale = draws.marginal().std(0)
    gauss = 0.5 * np.linalg.slogdet(2 * np.pi * np.e * np.corrcoef(draws.marginal().T))[1] + np.log(scale).sum()
    assert gauss - 8 < -ln_q.mean() < gauss + 0.3
    by_name = asked.log_prob({n: draws[n][:5] for n in asked.names})
    np.testing.assert_allclose(by_name, ln_q[:5], rtol=1e-4)
    outside = {n: float(draws[n][0]) for n in asked.names} | {"Om0": 7.0}
    assert np.isneginf(asked.log_prob(outside)).all()
    with pytest.raises(ValueError, match="expected values of Om0"):
        asked.log_prob({"Om0": 0.3})
    with pytest.raises(ValueError, match="expected the 13 parameters"):
        asked.log_prob([0.3, 0.7])


def test_density_is_that_of_the_catalogue_at_its_exposure(workplace, catalogue):
    """Inferred from its objects by id, of whatever exposure; at the default one the density is another."""
    asked = Posterior(infer(workplace.run, catalogue, draws=20, exposure=1.3))
    networks, by_id = GlobalPosterior(load_run(workplace.run)), select(catalogue, np.argsort(catalogue.id)).observations
    theta = torch.as_tensor(asked.marginal(), dtype=torch.float32)[:, None]
    same, other = (networks.log_prob(theta, as_survey(by_id, exposure))[:, 0].numpy() for exposure in (1.3, 1.0))
    np.testing.assert_allclose(asked.log_prob(asked.marginal()), same, rtol=1e-5)
    assert np.abs(other - same).max() > 0.01


class Correlated(Posterior):
    """A posterior whose density is a known Gaussian of η, Θ made standard normal under its prior; the networks only draw the objects."""

    def _law(self):
        size = len(self.names)
        covariance = 0.04 * (0.3 * np.eye(size) + 0.7 * np.ones((size, size)))
        return np.linspace(-0.2, 0.2, size), covariance

    def _fresh(self, draws, seed):
        mean, covariance = self._law()
        eta = np.random.default_rng(seed).multivariate_normal(mean, covariance, draws)
        return self._trained.prior.transform(torch.as_tensor(eta, dtype=torch.float32)).numpy()

    def log_prob(self, theta):
        mean, covariance = self._law()
        theta = torch.as_tensor(theta, dtype=torch.float32)
        eta = self._trained.prior.transform.inv(theta)
        slope = self._trained.prior.transform.log_abs_det_jacobian(eta, theta).sum(-1)
        return multivariate_normal(mean, covariance).logpdf(eta.double().numpy()) - slope.double().numpy()


def test_conditioning_gives_the_conditional_gaussian(posterior):
    """In mean and in width; the proposal alone, a Student-t of five degrees of freedom, is √(5/3) times too wide."""
    asked = Correlated(posterior)
    transform, (mean, covariance) = asked._trained.prior.transform, asked._law()
    eta = torch.tensor(mean, dtype=torch.float32)
    eta[:2] = torch.tensor([0.15, -0.3])
    value = transform(eta)
    at = asked.conditional(Om0=float(value[0]), Ode0=float(value[1]), draws=4000)
    np.testing.assert_allclose(at["Om0"], float(value[0]), rtol=1e-5)
    found = transform.inv(torch.as_tensor(at.marginal(), dtype=torch.float32)).double().numpy()[:, 2:]
    centre, sd = _given(mean, covariance, np.array([0.15, -0.3]))
    assert 3000 < at.attributes["effective_draws"] <= 4000
    assert np.all(np.abs(found.mean(0) - centre) < 5 * sd / 4000**0.5)
    assert np.all(np.abs(found.mean(0) - mean[2:]) > 5 * sd / 4000**0.5)  # as without conditioning
    assert np.all(np.abs(found.std(0) / sd - 1) < 5 / 8000**0.5)  # 5.6 %
    assert at["z"].shape == (4000, len(asked.ids))


class Remote(Correlated):
    """As that, with .003 of its mass 6 sd away in the third parameter, whatever the first two are."""

    def _fresh(self, draws, seed):
        eta = self._trained.prior.transform.inv(torch.as_tensor(super()._fresh(draws, seed))).numpy()
        eta[np.random.default_rng(seed).uniform(size=draws) < 0.003, 2] += self._shift()
        return self._trained.prior.transform(torch.as_tensor(eta)).numpy()

    def _shift(self):
        return 6 * _given(*self._law(), np.zeros(2))[1][0]

    def log_prob(self, theta):
        eta = self._trained.prior.transform.inv(torch.as_tensor(theta, dtype=torch.float32)).double().numpy()
        mean, covariance = self._law()
        moved = mean + np.eye(len(mean))[2] * self._shift()
        ln_ratio = multivariate_normal(moved, covariance).logpdf(eta) - multivariate_normal(mean, covariance).logpdf(eta)
        return super().log_prob(theta) + np.logaddexp(np.log(0.997), np.log(0.003) + ln_ratio)


def _given(mean, covariance, values):
    """Mean and sd of the others of a Gaussian at values of the first two."""
    gain = np.linalg.solve(covariance[:2, :2], covariance[:2, 2:]).T
    return mean[2:] + gain @ (values - mean[:2]), np.sqrt(np.diag(covariance[2:, 2:] - gain @ covariance[:2, 2:]))


def test_no_single_draw_decides_a_width(posterior):
    """Of what is that far out hardly any is proposed, and one that was could have a tenth of all weight: widths were doubled."""
    asked = Remote(posterior)
    transform, (mean, covariance) = asked._trained.prior.transform, asked._law()
    value = transform(torch.tensor(mean, dtype=torch.float32))
    exact = _given(mean, covariance, mean[:2])[1][0] * (1 + 0.003 * 0.997 * 6**2) ** 0.5
    for seed in (5, 6, 7):
        at = asked.conditional(4000, seed, Om0=float(value[0]), Ode0=float(value[1]))
        sd = float(transform.inv(torch.as_tensor(at.marginal(), dtype=torch.float32))[:, 2].double().std())
        assert abs(sd / exact - 1) < 0.052 + 5 / 8000**0.5, seed  # all of the remote part, and the scatter of 4,000 draws


def test_conditioning_on_what_cannot_be_is_refused(asked):
    with pytest.raises(ValueError, match="within the prior"):
        asked.conditional(Om0=7.0)
    with pytest.raises(ValueError, match="expected values of Om0"):
        asked.conditional(H0=70.0)


def test_products_with_a_gaussian_are_exact_for_gaussians_and_move_the_redshifts():
    post = synthetic(Om0=(0.3, 0.02), Ode0=(0.7, 0.05), correlation=0.9)
    told = post.combine(Gaussian(("Om0",), np.array([0.32]), np.array([[0.02**2]])))
    effective = told.attributes["effective_draws"]
    error = 0.02 / 2**0.5 / effective**0.5
    assert abs(told["Om0"].mean() - 0.31) < 5 * error < abs(post["Om0"].mean() - 0.31)
    assert told["Om0"].std() == pytest.approx(0.02 / 2**0.5, rel=5 / effective**0.5)
    assert abs((told["z"].mean() - post["z"].mean()) - 0.01 * 0.9 * 0.5) < 5 * 0.01 * (2 / effective) ** 0.5  # through the correlation
    assert told.attributes["weighted_by"] == "gaussian on Om0"
    further = told.reweight({"Om0": {"normal": [0.3, 0.3], "within": [0, 0.8]}})
    assert further.attributes["weighted_by"] == "gaussian on Om0; prior Om0 ~ TN(0.3, 0.3; 0, 0.8)"
    with pytest.raises(ValueError, match=r"at least 50 effective draws, got .* hardly overlap"):
        post.combine(Gaussian(("Om0",), np.array([0.6]), np.array([[0.01**2]])))
    with pytest.raises(ValueError, match="got H0"):
        post.combine(Gaussian(("H0",), np.array([70.0]), np.array([[1.0]])))


def test_constraints_one_after_the_other_are_refused_as_both_at_once():
    """Draws that the first has chosen repeat: counted as new, those after the second were hundreds."""
    post, told = synthetic(), {0.34: 0.003, 0.345: 0.001}
    first, second = (Gaussian(("Om0",), np.array([mean]), np.array([[sd**2]])) for mean, sd in told.items())
    once = post.combine(first)
    different = len(np.unique(once["Om0"]))
    assert 50 < once.attributes["effective_draws"] <= different < 0.1 * once.draws
    for ask in (lambda: post.combine(first, second), lambda: once.combine(second)):
        with pytest.raises(ValueError, match=r"at least 50 effective draws, got 2\d\.\d of 4,000"):
            ask()
    with pytest.raises(ValueError, match=r"give all constraints to one combine, of the posterior before \(gaussian on Om0\)"):
        once.combine(second)
    weak = once.combine(Gaussian(("M0",), np.array([-19.5]), np.array([[0.5**2]])))
    assert weak.attributes["effective_draws"] == pytest.approx(once.attributes["effective_draws"], rel=0.1)
    assert once.sample(20).attributes["effective_draws"] == 20


def test_a_run_of_another_version_is_as_good_as_gone(posterior, workplace, tmp_path, monkeypatch):
    """What needs no network is still answered, from the draws; what does says why not."""
    run = shutil.copytree(workplace.run, tmp_path / "run")
    meta = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(meta | {"format": 5}))
    weak, asked = Gaussian(("Om0",), np.array([0.3]), np.array([[1.0]])), Posterior(posterior.copy())
    asked._group.attrs["run"] = str(run)
    monkeypatch.setattr("cigars.posterior.FEWEST", 20.0)  # of 40 draws
    assert asked.combine(weak).draws
    with pytest.raises(FileError, match="got 5; train again"):
        asked.log_prob(asked.marginal())
    with pytest.raises(ValueError, match="got 5; train again"):  # that was named
        load_posterior(posterior, run).combine(weak)


def follow(post, n_eff):
    """The same draws as those of chains that follow one another."""
    post.to_arviz().posterior.attrs.update(method="exact", n_eff=json.dumps(dict.fromkeys(post.names, n_eff) | {"M0": 3 * n_eff}))
    return post


def test_draws_of_chains_count_what_the_chains_are_worth():
    weak = Gaussian(("Om0",), np.array([0.3]), np.array([[0.1**2]]))
    alone, chained = synthetic().combine(weak), follow(synthetic(), 400.0).combine(weak)
    assert chained.attributes["effective_draws"] == pytest.approx(0.1 * alone.attributes["effective_draws"])
    assert chained.combine(weak).attributes["effective_draws"] == pytest.approx(chained.attributes["effective_draws"], rel=0.1)
    better = follow(synthetic(), 9000.0).combine(weak)  # antithetic draws count once
    assert better.attributes["effective_draws"] == alone.attributes["effective_draws"]
    for poor, said in ((15.0, r"got 1\d\.\d of 4,000"), (np.nan, "got nan")):
        with pytest.raises(ValueError, match=f"at least 50 effective draws, {said}.* count"):
            follow(synthetic(), poor).reweight({"Om0": {"normal": [0.3, 0.1], "within": [0, 0.8]}})


def test_another_prior_gives_the_product_of_densities():
    post = synthetic(Om0=(0.3, 0.05))
    other = post.reweight({"Om0": {"normal": [0.3, 0.05], "within": [0.0, 1.0]}})
    assert other["Om0"].std() == pytest.approx(0.05 / 2**0.5, rel=5 / other.attributes["effective_draws"] ** 0.5)
    assert abs(post["Om0"].std() / (0.05 / 2**0.5) - 1) > 5 / other.attributes["effective_draws"] ** 0.5


def test_a_prior_wider_than_the_draws_reach_is_refused_although_many_count():
    """Θ of a rate known a little by the data, in a narrow normal prior: of a wide one the draws have no tail."""
    old, data = (-12.15, 0.1), (-11.4, 0.5)
    weight = np.array([old[1], data[1]]) ** -2.0
    post = synthetic(20_000, objects=1, dtd_logA=(float(weight @ [old[0], data[0]] / weight.sum()), float(weight.sum() ** -0.5)))
    assert post.config.marginals["dtd_logA"][:3] == ("normal", *old)
    with pytest.raises(ValueError, match=r"prior of dtd_logA: expected one that the draws reach, got weights with a Pareto shape of \d"):
        post.reweight({"dtd_logA": {"normal": [-12.15, 0.5]}})
    little = post.reweight({"dtd_logA": {"normal": [-12.15, 0.11]}})
    exact = (0.11**-2 + data[1] ** -2) ** -0.5
    assert little["dtd_logA"].std() == pytest.approx(exact, rel=5 / little.attributes["effective_draws"] ** 0.5)


def test_a_second_prior_takes_the_place_of_the_first(tmp_path):
    """Not its product with it, also after the posterior was written."""
    post, told = synthetic(Om0=(0.3, 0.05)), {"normal": [0.3, 0.05], "within": [0.0, 0.8]}
    once = post.reweight({"Om0": told})
    twice = load_posterior(once.save(tmp_path / "once.nc")).reweight({"Om0": told})
    assert twice.attributes["effective_draws"] == pytest.approx(once.attributes["effective_draws"])  # nothing is weighted
    assert twice["Om0"].std() == pytest.approx(once["Om0"].std(), rel=1e-6)
    assert twice.priors["Om0"] == Prior.model_validate(told).marginal
    assert twice.priors["M0"] == post.config.marginals["M0"]
    back = once.reweight({"Om0": {"uniform": [0.0, 0.8]}})
    assert back["Om0"].std() == pytest.approx(post["Om0"].std(), rel=5 / back.attributes["effective_draws"] ** 0.5)
    assert abs(once["Om0"].std() / post["Om0"].std() - 1) > 0.2


def test_a_prior_that_needs_draws_there_are_not_is_refused(tmp_path):
    """Of a run with rounds for a target it is the prior before them that counts, where their record is at hand."""
    post = synthetic()
    with pytest.raises(ValueError, match=r"prior of mass_step_loc: expected one within \[9, 11\]"):
        post.reweight({"mass_step_loc": {"uniform": [7.0, 13.0]}})
    narrow = post.reweight({"Om0": {"uniform": [0.28, 0.32]}})
    with pytest.raises(ValueError, match=r"prior of Om0: expected one within \[0.28, 0.32\]"):
        narrow.reweight({"Om0": {"uniform": [0.0, 0.8]}})
    with pytest.raises(ValueError, match=r"prior of Om0: expected one within \[0, 0.8\]"):
        post.reweight({"Om0": {"normal": [0.3, 0.05]}}).reweight({"Om0": {"normal": [0.3, 0.4]}})
    cut = truncated(post.config, {"Om0": (0.2, 0.4)})
    (tmp_path / METADATA).write_text(json.dumps({"configuration": cut.model_dump(mode="json"), "fingerprint": "f", "curves": {}}))
    priors = {name: getattr(post.config.prior, name) for name in post.names}
    write_rounds(tmp_path, Rounds(target="t", objects=3, rounds=1, fingerprint="f", configured=priors, history=()))
    data, told = post.to_arviz(), {"Om0": {"normal": [0.3, 0.05], "within": [0, 0.8]}}
    data.posterior.attrs.update({"config": cut.model_dump_json(), "truncated_for": "t", "weighted_by": "nothing"})
    with pytest.raises(ValueError, match=r"prior of Om0: expected one within \[0.2, 0.4\]"):
        Posterior(data).reweight(told)
    before = Posterior(data, tmp_path).reweight(told)
    assert before["Om0"].std() == pytest.approx(
        post["Om0"].std() / (1 + 0.4**2) ** 0.5, rel=5 / before.attributes["effective_draws"] ** 0.5
    )


def test_weights_that_are_no_numbers_are_refused():
    post = synthetic(100)
    with pytest.raises(ValueError, match="at least 50 effective draws, got nan"):
        post._weighted(post.marginal(), np.where(np.arange(100) < 5, np.nan, 0.0), "prior", 100, 0)


def test_with_its_run_a_posterior_is_weighted_from_many_more_draws(asked):
    """Forty stored draws would not do, and forty are as many as can count after."""
    middle, sd = float(np.median(asked["Om0"])), 0.1 * float(asked["Om0"].std())
    told = asked.combine(Gaussian(("Om0",), np.array([middle]), np.array([[sd**2]])))
    assert told.draws == asked.draws
    assert told.attributes["weighted_from"] == "20,000 new draws"
    assert told.attributes["effective_draws"] == pytest.approx(asked.draws, rel=0.1)
    assert told["Om0"].std() == pytest.approx(sd, rel=0.6)  # of 40 draws


def test_without_its_run_it_says_what_is_missing():
    """And what it does with what there is."""
    weak = Gaussian(("Om0",), np.array([0.3]), np.array([[1.0]]))
    assert synthetic(200).combine(weak).attributes["weighted_from"] == "200 stored draws"
    with pytest.raises(FileError, match="run folder nowhere: expected the folder that made this posterior"):
        synthetic(10).log_prob(np.zeros((1, 13)))


def test_exports_hold_the_draws(asked, posterior, tmp_path):
    assert asked.to_arviz() is posterior
    chains = asked.to_getdist()
    assert [p.name for p in chains.paramNames.names] == list(asked.names)
    assert chains.mean("Om0") == pytest.approx(asked["Om0"].mean(), rel=1e-5)
    assert chains.ranges.getLower("Om0") == pytest.approx(asked.config.marginals["Om0"].low)
    path = asked.sample(8).save(tmp_path / "p.nc")
    again = load_posterior(path)
    assert again.draws == 8
    assert isinstance(arviz.from_netcdf(str(path)), arviz.InferenceData)
    np.testing.assert_array_equal(again["z"], asked.sample(8)["z"])
    assert again.host(again.ids[0])["z"].shape == (8,)


def test_the_run_may_have_moved(workplace, posterior, tmp_path):
    moved = load_posterior(posterior, run=tmp_path)
    with pytest.raises((FileError, ValueError), match="expected a finished training"):
        moved.log_prob(moved.marginal())
    assert np.isfinite(load_posterior(posterior, run=workplace.run).log_prob(moved.marginal())).all()


def test_a_weighted_posterior_does_not_pass_for_the_networks(asked):
    """More draws, conditioning and densities would silently be those before the weights."""
    told = asked.combine(Gaussian(("Om0",), np.array([asked["Om0"].mean()]), np.array([[0.1**2]])))
    for ask in (lambda: told.sample(100), lambda: told.conditional(Om0=0.3), lambda: told.log_prob(told.marginal())):
        with pytest.raises(ValueError, match=r"got one weighted since \(gaussian on Om0\)"):
            ask()
    assert told.sample(5).draws == 5
