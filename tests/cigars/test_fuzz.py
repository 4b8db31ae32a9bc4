"""Damaged files of every kind that is read give a value or the documented one-line error: no other exception, and no hang.

Whole files are mutated rather than invented, so that most get past the first check: bytes flipped, inserted, lost and repeated, and
tokens (numbers, words, quoted text) replaced by troublesome ones. The slow tests go through 10⁴ cases, the fast ones through a few of each.
"""

import json
import re
import signal
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from cigars.catalogue import CatalogueError, read_catalogue, read_truth, write_catalogue, write_truth
from cigars.config import ConfigError, Prior, load_config, to_toml
from cigars.files import FileError
from cigars.importance import read_gaussian
from cigars.posterior_file import read_posterior, save_posterior
from cigars.runs import read_calibration, read_curves, run_config
from cigars.schema import FIDUCIAL
from cigars.shards import decode
from cigars.store import open_store
from cigars.store_upkeep import verify
from cigars.truncation import Rounds, read_rounds
from inference.model import load_run
from inference.train import load_checkpoint
from tests.cigars.catalogues import BANDS, make_catalogue, make_latents
from tests.cigars.test_store import begin, write

SECONDS = 30  # a read takes milliseconds; this is a hang even on a busy machine
TOKEN = re.compile(rb'"[^"\n]*"|[-+]?\d[\d.eE+-]*|\w+')
BAD = [
    b"", b"0", b"-1", b"1e999", b"-1e-400", b"nan", b"-inf", b"1" * 400, b"null", b"true", b'""', b'"x"', b"[]", b"{}", b"[[1], [2]]",
    b'{"a": 1}', b"[" * 3000, b'{"a":' * 2000, b"\xff\xfe", b"\x00", b'"\\ud800"', b"'''", b"\n", b"=", b"99999999", b"2026-11-22", b"0x1F",
]  # fmt: skip
EDITS = st.lists(
    st.tuples(st.sampled_from(["flip", "insert", "lose", "repeat", "token"]), st.integers(0, 10**6), st.integers(0, 10**6)),
    min_size=1,
    max_size=4,
)


def mutated(content: bytes, edits) -> bytes:
    """A file with some edits, each a kind, a place and what to put there."""
    for kind, at, what in edits:
        tokens = list(TOKEN.finditer(content[:50_000])) if kind == "token" else []
        if kind == "token" and tokens:
            token = tokens[at % len(tokens)]
            content = content[: token.start()] + BAD[what % len(BAD)] + content[token.end() :]
            continue
        place = at * (len(content) + 1) // (10**6 + 1)
        size = 1 + what % 7
        middle = {
            "flip": bytes(b ^ (1 << what % 8) for b in content[place : place + 1]),
            "insert": content[place : place + size] and BAD[what % len(BAD)] + content[place : place + size],
            "lose": b"",
            "repeat": content[place : place + size] * 2,
        }.get(kind, b"")
        content = content[:place] + middle + content[place + (1 if kind == "flip" else size) :]
    return content


class Kind(NamedTuple):
    """Files of one kind: some whole ones by name, who reads them, and the errors they may end in."""

    files: dict[str, bytes]
    read: Callable[[Path], object]
    errors: tuple[type[Exception], ...]


@pytest.fixture(scope="module")
def kinds(tmp_path_factory) -> dict[str, Kind]:
    """Whole files and readers, but for those of a run, which is in `run_kinds`."""
    folder = tmp_path_factory.mktemp("whole")
    for suffix in ("fits", "parquet", "ecsv", "csv"):
        write_catalogue(folder / f"c.{suffix}", make_catalogue(), BANDS, {"seed": 3})
        if suffix != "csv":
            write_truth(folder / f"t.{suffix}", make_catalogue().id, make_latents(), FIDUCIAL)
    store = write(begin(folder / "s"), 0)
    toml = to_toml(load_config("demo")).encode()
    gaussian = b'parameters = ["Om0", "Ode0"]\nmean = [0.3, 0.7]\nsd = [0.01, 0.02]\ncorrelation = [[1.0, 0.5], [0.5, 1.0]]\n'

    def of(*names: str) -> dict[str, bytes]:
        return {name: (folder / name).read_bytes() for name in names}

    def in_store(path: Path) -> None:
        target = path.parent / "store"
        (target / "shards").mkdir(parents=True, exist_ok=True)
        manifest, record = (folder / "s/store.json").read_bytes(), (folder / "s/shards/0000000000.json").read_bytes()
        (target / "store.json").write_bytes(path.read_bytes() if path.name == "store.json" else manifest)
        (target / "shards/0000000000.json").write_bytes(path.read_bytes() if path.name == "record.json" else record)
        (target / "shards/0000000000.zarr.zip").write_bytes(Path(store.path(0)).read_bytes())
        opened = open_store(target)
        verify(opened)
        opened.finished()

    manifest, record = (folder / "s/store.json").read_bytes(), (folder / "s/shards/0000000000.json").read_bytes()
    return {
        "catalogue": Kind(of("c.fits", "c.parquet", "c.ecsv", "c.csv"), lambda p: read_catalogue(p, BANDS), (CatalogueError,)),
        "truth": Kind(of("t.fits", "t.parquet", "t.ecsv"), read_truth, (CatalogueError,)),
        "toml": Kind({"a.toml": toml, "b.toml": b'extends = "demo"\n[size]\ncapacity = 4096\n'}, load_config, (ConfigError,)),
        "gaussian": Kind({"g.toml": gaussian}, read_gaussian, (FileError,)),
        "store": Kind({"store.json": manifest, "record.json": record}, in_store, (FileError,)),
        "shard": Kind({"s.zip": Path(store.path(0)).read_bytes()}, lambda p: decode(p.read_bytes()), (FileError,)),
    }


