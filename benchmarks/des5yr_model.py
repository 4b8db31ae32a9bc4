"""Which errors and which selection does DES-SN5YR show? Prints the TOML fragment of `cigars/presets/des5yr.toml`.

    python benchmarks/des5yr_model.py DIR [--json OUT]        (DIR: the release's files; about a minute on one core)

Expected: host variances that grow by 0.8 ln 10 = 1.84 per magnitude (background-limited), supernovae lost beyond an m_50 that
falls within 22.5-25 mag over 0.2 < z < 1, hosts with redshift lost about r = 23-24 mag. Each number is fitted alone:

1. Host errors: ln sigma ~ N(a + b (mag - 23), s), maximum likelihood; the release rounds sigma to 0.01, so each object contributes
   the probability of its interval [e - 0.005, e + 0.005].
2. Supernova errors: ln W regressed on m; correlations are means over objects, as covariances add up over a catalogue.
3. Hosts with a redshift: of all 19,706 transients the fraction whose host has one, against r: plateau Phi((m_50 - r)/w) + floor.
   Weak: the transients are of every kind (AGN and core collapse too, with other hosts), targets had priorities of type and season,
   and a plateau below one is dropped, which is right only where it does not depend on magnitude.
4. Detection: the catalogue's (z, m) are a Poisson process with intensity rate(z) E(z) parent(m - mu(z) - M0) Phi((m_50(z) - m)/w(z)),
   maximum likelihood: rate(z) = (1 + z)^1.7 / (1 + z) dV/dz (Frohmaier+19), the parent a normal with the forward model's dust tail, and
   E(z) the chance of a host redshift, 1 / mean of 1/efficiency(r) over the hosts in bins of z. Weak: mu is that of flat LCDM with
   Om0 = 0.3, so an evolution of brightness or another cosmology is taken for selection (the JSON has 0.25 and 0.4 too); the rate is
   assumed; shallow and deep fields are one survey; the cuts on x, c, fit quality and P(Ia) are in it only through m;
   the parent's tail is shorter than the catalogue's; hosts too faint for any redshift are missing from E(z).
5. Galactic extinction of host magnitudes: slope of host colours with E(B-V) at fixed redshift and i; 0 if they are corrected,
   R_a - R_b if not. Fields differ in depth and E(B-V) alike, so the quoted error is from resampling fields.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from astropy.cosmology import FlatLambdaCDM
from astropy.io import fits
from numpy.polynomial.polynomial import polyval
from scipy.optimize import minimize
from scipy.special import ndtr

from cigars.catalogue import Catalogue, select
from cigars.ingest import DES_BANDS, HEAD, HOST_FLOOR, ingest_des_sn5yr

PIVOT = 23.0
DUST_TAIL = 0.133  # mag: mean of (R_V + 1) A_V / R_V in the forward model's dust, mean A_V 0.1
EXTINCTION = {"g": 3.186, "r": 2.140, "i": 1.569, "z": 1.196}  # A_b / E(B-V) (DES DR1, Abbott+18)


def host_errors(mag: np.ndarray, sigma: np.ndarray) -> tuple[float, float, float]:
    """Offset a, slope b and scatter s of ln sigma at the pivot, from sigma rounded to 0.01 mag."""
    low, high = np.log(np.maximum(sigma - 0.005, 1e-12)), np.log(sigma + 0.005)

    def cost(p: np.ndarray) -> float:
        centre, s = p[0] + p[1] * (mag - PIVOT), np.exp(p[2])
        return -np.log(ndtr((high - centre) / s) - ndtr((low - centre) / s) + 1e-4).sum()  # 1e-4: a stray outlier decides nothing

    a, b, s = minimize(cost, [-4.5, 0.9, -1.0], method="Nelder-Mead", options={"maxiter": 4000, "xatol": 1e-4, "fatol": 1e-4}).x
    return float(a), float(b), float(np.exp(s))


def supernova_errors(m: np.ndarray, variance: np.ndarray) -> tuple[float, float, float]:
    """Offset, slope and scatter of ln W against m at the pivot, by least absolute deviations (scatter from the MAD)."""
    y = np.log(variance)
    fit = minimize(lambda p: np.abs(y - p[0] - p[1] * (m - PIVOT)).sum(), np.polyfit(m - PIVOT, y, 1)[::-1], method="Nelder-Mead")
    residual = y - fit.x[0] - fit.x[1] * (m - PIVOT)
    return float(fit.x[0]), float(fit.x[1]), float(1.4826 * np.median(np.abs(residual)))


def host_efficiency(r: np.ndarray, has: np.ndarray) -> tuple[float, float, float, float]:
    """m_50, width, plateau and floor of the fraction of hosts that have a redshift, against r."""

    def cost(p: np.ndarray) -> float:
        plateau, floor = 1 / (1 + np.exp(-p[2:]))
        chance = np.clip(floor + (plateau - floor) * ndtr((p[0] - r) / np.exp(p[1])), 1e-6, 1 - 1e-6)
        return -np.where(has, np.log(chance), np.log1p(-chance)).sum()

    p = minimize(cost, [23.5, 0.0, 1.5, -3.0], method="Nelder-Mead", options={"maxiter": 4000}).x
    return (float(p[0]), float(np.exp(p[1])), *(float(v) for v in 1 / (1 + np.exp(-p[2:]))))


def parent(residual: np.ndarray, sigma: np.ndarray, tau: float) -> np.ndarray:
    """Density of a normal (0, sigma) plus an exponential (mean tau)."""
    return np.exp(0.5 * (sigma / tau) ** 2 - residual / tau) / tau * ndtr(residual / sigma - sigma / tau)


class Sample(NamedTuple):
    """Redshift, magnitude and host r of the supernovae, the error model of m, and (m_50, width) of the host efficiency."""

    z: np.ndarray
    m: np.ndarray
    r: np.ndarray
    error: Sequence[float]
    efficiency: Sequence[float]


def host_completeness(sample: Sample, z: np.ndarray) -> np.ndarray:
    """Chance of a host redshift at z, from weighting the catalogue's hosts by the inverse of their own."""
    edges = np.quantile(sample.z, np.linspace(0, 1, 13))
    weight = 1 / np.maximum(ndtr((sample.efficiency[0] - sample.r) / sample.efficiency[1]), 0.02)
    which = np.clip(np.digitize(sample.z, edges) - 1, 0, 11)
    centres = [sample.z[which == k].mean() for k in range(12)]
    return np.interp(z, centres, [1 / weight[which == k].mean() for k in range(12)])


