"""Packing loses nothing, and the padding never matters."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from benchmarks.linear_gaussian import MARGINALS
from cigars.schema import Observations, Survey
from inference.batches import Packed, hide, join, pack, segment_mean, select, subset, thinned, to_torch

from .conftest import observations


def test_packing_keeps_every_object_in_order(source):
    batch = source(0, 5)
    packed = pack(batch, tuple(MARGINALS))
    assert packed.lengths.tolist() == batch.number.tolist() == packed.number.tolist()
    np.testing.assert_array_equal(packed.observations.m, np.concatenate([batch.observations.m[k, :n] for k, n in enumerate(batch.number)]))
    np.testing.assert_array_equal(packed.theta[:, 1], batch.theta.alpha)


def test_one_survey_packs_as_a_batch_of_one(source):
    batch = source(3, 1)
    single = Survey(*(type(t)(*(leaf[0] for leaf in t)) if isinstance(t, tuple) else t[0] for t in batch))
    one, many = pack(single, tuple(MARGINALS)), pack(batch, tuple(MARGINALS))
    for a, b in zip(one.observations, many.observations, strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)
    assert torch.equal(one.theta, many.theta)


def test_jax_arrays_cross_without_a_copy(source):
    batch = source(0, 2)
    as_jax = Survey(*(type(t)(*(jnp.asarray(leaf) for leaf in t)) if isinstance(t, tuple) else jnp.asarray(t) for t in batch))
    magnitudes = as_jax.observations.mag
    assert to_torch(magnitudes).data_ptr() == magnitudes.unsafe_buffer_pointer()
    for a, b in zip(pack(as_jax).observations, pack(batch).observations, strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)


def test_select_and_join_are_inverse(source):
    packed = pack(source(0, 4), tuple(MARGINALS))
    again = select(join([select(packed, [2, 0]), select(packed, [3, 1])]), [1, 3, 0, 2])
    torch.testing.assert_close(again.observations.mag, packed.observations.mag)
    assert torch.equal(again.lengths, packed.lengths)


def test_a_subset_keeps_the_true_number_and_draws_from_its_own_survey(source):
    packed = pack(source(0, 4))
    part = subset(packed, 7, torch.Generator().manual_seed(0))
    assert part.lengths.tolist() == [7] * 4
    assert torch.equal(part.number, packed.number)
    for k in range(4):
        own = select(packed, [k]).observations.m
        assert bool(torch.isin(part.observations.m[7 * k : 7 * k + 7], own).all())


def test_a_subset_may_have_another_limit_in_each_survey(source):
    packed = pack(source(0, 3))
    part = subset(packed, torch.tensor([0, 10_000, 5]), torch.Generator().manual_seed(0))
    assert part.lengths.tolist() == [0, int(packed.lengths[1]), 5]
    middle = part.observations.m[: part.lengths[1]].sort().values
    assert torch.equal(middle, select(packed, [1]).observations.m.sort().values)
    assert bool(torch.isin(part.observations.m[part.lengths[1] :], select(packed, [2]).observations.m).all())


def test_segment_means_are_means_and_empty_sets_are_zero():
    values = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    means = segment_mean(values, torch.tensor([4, 0, 6]))
    torch.testing.assert_close(means, torch.stack([values[:4].mean(0), torch.zeros(3), values[4:].mean(0)]))


def test_hiding_marks_exactly_what_was_asked():
    o = observations(6, 3)
    bands = torch.zeros(6, 3, dtype=torch.bool)
    bands[0, 1] = True
    supernova = torch.arange(6) == 2
    hidden = hide(o, bands, supernova, torch.arange(6) == 4)
    assert torch.equal(torch.isnan(hidden.mag), bands)
    assert torch.equal(torch.isnan(hidden.m), supernova)
    assert torch.equal(torch.isnan(hidden.cov_xc), supernova)
    assert torch.isnan(hidden.z_spec).nonzero().flatten().tolist() == [4]
    assert isinstance(hidden, Observations)


def test_a_mask_with_more_objects_than_the_number_is_refused(source):
    batch = source(0, 2)
    with pytest.raises(ValueError, match="survey: expected at most"):
        pack(batch._replace(number=batch.number - 1))


def test_thinning_keeps_a_random_choice_that_order_does_not_change():
    """A choice by brightness would move the mean: 3,000 of 6,000 objects are within 5 standard errors of all."""
    o, lengths = observations(6400, seed=2), torch.tensor([6000, 400])
    packed = Packed(o, None, torch.zeros(2, 1), lengths, lengths + 1, torch.ones(2))
    fewer, rows = thinned(packed, 3000)
    assert fewer.lengths.tolist() == [3000, 400]
    assert fewer.number.tolist() == [6001, 401]
    assert torch.equal(fewer.observations.mag, o.mag[rows])
    assert bool((rows[:3000] < 6000).all())
    assert rows[3000:].sort().values.tolist() == list(range(6000, 6400))
    for column in (*o.mag.T, o.m, o.x, o.c):
        some = column[rows[:3000]]
        assert abs(float(some.mean() - column[:6000].mean())) < 5 * float(column[:6000].std()) * (1 / 3000 - 1 / 6000) ** 0.5
    order = torch.cat([torch.randperm(6000, generator=torch.Generator().manual_seed(1)), torch.arange(6000, 6400)])
    again, others = thinned(packed._replace(observations=type(o)(*(leaf[order] for leaf in o))), 3000)
    assert torch.equal(order[others].sort().values, rows.sort().values)
    assert torch.equal(again.observations.mag, fewer.observations.mag)  # and in the same order
    bright = o.mag[:6000].mean(1).argsort()[:3000]
    assert abs(float(o.mag[bright].mean() - o.mag[:6000].mean())) > 5 * float(o.mag.mean(1).std()) / 6000**0.5


def test_few_objects_are_all_kept():
    o = observations(50)
    packed = Packed(o, None, torch.zeros(1, 1), torch.tensor([50]), torch.tensor([50]), torch.ones(1))
    fewer, rows = thinned(packed, 50)
    assert fewer is packed
    assert torch.equal(o.mag[rows], o.mag)
