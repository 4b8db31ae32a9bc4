"""Small host banks, and a brute-force sampler of the forward model on them: float64 numpy, full rates, no thinning."""

import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from astropy.cosmology import WMAP9, FlatLambdaCDM, Flatw0waCDM, LambdaCDM
from scipy import stats
from scipy.interpolate import CubicSpline

from cigars.config import Config
from cigars.schema import Globals
from simulators.hosts import HostBank

YOUNGEST_GYR = 0.1


def synthetic_bank(number: int = 3000, seed: int = 0, bands: int = 6) -> HostBank:
    """Plausible hosts made without the population or its photometry, so that a test pays for neither."""
    rng = np.random.default_rng(seed)
    z, mass = rng.uniform(0.05, 0.95, number), 8.5 + 3.5 * stats.beta(3, 3).ppf((rng.permutation(number) + 0.5) / number)  # all different
    metallicity = (-0.6 + 0.5 * (mass - 10) + 0.3 * rng.normal(size=number)).clip(-1.98, 0.19)
    share = rng.dirichlet(np.full(5, 0.7), number) * 0.9 + 0.02
    colour = np.linspace(1.5, -1.0, bands) * (0.6 + 0.3 * rng.normal(size=(number, 1)))
    columns = {
        "z": z,
        "mass_log10_msun": mass,
        "metallicity_log10_zsun": metallicity,
        "dust_tau2": rng.exponential(0.4, number),
        "dust_index": rng.uniform(-1, 0.4, number),
        "dust_ratio": rng.uniform(0, 2, number),
        "gas_metallicity_log10_zsun": rng.uniform(-2, 0.5, number),
        "ln_mass": math.log(10) * mass[:, None] + np.log(share) - np.log1p(z)[:, None],
        "keep_probability": rng.uniform(0.2, 1.0, number),
        "magnitude": 5.3 - 2.5 * mass[:, None] + colour + 0.3 * rng.normal(size=(number, bands)) + 0.8 * rng.normal(size=(number, 1)),
    }
    return HostBank(**{k: v.astype(np.float32) for k, v in columns.items()}, population=np.asarray(1e6))


def age_edges_gyr(z: np.ndarray) -> np.ndarray:
    """Edges of the age bins above 100 Myr, [host, 6], with the age of the universe from astropy's WMAP9."""
    oldest = _spline(lambda nodes: WMAP9.age(nodes).value, z)[:, None]
    spaced = YOUNGEST_GYR * (0.85 * oldest / YOUNGEST_GYR) ** (np.arange(5) / 4)
    return np.concatenate([spaced, oldest], 1)


def rates(bank: HostBank, slope: float) -> np.ndarray:
    """R_{hi} of a bank per unit amplitude, [host, 5], float64."""
    edges = age_edges_gyr(bank.z)
    return np.exp(bank.ln_mass.astype(float)) * np.sqrt(edges[:, 1:] * edges[:, :-1]) ** slope


def astropy_cosmology(theta: Globals, model: str = "LCDM"):
    """The astropy cosmology of Θ (scalars)."""
    if model == "LCDM":
        return LambdaCDM(70, float(theta.Om0), float(theta.Ode0), Tcmb0=0)
    if model == "flat-LCDM":
        return FlatLambdaCDM(70, float(theta.Om0), Tcmb0=0)
    return Flatw0waCDM(H0=70, Om0=float(theta.Om0), w0=float(theta.w0), wa=float(theta.wa), Tcmb0=0)


def transverse_modulus(theta: Globals, z: np.ndarray, model: str = "LCDM") -> np.ndarray:
    """5 log10(d_M / 10 pc) by astropy."""
    return 5 * np.log10(_spline(lambda nodes: astropy_cosmology(theta, model).comoving_transverse_distance(nodes).value, z)) + 25


def _spline(function, z: np.ndarray) -> np.ndarray:
    """A smooth function of redshift at many redshifts, through 500 nodes: good to 1e-9."""
    nodes = np.linspace(0, 1.6, 500)
    return CubicSpline(nodes, function(nodes))(np.asarray(z, float))


