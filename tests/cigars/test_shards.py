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
from cigars.shards import ROWS, decode, encode
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


def test_columns_of_several_chunks_and_of_zeros_alone_are_whole(monkeypatch):
    """The last chunk is padded; Zarr leaves out those of zeros."""
    monkeypatch.setattr("cigars.shards.ROWS", 20)
    whole = pack(surveys(0, 12))
    whole = whole._replace(latents=whole.latents._replace(z=np.where(np.arange(len(whole.host)) < 30, 0, whole.latents.z)))
    content = encode(whole)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        stored = [name for name in archive.namelist() if name.startswith("z/c/")]
    assert len(whole.host) % 20
    assert "z/c/0" not in stored
    assert len(stored) == len(whole.host) // 20
    assert same(decode(content), whole)


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
        (edited("z", fill_value=1), "expected little-endian chunks"),
        (edited("z", fill_value="not-a-number"), "expected little-endian chunks"),
        (edited("z", codecs=[{"name": "bytes", "configuration": {"endian": "big"}}, {"name": "blosc"}]), "expected little-endian chunks"),
        (edited("z", chunk_grid={"name": "regular", "configuration": {"chunk_shape": [1]}}), "expected little-endian chunks"),
        (edited("z", chunk_key_encoding={"name": "v2"}), "expected little-endian chunks"),
        (lambda e: e.update({"z/c/0": e["mag/c/0/0"]}), "expected a chunk of"),
        (lambda e: e.update({"z/c/0": b""}), "expected a chunk of"),
        (lambda e: e.update({"z/c/0": e["z/c/0"][:4] + b"\xff\xff\xff\x7f" + e["z/c/0"][8:]}), "expected a chunk of"),
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
            shape = [10**15 + (name == "offsets"), *array["shape"][1:]]
            grid = {"name": "regular", "configuration": {"chunk_shape": [ROWS, *shape[1:]]}}
            entries[f"{name}/zarr.json"] = json.dumps(array | {"shape": shape, "chunk_grid": grid}).encode()

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
