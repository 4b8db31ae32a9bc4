"""`cigars products` and `cigars combine`: what comes after a posterior."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cigars.files import check_writable
from cigars.terminal import console, print_parameters

__all__ = ["combine", "products"]

PosteriorFile = Annotated[Path, typer.Argument(metavar="POSTERIOR", help="Posterior that `cigars infer` wrote.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")]


def products(
    posterior: PosteriorFile,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for tables (FITS) and figures (PDF, PNG).")],
    overwrite: Overwrite = False,
) -> None:
    """Hubble diagram, brightness against hosts, delay-time distribution, host masses and N(z), each with its uncertainty."""
    from cigars.posterior import load_posterior
    from cigars.products import products as write

    with console.status("tables and figures"):
        paths = write(load_posterior(posterior), output, overwrite=overwrite)
    console.print(f"{len(paths)} files in {output}: {', '.join(sorted({p.stem for p in paths}))}")


def combine(
    posterior: PosteriorFile,
    output: Annotated[Path, typer.Option("--output", "-o", help="Posterior to write, NetCDF.")],
    gaussian: Annotated[
        list[Path] | None, typer.Option(metavar="FILE.toml", help="Normal constraint: parameters, mean, covariance (or sd, correlation).")
    ] = None,
    chain: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Samples under a flat prior, burn-in removed: a table, or the root of GetDist chains."),
    ] = None,
    parameters: Annotated[str | None, typer.Option(help="Which parameters of the chain to use; Om0,Ode0 unless given.")] = None,
    run: Annotated[
        Path | None, typer.Option(help="Run folder, where it has moved; without it the stored draws are weighted, not 20,000 new ones.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Seed of the draws.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Multiply a posterior by other experiments' constraints on cosmology; hosts and redshifts follow."""
    from cigars.config import ConfigError
    from cigars.importance import Constraint, read_chain, read_gaussian
    from cigars.posterior import load_posterior

    if not (gaussian or chain):
        raise ConfigError("combine: expected a constraint, got none; give --gaussian FILE.toml or --chain FILE")
    if parameters is not None and not chain:
        raise ConfigError("combine: expected --chain with --parameters, got --gaussian, whose file names its own; leave them out or add it")
    check_writable(output, overwrite)
    names = [n.strip() for n in (parameters or "Om0,Ode0").split(",")]
    constraints: list[Constraint] = [*(read_gaussian(p) for p in gaussian or ()), *(read_chain(p, names) for p in chain or ())]
    with console.status("weighting"):
        combined = load_posterior(posterior, run).combine(*constraints, seed=seed)
        combined.save(output, overwrite=overwrite)
    print_parameters(combined)
    about = combined.attributes
    found = f"{float(about['effective_draws']):,.0f} effective draws, chosen from {about['weighted_from']}"
    console.print(f"{about['weighted_by']}: {found}; posterior in {output}")
