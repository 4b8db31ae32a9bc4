"""The Bayes factor by the exact likelihood is that of the likelihood integrated over a grid."""

import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.interpolate import RegularGridInterpolator
from scipy.special import logsumexp

from cigars.catalogue import Catalogue, write_catalogue
from cigars.catalogue_checks import TargetWarning
from cigars.config import Config, to_toml
from cigars.evidence import RESTORED_AT, TEMPERATURES, _counted, compare_exactly, exact_evidence
from cigars.exact import count_sample
from cigars.schema import FIDUCIAL, Globals, Observations
from inference.harmonic import Evidence, HeavyTail
from simulators.candidates import candidates
from simulators.counts import ALL_HOSTS_ERROR, expected_count
from simulators.exact import ExactPosterior, stacked
from simulators.likelihood import ln_likelihood
from simulators.staged import Staged
from simulators.survey import draw_surveys, prepare
from tests.simulators import banks

OBJECTS = 20
FREE = {"M0": {"uniform": [-20.0, -19.0]}, "sigma_int": {"uniform": [0.01, 0.2]}}
PRIOR = {f"prior.{name}": FREE.get(name, {"fixed": getattr(FIDUCIAL, name)}) for name in FIDUCIAL._fields}
NESTED = "prior.sigma_int={fixed=0.19}"


class Setting(NamedTuple):
    """Two free parameters, a bank of 80 hosts, a survey of it and where both are as files."""

    config: Config
    bank: object
    observations: Observations
    words: list


@pytest.fixture
def setting(key, tmp_path, monkeypatch):
    config = Config().updated(**PRIOR, **{"observation.host_sigma": 0.6, "size.expected_supernovae": OBJECTS, "size.capacity": 64})
    bank = banks.synthetic_bank(80)
    monkeypatch.setattr("simulators.hosts.load_bank", lambda config, **_: bank)
    survey = jax.device_get(draw_surveys(key, jnp.arange(1), prepare(config, bank), config, FIDUCIAL))
    observations = Observations(*(leaf[survey.observed] for leaf in survey.observations))
    (tmp_path / "wide.toml").write_text(to_toml(config))
    ids = np.array([f"sn-{i:02d}" for i in range(len(observations.m))])
    write_catalogue(tmp_path / "mock.fits", Catalogue(ids, observations), tuple("ugrizy"), {})
    words = ["compare", tmp_path / "wide.toml", tmp_path / "mock.fits", "--against", NESTED, "-o", tmp_path / "ratios", "--device", "cpu"]
    return Setting(config, bank, observations, words)


@pytest.mark.slow  # two samplers compile for a minute each
def test_the_bayes_factor_is_that_of_a_grid(setting, cigars):
    config, observations = setting.config, setting.observations
    simulator = prepare(config, setting.bank)
    matches, sample = candidates(observations, simulator, config), count_sample(len(observations.m))
    m0 = np.linspace(-20, -19, 101)
    sigma = np.linspace(0.01, 0.2, 21)
    nodes = stacked(np.stack(np.meshgrid(m0, sigma, indexing="ij"), -1), config)
    at = jax.jit(lambda every: jax.lax.map(lambda one: ln_likelihood(one, matches, simulator, config, 1.0, sample), every))
    ln_l = np.asarray(at(nodes), float).reshape(len(m0), len(sigma))
    edges = np.where(np.arange(len(sigma)) % (len(sigma) - 1) == 0, 0.5, 1.0) / (len(sigma) - 1)  # the trapezoidal rule
    coarse = (m0[::25], sigma[::10])  # what all hosts expect, in place of a sample of them, over the grid
    change = [[_counted(_at(M0=m, sigma_int=s), simulator, config, 1.0, sample)[0] for s in coarse[1]] for m in coarse[0]]
    ln_l += RegularGridInterpolator(coarse, np.array(change))(np.stack(np.meshgrid(m0, sigma, indexing="ij"), -1))
    at_nested = np.array([np.interp(0.19, sigma, row) for row in ln_l])
    exact = logsumexp(at_nested) - logsumexp(ln_l, b=edges[None])

    said = cigars(*setting.words, "--method", "exact", "--draws", 800, "--warmup", 200, "--seed", 1)
    assert said.code == 0, said
    found = json.loads((setting.words[6] / "comparison.json").read_text())
    wide, nested = found["rows"]
    assert abs(nested["ln_k"] - exact) < 5 * nested["error"] + 0.02  # and 0.02 for the grid
    assert nested["error"] < 0.1
    assert abs(exact) > 0.3
    assert abs(-nested["ln_k"] - exact) > 5 * nested["error"] + 0.02
    assert wide["probability"] == pytest.approx(1 / (1 + np.exp(nested["ln_k"])))
    assert found["method"] == "exact"
    assert found["evidence"][NESTED]["shape"] < 0.5
    assert f"{nested['ln_k']:+.2f}" in said.out