def detection(sample: Sample, Om0: float = 0.3) -> dict[str, Any]:
    """Parent (M0, sigma; its tail is DUST_TAIL) and detection that make the catalogue's z and m likeliest.

    m_50 is of third degree in z, ln w of first.
    """
    cosmology = FlatLambdaCDM(70.0, Om0)
    nodes, offsets = np.linspace(0.06, 1.2, 58), np.linspace(-2.0, 2.0, 65)
    rate = (1 + nodes) ** 0.7 * cosmology.differential_comoving_volume(nodes).value * host_completeness(sample, nodes)
    mu_nodes, mu = cosmology.distmod(nodes).value, cosmology.distmod(sample.z).value

    def intensity(p: np.ndarray, z: np.ndarray, m: np.ndarray, at: np.ndarray) -> np.ndarray:
        variance = np.exp(sample.error[0] + sample.error[1] * (m - PIVOT) + 0.5 * sample.error[2] ** 2)
        density = parent(m - at - p[0], np.sqrt(np.exp(2 * p[1]) + variance), DUST_TAIL)
        return density * ndtr((polyval(z, p[2:6]) - m) / np.exp(polyval(z, p[6:8])))

    def expected(p: np.ndarray) -> np.ndarray:
        """Redshift distribution on the nodes, not normalised."""
        magnitudes = mu_nodes[:, None] + p[0] + offsets
        return rate * intensity(p, nodes[:, None], magnitudes, mu_nodes[:, None]).sum(-1) * (offsets[1] - offsets[0])

    def cost(p: np.ndarray) -> float:
        total = expected(p).sum() * (nodes[1] - nodes[0])
        here = np.interp(sample.z, nodes, rate)
        like = 0.99 * here * intensity(p, sample.z, sample.m, mu) / total + 0.01 * 0.2  # 1 % contaminants anywhere
        return -np.log(like).sum() + 0.5 * (p[7] / 1.0) ** 2 + 0.5 * np.square(p[3:6] / 10.0).sum()

    best = np.array([-19.4, np.log(0.3), 23.5, 0.0, 0.0, 0.0, np.log(0.4), 0.0])
    for _ in range(4):  # restarts, because finite-difference gradients stall
        best = minimize(cost, best, method="L-BFGS-B", options={"maxiter": 80}).x
    at = np.array([0.2, 0.4, 0.6, 0.8, 1.0])
    cumulative = np.cumsum(expected(best))
    return {
        "Om0": Om0,
        "M0": float(best[0]),
        "sigma": float(np.exp(best[1])),
        "m50": best[2:6].tolist(),
        "ln_width": best[6:8].tolist(),
        "m50_at_z": dict(zip(at.tolist(), polyval(at, best[2:6]).round(2).tolist(), strict=True)),
        "z_quantiles_5_50_95_model": np.interp([0.05, 0.5, 0.95], cumulative / cumulative[-1], nodes).tolist(),
        "z_quantiles_5_50_95_data": np.quantile(sample.z, [0.05, 0.5, 0.95]).tolist(),
        "host_completeness_at_z": dict(zip(at.tolist(), host_completeness(sample, at).round(2).tolist(), strict=True)),
        "minus_log_likelihood": float(cost(best)),
    }


