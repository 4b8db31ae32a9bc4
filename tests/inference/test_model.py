"""Run folders: what is saved comes back, on any device, and nothing else is accepted."""

import json
import shutil

import pytest
import torch

from inference.batches import pack
from inference.model import FORMAT, META, WEIGHTS, load_run
from inference.posterior import GlobalPosterior, LocalPosterior


def test_a_loaded_run_is_the_trained_one(run, source):
    trained, folder = run
    loaded = load_run(folder, fingerprint="abc")
    assert loaded.meta["configuration"] == {"name": "tiny"}
    assert loaded.names == ("M0", "alpha", "beta")
    survey = pack(source(10**6, 3), loaded.names)
    torch.testing.assert_close(GlobalPosterior(loaded).sample(50, survey), GlobalPosterior(trained).sample(50, survey))
    a, b = (LocalPosterior(t).sample(survey.observations, survey.theta[:2]) for t in (loaded, trained))
    torch.testing.assert_close(a, b)


def test_the_folder_holds_tensors_and_json_only(run):
    _, folder = run
    meta = json.loads((folder / META).read_text())
    assert meta["fingerprint"] == "abc"
    assert set(meta["versions"]) >= {"torch", "sbi", "zuko", "python"}
    assert {"global", "encoder-0", "encoder-1", "local"} <= set(meta["curves"])
    assert meta["number_range"][0] >= 1
    torch.load(folder / WEIGHTS, weights_only=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_run_loads_on_another_device(run, source):
    trained, folder = run
    theta = trained.prior.mean[None, None]
    survey = source(10**6, 1)
    here, there = (GlobalPosterior(load_run(folder, d)) for d in ("cpu", "cuda"))
    torch.testing.assert_close(there.log_prob(theta.cuda(), survey).cpu(), here.log_prob(theta, survey), atol=1e-3, rtol=1e-3)


def damaged(run, tmp_path, change):
    folder = tmp_path / "copy"
    shutil.copytree(run[1], folder, ignore=shutil.ignore_patterns("checkpoints"))
    change(folder)
    return folder


def edit(**changes):
    def change(folder):
        meta = json.loads((folder / META).read_text())
        (folder / META).write_text(json.dumps(meta | changes))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / META).unlink(), "expected a finished training"),
        (lambda f: (f / META).write_text("{"), "damaged"),
        (edit(format=99), f"expected format {FORMAT}, got 99"),
        (edit(fingerprint="xyz"), "expected fingerprint abc, got xyz"),
        (lambda f: (f / WEIGHTS).write_bytes(b"nothing"), "expected a whole file of tensors"),
        (lambda f: torch.save({"a": torch.ones(1)}, f / WEIGHTS), "expected weights of the networks"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused_in_one_line(run, tmp_path, change, message):
    folder = damaged(run, tmp_path, change)
    with pytest.raises(ValueError, match=message) as error:
        load_run(folder, fingerprint="abc")
    assert "\n" not in str(error.value)
