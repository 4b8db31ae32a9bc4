"""What makes a catalogue usable: every rule here ends in one clear line, `CatalogueError`, or in silence.

The covariance C of (m, x, c) of an object must be positive definite; the test is on its correlation matrix,
R_ij = C_ij / sqrt(C_ii C_jj), min eigenvalue(R) > 1e-6, so that it survives single precision.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from cigars.files import FileError
from cigars.schema import CATALOGUE, OPTIONAL, Observations

__all__ = [
    "CatalogueError",
    "TargetWarning",
    "check_columns",
    "check_ids",
    "check_values",
    "column_names",
    "correlation_floor",
]

LEAST_EIGENVALUE = 1e-6  # of the correlation matrix: a few units of float32 resolution
MAGNITUDES = (0.0, 50.0)  # beyond are codes for "missing" (-9, 99, 999), not magnitudes
FITS = {"x": 50.0, "c": 5.0}  # likewise
REDSHIFTS = (-1.0, 10.0)  # beyond are codes for "missing" too
ERRORS = 6  # of a redshift, by which it may be below zero: with a wide error, that of a near object is
OTHER_REDSHIFTS = {"z", "redshift", "specz", "zspectroscopic", "zcmb", "zhd", "zhel", "zhelio", "zhost"}  # without _, in lower case
SHOWN = 5


class CatalogueError(FileError):
    """A catalogue that cannot be used; the message is one line for people."""


class TargetWarning(UserWarning):
    """Something about a target that a person should know and that stops nothing; the message is one line."""


def column_names(bands: Sequence[str]) -> list[str]:
    """Catalogue columns for these bands, in the order of the schema."""
    plain = [c.name for c in CATALOGUE]
    return [n for name in plain for n in ([name.format(band=b) for b in bands] if "{band}" in name else [name])]


def check_columns(present: Sequence[str], bands: Sequence[str]) -> None:
    """Required columns are there; an absent optional column is not hiding under a misspelled name, nor a covariance under any.

    Warns:
        TargetWarning: where there is no z_spec, but a column that is called as redshifts often are, which is not read.
    """
    expected = column_names(bands)
    absent = [n for n in expected if n not in present]
    spare = [n for n in present if n not in expected]
    required = [n for n in absent if n not in OPTIONAL]
    if required:
        hints = [f"{n!r}" + (f" (nearest is {near!r})" if (near := _nearest(n, spare, 0.6)) else "") for n in required]
        raise CatalogueError(f"columns: expected {', '.join(hints)}, got only {', '.join(present) or 'none'}; rename or add them")
    for name in absent:
        if near := _nearest(name, spare, 0.85):
            raise CatalogueError(f"columns: {near!r} looks like the optional {name!r} misspelled; rename it or drop it")
    if other := [n for n in spare if n.lower().startswith("cov_")]:
        known = ", ".join(n for n in expected if n.startswith("cov_"))
        raise CatalogueError(f"columns: expected covariances {known}, got {', '.join(other)}, which would not be read; rename or drop them")
    if "z_spec" in present and "z_spec_err" not in present:
        raise CatalogueError("columns: expected z_spec_err beside z_spec, got z_spec alone; add its standard deviation")
    if "z_spec_err" in present and "z_spec" not in present:
        raise CatalogueError("columns: expected z_spec beside z_spec_err, got z_spec_err alone; add the redshift or drop its error")
    unread = [n for n in spare if n.replace("_", "").lower() in OTHER_REDSHIFTS]
    if unread and "z_spec" not in present:
        said = f"columns: {', '.join(map(repr, unread))} is not read, and redshifts are taken as unknown"
        remedy = "if spectroscopic, rename it to z_spec and give its standard deviation as z_spec_err"
        warnings.warn(f"{said}; {remedy}", TargetWarning, stacklevel=2)


def check_ids(ids: np.ndarray) -> None:
    """There is at least one object, each with an identifier of its own."""
    if len(ids) == 0:
        raise CatalogueError("catalogue: expected at least one object, got none")
    _refuse("id", np.asarray(ids) == "", "no identifier", "give every object one")
    values, first, counts = np.unique(ids, return_index=True, return_counts=True)
    if (counts > 1).any():
        order = np.argsort(first[counts > 1])[:SHOWN]
        names = ", ".join(repr(str(v)) for v in values[counts > 1][order])
        raise CatalogueError(f"id: expected unique identifiers, got {int((counts > 1).sum())} repeated: {names}; drop the copies")


def check_values(observations: Observations, p_ia: np.ndarray | None, bands: Sequence[str]) -> None:
    """Every value of `observations`, arrays of [sn] and [sn, band], is finite, in range and consistent."""
    o = observations
    for name in ("m", "x", "c", "var_m", "var_x", "var_c", "cov_mx", "cov_mc", "cov_xc"):
        _refuse(name, ~np.isfinite(getattr(o, name)), "NaN or infinite", "drop these rows or fill them")
    for name in ("var_m", "var_x", "var_c"):
        _refuse(name, getattr(o, name) <= 0, "not positive", "a variance must be above zero in single precision")
    _refuse("m", _outside(o.m, MAGNITUDES), "no magnitudes", "expected 0 to 50; drop rows with codes for missing values")
    for name, limit in FITS.items():
        _refuse(
            name,
            _outside(getattr(o, name), (-limit, limit)),
            "no light-curve fit",
            f"expected -{limit:g} to {limit:g}; drop rows with codes for missing values",
        )
    for k, band in enumerate(bands):
        _check_band(band, o.mag[:, k], o.mag_err[:, k])
    _refuse("mag", np.isnan(o.mag).all(-1), "not observed in any band", "at least one host magnitude is needed")
    floor = correlation_floor(o)
    _refuse("covariance of (m, x, c)", ~(floor > LEAST_EIGENVALUE), "not positive definite", "drop these rows or correct their covariances")
    _check_redshift(o.z_spec, o.z_spec_err)
    if p_ia is not None:
        _refuse("p_ia", _outside(p_ia, (0.0, 1.0)), "outside [0, 1]", "expected a probability, or NaN where unknown")


def correlation_floor(o: Observations) -> Float[np.ndarray, " sn"]:
    """Least eigenvalue of the correlation matrix of (m, x, c) of each object, -1 where that is not finite."""
    sd = np.sqrt(np.stack([o.var_m, o.var_x, o.var_c], -1).astype(np.float64))
    matrix = np.broadcast_to(np.eye(3), (len(sd), 3, 3)).copy()
    with np.errstate(divide="ignore", invalid="ignore"):
        for i, j, covariance in ((0, 1, o.cov_mx), (0, 2, o.cov_mc), (1, 2, o.cov_xc)):
            matrix[:, i, j] = matrix[:, j, i] = np.clip(covariance / (sd[:, i] * sd[:, j]), -1e3, 1e3)
    finite = np.isfinite(matrix).all((1, 2), keepdims=True)
    return np.linalg.eigvalsh(np.where(finite, matrix, -np.eye(3)))[:, 0]


def _check_band(band: str, mag: np.ndarray, err: np.ndarray) -> None:
    for name, values in ((f"mag_{band}", mag), (f"mag_err_{band}", err)):
        _refuse(name, np.isinf(values), "infinite", "mark bands that are not observed by NaN")
    _refuse(f"mag_{band}", _outside(mag, MAGNITUDES), "no magnitudes", "expected 0 to 50; mark bands that are not observed by NaN")
    _refuse(f"mag_err_{band}", err <= 0, "not positive", "add an error floor in quadrature, or mark the band NaN")
    _refuse(f"mag_{band}", np.isnan(mag) != np.isnan(err), "present in only one of magnitude and error", "give both or neither")


def _check_redshift(z: np.ndarray, err: np.ndarray) -> None:
    _refuse("z_spec_err", np.isinf(err) | (err <= 0), "not positive and finite", "expected a standard deviation, or NaN where z_spec is")
    far = np.isinf(z) | (z == 0) | (z <= np.fmax(REDSHIFTS[0], -ERRORS * err)) | (z >= REDSHIFTS[1])
    _refuse("z_spec", far, "out of range", f"expected 0 < z < 10, less by {ERRORS} z_spec_err at most, or NaN where unknown")
    _refuse("z_spec", np.isnan(z) != np.isnan(err), "present in only one of redshift and error", "give both or neither")


def _outside(values: np.ndarray, limits: tuple[float, float]) -> Bool[np.ndarray, " sn"]:
    return (values < limits[0]) | (values > limits[1])


def _refuse(name: str, bad: np.ndarray, what: str, remedy: str) -> None:
    if np.any(bad):
        raise CatalogueError(f"{name}: {rows(bad)} {what}; {remedy}")


def rows(bad: np.ndarray) -> str:
    """The first few row numbers and the count of a mask, in words; the first row is 1."""
    where = np.flatnonzero(bad) + 1
    if len(where) == 1:
        return f"row {where[0]} (counting from 1) is"
    dots = ", ..." if len(where) > SHOWN else ""
    return f"{len(where)} rows ({', '.join(map(str, where[:SHOWN]))}{dots}, counting from 1) are"


def _nearest(name: str, candidates: Sequence[str], cutoff: float) -> str | None:
    lowered = {c.lower(): c for c in candidates}
    near = difflib.get_close_matches(name.lower(), list(lowered), n=1, cutoff=cutoff)
    return lowered[near[0]] if near else None
