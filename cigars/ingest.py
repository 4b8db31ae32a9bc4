"""Catalogues made from published supernova releases, in the release's own files, with named quality cuts.

DES-SN5YR (Dovekie re-analysis; Sanchez+24, Vincenzi+24, Popovic+26). What is done to its numbers:

- SALT3: m = mB = 10.635 - 2.5 log10 x0, so dm = -k dx0/x0 with k = 2.5/ln 10, and var m = (k/x0)^2 var x0,
  cov(m, x) = -(k/x0) cov(x0, x1), cov(m, c) = -(k/x0) cov(x0, c).
- Redshift: zHD, in the frame of the CMB and corrected for peculiar velocity, the one that distances need; its error includes
  300 km/s of residual velocity. Spectra are seen at zHEL, which differs by less than 0.0015: nothing for a host's colours.
- Host magnitudes: HOSTGAL_MAG of the host header, deep DECam co-adds, AB (Wiseman+20). They are taken as they are: the release does
  not say whether Galactic extinction is removed, and host colours at given redshift do not follow E(B-V) as they would
  if it were not (`benchmarks/des5yr_model.py` measures it). Supernova magnitudes are corrected by the light-curve fit.
- Host errors are rounded to 0.01 mag and the bright ones read 0.00. HOST_FLOOR is added in quadrature: more than the rounding
  (0.003), about the uniformity of zero points and of apertures between bands; it is a choice, not a measurement.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from astropy.io import fits
from jaxtyping import Bool, Float
from numpy import ndarray

from cigars.catalogue import Catalogue, CatalogueError, select, validated
from cigars.catalogue_checks import LEAST_EIGENVALUE, correlation_floor
from cigars.schema import Observations

__all__ = ["DES_BANDS", "HOST_FLOOR", "RELEASES", "Cut", "ingest", "ingest_des_sn5yr", "read_snana"]

DES_BANDS = ("g", "r", "i", "z")
HOST_FLOOR = 0.02  # mag
COLOUR_LIMIT = 3.0  # mag between adjacent bands; no galaxy below z = 1.2 is beyond 2.5, failed photometry is
DES = "10"  # IDSURVEY
TYPES_IA = ("0", "1", "101")  # no spectrum, Ia, probably Ia
HUBBLE, META, HEAD, CLASSES = "DES-Dovekie_HD.csv", "DES-Dovekie_Metadata.csv", "DES-SN5YR_DES_HEAD.FITS.gz", "DES_classification.csv"
MAGNITUDES_PER_E = 2.5 / np.log(10)


class Cut(NamedTuple):
    """A named cut with the number of rows that it kept and removed, applied after the ones before it."""

    name: str
    kept: int
    removed: int


def ingest(release: str, directory: str | Path, minimum_p_ia: float = 0.5) -> tuple[Catalogue, list[Cut]]:
    """The catalogue of a release known by name, see RELEASES; raises CatalogueError."""
    if release not in RELEASES:
        raise CatalogueError(f"ingest: expected a release of {', '.join(RELEASES)}, got {release!r}")
    return RELEASES[release](directory, minimum_p_ia)


def ingest_des_sn5yr(directory: str | Path, minimum_p_ia: float = 0.5) -> tuple[Catalogue, list[Cut]]:
    """Catalogue of DES-SN5YR with griz hosts, and its cuts.

    Args:
        directory: folder with the release's Hubble diagram, metadata, host header and classification.
        minimum_p_ia: the forward model holds type Ia only, so likely others are cut; 0 keeps all that are classified.

    Raises:
        CatalogueError: a file is missing or is not what its name says.
    """
    folder = Path(directory)
    absent = [name for name in (HUBBLE, META, HEAD, CLASSES) if not (folder / name).is_file()]
    if absent:
        raise CatalogueError(f"{folder}: expected the files of DES-SN5YR, missing {', '.join(absent)}; name the folder that holds them")
    salt = read_snana(folder / META)
    hubble = set(read_snana(folder / HUBBLE, ("CID",))["CID"])
    head = _read_head(folder / HEAD)
    classes = _read_classes(folder / CLASSES)

    ids = salt["CID"]
    row = np.array([head.row.get(i, -1) for i in ids])
    mag, err = (np.where(row[:, None] >= 0, values[row], np.nan) for values in (head.mag, head.err))
    p_ia = np.array([classes.get(i, np.nan) for i in ids])
    catalogue = Catalogue(ids, _observations(salt, mag, err), p_ia)
    o = catalogue.observations
    cuts: list[tuple[str, Any]] = [
        ("absent from the Hubble diagram", ~np.isin(ids, list(hubble))),
        ("low redshift without host magnitudes", salt["IDSURVEY"] != DES),
        ("absent from the host header", row < 0),
        ("host magnitude missing", ~_between(mag, 5.0, 35.0).all(-1)),
        ("host magnitude error missing", ~_between(err, 0.0, 5.0).all(-1)),
        (f"adjacent host bands differ by more than {COLOUR_LIMIT:g} mag", (np.abs(np.diff(mag)) > COLOUR_LIMIT).any(-1)),
        ("redshift missing", ~(_between(o.z_spec, 1e-4, 9.0) & (o.z_spec_err > 0))),
        ("SALT3 covariance not positive definite", ~(correlation_floor(o) > LEAST_EIGENVALUE)),
        ("spectroscopic type other than Ia", ~np.isin(salt["TYPE"], TYPES_IA)),
        ("no classification", np.isnan(p_ia)),
        (f"P(Ia) below {minimum_p_ia:g}", p_ia < minimum_p_ia),
    ]
    kept, report = _apply(cuts)
    if not kept.any():
        raise CatalogueError(f"{folder}: no supernova passes the cuts; the last was {report[-1].name!r}")
    return validated(select(catalogue, kept), DES_BANDS), report


RELEASES: dict[str, Callable[[str | Path, float], tuple[Catalogue, list[Cut]]]] = {"des-sn5yr": ingest_des_sn5yr}


def read_snana(path: Path, needed: Sequence[str] = ()) -> dict[str, ndarray]:
    """Columns (text) of an SNANA table: a `VARNAMES:` line names them, every `SN:` line is a row, the rest is comment."""
    needed = needed or SALT_COLUMNS
    names: list[str] = []
    rows: list[list[str]] = []
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogueError(f"{path}: cannot read: {error}") from None
    for number, line in enumerate(lines, 1):
        key, *words = line.split() or [""]
        if key == "VARNAMES:":
            names = words
        elif key == "SN:":
            if len(words) != len(names):
                raise CatalogueError(f"{path}: line {number}: expected {len(names)} values, got {len(words)}; copy the file again")
            rows.append(words)
    absent = [n for n in needed if n not in names]
    if absent or not rows:
        what = f"columns {', '.join(absent)}" if absent else "rows that begin with 'SN:'"
        raise CatalogueError(f"{path}: expected an SNANA table with {what}, got none; is it the release's own file?")
    return {name: np.array(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)}


SALT_COLUMNS = (
    "CID",
    "IDSURVEY",
    "TYPE",
    "zHD",
    "zHDERR",
    "mB",
    "x0",
    "x0ERR",
    "x1",
    "x1ERR",
    "c",
    "cERR",
    "COV_x1_c",
    "COV_x1_x0",
    "COV_c_x0",
)


class _Head(NamedTuple):
    row: dict[str, int]
    mag: Float[ndarray, "host band"]
    err: Float[ndarray, "host band"]


def _read_head(path: Path) -> _Head:
    try:
        data = fits.getdata(path, 1, memmap=False)
        ids = [str(s).strip() for s in data["SNID"]]
        mag, err = (np.stack([data[f"HOSTGAL_{kind}_{b}"] for b in DES_BANDS], -1).astype(np.float64) for kind in ("MAG", "MAGERR"))
    except Exception as error:  # astropy raises many kinds on a damaged file
        raise CatalogueError(f"{path}: not the FITS host header of the release: {error}") from None
    return _Head({name: k for k, name in enumerate(ids)}, mag, err)


def _read_classes(path: Path) -> dict[str, float]:
    try:
        with path.open(newline="") as file:
            _, *rows = csv.reader(file)
        return {row[0].strip(): float(row[1]) for row in rows if row}  # of a blank line there is none
    except (OSError, ValueError, IndexError) as error:
        raise CatalogueError(f"{path}: expected lines of SNID,probability: {error}") from None


def _observations(salt: dict[str, ndarray], mag: ndarray, err: ndarray) -> Observations:
    try:
        v = {name: salt[name].astype(np.float64) for name in SALT_COLUMNS[3:]}
    except ValueError as error:
        raise CatalogueError(f"{META}: {error}") from None
    per_x0 = -MAGNITUDES_PER_E / v["x0"]  # dm / dx0
    return Observations(
        mag=mag,
        mag_err=np.hypot(err, HOST_FLOOR),
        m=v["mB"],
        x=v["x1"],
        c=v["c"],
        var_m=(per_x0 * v["x0ERR"]) ** 2,
        var_x=v["x1ERR"] ** 2,
        var_c=v["cERR"] ** 2,
        cov_mx=per_x0 * v["COV_x1_x0"],
        cov_mc=per_x0 * v["COV_c_x0"],
        cov_xc=v["COV_x1_c"],
        z_spec=v["zHD"],
        z_spec_err=v["zHDERR"],
    )


def _apply(cuts: Sequence[tuple[str, Bool[ndarray, " sn"]]]) -> tuple[Bool[ndarray, " sn"], list[Cut]]:
    kept = np.ones(len(cuts[0][1]), bool)
    report = []
    for name, bad in cuts:
        removed = int((kept & bad).sum())
        kept &= ~bad
        report.append(Cut(name, int(kept.sum()), removed))
    return kept, report


def _between(values: ndarray, low: float, high: float) -> ndarray:
    return (values >= low) & (values <= high)
