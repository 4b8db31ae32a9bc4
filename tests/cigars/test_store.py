"""A store is the same whoever wrote it and in whatever order, and says what it lacks."""

import json
import os
import random
from pathlib import Path

import pytest

from cigars.files import FileError
from cigars.ragged import pack
from cigars.store import Store, create_store, open_store
from tests.cigars.fake_surveys import VERSIONS, same, surveys, tiny

SHARD = 4


def write(store: Store, *starts: int) -> Store:
    for start in starts:
        store.write(start, pack(surveys(start, SHARD)), VERSIONS)
    return store


def begin(url, **changes) -> Store:
    return create_store(url, tiny(**changes), shard=SHARD)


def content(folder) -> dict[str, bytes]:
    """Bytes of every file of a local store by its path."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def test_what_is_written_is_read_whatever_the_file_system(tmp_path):
    for url in (tmp_path / "s", "memory://what-is-written"):
        write(begin(url), 0, 8)
        store = open_store(url)
        records = store.finished()
        assert list(records) == [0, 8]
        assert all(same(store.read(record), pack(surveys(first, SHARD))) for first, record in records.items())
        assert records[8].objects == surveys(8, SHARD).number.sum()
        assert store.missing(2, 9) == [4]


@pytest.mark.parametrize("name", ["surveys[1]", "run*", "what?"])
def test_a_name_is_no_pattern(tmp_path, name):
    for url in (tmp_path / name, f"memory://{name}"):
        write(begin(url), 0, 8)
        assert list(open_store(url).finished()) == [0, 8]


def test_order_and_repetition_leave_the_same_store(tmp_path):
    write(begin(tmp_path / "a"), 0, 4, 8, 12)
    shuffled = [0, 4, 8, 12, 4, 0]
    random.Random(1).shuffle(shuffled)
    write(begin(tmp_path / "b"), *shuffled[:3])
    write(begin(tmp_path / "b"), *shuffled)
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert len(content(tmp_path / "a")) == 9


@pytest.mark.parametrize(("first", "total", "starts"), [(0, 1, [0]), (0, 4, [0]), (3, 2, [0, 4]), (5, 8, [4, 8, 12])])
def test_the_grid_covers_a_range_and_no_more(tmp_path, first, total, starts):
    assert list(begin(tmp_path / "s").grid(first, total)) == starts


def test_another_configuration_seed_stream_or_shard_is_refused(tmp_path):
    begin(tmp_path / "s")
    for config, stream, shard in [(tiny(seed=1), "training", 4), (tiny(), "mock", 4), (tiny(), "training", 8)]:
        with pytest.raises(FileError, match="name another store"):
            create_store(tmp_path / "s", config, stream, shard)
    begin(tmp_path / "s", name="another name", **{"training.surveys": 99})


def test_surveys_off_the_grid_are_refused(tmp_path):
    for first, count in [(2, 4), (0, 3)]:
        with pytest.raises(ValueError, match="expected 4 surveys from a multiple"):
            begin(tmp_path / "s").write(first, pack(surveys(first, count)), VERSIONS)


def test_other_surveys_under_the_same_numbers_are_refused_and_nothing_changes(tmp_path):
    store = write(begin(tmp_path / "s"), 0)
    before = content(tmp_path / "s")
    with pytest.raises(FileError, match="surveys 0-3: expected those recorded, made with"):
        store.write(0, pack(surveys(100, SHARD)), {"numpy": "other"})
    assert content(tmp_path / "s") == before


def test_data_without_a_record_do_not_count_and_are_written_again(tmp_path):
    whole = content(write(begin(tmp_path / "s"), 0, 4).address)
    os.unlink(tmp_path / "s/shards/0000000004.json")
    store = open_store(tmp_path / "s")
    assert store.missing(0, 8) == [4]
    write(store, 4)
    assert content(tmp_path / "s") == whole


@pytest.mark.parametrize("damage", [lambda p: p.unlink(), lambda p: p.write_bytes(p.read_bytes()[:-1]), lambda p: p.write_bytes(b"")])
def test_missing_or_truncated_data_count_as_missing_and_are_written_again(tmp_path, damage):
    store = write(begin(tmp_path / "s"), 0, 4)
    whole = content(tmp_path / "s")
    damage(tmp_path / "s/shards/0000000000.zarr.zip")
    assert store.missing(0, 8) == [0]
    assert not store.intact(store.recorded(0))
    write(store, 0)
    assert content(tmp_path / "s") == whole


def test_a_flipped_bit_is_not_read(tmp_path):
    store = write(begin(tmp_path / "s"), 0)
    record, path = store.finished()[0], tmp_path / "s/shards/0000000000.zarr.zip"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(FileError, match=r"0000000000\.zarr\.zip: its SHA-256 is not the one recorded"):
        store.read(record)


def test_a_record_of_another_store_or_place_is_refused(tmp_path):
    store = write(begin(tmp_path / "s"), 0)
    other = write(begin(tmp_path / "t", seed=1), 0)
    path = tmp_path / "s/shards/0000000000.json"
    record = path.read_text()
    (tmp_path / "s/shards/0000000004.json").write_text(record)
    with pytest.raises(FileError, match=r"0000000004\.json: expected a record of this store"):
        store.finished()
    os.unlink(tmp_path / "s/shards/0000000004.json")
    path.write_text(Path(other.path(0, ".json")).read_text())
    with pytest.raises(FileError, match="expected a record of this store"):
        store.finished()


def test_a_manifest_changed_by_hand_is_refused(tmp_path):
    begin(tmp_path / "s")
    path = tmp_path / "s/store.json"
    plain = json.loads(path.read_text())
    plain["configuration"]["seed"] = 7
    path.write_text(json.dumps(plain))
    with pytest.raises(FileError, match="changed by hand"):
        open_store(tmp_path / "s")


def test_no_store_is_one_line(tmp_path):
    with pytest.raises(FileError, match=r"expected store\.json, got none"):
        open_store(tmp_path)


def test_paths_stay_in_the_folder(tmp_path):
    """Neither names in the folder of shards nor keys of a record lead out of it."""
    store = write(begin(tmp_path / "s"), 0)
    (tmp_path / "outside.json").write_text("{}")
    (tmp_path / "s/shards/..json").write_text("{}")
    assert list(store.finished()) == [0]
    plain = json.loads((tmp_path / "s/shards/0000000000.json").read_text())
    for change in ({"path": "../../outside"}, {"path": "/etc/passwd"}, {"first": "../0"}):
        (tmp_path / "s/shards/0000000000.json").write_text(json.dumps(plain | change))
        with pytest.raises(FileError, match="expected a record of a store"):
            store.finished()
