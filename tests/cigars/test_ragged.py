"""Packing and padding are inverse to each other, and choosing commutes with both."""

import numpy as np
import pytest

from cigars.ragged import columns, from_columns, join, pack, pad, take
from tests.cigars.fake_surveys import same, surveys


def test_padding_undoes_packing():
    batch = surveys(0, 20, mean=2.0)
    assert batch.number.min() == 0 < batch.number.max()
    assert same(pad(pack(batch)), batch)


def test_objects_lie_end_to_end():
    batch = surveys(3, 5)
    packed = pack(batch)
    np.testing.assert_array_equal(packed.number, batch.number)
    for s in range(5):
        rows = slice(*packed.offsets[s : s + 2])
        np.testing.assert_array_equal(packed.observations.mag[rows], batch.observations.mag[s, : batch.number[s]])


def test_parts_join_to_the_whole():
    assert same(join([pack(surveys(0, 3)), pack(surveys(3, 1)), pack(surveys(4, 5))]), pack(surveys(0, 9)))
    assert same(from_columns(columns(pack(surveys(0, 3)))), pack(surveys(0, 3)))


def test_chosen_surveys_come_in_the_order_asked():
    whole = pack(surveys(10, 8))
    assert same(take(whole, [5, 2, 2]), join([pack(surveys(10 + i, 1)) for i in (5, 2, 2)]))
    assert len(take(whole, []).number) == 0


def test_a_common_capacity_pads_with_zeros_and_never_cuts():
    packed = pack(surveys(0, 6))
    wide = pad(packed, 30)
    assert wide.observations.mag.shape == (6, 30, 6)
    assert not wide.observed[:, int(packed.number.max()) :].any()
    assert not wide.observations.m[~wide.observed].any()
    with pytest.raises(ValueError, match="expected at most capacity = 3 objects"):
        pad(packed, 3)
