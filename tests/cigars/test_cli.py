"""Commands as a person types them: what they write, and one line with exit code 2 for what they cannot use."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from astropy.table import Table
from typer.main import get_command

from cigars import files, pipeline
from cigars.catalogue import read_catalogue, read_truth
from cigars.cli import app, main
from cigars.config import load_config, presets
from cigars.files import FileError
from cigars.schema import FIDUCIAL

BANDS = "ugrizy"


def commands(command, before=()):
    """Words of a command and, where it is a group, of all in it."""
    inner = getattr(command, "commands", {})
    return [" ".join(before), *(words for name, one in inner.items() for words in commands(one, (*before, name)))]


@pytest.mark.parametrize("command", commands(get_command(app)))
def test_every_command_explains_itself(cigars, command):
    said = cigars(*command.split(), "--help")
    assert said.code == 0
    assert "Usage" in said.out
    assert not said.err


def test_presets_are_listed_and_shown_whole(cigars, tmp_path):
    assert cigars("config", "list").out.split() == presets()
    shown = cigars("config", "show", "demo", "--set", "size.capacity=4096", "--set", "prior.Om0.fixed=0.3")
    path = tmp_path / "a.toml"
    path.write_text(shown.out)
    assert load_config(path) == load_config("demo", **{"size.capacity": 4096, "prior.Om0": {"fixed": 0.3}})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["bogus"], "No such command 'bogus'"),
        (["config", "show"], "Missing argument 'CONFIG'"),
        (["config", "show", "nope"], "got 'nope'"),
        (["config", "show", "demo", "--set", "size.capcity=3"], "nearest valid key is 'size.capacity'"),
        (["config", "show", "demo", "--sett", "a=3"], "--sett"),
        (["simulate", "demo"], "expected where to write, got neither"),
        (["simulate", "demo", "-o", "a.fits", "--first", "7"], "expected --store with --first, got -o; leave them out, --number chooses"),
        (["simulate", "demo", "-o", "a.fits", "--first", "0", "--surveys", "100"], "expected --store with --surveys, --first, got -o"),
        (["simulate", "demo", "-o", "a.fits", "--shard", "9", "--stream", "x"], "expected --store with --stream, --shard, got -o"),
        (["simulate", "demo", "-o", "a.fits", "--cluster", "local", "--workers", "2"], "expected --store with --cluster, --workers"),
        (["simulate", "demo", "-o", "a.fits", "--scheduler", "tcp://a:1"], "expected --store with --scheduler, got -o"),
        (["simulate", "demo", "-o", "a.fits", "--number", "-1"], "--number"),
        (["simulate", "demo", "-o", "a.fits", "--seed", "-1"], "seed"),
        (["simulate", "demo", "-o", "a.fits", "--seed", "x"], "--seed"),
        (["simulate", "demo", "-o", "a.fits", "--device", "gpu"], "--device"),
        (["simulate", "demo", "-o", "a.txt"], "expected an extension of .fits"),
        (["simulate", "demo", "-o", "nowhere/a.fits"], "folder 'nowhere' does not exist"),
        (["simulate", "demo", "-o", "a.csv", "--truth", "b.csv"], "--truth: expected another"),
        (["simulate", "demo", "-o", "a.fits", "--truth", "a.fits"], "--truth: expected another"),
        (["simulate", "demo", "-o", "a.fits", "--theta", "Om0"], "expected name=number, got 'Om0'"),
        (["simulate", "demo", "-o", "a.fits", "--theta", "Omega=1"], "expected parameters of ['Om0'"),
        (["simulate", "demo", "-o", "a.fits", "--theta", "Om0=nan"], "expected finite numbers"),
        (["simulate", "demo", "-o", "a.fits", "--theta", "Om0=0.9"], "expected Om0 within its prior, 0 to 0.8, which"),
        (["simulate", "demo", "-o", "a.fits", "--theta", "w0=-0.8"], "expected w0 within its prior, -1 to -1, which"),
        (["simulate", "demo", "-o", "a.fits", "--theta", "Om0=0.3", "--from-prior"], "give one or the other"),
        (["simulate", "des5yr", "-o", "a.fits", "--theta", "Ode0=0.6"], "expected no Ode0 in flat-LCDM"),
        (["train", "nope", "-o", "run"], "got 'nope'"),
        (["infer", "run", "a.fits", "-o", "p.nc"], "expected a finished training"),
        (["report", "p.nc", "-o", "r.html"], "expected a posterior that `cigars infer` wrote"),
        (["ingest", "jla", ".", "-o", "a.fits"], "des-sn5yr"),
        (["ingest", "des-sn5yr", "nowhere", "-o", "a.fits"], "nowhere"),
    ],
)
def test_bad_commands_are_one_line_and_write_nothing(refused, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    assert says in refused(*arguments)
    assert not list(tmp_path.iterdir())


def test_help_without_arguments_is_no_error(cigars):
    said = cigars("config")
    assert "Usage" in said.out
    assert "error" not in said.err


def mock(cigars, workplace, path, *options):
    said = cigars("simulate", workplace.config, "-o", path, "--device", "cpu", *options)
    assert said.code == 0, said
    return said


def test_a_mock_is_the_same_in_every_format_and_its_truth_apart(cigars, workplace, tmp_path):
    expected, truth = read_catalogue(workplace.mock, BANDS), read_truth(workplace.truth)
    for suffix, beside in (("parquet", "parquet"), ("ecsv", "ecsv"), ("csv", "ecsv")):
        said = mock(cigars, workplace, tmp_path / f"{suffix}.{suffix}")
        assert f"{len(expected.id)} supernovae" in said.out
        got, true = read_catalogue(tmp_path / f"{suffix}.{suffix}", BANDS), read_truth(tmp_path / f"{suffix}-truth.{beside}")
        assert list(got.id) == list(expected.id) == list(true.id)
        for a, b in zip(got.observations, expected.observations, strict=True):
            np.testing.assert_array_equal(a, b)  # bit for bit: the seed is the configuration's
        for a, b in zip(true.latents, truth.latents, strict=True):
            np.testing.assert_array_equal(a, b)
    assert truth.theta == pytest.approx(FIDUCIAL, rel=1e-6)
    assert not set(Table.read(workplace.mock).colnames) & {"z", "mass_log10_msun", "x_int"}  # nothing true in the catalogue


def test_seed_number_and_parameters_choose_the_mock(cigars, workplace, tmp_path):
    first = read_catalogue(workplace.mock, BANDS).observations.m
    for name, options in {"seed": ["--seed", 7], "number": ["--number", 1], "theta": ["--theta", "Om0=0.25"]}.items():
        mock(cigars, workplace, tmp_path / f"{name}.fits", *options)
        assert not np.array_equal(read_catalogue(tmp_path / f"{name}.fits", BANDS).observations.m, first)
    theta = read_truth(tmp_path / "theta-truth.fits").theta
    assert theta == pytest.approx(FIDUCIAL._replace(Om0=0.25), rel=1e-6)


@pytest.mark.slow  # compiles the simulator once more
def test_parameters_from_the_prior_are_inside_it_and_differ(cigars, workplace, tmp_path):
    config, drawn = load_config(workplace.config), []
    for number in (0, 1):
        mock(cigars, workplace, tmp_path / f"{number}.fits", "--from-prior", "--number", number)
        drawn.append(read_truth(tmp_path / f"{number}-truth.fits").theta)
        assert all(m.low <= getattr(drawn[-1], k) <= m.high for k, m in config.marginals.items())
    assert drawn[0] != drawn[1]


def test_nothing_is_overwritten_unless_told(cigars, refused, workplace, tmp_path):
    path, truth = tmp_path / "m.fits", tmp_path / "m-truth.fits"
    truth.write_text("precious")
    assert "m-truth.fits: exists already" in refused("simulate", workplace.config, "-o", path)
    assert not path.exists()
    assert truth.read_text() == "precious"
    mock(cigars, workplace, path, "--overwrite")
    assert len(read_truth(truth).id) > 0
    assert "exists already" in refused("infer", workplace.run, path, "-o", path)
    same = path.with_name("same.fits")
    assert "got the same" in refused("infer", workplace.run, path, "-o", same, "--hosts", same)
    assert "expected a new folder, got one with a training" in refused("train", workplace.config, "-o", workplace.run)


def test_where_an_error_arose_is_shown_on_request(workplace, refused, tmp_path, monkeypatch):
    asked = "simulate", workplace.config, "-o", tmp_path / "no-folder" / "m.fits"
    assert "does not exist; make it first" in refused(*asked)
    monkeypatch.setenv("CIGARS_TRACEBACK", "1")
    with pytest.raises(FileError, match="does not exist; make it first"):
        main([str(word) for word in asked])


@pytest.mark.parametrize(
    ("work", "words"),
    [
        ("validate.validate", ["validate", "{run}", "-o", "{out}"]),
        ("check.check", ["check", "{mock}", "--run", "{run}", "-o", "{out}"]),
        ("crosscheck.crosscheck", ["crosscheck", "{run}", "{mock}", "-o", "{out}"]),
        ("compare.compare", ["compare", "demo", "{mock}", "--against", "prior.mass_step={{fixed=0}}", "-o", "x", "--json", "{out}"]),
        ("ablate.ablate", ["ablate", "demo", "-o", "{file}"]),
        ("posterior.load_posterior", ["combine", "p.nc", "--gaussian", "g.toml", "-o", "{out}"]),
        ("posterior_file.read_posterior", ["report", "p.nc", "-o", "{out}"]),
    ],
)
def test_what_cannot_be_written_is_not_worked_for(refused, workplace, tmp_path, monkeypatch, work, words):
    """A folder is no file, and a file no folder, whatever --overwrite says."""
    (tmp_path / "file").touch()
    monkeypatch.setattr(f"cigars.{work}", lambda *_, **__: pytest.fail("worked first"))
    places = {"run": workplace.run, "mock": workplace.mock, "out": tmp_path, "file": tmp_path / "file"}
    said = refused(*(word.format(**places) for word in words), "--overwrite")
    assert "expected a file, got a folder" in said or f"{tmp_path / 'file'}" in said
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_write_that_fails_leaves_no_part_behind(refused, workplace, tmp_path, monkeypatch, code):
    def fail(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.os, "replace", fail)
    said = refused("simulate", workplace.config, "-o", tmp_path / "m.fits")
    assert ("no space left" if code == errno.ENOSPC else os.strerror(code)) in said
    said = refused("infer", workplace.run, workplace.mock, "-o", tmp_path / "p.nc", "--draws", 5)
    assert "p.nc" in said
    assert not list(tmp_path.iterdir())


def broken(change):
    """A copy of the mock with a change, as a table."""

    def make(workplace, path):
        table = Table.read(workplace.mock)
        changed = change(table)
        (table if changed is None else changed).write(path)
        return path

    return make


def cell(name, value, rows=(1,)):
    def change(table):
        for row in rows:
            table[name][row] = value

    return change


BAD_CATALOGUES = {
    "misspelled": (lambda t: t.rename_column("mag_u", "mag_U"), "'mag_u' (nearest is 'mag_U')"),
    "missing": (lambda t: t.remove_column("var_m"), "expected 'var_m'"),
    "wrong bands": (lambda t: t.remove_columns(["mag_y", "mag_err_y"]), "'mag_y'"),
    "empty": (lambda t: t[:0], "expected at least one object, got none"),
    "nan": (cell("m", np.nan, (1, 4)), "m: 2 rows (2, 5, counting from 1) are NaN or infinite"),
    "infinite": (cell("mag_g", np.inf), "mag_g: row 2 (counting from 1) is infinite"),
    "negative variance": (cell("var_c", -1.0), "var_c: row 2 (counting from 1) is not positive"),
    "covariance": (cell("cov_mx", 9.0), "covariance of (m, x, c): row 2 (counting from 1) is not positive definite"),
    "twice the same": (lambda t: t["id"].__setitem__(1, t["id"][0]), "1 repeated"),
    "too faint": (cell("mag_u", 44.0, (1, 2)), "mag_u: 2 outside ["),
    "far away": (cell("m", 35.0), "the farthest 35"),
    "few objects": (lambda t: t[:2], "number of objects: 1 outside ["),
}


@pytest.mark.parametrize("case", BAD_CATALOGUES)
def test_unusable_catalogues_are_one_line_and_nothing_is_written(refused, workplace, tmp_path, case):
    change, says = BAD_CATALOGUES[case]
    path = broken(change)(workplace, tmp_path / "bad.ecsv")
    assert says in refused("infer", workplace.run, path, "-o", tmp_path / "p.nc")
    assert not (tmp_path / "p.nc").exists()


def test_from_a_mock_to_a_report(cigars, workplace, tmp_path):
    said = cigars("infer", workplace.run, workplace.mock, "-o", tmp_path / "p.nc", "--draws", 50, "--device", "cpu")
    assert said.code == 0, said
    assert "posterior of" in said.out
    assert "Ω_m" in said.out
    said = cigars("report", tmp_path / "p.nc", "-o", tmp_path / "r.html", "--run", workplace.run, "--truth", workplace.truth)
    assert said.code == 0, said
    html = (tmp_path / "r.html").read_text()
    assert html.count("<svg") + html.count("data:image") >= 4  # corner, Hubble diagram, redshifts, training, ranks
    assert "http://" not in html.replace("http://www.w3.org", "").replace("http://purl.org", "").replace("http://creativecommons.org", "")


def test_reports_of_other_things_are_refused(cigars, refused, workplace, tmp_path):
    assert cigars("infer", workplace.run, workplace.mock, "-o", tmp_path / "p.nc", "--draws", 5).code == 0
    other = tmp_path / "other"
    other.mkdir()
    (other / "run.json").write_text(json.dumps({**json.loads((workplace.run / "run.json").read_text()), "fingerprint": "0123"}))
    assert "got 0123" in refused("report", tmp_path / "p.nc", "-o", tmp_path / "r.html", "--run", other)
    (other / "run.json").write_text("{}")
    assert "got another file" in refused("report", tmp_path / "p.nc", "-o", tmp_path / "r.html", "--run", other)
    assert "expected a posterior" in refused("report", workplace.mock, "-o", tmp_path / "r.html")
    truth = Table.read(workplace.truth)
    truth[3:].write(tmp_path / "part.ecsv")
    truth[:3].write(tmp_path / "short.ecsv")
    assert "missing 3" in refused("report", tmp_path / "p.nc", "-o", tmp_path / "r.html", "--truth", tmp_path / "part.ecsv")
    assert not (tmp_path / "r.html").exists()


def test_a_damaged_run_folder_is_one_line(refused, workplace, tmp_path):
    for name, content, says in (("weights.pt", b"", "weights.pt"), ("run.json", b"{", "run.json"), ("run.json", b"[]", "another file")):
        run = tmp_path / f"{name}{len(content)}"
        shutil.copytree(workplace.run, run)
        (run / name).write_bytes(content)
        assert says in refused("infer", run, workplace.mock, "-o", tmp_path / "p.nc")


def test_a_run_folder_of_another_training_is_not_continued(refused, workplace):
    before = (workplace.run / "weights.pt").read_bytes()
    said = refused("train", workplace.config, "-o", workplace.run, "--resume", "--set", "training.flow_epochs=3")
    assert "expected fingerprint" in said
    assert (workplace.run / "weights.pt").read_bytes() == before


def test_ctrl_c_says_how_to_go_on(cigars, workplace, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "train", interrupted)
    said = cigars("train", workplace.config, "-o", tmp_path / "my run", "--set", "training.flow_epochs=3", "--seed", 5)
    assert said.code == 130
    command = f"cigars train {workplace.config} -o '{tmp_path / 'my run'}' --set training.flow_epochs=3 --seed 5 --device auto --resume"
    assert said.err.splitlines()[-1] == f"stopped; continue with: {command}"
    monkeypatch.setattr(pipeline, "simulate", interrupted)
    said = cigars("simulate", workplace.config, "-o", tmp_path / "m.fits")
    assert said.code == 130
    assert not (tmp_path / "m.fits").exists()


def program(*arguments):
    """The same in a process of its own."""
    return [sys.executable, "-m", "cigars", *map(str, arguments)]


ENDED = """
import time
from cigars import cli
from cigars.__main__ import main
from cigars.files import replacing