@pytest.fixture(scope="module")
def run_kinds(workplace, posterior, tmp_path_factory) -> dict[str, Kind]:
    """The files of a run, and a posterior."""
    folder = tmp_path_factory.mktemp("whole-run")
    rounds = Rounds(target="hash", objects=3, rounds=3, fingerprint="f", configured={"Om0": Prior(uniform=(0.0, 1.0))})
    save_posterior(folder / "p.nc", posterior)

    def in_run(path: Path) -> None:
        target = path.parent / "run"
        target.mkdir(exist_ok=True)
        for name in ("run.json", "weights.pt", "calibration.json"):
            (target / name).unlink(missing_ok=True)
            (target / name).symlink_to(workplace.run / name if path.name != name else path)
        (target / "rounds.json").unlink(missing_ok=True)
        if path.name == "rounds.json":
            (target / "rounds.json").symlink_to(path)
        for read in (run_config, read_curves, read_calibration, read_rounds, load_run):
            read(target)

    names = ("run.json", "calibration.json")
    plain = {name: (workplace.run / name).read_bytes() for name in names} | {
        "rounds.json": rounds.model_dump_json(exclude_none=True).encode()
    }
    return {
        "run": Kind(plain, in_run, (ValueError,)),
        "weights": Kind({"a.pt": (workplace.run / "weights.pt").read_bytes()}, load_checkpoint, (ValueError,)),
        "posterior": Kind({"p.nc": (folder / "p.nc").read_bytes()}, read_posterior, (FileError,)),
    }


@contextmanager
def at_most(seconds: int):
    """End what hangs."""

    def late(*_):
        raise AssertionError(f"no answer within {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def reads_or_refuses(kind: Kind, path: Path) -> None:
    """A value, or a documented error of one line."""
    with warnings.catch_warnings(), at_most(SECONDS):
        warnings.simplefilter("ignore")
        try:
            kind.read(path)
        except kind.errors as error:
            assert "\n" not in str(error), repr(error)  # noqa: PT017
            assert str(error)  # noqa: PT017


def fuzzed(kind: Kind, folder: Path, cases: int) -> None:
    """`cases` mutations of the files of a kind, the same ones every time."""

    @settings(
        max_examples=cases, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )  # fmt: skip
    @given(name=st.sampled_from(sorted(kind.files)), edits=EDITS)
    def one(name, edits):
        path = folder / name
        path.write_bytes(mutated(kind.files[name], edits))
        reads_or_refuses(kind, path)

    one()


PLAIN = {"catalogue": 3000, "truth": 1000, "toml": 2000, "gaussian": 500, "store": 1000, "shard": 500}
OF_A_RUN = {"run": 1000, "weights": 500, "posterior": 500}


def test_the_cases_are_ten_thousand():
    assert sum(PLAIN.values()) + sum(OF_A_RUN.values()) == 10_000


def test_whole_files_are_read(kinds, run_kinds, tmp_path):
    """Else the mutations below would be of files that are refused anyhow."""
    for kind in (kinds | run_kinds).values():
        for name, content in kind.files.items():
            (tmp_path / name).write_bytes(content)
            kind.read(tmp_path / name)


@pytest.mark.parametrize("name", PLAIN)
def test_a_few_damaged_files_are_read_or_refused(kinds, tmp_path, name):
    fuzzed(kinds[name], tmp_path, 30)


@pytest.mark.parametrize("name", OF_A_RUN)
def test_a_few_damaged_files_of_a_run_are_read_or_refused(run_kinds, tmp_path, name):
    fuzzed(run_kinds[name], tmp_path, 15)


@pytest.mark.slow
@pytest.mark.parametrize("name", PLAIN)
def test_damaged_files_are_read_or_refused(kinds, tmp_path, name):
    fuzzed(kinds[name], tmp_path, PLAIN[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_A_RUN)
def test_damaged_files_of_a_run_are_read_or_refused(run_kinds, tmp_path, name):
    fuzzed(run_kinds[name], tmp_path, OF_A_RUN[name])


@pytest.mark.parametrize("reads", [lambda p: 1 / 0, lambda p: json.loads("{"), lambda p: (_ for _ in ()).throw(FileError(""))])
def test_another_error_or_one_without_words_does_not_pass(tmp_path, reads):
    with pytest.raises((ZeroDivisionError, ValueError, AssertionError)):
        fuzzed(Kind({"a": b"some words and 12 numbers"}, reads, (FileError,)), tmp_path, 5)


def test_a_hang_does_not_pass(tmp_path):
    def hangs(path):
        while True:
            pass

    with pytest.raises(AssertionError, match="no answer"), at_most(1):
        hangs(tmp_path)
