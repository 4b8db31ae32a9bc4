"""`verify` names exactly what is damaged, and what it discards can be written again; `merge` is the store written at once."""

import shutil

import pytest

from cigars.files import FileError
from cigars.store import open_store
from cigars.store_upkeep import merge, verify
from tests.cigars.test_store import begin, content, write


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 16
    path.write_bytes(data)


@pytest.fixture
def store(tmp_path):
    return write(begin(tmp_path / "s"), 0, 4, 8, 12, 16)


def test_a_sound_store_has_no_fault(store):
    verdict = verify(store)
    assert (list(verdict.sound), verdict.faults, verdict.leftovers) == ([0, 4, 8, 12, 16], [], [])


def test_each_damage_is_named_and_discarding_leads_back_to_the_identical_store(store, tmp_path):
    whole, shards = content(tmp_path / "s"), tmp_path / "s/shards"
    flip(shards / "0000000000.zarr.zip")
    (shards / "0000000004.zarr.zip").write_bytes((shards / "0000000004.zarr.zip").read_bytes()[:1000])
    (shards / "0000000008.zarr.zip").unlink()
    (shards / "0000000012.json").write_text("{}")
    (shards / ".0000000016.zarr.zip.x1.partial.zip").write_bytes(b"part")
    verdict = verify(store)
    assert list(verdict.sound) == [16]
    said = [fault.split("shards/")[1] for fault in verdict.faults]
    for line, (name, why) in zip(
        said,
        [
            ("0000000000.zarr.zip", "SHA-256"),
            ("0000000004.zarr.zip", "bytes, got 1000"),
            ("0000000008.zarr.zip", "cannot read: No such file"),
            ("0000000012.json", "expected a record"),
        ],
        strict=True,
    ):
        assert line.startswith(name)
        assert why in line
    assert verdict.leftovers == [".0000000016.zarr.zip.x1.partial.zip"]
    verify(store, discard=True)
    assert store.missing(0, 20) == [0, 4, 8, 12]
    assert verify(store).faults == []
    write(store, *store.missing(0, 20))
    assert content(tmp_path / "s") == whole


def test_discarding_leaves_files_of_others_alone(store, tmp_path):
    shards = tmp_path / "s/shards"
    own = ["0000000020.zarr.zip", ".0000000004.json.k_3x0abc.partial.json", ".0000000008.zarr.zip.abcdefgh.partial.zip"]
    others = ["notes.txt", "0000000000.zarr.zip.bak", "0000000000-copy.json", ".DS_Store"]
    for name in own + others:
        (shards / name).write_text("mine")
    assert verify(store, discard=True).leftovers == sorted(own)
    assert not any((shards / name).exists() for name in own)
    assert all((shards / name).read_text() == "mine" for name in others)
    assert verify(store).leftovers == []


def test_looking_changes_nothing(store, tmp_path):
    flip(tmp_path / "s/shards/0000000000.zarr.zip")
    before = content(tmp_path / "s")
    verify(store)
    assert content(tmp_path / "s") == before


def test_disjoint_stores_merge_to_the_store_written_at_once(store, tmp_path):
    write(begin(tmp_path / "a"), 0, 12)
    write(begin(tmp_path / "b"), 4, 8, 16)
    for _ in range(2):  # a merge that is repeated changes nothing
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c")
        assert content(tmp_path / "c") == content(tmp_path / "s")
    (tmp_path / "c/shards/0000000004.json").unlink()
    merge([tmp_path / "b"], tmp_path / "c")
    assert content(tmp_path / "c") == content(tmp_path / "s")


def test_stores_that_do_not_belong_together_are_refused(store, tmp_path):
    write(begin(tmp_path / "a"), 4)
    write(begin(tmp_path / "other", seed=2), 20)
    with pytest.raises(FileError, match="got 4-7 in both"):
        merge([tmp_path / "s", tmp_path / "a"], tmp_path / "c")
    with pytest.raises(FileError, match="merge stores of one configuration"):
        merge([tmp_path / "s", tmp_path / "other"], tmp_path / "c")
    with pytest.raises(FileError, match="name another store"):
        merge([tmp_path / "s"], tmp_path / "other")
    assert not (tmp_path / "c").exists()


def test_damage_is_not_copied(store, tmp_path):
    flip(tmp_path / "s/shards/0000000008.zarr.zip")
    with pytest.raises(FileError, match="SHA-256"):
        merge([tmp_path / "s"], tmp_path / "c")
    assert list(open_store(tmp_path / "c").finished()) == [0, 4]
    shutil.rmtree(tmp_path / "c")