def _at(**values):
    """Twice the same Θ."""
    return Globals(*(jnp.full(2, v, jnp.float32) for v in FIDUCIAL._replace(**values)))


FEW = Observations(*(np.zeros(OBJECTS, np.float32) for _ in Observations._fields))


class Chains:
    """A sampler whose draws of M_0 and σ_0 are normal, that says what R̂ and divergences it is told to."""

    def __init__(self, monkeypatch):
        self.config, self.rng = Config().updated(**PRIOR), np.random.default_rng(1)
        self.r_hat, self.divergences, self.pairs, self.counted = 1.0, 0, (9, 9), (0.0, 0.0)
        monkeypatch.setattr("simulators.staged.sample_staged", self.sampled)
        monkeypatch.setattr("simulators.candidates.candidates", lambda *_, **__: jnp.float32(1))  # stands for all pairs
        monkeypatch.setattr("cigars.evidence._counted", lambda *_: self.counted)

    def sampled(self, *_, chains, draws, **__):
        theta = np.stack([self.rng.normal(-19.5, 0.02, (chains, draws)), self.rng.normal(0.1, 0.01, (chains, draws))], -1)
        diagnostics = np.array([self.r_hat, 1.0]), np.full(2, 300.0), self.divergences
        found = ExactPosterior(theta, tuple(self.config.marginals), *diagnostics, np.empty((0, 0)))
        return Staged(found, jnp.float32(0), self.pairs, 0.0, 1.0)  # 0 stands for the pairs that are kept


def test_chains_in_different_modes_give_no_evidence(monkeypatch):
    """The mean over draws of one mode or the other would have a small error and a wrong value."""
    chains = Chains(monkeypatch)
    monkeypatch.setattr("simulators.likelihood.ln_likelihood", lambda theta, *_: -0.5 * ((theta.M0 + 19.5) / 0.02) ** 2)
    chains.r_hat = 1.4
    with pytest.raises(ValueError, match=r"expected chains that agree, got R̂ above 1\.05: M0 1\.40; raise warmup and draws"):
        exact_evidence(chains.config, FEW, 1.0)
    chains.r_hat = float("nan")
    with pytest.raises(ValueError, match="M0 nan"):
        exact_evidence(chains.config, FEW, 1.0)
    with pytest.raises(ValueError, match="at least two chains"):
        exact_evidence(chains.config, FEW, 1.0, chains=1)
    chains.r_hat, chains.divergences = 1.01, 3
    with pytest.warns(TargetWarning, match="evidence: 3 divergences of the sampler"):
        assert np.isfinite(exact_evidence(chains.config, FEW, 1.0).ln_z)


def test_models_that_show_other_hosts_expect_the_same_number(setting):
    """At one Θ. By the samples of each, ln Z of a narrower prior would be another by up to a nat or so."""
    narrow = setting.config.updated(**{"prior.Om0": {"uniform": [0.29, 0.31]}})
    bank = banks.synthetic_bank(3000)
    faint = bank._replace(magnitude=bank.magnitude + 2)
    gained = []
    for config in (setting.config.updated(**{"prior.Om0": {"uniform": [0.0, 1.0]}}), narrow):
        simulator, sample = prepare(config, faint), 1 << 10
        theta = _at()
        exposure = 100 / OBJECTS
        ln_z = -exposure * float(expected_count(Globals(*(v[0] for v in theta)), simulator, config, sample))
        gain, error = _counted(theta, simulator, config, exposure, sample)
        gained.append((ln_z, ln_z + gain))
        assert error == pytest.approx(100 * ALL_HOSTS_ERROR, rel=0.05)
    assert abs(gained[0][1] - gained[1][1]) < 5 * 2**0.5 * error
    assert abs(gained[0][0] - gained[1][0]) > 5 * 2**0.5 * error


