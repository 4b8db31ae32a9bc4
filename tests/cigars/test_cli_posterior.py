"""`cigars products` and `cigars combine` as a user types them, and what they refuse."""

import re

from cigars.report import products as figures

from .synthetic import synthetic


def test_commands_write_products_and_combine(cigars, refused, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "FIGURES", {"dtd": figures.dtd_figure})  # the others take seconds each
    post = tmp_path / "p.nc"
    synthetic(300, objects=30).save(post)
    said = cigars("products", post, "-o", tmp_path / "made")
    assert said.code == 0, said.err
    assert (tmp_path / "made" / "dtd.pdf").exists()
    (tmp_path / "cmb.toml").write_text('parameters = ["Om0"]\nmean = [0.31]\nsd = [0.02]\n')
    said = cigars("combine", post, "--gaussian", tmp_path / "cmb.toml", "-o", tmp_path / "both.nc")
    assert said.code == 0, said.err
    assert re.search(r"gaussian on Om0: \d+ effective draws, chosen from 300 stored draws;", said.out.replace("\n", " "))
    assert "expected a constraint" in refused("combine", post, "-o", tmp_path / "c.nc")
    idle = ("--gaussian", tmp_path / "cmb.toml", "--parameters", "Om0", "-o", tmp_path / "c.nc")
    assert "expected --chain with --parameters, got --gaussian" in refused("combine", post, *idle)
    (tmp_path / "far.toml").write_text('parameters = ["Om0"]\nmean = [0.9]\nsd = [0.01]\n')
    assert "at least 50 effective draws" in refused("combine", post, "--gaussian", tmp_path / "far.toml", "-o", tmp_path / "c.nc")
    assert not (tmp_path / "c.nc").exists()
    assert "exists already" in refused("combine", post, "--gaussian", tmp_path / "cmb.toml", "-o", tmp_path / "both.nc")
