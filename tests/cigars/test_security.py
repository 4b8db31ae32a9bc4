"""Nothing that is read can run code or reach another file: each reader is given a payload that an unsafe one would execute."""

import base64
import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
import yaml
from astropy.io import fits

from cigars.catalogue import read_catalogue, read_truth, write_catalogue
from cigars.config import ConfigError, load_config
from cigars.files import FileError
from cigars.importance import read_chain
from cigars.pipeline import read_posterior
from cigars.ragged import pack
from cigars.runs import read_calibration, read_curves, run_config
from cigars.store import open_store
from cigars.store_upkeep import verify
from cigars.truncation import read_rounds
from cigars.validate import read_validation
from inference.model import load_run
from inference.train import load_checkpoint
from simulators.hosts import read_bank
from simulators.selection import read_detection_table
from simulators.sps.emulator import load_emulator
from simulators.sps.library import read_table as read_ssp
from tests.cigars.catalogues import BANDS, make_catalogue
from tests.cigars.fake_surveys import VERSIONS, surveys
from tests.cigars.test_store import begin, content, write


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.fixture
def marker(tmp_path):
    """A file that no test may find made, and that a naive reader would make: see `armed`."""
    path = tmp_path / "it-ran"
    yield path
    assert not path.exists()


def armed(marker: Path, naive) -> None:
    """The payload is what it is taken for: a reader without care runs it."""
    naive()
    assert marker.exists()
    marker.unlink()


def yaml_payload(marker: Path) -> str:
    return f"!!python/object/apply:os.mknod ['{marker}']"


@pytest.fixture
def run(workplace, tmp_path):
    """A copy of the shared run."""
    folder = tmp_path / "run"
    shutil.copytree(workplace.run, folder)
    return folder


def test_weights_and_checkpoints_are_tensors_or_refused(run, marker):
    path = run / "weights.pt"
    content = {"raw": lambda: path.write_bytes(pickle.dumps(Payload(marker))), "torch": lambda: torch.save(Payload(marker), path)}
    content["among tensors"] = lambda: torch.save({"module": torch.ones(2), "history": Payload(marker)}, path)
    content["old format"] = lambda: torch.save(Payload(marker), path, _use_new_zipfile_serialization=False)
    for make in content.values():
        make()
        for read in (load_run, lambda folder: load_checkpoint(folder / "weights.pt")):
            with pytest.raises(ValueError, match="expected a whole file of tensors"):
                read(run)
    armed(marker, lambda: torch.load(path, weights_only=False))


@pytest.mark.parametrize("text", ["pickle", "python", "yaml"])
def test_metadata_are_json_or_refused(run, tmp_path, marker, text):
    payload = {"pickle": pickle.dumps(Payload(marker)), "python": f"__import__('pathlib').Path({str(marker)!r}).touch()".encode()}
    payload["yaml"] = yaml_payload(marker).encode()
    readers = {
        "run.json": (run_config, read_curves, load_run),
        "calibration.json": (read_calibration,),
        "rounds.json": (read_rounds,),
        "validation.json": (lambda folder: read_validation(folder / "validation.json"),),
    }
    for name, reading in readers.items():
        (run / name).write_bytes(payload[text])
        for read in reading:
            with pytest.raises(ValueError, match=name):
                read(run)
    (tmp_path / "a.toml").write_bytes(payload[text])
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_config(tmp_path / "a.toml")
    begin(tmp_path / "s")
    (tmp_path / "s/store.json").write_bytes(payload[text])
    with pytest.raises(FileError, match="expected a manifest of a store"):
        open_store(tmp_path / "s")


