"""Every command that the pages name is one that its program takes: its options exist and their values are of the right kind."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer
from distributed.cli.dask_scheduler import main as dask_scheduler
from distributed.cli.dask_worker import main as dask_worker
from torch.distributed.run import get_args_parser
from typer.exceptions import TyperException

from cigars.cli import app
from cigars.config import load_config
from cigars.schema import FIDUCIAL, column
from inference.stages import surveys_used

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "docs/cluster.md", "docs/model.md")
DASK = {"scheduler": dask_scheduler, "worker": dask_worker}


def commands(page: str, program: str) -> list[list[str]]:
    """Words of the commands of a program that stand in the indented blocks of a page, without comments."""
    lines = re.findall(rf"^    ({program} .*)$", (ROOT / page).read_text(), re.MULTILINE)
    return [shlex.split(line, comments=True)[1:] for line in lines]


def parsed(command, words: list[str]) -> None:
    """Let a command and its subcommands read their words, and do nothing; a word that does not fit is a usage error."""
    context = command.make_context(command.name, list(words))
    if hasattr(command, "resolve_command"):
        _, found, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        parsed(found, rest)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_ours_is_taken(page):
    found = commands(page, "cigars")
    assert len(found) > 5
    for words in found:
        parsed(typer.main.get_command(app), words)


def test_the_stores_of_the_pages_are_as_large_as_a_training_needs():
    demo, lsst = (surveys_used(load_config(name).training) for name in ("demo", "lsst"))
    assert f"cigars simulate demo --store surveys --surveys {demo} " in (ROOT / "README.md").read_text()
    assert f"{demo:,} surveys of `demo` or {lsst:,} of `lsst`" in (ROOT / "docs/cluster.md").read_text()


@pytest.mark.parametrize("words", ["simulate lsst --stores a", "store verify", "simulate lsst --store a --surveys many", "fly"])
def test_a_wrong_command_is_not(words):
    with pytest.raises(TyperException):
        parsed(typer.main.get_command(app), words.split())


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_others_is_taken(page):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for words in commands(page, "torchrun"):
        given = get_args_parser().parse_args(words)
        assert given.module
        assert given.training_script == "cigars"
        parsed(typer.main.get_command(app), given.training_script_args)
    for name, *words in commands(page, "dask"):
        parsed(DASK[name], words)
    for _, script, *_ in ([None, *words] for words in commands(page, "python")):
        assert (ROOT / script).is_file()
    for words in commands(page, "pip"):
        assert {extra for word in words for extra in re.findall(r"\[(\w+)\]", word)} <= set(extras)


def test_the_cluster_page_is_linked_and_its_links_lead_somewhere():
    assert "docs/cluster.md" in (ROOT / "README.md").read_text()
    named = re.findall(r"`((?:benchmarks|tests)/[\w/.]+)`", (ROOT / "docs/cluster.md").read_text())
    assert len(named) >= 3
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_parameters_of_the_page_are_those_of_the_model():
    lines, config = (ROOT / "docs/model.md").read_text().splitlines(), load_config("lsst")
    rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| `")]
    assert [name for name, *_ in rows] == list(config.marginals)
    for name, _, unit, law, fiducial in rows:
        prior, numbers = getattr(config.prior, name), tuple(map(float, law[2:-1].split(",")))
        assert {"U": prior.uniform, "N": prior.normal}[law[0]] == numbers
        assert (unit, float(fiducial)) == (column(name).unit, getattr(FIDUCIAL, name))


def test_the_survey_of_the_page_can_be_simulated(tmp_path):
    """Its settings are taken, and what it copies of the defaults is what they are."""
    (text,) = re.findall(r"```toml\n(.*?)```", (ROOT / "docs/model.md").read_text(), re.DOTALL)
    (tmp_path / "mine.toml").write_text(text)
    config, lsst = load_config(str(tmp_path / "mine.toml")), load_config("lsst")
    assert (config.size.area_deg2, config.size.expected_supernovae) == (20, None)
    assert (config.selection.m50, config.selection.ln_width) == (lsst.selection.m50, lsst.selection.ln_width)
