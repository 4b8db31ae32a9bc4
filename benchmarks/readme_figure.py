"""What does the demo give? The figure of the README from the folder that `make demo` made.

usage: python benchmarks/readme_figure.py [demo] [docs/demo.png]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy.stats import gaussian_kde

from cigars.catalogue import read_truth
from cigars.pipeline import read_posterior
from cigars.report.statistics import redshift_statistics
from cigars.report.style import POSTERIOR, TRUTH, new_figure, styled


def density_levels(values: np.ndarray, fractions: tuple[float, ...]) -> list[float]:
    """Heights of a gridded density that enclose the given fractions of it, increasing."""
    ordered = np.sort(values.ravel())[::-1]
    enclosed = np.cumsum(ordered) / ordered.sum()
    return sorted(float(ordered[np.searchsorted(enclosed, f)]) for f in fractions)


@styled
def figure(folder: Path):
    """Posterior of the densities beside posterior redshifts against the truth."""
    posterior, truth = read_posterior(folder / "posterior.nc").posterior, read_truth(folder / "mock-truth.fits")
    drawn = new_figure(8.4, 3.6)
    left, right = drawn.subplots(1, 2)
    om, ode = (posterior[name].values.ravel() for name in ("Om0", "Ode0"))
    x, y = np.meshgrid(np.linspace(0, 0.8, 120), np.linspace(0.2, 1, 120))
    height = gaussian_kde(np.stack([om, ode]))(np.stack([x.ravel(), y.ravel()])).reshape(x.shape)
    left.contourf(x, y, height, [*density_levels(height, (0.393, 0.865)), height.max()], colors=["#cfe3f2", "#5b9fcc"])
    left.plot([0, 0.8], [1, 0.2], color="0.4", lw=0.8, ls="--")
    left.plot(truth.theta.Om0, truth.theta.Ode0, "s", color=TRUTH)
    left.annotate("truth", (truth.theta.Om0, truth.theta.Ode0), xytext=(8, 5), textcoords="offset points", color=TRUTH)
    left.set(xlabel=r"$\Omega_m$", ylabel=r"$\Omega_\Lambda$", title=f"{truth.latents.z.size} supernovae, no spectra")
    mean, sd = posterior["z"].mean(("chain", "draw")).values, posterior["z"].std(("chain", "draw")).values
    statistics = redshift_statistics(mean, truth.latents.z)
    right.errorbar(truth.latents.z, mean, sd, fmt=".", ms=3, lw=0.5, color=POSTERIOR, ecolor="0.75")
    right.axline((0, 0), slope=1, color="0.2", lw=0.8)
    right.set(xlabel="true host redshift", ylabel="posterior mean", title=f"NMAD {statistics.nmad:.4f}, outliers {statistics.outliers:.1%}")
    return drawn


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("demo"))
    parser.add_argument("output", type=Path, nargs="?", default=Path("docs/demo.png"))
    arguments = parser.parse_args()
    figure(arguments.folder).savefig(arguments.output, dpi=150)
    print(arguments.output)
