"""Shuffled reading gives every survey once within bounded memory; reading by number is the live source."""

import tracemalloc

import numpy as np
import pytest

from cigars.files import FileError
from cigars.ragged import columns, from_columns, join, pack
from cigars.store_reader import check_surveys, padded, shuffled, store_source
from tests.cigars.fake_surveys import same, surveys
from tests.cigars.test_store import begin, write


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write(begin(tmp_path_factory.mktemp("store") / "s"), *range(0, 40, 4))


def names(batches) -> list[float]:
    """A number that tells each survey from the others."""
    return [float(v) for batch in batches for v in batch.exposure]


@pytest.mark.parametrize(("size", "buffer"), [(1, 1), (4, 2), (7, 3), (100, 1)])
def test_every_survey_comes_once_with_its_own_objects(store, size, buffer):
    batches = list(shuffled(store, size, 0, buffer))
    assert sorted(names(batches)) == sorted(float(v) for v in surveys(0, 40).exposure)
    assert [len(b.number) for b in batches[:-1]] == [size] * (len(batches) - 1)
    live = {float(surveys(i, 1).exposure[0]): pack(surveys(i, 1)) for i in range(40)}
    read = join(batches)
    assert same(read, join([live[name] for name in names(batches)]))


def test_a_seed_is_an_order(store):
    orders = [names(shuffled(store, 4, seed)) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != [float(v) for v in surveys(0, 40).exposure]


def test_a_batch_mixes_shards(store):
    number = {float(surveys(i, 1).exposure[0]): i for i in range(40)}
    shards = [{number[name] // 4 for name in names([batch])} for batch in shuffled(store, 4, 0, buffer=5)]
    assert np.mean([len(found) for found in shards]) > 2


def test_padded_batches_have_one_capacity(store):
    for batch in padded(shuffled(store, 8, 0), 20):
        assert batch.observations.mag.shape == (8, 20, 6)


def test_memory_does_not_grow_with_the_store(tmp_path):
    small = columns(pack(surveys(0, 4)))
    objects = {name for name, column in small.items() if len(column) == len(small["host"])}
    wide = {name: np.repeat(column, 2000, 0) if name in objects else column for name, column in small.items()}
    large = from_columns(wide | {"offsets": 2000 * small["offsets"]})
    one = sum(column.nbytes for column in columns(large).values())

    def peak(url, shards: int) -> float:
        store = begin(url)
        for start in range(0, 4 * shards, 4):
            store.write(start, large, {})
        tracemalloc.start()
        for _ in shuffled(store, 4, 0, buffer=1):
            pass
        out = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return out / one

    few, many = peak(tmp_path / "few", 4), peak(tmp_path / "many", 10)
    assert many < few + 1  # six more shards, none of which stays
    assert many < 6  # two shards decoded, one of them being decoded from its bytes and chunks, and a batch as large as one


def test_by_number_the_store_is_the_live_source_whatever_the_range(store):
    source = store_source(store)
    for first, count in [(0, 4), (2, 4), (3, 9), (39, 1), (0, 40), (5, 1)]:
        assert same(source(first, count), surveys(first, count))


def test_missing_surveys_are_named_with_the_command_that_writes_them(tmp_path):
    store = write(begin(tmp_path / "s"), 0, 8)
    check_surveys(store, 0, 4)
    with pytest.raises(
        FileError, match=r"expected surveys 0-17, missing or truncated are 4-7, 12-19; write them: .*--first 0 --surveys 18"
    ):
        check_surveys(store, 0, 18)
    with pytest.raises(FileError, match="missing or truncated are 4-7"):
        store_source(store)(3, 2)


def test_nonsense_is_refused(store):
    for size, buffer in [(0, 1), (1, 0)]:
        with pytest.raises(ValueError, match="at least 1"):
            next(shuffled(store, size, 0, buffer))