def test_a_table_in_text_runs_nothing(tmp_path, marker):
    """YAML in the header of ECSV, expressions in the cells of CSV."""
    path, plain = tmp_path / "a.ecsv", yaml_payload(marker)
    write_catalogue(path, make_catalogue(), BANDS)
    head, *rest = path.read_text().splitlines()
    assert head.startswith("# %ECSV")
    for line in (f"# meta: {plain}", f"# - {plain}", f"# __serialized_columns__: {{m: {plain}}}"):
        path.write_text("\n".join([head, "# ---", line, *rest[1:]]))
        for read in (lambda p: read_catalogue(p, BANDS), read_truth):
            with pytest.raises(FileError, match=r"a\.ecsv"):
                read(path)
    mixin = f"# meta: !!omap\n# - __serialized_columns__:\n#     m: {{__class__: subprocess.Popen, args: [touch, '{marker}']}}"
    path.write_text("\n".join([head, *(mixin if line.startswith("# schema") else line for line in rest)]))
    with pytest.raises(FileError, match=r"a\.ecsv"):
        read_catalogue(path, BANDS)
    csv = tmp_path / "a.csv"
    csv.write_text(f"id,m\n\"__import__('pathlib').Path('{marker}').touch()\",=cmd|'touch {marker}'!A1\n")
    with pytest.raises(FileError, match="columns"):
        read_catalogue(csv, BANDS)
    armed(marker, lambda: yaml.unsafe_load(plain))


def test_a_table_in_binary_runs_nothing(tmp_path, marker):
    """Serialised columns in the comments of FITS, metadata and extension types of Parquet, and pickles under their names."""
    for kind in ("fits", "parquet", "ecsv", "csv"):
        (tmp_path / f"p.{kind}").write_bytes(pickle.dumps(Payload(marker)))
        with pytest.raises(FileError, match=f"p.{kind}"):
            read_catalogue(tmp_path / f"p.{kind}", BANDS)
    path = tmp_path / "a.fits"
    write_catalogue(path, make_catalogue(), BANDS)
    with fits.open(path, mode="update") as file:
        lines = ["--BEGIN-ASTROPY-SERIALIZED-COLUMNS--", "datatype:", f"- {{name: m, datatype: {yaml_payload(marker)}}}"]
        for line in [*lines, "--END-ASTROPY-SERIALIZED-COLUMNS--"]:
            file[1].header["COMMENT"] = line
    read_or_refused(lambda: read_catalogue(path, BANDS))
    table = pa.table({"id": ["a"], "m": [1.0]})
    meta = {b"table_meta_yaml": yaml_payload(marker).encode(), b"pandas": yaml_payload(marker).encode()}
    pyarrow.parquet.write_table(table.replace_schema_metadata(meta), tmp_path / "a.parquet")
    read_or_refused(lambda: read_catalogue(tmp_path / "a.parquet", BANDS))
    field = pa.field("m", pa.float64(), metadata={b"ARROW:extension:name": b"arrow.py_extension_type",
                                                  b"ARROW:extension:metadata": pickle.dumps(Payload(marker))})  # fmt: skip
    pyarrow.parquet.write_table(pa.table([pa.array([1.0])], schema=pa.schema([field])), tmp_path / "b.parquet")
    read_or_refused(lambda: read_catalogue(tmp_path / "b.parquet", BANDS))


def read_or_refused(read) -> None:
    """Either is well, as long as nothing runs, which the fixture `marker` sees."""
    try:
        read()
    except FileError as error:
        assert "\n" not in str(error)  # noqa: PT017


def test_arrays_are_plain_or_refused(tmp_path, marker):
    """The caches of host banks and the tables that a configuration names, which are .npz files."""
    path = tmp_path / "a.npz"
    names = ("z", "m", "probability", "param_names", "n_subs", "grid", "ln_age_yr", "r_wavelength", "r_transmission")
    np.savez(path, **dict.fromkeys(names, np.array([Payload(marker)], object)))
    readers = {"bank": read_bank, "detection": read_detection_table, "SSP": read_ssp, "emulator": lambda p: load_emulator(p, [])}
    for read in readers.values():
        with pytest.raises(ValueError):  # noqa: PT011  # whatever it says: the fixture looks whether it ran
            read(path)
    armed(marker, lambda: np.load(path, allow_pickle=True)["z"])