def test_what_pruning_took_is_put_back(monkeypatch):
    """All pairs make L larger by exp(.3 + 5 (M_0 + 19.5)), and so the evidence by .3 and half the variance .01 of the exponent."""
    chains = Chains(monkeypatch)

    def ln_likelihood(theta, matches, *_):
        lost = 0.3 + 5 * (theta.M0 + 19.5)
        return -0.5 * (((theta.M0 + 19.5) / 0.02) ** 2 + ((theta.sigma_int - 0.1) / 0.01) ** 2) + matches * lost

    monkeypatch.setattr("simulators.likelihood.ln_likelihood", ln_likelihood)
    without = exact_evidence(chains.config, FEW, 1.0)
    chains.pairs = 9, 5
    chains.rng = np.random.default_rng(1)
    found = exact_evidence(chains.config, FEW, 1.0)
    assert found.ln_z - without.ln_z == pytest.approx(0.305, abs=5 * 0.1 / RESTORED_AT**0.5)
    assert found.error == pytest.approx(np.hypot(without.error, 0.1 * np.exp(0.3) / RESTORED_AT**0.5), rel=0.4)
    chains.pairs, chains.counted = (9, 9), (0.7, 0.2)
    chains.rng = np.random.default_rng(1)
    recounted = exact_evidence(chains.config, FEW, 1.0)
    assert recounted.ln_z - without.ln_z == pytest.approx(0.7)
    assert recounted.error == pytest.approx(np.hypot(without.error, 0.2))
    analytic = np.log(2 * np.pi * 0.02 * 0.01 / (1.0 * 0.19))  # the priors are 1 and .19 wide
    assert abs(without.ln_z - analytic) < 5 * without.error + 0.02


def test_the_exact_way_refuses_what_it_cannot_compare(setting, refused):
    words = setting.words
    assert "expected --method exact with --draws, got networks" in refused(*words, "--draws", 500)
    assert "expected --method networks with --surveys, --resume, got exact" in refused(
        *words, "--method", "exact", "--surveys", 100, "--resume"
    )
    exact = [*words, "--method", "exact"]
    assert "expected the observation of the first model" in refused(*exact, "--against", "observation.host_sigma=0.5")
    assert "'independent' or 'host', got 'local'" in refused(*exact, "--against", "supernovae.dust=local")
    assert "expected a model that differs" in refused(*exact, "--against", "seed=4")
    everything = ";".join(f"prior.{name}={{fixed={getattr(FIDUCIAL, name)}}}" for name in FREE)
    assert "at least one free parameter" in refused(*exact, "--against", everything)
    mag = np.array(setting.observations.mag)
    mag[3, 0] += 30.0
    far = setting.observations._replace(mag=mag)
    ids = np.array([f"sn-{i:02d}" for i in range(len(far.m))])
    write_catalogue(words[2], Catalogue(ids, far), tuple("ugrizy"), {}, overwrite=True)
    said = refused(*exact)
    assert "within 6 σ of a host of the bank, got none for 1 of" in said
    assert "--drop-outside" not in said  # which this command has not
    assert not words[6].exists()


def test_a_target_with_heavy_tails_is_shrunk(monkeypatch):
    chains, tried = Chains(monkeypatch), []
    monkeypatch.setattr("simulators.likelihood.ln_likelihood", lambda theta, *_: -0.5 * ((theta.M0 + 19.5) / 0.02) ** 2)

    def harmonic_mean(*_, temperature, seed):
        tried.append(temperature)
        if temperature > heavy:
            raise HeavyTail("heavy")
        return Evidence(1.0, 0.1, 0.2, 50.0)

    monkeypatch.setattr("inference.harmonic.harmonic_mean", harmonic_mean)
    heavy = 0.6
    assert exact_evidence(chains.config, FEW, 1.0).ln_z == 1.0
    assert tried == [0.7, 0.5]
    heavy = 0.1
    with pytest.raises(HeavyTail):
        exact_evidence(chains.config, FEW, 1.0)
    assert tried[2:] == list(TEMPERATURES)


def test_a_model_without_an_evidence_does_not_take_the_others_with_it(setting, monkeypatch):
    """An hour of chains would be lost with it."""
    models = {"wide": setting.config}
    models |= {str(at): setting.config.updated(**{"prior.sigma_int": {"fixed": at}}) for at in (0.1, 0.15)}
    catalogue = Catalogue(np.array([f"sn-{i}" for i in range(len(setting.observations.m))]), setting.observations)

    def evidence(config, *_, **__):
        value = config.fixed.get("sigma_int", 0.0)
        if value in wrong:
            raise ValueError("evidence: expected chains that agree, got others")
        return Evidence(10 * value, 0.3, 0.2, 50.0)

    monkeypatch.setattr("cigars.evidence.exact_evidence", evidence)
    wrong = {0.1}
    with pytest.warns(TargetWarning, match="0.1: evidence: expected chains that agree, got others; this model is left out"):
        found = compare_exactly(models, catalogue)
    assert [row.model for row in found.rows] == ["wide", "0.15"]
    assert found.rows[1].ln_k == pytest.approx(1.5)
    assert found.rows[1].error == pytest.approx(0.3 * 2**0.5)
    wrong = {0.1, 0.15}
    with pytest.warns(TargetWarning), pytest.raises(ValueError, match="the evidence of another model than the first"):
        compare_exactly(models, catalogue)
    wrong = {0.0}
    with pytest.raises(ValueError, match="chains that agree"):
        compare_exactly(models, catalogue)
