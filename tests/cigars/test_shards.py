"""A shard gives back its surveys; equal surveys are equal bytes; what is not a shard is refused before Zarr reads it."""

import io
import json
import pickle
import zipfile

import numpy as np
import pytest
import zarr

from cigars.files import FileError
from cigars.ragged import columns, pack, take
from cigars.shards import decode, encode
from tests.cigars.fake_surveys import same, surveys


@pytest.fixture(scope="module")
def shard() -> bytes:
    return encode(pack(surveys(0, 12)))


def rewritten(content: bytes, change) -> bytes:
    """The same zip with its entries changed by a function of the dictionary of them."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    change(entries)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, value in entries.items():
            archive.writestr(name, value)
    return buffer.getvalue()


def edited(name: str, **keys):
    """A change of the metadata of one array."""

    def change(entries):
        entries[f"{name}/zarr.json"] = json.dumps(json.loads(entries[f"{name}/zarr.json"]) | keys).encode()

    return change


def test_a_shard_gives_back_its_surveys_bit_for_bit(shard):
    assert same(decode(shard), pack(surveys(0, 12)))


def test_equal_surveys_are_equal_bytes(shard):
    assert encode(pack(surveys(0, 12))) == shard
    assert encode(pack(surveys(1, 12))) != shard


def test_a_shard_without_objects_is_one():
    empty = take(pack(surveys(0, 12, mean=0.0)), [0, 1])
    assert empty.offsets[-1] == 0
    assert same(decode(encode(empty)), empty)


def test_zarr_itself_opens_a_shard_and_finds_the_columns_of_the_schema(shard, tmp_path):
    (tmp_path / "a.zip").write_bytes(shard)
    with zarr.storage.ZipStore(tmp_path / "a.zip", mode="r") as store:
        group = zarr.open_group(store, mode="r")
        assert set(group.array_keys()) == set(columns(pack(surveys(0, 1))))
        np.testing.assert_array_equal(group["z"][:], pack(surveys(0, 12)).latents.z)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edited("z", codecs=[{"name": "numcodecs.pickle", "configuration": {}}]), "expected a Zarr v3 array of codecs"),
        (edited("z", codecs=[{"name": "vlen-utf8"}]), "expected a Zarr v3 array of codecs"),
        (edited("z", data_type="object"), "rows of float32, got 'object'"),
        (edited("z", zarr_format=2), "got format 2"),
        (edited("z", shape=[3]), "rows of float32, got 'float32' of shape"),
        (edited("z", shape=[]), "out of range"),
        (edited("z", codecs=None), "cannot read"),
        (lambda e: e.pop("mag/zarr.json"), "mag/zarr.json"),
        (lambda e: e.update({"../outside/zarr.json": b"{}"}), r"got \['\.\./outside/zarr\.json'\]"),
        (lambda e: e.update({"/etc/passwd": b""}), r"got \['/etc/passwd'\]"),
        (lambda e: e.update({"mag/zarr.json": b"not JSON"}), "cannot read"),
    ],
)
def test_what_encode_does_not_write_is_refused(shard, change, message):
    with pytest.raises(FileError, match=message):
        decode(rewritten(shard, change))


def test_metadata_cannot_ask_for_all_memory(shard):
    def huge(entries):
        for name in ("host", "mag", "mag_err", *(k.split("/")[0] for k in list(entries))):
            array = json.loads(entries.get(f"{name}/zarr.json", b"{}"))
            if array.get("shape") and name not in ("offsets", "exposure"):
                entries[f"{name}/zarr.json"] = json.dumps(array | {"shape": [10**15, *array["shape"][1:]]}).encode()
        for name in [k.split("/")[0] for k in entries if k.endswith("zarr.json") and "/" in k]:
            array = json.loads(entries[f"{name}/zarr.json"])
            rows = 10**15 + (name == "offsets")
            entries[f"{name}/zarr.json"] = json.dumps(array | {"shape": [rows, *array["shape"][1:]]}).encode()

    with pytest.raises(FileError, match="values a byte"):
        decode(rewritten(shard, huge))


def test_a_pickle_is_not_executed(shard, tmp_path):
    import numcodecs

    class Malicious:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    chunk = numcodecs.Pickle().encode(np.array([Malicious()], object))
    array = {"zarr_format": 2, "shape": [1], "chunks": [1], "dtype": "|O", "compressor": None, "fill_value": None, "order": "C"}
    content = {"z/.zarray": json.dumps(array | {"filters": [{"id": "pickle"}]}).encode(), "z/0": bytes(chunk)}
    for old in (True, False):  # beside the metadata of version 3, and in place of them
        with pytest.raises(FileError, match="cannot read"):
            decode(rewritten(shard, lambda e, old=old: e.update(content) or (old and e.pop("z/zarr.json"))))
    assert not (tmp_path / "ran").exists()
    pickle.loads(bytes(chunk))  # what the refusal is from
    assert (tmp_path / "ran").exists()


def test_truncation_at_any_byte_is_an_error(shard):
    for size in [0, 1, 100, len(shard) // 2, len(shard) - 1]:
        with pytest.raises(FileError, match="cannot read"):
            decode(shard[:size])