def extinction(head: Any) -> dict[str, Any]:
    """Slope of host colours with E(B-V) at fixed redshift and i magnitude, with errors from resampling fields of 1.5 degrees."""
    mag = {b: head[f"HOSTGAL_MAG_{b}"].astype(float) for b in DES_BANDS}
    z, ebv = head["HOSTGAL_SPECZ"].astype(float), head["MWEBV"].astype(float)
    use = np.all([(v > 10) & (v < 30) for v in mag.values()], axis=0) & (z > 0.05) & (z < 1.2)
    place = np.stack([head["RA"][use] // 3, head["DEC"][use] // 3], -1)
    fields, field = np.unique(place, axis=0, return_inverse=True)
    bins = np.eye(23)[np.digitize(z[use], np.arange(0.1, 1.2, 0.05))]
    bins = bins[:, bins.sum(0) > 0]
    i = (mag["i"][use] - 21.0) / 2
    design = np.concatenate([bins, bins * i[:, None], bins * i[:, None] ** 2, ebv[use][:, None]], 1)
    rng = np.random.default_rng(0)
    out: dict[str, Any] = {"objects": int(use.sum()), "fields": len(fields)}
    for a, b in (("g", "r"), ("g", "z"), ("r", "z")):
        colour = (mag[a] - mag[b])[use]
        slopes = [_robust_slope(design, colour, np.ones(len(colour)))]
        for _ in range(50):
            weight = np.bincount(rng.integers(len(fields), size=len(fields)), minlength=len(fields))[field.ravel()]
            slopes.append(_robust_slope(design, colour, weight.astype(float)))
        out[f"{a}-{b}"] = {"slope": slopes[0], "error": float(np.std(slopes[1:])), "if_not_corrected": EXTINCTION[a] - EXTINCTION[b]}
    return out


def _robust_slope(design: np.ndarray, y: np.ndarray, weight: np.ndarray) -> float:
    for _ in range(4):
        x = np.linalg.lstsq(design * np.sqrt(weight)[:, None], y * np.sqrt(weight), rcond=None)[0]
        residual = y - design @ x
        used = weight > 0
        weight = np.where(np.abs(residual) < 4 * 1.4826 * np.median(np.abs(residual[used])), weight, 0.0)
    return float(x[-1])


def correlations(catalogue: Catalogue) -> list[float]:
    """Mean correlations of the errors of (m, x), (m, c), (x, c)."""
    o = catalogue.observations
    pairs = ((o.cov_mx, o.var_m, o.var_x), (o.cov_mc, o.var_m, o.var_c), (o.cov_xc, o.var_x, o.var_c))
    return [float(np.mean(cov / np.sqrt(a * b))) for cov, a, b in pairs]


def fit(directory: Path) -> dict[str, Any]:
    """All fits; lists of (offset, slope, scatter) are those of ln variance."""
    catalogue, cuts = ingest_des_sn5yr(directory)
    everything, _ = ingest_des_sn5yr(directory, 0.0)
    o, e = catalogue.observations, everything.observations
    head = fits.getdata(directory / HEAD, 1, memmap=False)
    r = head["HOSTGAL_MAG_r"].astype(float)
    raw = np.sqrt(np.maximum(e.mag_err.astype(float) ** 2 - HOST_FLOOR**2, 0)).round(2)
    m = o.m.astype(float)
    errors = {name: supernova_errors(m, np.asarray(getattr(o, f"var_{name}"), float)) for name in "mxc"}
    sure = select(catalogue, catalogue.p_ia > 0.9).observations if catalogue.p_ia is not None else o
    known = (r > 15) & (r < 30)
    efficiency = host_efficiency(r[known], head["HOSTGAL_SPECZ"][known] > 0)
    sample = Sample(sure.z_spec.astype(float), sure.m.astype(float), sure.mag[:, 1].astype(float), errors["m"], efficiency)
    return {
        "supernovae": len(catalogue.id),
        "cuts": [c._asdict() for c in cuts],
        "host_errors": {b: [2 * v for v in host_errors(e.mag[:, k].astype(float), raw[:, k])] for k, b in enumerate(DES_BANDS)},
        "sn_errors": errors,
        "sn_correlation": correlations(catalogue),
        "host_efficiency": efficiency,
        "host_r_quantiles_1_50_99": np.percentile(e.mag[:, 1], [1, 50, 99]).tolist(),
        "detection": {str(Om0): detection(sample, Om0) for Om0 in (0.3, 0.25, 0.4)},
        "x_mean_sd": [float(o.x.mean()), float(o.x.std())],
        "c_mean_sd": [float(o.c.mean()), float(o.c.std())],
        "extinction": extinction(head),
    }


def fragment(result: dict[str, Any]) -> str:
    """The preset's fitted tables, as TOML."""

    def model(values: Sequence[float], floor: float = 0.0) -> str:
        text = f"offset = {values[0]:.2f}, slope = {values[1]:.2f}, pivot = {PIVOT:g}, scatter = {values[2]:.2f}"
        return f"{{ {text}{f', floor = {floor:g}' if floor else ''} }}"

    def numbers(values: Sequence[float]) -> str:
        return ", ".join(f"{v:.3f}" for v in values)

    chosen = result["detection"]["0.3"]
    hosts = ",\n".join(f"    {model(v, HOST_FLOOR)}" for v in result["host_errors"].values())
    supernovae = "\n".join(f"sn_{k} = {model(v)}" for k, v in result["sn_errors"].items())
    return f"""[observation]
host_errors = "fitted"
host_fitted = [
{hosts},
]
{supernovae}
sn_correlation = [{", ".join(f"{v:.2f}" for v in result["sn_correlation"])}]

[selection]
host_efficiency = ["r", {result["host_efficiency"][0]:.2f}, {result["host_efficiency"][1]:.2f}]
m50 = [{numbers(chosen["m50"])}]
ln_width = [{numbers(chosen["ln_width"])}]

[size]
expected_supernovae = {result["supernovae"]}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    result = fit(arguments.directory)
    print(fragment(result))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
