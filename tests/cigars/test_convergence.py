"""Chains that can be believed are told from others."""

import json

import arviz
import numpy as np

from cigars.convergence import Convergence, convergence


def test_good_chains_have_no_complaint():
    good = Convergence({"Om0": 1.01, "M0": 1.05}, {"Om0": 400.0, "M0": 321.4}, 0)
    assert good.caveats == []
    assert good.said == "R̂ at most 1.050, at least 321 effective draws, 0 divergences"


def test_bad_ones_are_named():
    bad = Convergence({"Om0": 1.2, "M0": 1.0, "beta": float("nan")}, {"Om0": 9.0, "M0": 300.0, "beta": 2.0}, 1)
    assert bad.apart == "R̂ above 1.05: Om0 1.20, beta nan"
    assert "1 divergence" in bad.said
    assert "1 divergences" not in bad.said


def test_a_bank_that_recognises_hosts_is_a_caveat():
    good, bad = {"Om0": 1.0}, {"Om0": 1.3}
    assert Convergence(good, {"Om0": 400.0}, 0, 250.0).caveats == []
    (said,) = Convergence(good, {"Om0": 400.0}, 0, 1.2).caveats
    assert "at most 1.2 likely hosts" in said
    assert len(Convergence(bad, {"Om0": 4.0}, 0, 1.2).caveats) == 2


def test_each_complaint_has_its_own_remedy():
    """More draws cure chains that have not met; they bring as many more divergences."""
    (apart,) = Convergence({"Om0": 1.3}, {"Om0": 4.0}, 0).caveats
    assert "not converged (R̂ above 1.05: Om0 1.30); raise --warmup and --draws" in apart
    (diverged,) = Convergence({"Om0": 1.0}, {"Om0": 400.0}, 4).caveats
    assert "4 divergences of the sampler" in diverged
    assert "give --target-accept 0.95, raise --warmup, as more --draws are no cure" in diverged
    assert "converged" not in diverged
    assert len(Convergence({"Om0": 1.3}, {"Om0": 4.0}, 4).caveats) == 2


def test_posteriors_of_networks_have_no_chains():
    data = arviz.from_dict(posterior={"Om0": np.zeros((1, 4))})
    assert convergence(data.posterior.attrs) is None
    found = Convergence({"Om0": 1.0}, {"Om0": 4.0}, 0)
    data.posterior.attrs.update(method="exact", r_hat=json.dumps(found.r_hat), n_eff=json.dumps(found.n_eff), divergences=0)
    data.posterior.attrs["hosts_per_object"] = found.hosts_per_object
    assert convergence(data.posterior.attrs) == found
