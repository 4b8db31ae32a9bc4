"""A manifest is its configuration's; what it does not know it refuses, paths above all."""

import json

import pytest

from cigars.files import FileError
from cigars.manifest import Manifest, Record, numbers, parsed, spans
from tests.cigars.fake_surveys import tiny


def manifest(stream="training", **changes) -> Manifest:
    return Manifest(configuration=tiny(**changes), hosts="hosts", stream=stream, shard=4, fingerprint="")


def test_identity_is_what_surveys_depend_on():
    same = {manifest().expected_fingerprint, manifest(name="other", **{"training.surveys": 17}).expected_fingerprint}
    assert len(same) == 1
    others = [manifest(seed=1), manifest("mock"), manifest(**{"size.capacity": 300}), manifest(**{"prior.Om0": {"fixed": 0.3}})]
    assert len(same | {other.expected_fingerprint for other in others}) == 5


def test_json_gives_it_back():
    m = manifest()
    assert parsed(Manifest, "store.json", m.model_dump_json().encode()) == m


@pytest.mark.parametrize(
    "change", [{"path": "../outside"}, {"file": "/etc/passwd"}, {"first": -4}, {"first": "../4"}, {"count": 0}, {"size": None}]
)
def test_a_record_with_a_path_or_a_wrong_number_is_refused_in_one_line(change):
    record = Record(fingerprint="f", first=0, count=4, objects=9, size=10, sha256="s", versions={}).model_dump() | change
    with pytest.raises(FileError, match="expected a record of a store") as caught:
        parsed(Record, "0000000000.json", json.dumps(record).encode())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"{", b"\xff\xfe", b'{"schema_version": 2}'])
def test_another_file_is_refused(content):
    with pytest.raises(FileError, match="expected a manifest of a store"):
        parsed(Manifest, "store.json", content)


def test_adjacent_shards_are_one_span():
    assert spans([8, 0, 4, 16], 4) == [(0, 11), (16, 19)]
    assert numbers([8, 0, 4, 16], 4) == "0-11, 16-19"
    assert numbers([], 4) == "none"
