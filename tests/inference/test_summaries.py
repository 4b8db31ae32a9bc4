"""Physics moments against the independent prototype, and their invariances."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cigars.schema import Observations
from inference.batches import Packed, select
from inference.summaries import BLOCK, LocalRegressor, Moments, in_blocks

from .conftest import observations

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference"


def packed(o: Observations, lengths: list[int]) -> Packed:
    return Packed(o, None, torch.empty(len(lengths), 0), torch.tensor(lengths), torch.tensor(lengths), torch.ones(len(lengths)))


@pytest.fixture
def moments(distance):
    torch.manual_seed(0)
    o = observations(400)
    targets = torch.tensor([0.45, 10.6, -0.2, 3.0]) + torch.randn(400, 4) * torch.tensor([0.15, 0.7, 0.35, 3.0])
    return Moments(LocalRegressor(6).fit_scales(o, targets), distance)


def test_order_of_objects_does_not_matter(moments):
    o = observations(300, seed=1)
    shuffle = torch.randperm(300)
    a, b = moments(packed(o, [300])), moments(packed(Observations(*(v[shuffle] for v in o)), [300]))
    torch.testing.assert_close(a, b, atol=2e-4, rtol=2e-4)  # float32 sums in another order


def test_surveys_in_a_batch_do_not_see_each_other_and_empty_ones_are_finite(moments):
    both = packed(observations(200, seed=2), [120, 0, 80])
    together = moments(both)
    assert bool(torch.isfinite(together).all())
    for k in range(3):
        torch.testing.assert_close(moments(select(both, [k]))[0], together[k], atol=1e-5, rtol=1e-5)


def test_number_of_bands_is_free(distance):
    for bands in (1, 4):
        o = observations(50, bands)
        net = LocalRegressor(bands).fit_scales(o, torch.rand(50, 4))
        assert bool(torch.isfinite(Moments(net, distance)(packed(o, [50]))).all())


def test_a_known_redshift_takes_the_place_of_the_estimate(moments):
    o = observations(30)
    mean, ln_sd = moments.regressor.estimate(o)
    z = mean[:, 0] * moments.regressor.scale[0] + moments.regressor.centre[0]
    torch.testing.assert_close(z, o.z_spec)
    torch.testing.assert_close(torch.exp(ln_sd[:, 0]) * moments.regressor.scale[0], o.z_spec_err)


def test_distance_modulus_of_the_table_to_a_millimagnitude(moments, distance):
    z = np.linspace(0.02, 1.4, 300)
    exact = 5 * np.log10(2 * 299792.458 / 70 * (1 - (1 + z) ** -0.5) * (1 + z)) + 25
    mu, slope = moments._modulus(torch.tensor(z, dtype=torch.float32))
    np.testing.assert_allclose(mu[z > 0.1], exact[z > 0.1], atol=1e-3)  # the table has steps of .005
    np.testing.assert_allclose(slope[z > 0.1], np.gradient(exact, z)[z > 0.1], rtol=0.03)


@pytest.mark.skipif(not REFERENCE.exists(), reason="the prototype of the specification is not beside this checkout")
def test_moments_agree_with_the_prototype(monkeypatch):
    """The prototype gets this network's own local estimates, so every later number is computed twice by different code."""
    monkeypatch.syspath_prepend(str(REFERENCE))
    prototype = importlib.import_module("moments")
    o = observations(
        600, var_x=torch.full((600,), float(np.exp(-3))), z_spec=torch.full((600,), torch.nan), z_spec_err=torch.full((600,), torch.nan)
    )
    torch.manual_seed(0)
    net = LocalRegressor(6).fit_scales(o, torch.randn(600, 4))
    net.centre.copy_(torch.tensor(prototype.MID))
    net.scale.copy_(torch.tensor(prototype.SCALE))
    net.standardiser.mean[12], net.standardiser.sd[12] = 22.0, 1.5
    z = prototype.Z_GRID
    ours = Moments(net, type("Table", (tuple,), {})((z, prototype.MU)), cells=8192)(packed(o, [600]))[0]
    with torch.no_grad():
        mean, ln_sd = net.estimate(o)
    rows = torch.cat([o.mag, torch.stack([o.m, o.x, o.c, o.var_m, o.var_x, o.var_c], -1)], -1).numpy()
    theirs = prototype.moments(rows, lambda _: torch.cat([mean, ln_sd], -1), 1000)
    steps = theirs[-16:-1].reshape(5, 3).T.ravel()
    np.testing.assert_allclose(ours[:-17], theirs[:-16], rtol=0.03, atol=2e-3)  # they difference the modulus over .01 in z, which enters w
    np.testing.assert_allclose(ours[-17:-2], steps, rtol=0.03, atol=2e-3)
    for name in ("moments", "survey"):
        sys.modules.pop(name, None)


def test_blocks_give_what_the_whole_gives():
    torch.manual_seed(0)
    net, rows = torch.nn.Linear(3, 2), torch.randn(2 * BLOCK + 17, 3)
    with torch.no_grad():
        torch.testing.assert_close(in_blocks(net, rows), net(rows))