def test_a_posterior_is_netcdf_or_refused(tmp_path, marker):
    """A pickle, a directory in the format of Zarr version 2 whose filter is a pickle, and one with a kerchunk of references."""
    (tmp_path / "p.nc").write_bytes(pickle.dumps(Payload(marker)))
    zarr = tmp_path / "p.zarr" / "posterior" / "z"
    zarr.mkdir(parents=True)
    for group in (tmp_path / "p.zarr", zarr.parent):
        (group / ".zgroup").write_text('{"zarr_format": 2}')
    array = {"zarr_format": 2, "shape": [1], "chunks": [1], "dtype": "|O", "compressor": None, "fill_value": None, "order": "C"}
    (zarr / ".zarray").write_text(json.dumps(array | {"filters": [{"id": "pickle"}]}))
    (zarr / ".zattrs").write_text('{"_ARRAY_DIMENSIONS": ["object"]}')
    import numcodecs

    (zarr / "0").write_bytes(numcodecs.Pickle().encode(np.array([Payload(marker)], object)))
    encoded = base64.b64encode(pickle.dumps(Payload(marker))).decode()
    (tmp_path / "p.json").write_text(json.dumps({"version": 1, "refs": {".zgroup": '{"zarr_format": 2}', "z/0": f"base64:{encoded}"}}))
    for name in ("p.nc", "p.zarr", "p.json"):
        with pytest.raises(FileError, match="expected a posterior"):
            read_posterior(tmp_path / name)
    armed(marker, lambda: pickle.loads((zarr / "0").read_bytes()))


def test_the_cache_of_getdist_is_not_read(tmp_path, marker):
    """GetDist keeps a pickle beside the text of a chain."""
    (tmp_path / "c.txt").write_text("".join(f"1 0 0.{i:03d}\n" for i in range(300)))
    (tmp_path / "c.paramnames").write_text("omegam\\Omega_m\n".replace("\\O", " \\O"))
    (tmp_path / "c.py_mcsamples").write_bytes(pickle.dumps(Payload(marker)))
    later = (tmp_path / "c.txt").stat().st_mtime + 100
    os.utime(tmp_path / "c.py_mcsamples", (later, later))
    assert len(read_chain(tmp_path / "c", ["Om0"]).samples) == 300


OUTSIDE = ["../../outside", "/etc/passwd", r"C:\outside", r"..\outside", "file:///etc/passwd"]


@pytest.mark.parametrize("path", OUTSIDE)
def test_no_path_is_taken_from_a_store(tmp_path, path):
    """Not from a manifest or record, whose unknown keys are refused, and not in place of a number."""
    store = write(begin(tmp_path / "s"), 0)
    plain = {name: json.loads((tmp_path / "s" / name).read_text()) for name in ("store.json", "shards/0000000000.json")}
    for name, reading in (("store.json", lambda: open_store(tmp_path / "s")), ("shards/0000000000.json", store.finished)):
        for change in ({"path": path}, {"shard": path}, {"first": path}, {"file": path}):
            (tmp_path / "s" / name).write_text(json.dumps(plain[name] | change))
            with pytest.raises(FileError, match=r"expected a (manifest|record) of a store"):
                reading()
        (tmp_path / "s" / name).write_text(json.dumps(plain[name]))


def test_links_lead_no_writing_and_no_removing_out_of_a_store(tmp_path):
    """A shard that is a link is replaced, not written through; a folder of shards that is one is not opened."""
    outside = tmp_path / "precious"
    outside.mkdir()
    (outside / "a.txt").write_text("precious")
    store, name = write(begin(tmp_path / "s"), 0, 4), "0000000000.zarr.zip"
    whole = content(tmp_path / "s")
    (tmp_path / "s/shards" / name).unlink()
    (tmp_path / "s/shards" / name).symlink_to(outside / "a.txt")
    assert store.missing(0, 8) == [0]
    store.write(0, pack(surveys(0, 4)), VERSIONS)
    assert content(tmp_path / "s") == whole
    link = ".0000000004.json.link.partial.json"  # as what a writer left
    (tmp_path / "s/shards" / link).symlink_to(outside / "a.txt")
    assert verify(store, discard=True).leftovers == [link]
    shutil.rmtree(tmp_path / "s/shards")
    (tmp_path / "s/shards").symlink_to(outside)
    with pytest.raises(FileError, match="shards: expected a folder, got a link"):
        open_store(tmp_path / "s")
    assert {p.name: p.read_text() for p in outside.iterdir()} == {"a.txt": "precious"}
