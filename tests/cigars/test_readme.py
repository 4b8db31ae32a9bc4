"""What the README says works as it says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from cigars.cli import app
from cigars.config import presets
from cigars.posterior import load_posterior

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def test_the_example_runs(workplace, tmp_path, monkeypatch, capsys):
    """The first Python block, on the tiny configuration of the tests in place of the demo."""
    code = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0]
    assert 'load_config("demo")' in code
    monkeypatch.chdir(tmp_path)
    exec(compile(code.replace('load_config("demo")', f"load_config({str(workplace.config)!r})"), "README.md", "exec"), {})
    assert re.search(r"Om0 = 0\.\d\d ± 0\.\d\d", capsys.readouterr().out)
    assert "</html>" in (tmp_path / "report.html").read_text()


def test_what_a_posterior_can_be_asked_is_answered(posterior, tmp_path, monkeypatch):
    """The block on the joint posterior, on that of the tiny run; its cosmology is one that the prior of the tests holds."""
    code = next(b for b in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "load_posterior" in b)
    monkeypatch.chdir(tmp_path)
    load_posterior(posterior).save("posterior.nc")
    exec(compile("import cigars\n" + code, "README.md", "exec"), {})


def test_every_command_and_preset_that_it_names_exists():
    named = set(re.findall(r"^    cigars (\w+)", README, re.MULTILINE))
    known = {c.name or c.callback.__name__ for c in app.registered_commands} | {g.name for g in app.registered_groups}
    assert len(named) >= 6
    assert named <= known
    assert {p for p in presets() if f"`{p}`" not in README} == set()


@pytest.mark.parametrize("page", ["README.md", "docs/results.md", "docs/model.md"])
def test_links_and_names_of_files_lead_somewhere(page):
    text, folders = (ROOT / page).read_text(), [ROOT / name for name in (".", "benchmarks", "cigars", "simulators", "inference")]
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("http")]
    assert links
    assert [link for link in links if not ((ROOT / page).parent / link).exists()] == []
    named = re.findall(r"`(?:python )?([\w/]+\.(?:py|json|toml|md))`", text)
    made = {"rounds.json", "validation.json"}  # by commands, in run folders
    assert [name for name in named if name not in made and not any((folder / name).exists() for folder in folders)] == []


def test_the_widths_are_those_of_the_files():
    """The table is what its script makes of the measurements that came last."""
    made = subprocess.run([sys.executable, ROOT / "benchmarks/widths_table.py"], capture_output=True, text=True, check=True).stdout
    assert made.count("\n") > 15
    assert made in (ROOT / "docs" / "results.md").read_text()
