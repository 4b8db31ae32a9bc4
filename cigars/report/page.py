"""The report: one self-contained HTML page with the posterior of a survey and the reasons to believe it.

Text, tables and figures are made from `ReportInputs` alone and put into `report.html.j2` with escaping on; figures are SVG
data URIs, the style sheet is inline, and the page forbids itself any script or outside resource (Content-Security-Policy).
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure

from cigars.convergence import convergence
from cigars.files import refuse_existing, replacing
from cigars.report import sections
from cigars.report.inputs import ReportInputs
from cigars.report.sections import Plot
from cigars.report.statistics import RedshiftStatistics, redshift_statistics
from cigars.report.style import png_data_uri, svg_data_uri, write_pdf
from cigars.report.tables import ParameterRow, format_duration, format_value, label_html, parameter_table
from cigars.report.words import headline, summary

__all__ = ["ParameterRow", "RedshiftStatistics", "ReportInputs", "parameter_table", "redshift_statistics", "render_report", "write_report"]


class Picture(NamedTuple):
    """A drawn figure with what the page says of it."""

    plot: Plot
    uri: str


def write_report(path: str | Path, inputs: ReportInputs, *, overwrite: bool = False, figures_dir: str | Path | None = None) -> Path:
    """Write the report of `inputs` to `path`, and each figure as `figures_dir`/NAME.pdf when that is given; returns the path.

    Raises:
        FileError: the page or a PDF exists and `overwrite` is False, when nothing is written, or cannot be written.
    """
    path, folder = Path(path), None if figures_dir is None else Path(figures_dir)
    figures: dict[str, Figure] = {}
    targets = [path] if folder is None else [path, *(folder / f"{p.name}.pdf" for s in sections.build(inputs) for p in s.plots)]
    for target in targets:
        refuse_existing(target, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    page = render_report(inputs, keep=figures)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            with replacing(folder / f"{name}.pdf", overwrite) as partial:
                write_pdf(figure, partial)
    with replacing(path, overwrite) as partial:
        partial.write_text(page, encoding="utf-8")
    return path


def render_report(inputs: ReportInputs, keep: dict[str, Figure] | None = None) -> str:
    """The page as text; figures drawn on the way are put into `keep` under their names."""
    rows, attributes = parameter_table(inputs), inputs.posterior.attributes
    drawn = [(section, [_draw(plot, inputs, keep) for plot in section.plots]) for section in sections.build(inputs)]
    return _template().render(
        title=_title(inputs),
        style=Markup(_resource("report.css")),
        created=attributes.get("created", ""),
        command=attributes.get("command", ""),
        cards=headline(inputs, rows),
        summary=summary(inputs, rows),
        rows=rows,
        sections=drawn,
        provenance=_provenance(inputs),
        versions=list(json.loads(attributes.get("versions", "{}")).items()),
        config=json.dumps(json.loads(attributes["config"]), indent=2, ensure_ascii=False),
        timings=[(step, format_duration(seconds)) for step, seconds in inputs.timings.items()],
        total=format_duration(sum(inputs.timings.values())),
    )


def _draw(plot: Plot, inputs: ReportInputs, keep: dict[str, Figure] | None) -> Picture:
    figure = plot.function(inputs)
    if keep is not None:
        keep[plot.name] = figure
    return Picture(plot, (png_data_uri if plot.folded else svg_data_uri)(figure))


def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"value": format_value, "label": label_html, "signed": lambda x: f"{x:+.2f}".replace("-", "−")}
    return environment.from_string(_resource("report.html.j2"))


def _resource(name: str) -> str:
    return (resources.files("cigars.report") / name).read_text(encoding="utf-8")


def _title(inputs: ReportInputs) -> str:
    name = inputs.posterior.config.name
    return f"Supernova cosmology: {name}" if name else "Supernova cosmology"


def _provenance(inputs: ReportInputs) -> list[tuple[str, str]]:
    posterior, attributes = inputs.posterior, inputs.posterior.attributes
    entries: list[tuple[str, str]] = [
        (key, str(attributes[key])) for key in ("command", "created", "fingerprint", "seed") if key in attributes
    ]
    if chains := convergence(attributes):
        entries += [("method", "exact likelihood, by Hamiltonian Monte Carlo"), ("chains", f"{posterior.chains}: {chains.said}")]
    if weights := attributes.get("weighted_by"):
        entries += [("weighted by", weights), ("effective draws", f"{float(attributes['effective_draws']):,.0f}")]
    return [*entries, ("posterior draws", f"{posterior.draws:,}")]
