"""One look for every figure: Okabe-Ito colours (safe for colour-blind readers), few lines, sizes for the page.

Figures are built with matplotlib's object interface, never through pyplot: no backend is chosen and no figure is kept alive.
Okabe & Ito 2008, "Color Universal Design".
"""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Callable
from typing import Any, TypeVar

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

__all__ = [
    "BAND",
    "GREY",
    "INK",
    "POSTERIOR",
    "SECOND",
    "TRUTH",
    "draw_points",
    "grid_of_axes",
    "new_figure",
    "png_data_uri",
    "styled",
    "svg_data_uri",
    "write_pdf",
    "write_png",
]

POSTERIOR, TRUTH, SECOND, GREY, INK = "#0072B2", "#D55E00", "#009E73", "#8C8C8C", "#222222"
BAND = "#CFE3F0"  # the posterior's blue, light enough to print under black

_RC: Any = {
    "font.size": 10,
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same page on every machine
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "axes.edgecolor": "#555555",
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
    "savefig.dpi": 200,
    "svg.hashsalt": "cigars",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
}

F = TypeVar("F", bound=Callable[..., Any])


def styled(function: F) -> F:
    """Run a figure function under the report's style, leaving the caller's settings as they were."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with matplotlib.rc_context(_RC):
            return function(*args, **kwargs)

    return wrapper  # type: ignore[return-value]


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of `width` × `height` inches that arranges its own margins."""
    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(h_pad=0.07))  # a title must not touch the panel above


def grid_of_axes(count: int, columns: int, *, width: float = 2.1, height: float = 1.75) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels of `width` × `height` inches in rows of `columns`."""
    rows = -(-count // columns)
    figure = new_figure(width * columns, height * rows)
    axes = list(np.ravel(figure.subplots(rows, columns, squeeze=False)))
    for spare in axes[count:]:
        spare.remove()
    return figure, axes[:count]


def draw_points(axes: Axes, x: np.ndarray, y: np.ndarray, *, xerr: np.ndarray | None = None, yerr: np.ndarray) -> None:
    """Objects with faint error bars, smaller and fainter the more there are; hundreds of them as pixels, to keep the page small."""
    crowd = max(1.0, x.size / 400)
    pixels = x.size > 250
    bars = {"ecolor": GREY, "elinewidth": 0.5, "alpha": 0.35 / crowd**0.6, "rasterized": pixels, "zorder": 1}
    axes.errorbar(x, y, xerr=xerr, yerr=yerr, fmt="none", **bars)
    size, alpha = 3.0 / crowd**0.3, 0.65 / crowd**0.2
    axes.plot(x, y, "o", color=POSTERIOR, markersize=size, markeredgewidth=0, alpha=alpha, rasterized=pixels, zorder=2)


def _crop(figure: Figure) -> dict[str, Any]:
    """Trim the margins of figures that do not arrange them themselves (the corner plots)."""
    return {} if figure.get_layout_engine() else {"bbox_inches": "tight", "pad_inches": 0.04}


@styled
def svg_data_uri(figure: Figure) -> str:
    """The figure as an SVG data URI: an image of its own, so identifiers of two figures cannot meet in one page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", **_crop(figure), metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


@styled
def png_data_uri(figure: Figure, dpi: float = 130) -> str:
    """The figure as a PNG data URI, smaller than SVG for figures of a hundred panels."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, **_crop(figure), metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


@styled
def write_pdf(figure: Figure, path: Any) -> None:
    """The figure as a PDF for papers, the same bytes for the same figure."""
    figure.savefig(path, format="pdf", **_crop(figure), metadata={"CreationDate": None})


@styled
def write_png(figure: Figure, path: Any) -> None:
    """The figure as a PNG for slides, the same bytes for the same figure."""
    figure.savefig(path, format="png", dpi=200, **_crop(figure), metadata={"Software": None})
