"""A file appears whole, locally and elsewhere; what cannot be reached is one line."""

import os

import pytest

from cigars.files import FileError
from cigars.remote import asked, file_system, put


@pytest.mark.parametrize("url", ["memory://put-whole", "{folder}"])
def test_content_comes_back_and_nothing_else_is_left(url, tmp_path):
    fs, root = file_system(url.format(folder=tmp_path))
    for content in (b"old", b"new"):
        put(fs, f"{root}/deep/er/a", content)
        assert fs.cat_file(f"{root}/deep/er/a") == content
    assert [p.rsplit("/", 1)[-1] for p in fs.find(root)] == ["a"]


@pytest.mark.parametrize("url", ["nosuch://bucket/store", "s3://bucket/store"])
def test_a_protocol_that_is_not_there_is_one_line(url):
    if url.startswith("s3"):
        try:
            import s3fs  # noqa: F401
        except ImportError:
            pass
        else:
            pytest.skip("s3fs is installed here")
    with pytest.raises(FileError, match="cannot reach it"):
        file_system(url)


def test_refusals_of_the_file_system_are_one_line(tmp_path):
    fs, root = file_system(tmp_path)
    with pytest.raises(FileError, match="a: cannot read: No such file"):
        asked("a", fs.cat_file, f"{root}/a")
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="cannot write"):
        put(fs, f"{root}/file/a", b"")
    assert os.listdir(tmp_path) == ["file"]


class Unauthorised(Exception):
    """As botocore's NoCredentialsError, which is no OSError."""


def test_errors_that_are_not_of_the_system_are_one_line(monkeypatch):
    def refuse(*_, **__):
        raise Unauthorised("Unable to locate credentials")

    fs, root = file_system("memory://closed")
    with pytest.raises(FileError, match="a: cannot read: Unable to locate credentials"):
        asked("a", refuse)
    monkeypatch.setattr(type(fs), "pipe_file", refuse)
    with pytest.raises(FileError, match="/closed/a: cannot write: Unable to locate credentials"):
        put(fs, f"{root}/a", b"")
    monkeypatch.setattr("fsspec.core.url_to_fs", refuse)
    with pytest.raises(FileError, match="memory://closed: cannot reach it: Unable to locate credentials"):
        file_system("memory://closed")