def direct_sample(bank: HostBank, config: Config, theta: Globals, years: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """One survey by the shortest route: a Poisson number of (host, bin) from the full rates, then each equation of the model.

    `independent` dust, constant host errors, smooth detection. Columns by name, `mag` [sn, band], and `host`.
    """
    t = theta
    rate = rates(bank, t.dtd_slope) / bank.keep_probability.astype(float)[:, None]
    number = rng.poisson(years * 10**t.dtd_logA * rate.sum())
    host, age_bin = np.unravel_index(rng.choice(rate.size, number, p=rate.ravel() / rate.sum()), rate.shape)
    z, mass = bank.z[host].astype(float), bank.mass_log10_msun[host].astype(float)
    modulus = transverse_modulus(t, bank.z)[host]
    edges = age_edges_gyr(bank.z)
    age = rng.uniform(edges[host, age_bin], edges[host, age_bin + 1])
    delta = t.gamma_Z * bank.metallicity_log10_zsun[host] + t.gamma_age * age + t.mass_step * (mass > t.mass_step_loc)
    x = rng.normal(size=number)
    c = rng.normal(t.alpha_c * x, 0.1)
    r_v = stats.truncnorm.rvs((1.2 - 3) / 0.5, np.inf, 3, 0.5, number, random_state=rng)
    a_v = rng.exponential(0.1, number)
    m = rng.normal(t.M0 + delta + t.alpha * x + t.beta * c, t.sigma_int) + (r_v + 1) * a_v / r_v + modulus + 5 * np.log10(1 + z)
    var_m = np.exp(rng.normal(0.2 * (m - 56), 1.2))
    var_x, var_c = np.exp(rng.normal(-3, 1, number)), np.exp(rng.normal(-7, 0.6, number))
    m_observed = rng.normal(m, np.sqrt(var_m))
    template = bank.magnitude[host] + modulus[:, None]
    smooth = stats.norm.cdf(
        (np.polyval(config.selection.m50[::-1], z) - m_observed) / np.exp(np.polyval(config.selection.ln_width[::-1], z))
    )
    bright = (template < np.array(config.selection.host_thresholds)).all(1)
    spectra = 1.0
    if efficiency := config.selection.host_efficiency:
        spectra = stats.norm.cdf((efficiency[1] - template[:, config.band_names.index(efficiency[0])]) / efficiency[2])
    keep = bright & (rng.random(number) < smooth * spectra * (z < config.selection.z_max))
    columns = {
        "mag": rng.normal(template, config.observation.host_sigma),
        "m": m_observed,
        "x": rng.normal(x, np.sqrt(var_x)),
        "c": rng.normal(c + a_v / r_v, np.sqrt(var_c)),
        "var_m": var_m,
        "var_x": var_x,
        "var_c": var_c,
        "z": z,
        "mass_log10_msun": mass,
        "metallicity_log10_zsun": bank.metallicity_log10_zsun[host],
        "dust_tau2": bank.dust_tau2[host],
        "age_gyr": age,
        "R_V": r_v,
        "A_V": a_v,
        "x_int": x,
        "c_int": c,
        "delta_M": delta,
        "host": host,
    }
    return {name: value[keep] for name, value in columns.items()}


def columns_of(survey, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Detected objects of a batch of surveys by column name; `mag` becomes mag_0, mag_1, …"""
    seen = np.asarray(survey.observed)
    pool = {**survey.observations._asdict(), **survey.latents._asdict(), "host": survey.host}
    return flat({k: np.asarray(v)[seen] for k, v in pool.items() if names is None or k in names})


def flat(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Two-dimensional columns split into one a band."""
    out = {k: v for k, v in columns.items() if v.ndim == 1}
    return out | {f"{k}_{b}": v[:, b] for k, v in columns.items() if v.ndim == 2 for b in range(v.shape[1])}


def p_values(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> dict[str, float]:
    """Two-sample Kolmogorov-Smirnov p of every column that both have."""
    return {k: float(stats.ks_2samp(ours[k], theirs[k]).pvalue) for k in theirs if k in ours}


def build_reference_bank(shared: Path, path: Path, chunks: int = 2) -> None:
    """Run the independent prototype's bank builder, `shared/reference/host_bank.py`, in its own process."""
    command = [sys.executable, "-W", "ignore", str(shared / "reference" / "host_bank.py"), str(path)]
    subprocess.run(command, check=True, env={"CHUNKS": str(chunks), "PATH": "/usr/bin:/bin", "HOME": str(path.parent)}, capture_output=True)


def bank_from_reference(path: Path) -> HostBank:
    """A bank of the independent prototype in our layout: the same hosts, masses, probabilities and magnitudes."""
    with np.load(path) as b:
        ln_mass = math.log(10) * b["log_masses"][:, 2:] - np.log1p(b["z"])[:, None]
        plain = (
            b["z"],
            b["logm"],
            b["logz"],
            b["tau2"],
            b["index"],
            b["dust_ratio"],
            b["gas_logz"],
            ln_mass,
            b["keep_probability"],
            b["M"],
        )
        return HostBank(*(v.astype(np.float32) for v in plain), population=np.asarray(float(b["population"])))
