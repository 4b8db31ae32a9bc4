"""The learned set encoder: invariant to order, padding and chunks; gradients reach its weights."""

import numpy as np
import torch

from benchmarks.linear_gaussian import GaussianSurvey
from cigars.schema import Observations
from inference.batches import pack, segment_mean
from inference.embedding import FeatureMoments, SetEncoder
from inference.standardise import Standardiser


def encoder(source, **sizes):
    torch.manual_seed(0)
    packed = pack(source(0, 6))
    return SetEncoder(Standardiser(2).fit(packed.observations), **sizes), packed


def test_order_of_objects_does_not_matter(source):
    net, packed = encoder(source)
    place = torch.cat(
        [torch.randperm(n) + start for n, start in zip(packed.lengths, packed.lengths.cumsum(0) - packed.lengths, strict=True)]
    )
    shuffled = packed._replace(observations=Observations(*(v[place] for v in packed.observations)))
    torch.testing.assert_close(net(shuffled), net(packed), atol=1e-6, rtol=1e-5)


def test_what_is_in_the_padding_does_not_matter(source):
    net, packed = encoder(source)
    batch = source(0, 6)
    dirty = Observations(*(np.where(np.isnan(v), 1e6, v) for v in batch.observations))
    wider = np.pad(batch.observed, ((0, 0), (0, 13)))
    padded = Observations(*(np.pad(v, [(0, 0), (0, 13)] + [(0, 0)] * (v.ndim - 2), constant_values=-7.0) for v in dirty))
    clean = pack(batch._replace(observations=Observations(*(np.nan_to_num(v, nan=1e6) for v in batch.observations)), latents=None))
    assert torch.equal(net(pack(batch._replace(observations=padded, observed=wider, latents=None))), net(clean))
    assert packed.lengths.tolist() == clean.lengths.tolist()


def test_chunks_add_up(source):
    net, packed = encoder(source, chunk=17)
    whole = segment_mean(net._objects(packed.observations), packed.lengths)
    with torch.no_grad():
        torch.testing.assert_close(net(packed), whole, atol=1e-6, rtol=1e-5)


def test_gradients_reach_every_weight(source):
    net, packed = encoder(source)
    net(packed).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in net.network.parameters())


def test_feature_moments_are_those_of_numpy_and_carry_the_true_number():
    packed = pack(GaussianSurvey(30)(0, 3))
    standardiser = Standardiser(2).fit(packed.observations)
    u = np.split(standardiser(packed.observations).numpy(), packed.lengths.cumsum(0)[:-1])
    expected = [np.concatenate([v.mean(0), (v**2).mean(0), [np.log1p(n), 0.0]]) for v, n in zip(u, (77, 88, 99), strict=True)]
    np.testing.assert_allclose(FeatureMoments(standardiser)(packed._replace(number=torch.tensor([77, 88, 99]))), expected, atol=1e-5)
