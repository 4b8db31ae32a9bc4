"""Which arguments `cigars infer` takes with which method; the rest is one line."""

import subprocess
import sys

import numpy as np
import pytest
from astropy.table import Table

from cigars.catalogue import write_catalogue
from tests.cigars.catalogues import make_catalogue

BANDS = tuple("ugrizy")


@pytest.fixture
def mock(tmp_path):
    path, catalogue = tmp_path / "mock.fits", make_catalogue(3)
    o = catalogue.observations
    six = o._replace(mag=np.tile(o.mag, 3), mag_err=np.tile(o.mag_err, 3))
    write_catalogue(path, catalogue._replace(observations=six), BANDS, {})
    return path


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--method", "exact", "demo"], "expected a configuration and a catalogue, got one name"),
        (["--method", "exact", "demo", "{mock}", "--pretrained", "lsst"], "expected no --pretrained with --method exact"),
        (["--method", "exact", "nope", "{mock}"], "got 'nope'"),
        (["--method", "exact", "{folder}", "{mock}"], "expected a finished training"),
        (["--method", "exact", "{folder}", "{mock}", "--set", "seed=3"], "expected no --set with a run folder"),
        (["--method", "exact", "demo", "nowhere.fits"], "nowhere.fits"),
        (["--method", "exact", "demo", "{mock}", "--set", "size.capcity=3"], "nearest valid key"),
        (["--method", "exact", "demo", "{mock}", "--hide", "sn"], "expected supernova light"),
        (["--method", "exact", "demo", "{mock}", "--hide", "u"], "hide: expected of"),
        (["--method", "exact", "demo", "{mock}", "--exposure", "0"], "exposure: expected a number above zero"),
        (["--method", "exact", "demo", "{mock}", "--draws", "5"], "at least four draws a chain"),
        (["--method", "exact", "demo", "{mock}", "--chains", "0"], "--chains"),
        (["--method", "exact", "demo", "{mock}", "--set", "supernovae.dust='local'"], "got 'local'"),
        (["--method", "magic", "demo", "{mock}"], "--method"),
        (["demo", "{mock}", "--chains", "3"], "expected --method exact with --chains, got networks"),
        (["demo", "{mock}", "--set", "seed=3"], "expected --method exact with --set, got networks"),
        (["demo", "{mock}"], "expected a finished training"),
    ],
)
def test_bad_commands_are_one_line_and_write_nothing(refused, mock, tmp_path, arguments, says):
    folder = tmp_path / "folder"
    folder.mkdir()
    before = sorted(tmp_path.rglob("*"))
    said = refused("infer", *(a.format(mock=mock, folder=folder) for a in arguments), "-o", tmp_path / "p.nc", "--device", "cpu")
    assert says in said
    assert sorted(tmp_path.rglob("*")) == before


def test_redshifts_that_are_not_read_are_named_in_one_line(cigars, mock, tmp_path):
    table = Table.read(mock)
    table.rename_column("z_spec", "redshift")
    table.remove_column("z_spec_err")
    table.write(mock, overwrite=True)
    said = cigars("infer", "--method", "exact", "demo", mock, "--draws", "5", "-o", tmp_path / "p.nc", "--device", "cpu")
    assert said.err.splitlines()[0].startswith("warning: columns: 'redshift' is not read, and redshifts are taken as unknown; if")


def test_a_folder_called_like_a_preset_hides_it_only_where_it_is_a_run(refused, mock, tmp_path, monkeypatch):
    """`make demo` leaves a folder `demo` in which this command is then typed."""
    monkeypatch.chdir(tmp_path)
    command = ["infer", "--method", "exact", "demo", mock, "--draws", "5", "-o", "p.nc", "--device", "cpu"]
    (tmp_path / "demo").mkdir()
    assert "at least four draws a chain" in refused(*command)
    (tmp_path / "demo" / "run.json").write_text("{}")
    assert "run" in refused(*command)
    assert "at least four draws a chain" not in refused(*command)


def test_networks_answer_without_loading_a_compiler(workplace, tmp_path):
    """JAX, and the compiler that torch.func loads, take seconds that nothing here needs."""
    words = ["infer", str(workplace.run), str(workplace.mock), "-o", str(tmp_path / "p.nc"), "--draws", "20", "--device", "cpu"]
    program = f"import sys; from cigars.cli import main; assert main({words!r}) == 0; print({{'jax', 'torch._dynamo'}} & set(sys.modules))"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert said.returncode == 0, said.stderr
    assert said.stdout.splitlines()[-1] == "set()"