def command(**_):
    with replacing("p.nc") as partial:
        partial.write_text("half")
        print("writing", flush=True)
        time.sleep(60)

cli.app = command
main()
"""


def test_what_ends_a_job_leaves_no_partial_file(tmp_path):
    """`timeout`, and Slurm at a time limit, send SIGTERM."""
    process = subprocess.Popen([sys.executable, "-c", ENDED], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "writing\n"
    process.terminate()
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (143, "error: interrupted\n")
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_interrupted_training_continues_to_the_same_weights(workplace, tmp_path):
    """A real Ctrl-C during the local flow, the last stage."""
    options = ["-o", tmp_path / "run", "--set", "training.local_epochs=3", "--set", "training.objects=6000", "--device", "cpu"]
    process = subprocess.Popen(program("train", workplace.config, *options), stderr=subprocess.PIPE, text=True)
    local = tmp_path / "run" / "checkpoints" / "local.pt"
    while process.poll() is None and not local.exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert "--set training.local_epochs=3" in said.splitlines()[-1]
    assert not (tmp_path / "run" / "run.json").exists()
    subprocess.run(program("train", workplace.config, *options, "--resume"), check=True, capture_output=True)
    whole = [tmp_path / "whole" if o == tmp_path / "run" else o for o in options]
    subprocess.run(program("train", workplace.config, *whole), check=True, capture_output=True)
    import torch

    one, other = (torch.load(tmp_path / name / "weights.pt", weights_only=True) for name in ("run", "whole"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounts a small file system")
def test_a_full_disk_is_one_line_and_leaves_what_was_there(refused, workplace, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], capture_output=True).returncode:
        pytest.skip("cannot mount a file system")
    try:
        (small / "p.nc").write_text("precious")
        (small / "fill").write_bytes(b"0" * 52_000)
        assert "no space left" in refused("simulate", workplace.config, "-o", small / "m.fits", "--overwrite")
        line = refused("infer", workplace.run, workplace.mock, "-o", small / "p.nc", "--overwrite")
        assert re.search(r"need [\d.]+ MB, but [\d.]+ kB are free", line)  # before anything is written: HDF5 cannot recover from it
        assert sorted(os.listdir(small)) == ["fill", "p.nc"]
        assert (small / "p.nc").read_text() == "precious"
        assert "no space left on" in refused("train", workplace.config, "-o", small / "run").lower()
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


@pytest.mark.slow
def test_help_is_quick_and_bars_fit_a_narrow_terminal(workplace, tmp_path):
    """1.5 s of processor time, which unlike wall time does not depend on what else runs."""
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(program("--help"), check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.5
    done = subprocess.run(
        program("train", workplace.config, "-o", tmp_path / "run", "--device", "cpu"),
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "80"},
    )
    assert done.returncode == 0, done.stderr
    assert "…" not in done.stderr
    assert max(map(len, done.stderr.splitlines())) <= 80
    for stage in ("local regressor", "global posterior", "local posterior", "calibration"):
        assert stage in done.stderr
