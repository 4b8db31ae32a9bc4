"""A made-up posterior with the covariances of a real one: what the inference hands to the report, without any inference.

Every draw is exact by construction: the "observed" posterior mean of a parameter is its truth plus one standard deviation
of noise, so pulls are unit normals and ranks are uniform.
"""

from __future__ import annotations

import json

import arviz as az
import numpy as np
from astropy.cosmology import LambdaCDM
from scipy import stats

from cigars.config import Config
from cigars.posterior import Posterior
from cigars.report.inputs import ReportInputs
from cigars.schema import FIDUCIAL, GLOBALS, LOCALS, Latents

__all__ = ["ATTRIBUTES", "changed", "fake_check", "fake_inputs", "fake_validation"]

SD = {
    "Om0": 0.09,
    "Ode0": 0.13,
    "dtd_logA": 0.018,
    "dtd_slope": 0.045,
    "M0": 0.05,
    "sigma_int": 0.011,
    "alpha": 0.0065,
    "beta": 0.064,
    "alpha_c": 0.003,
    "mass_step": 0.05,
    "mass_step_loc": 0.4,
    "gamma_Z": 0.052,
    "gamma_age": 0.006,
}
LOCAL_SD = {
    "z": 0.014,
    "mass_log10_msun": 0.14,
    "metallicity_log10_zsun": 0.22,
    "dust_tau2": 0.2,
    "dust_index": 0.2,
    "x_int": 0.26,
    "c_int": 0.043,
    "age_gyr": 1.5,
}

ATTRIBUTES = {
    "config": Config(name="demo").model_dump_json(),
    "fingerprint": "3f9a2c51d07be846",
    "versions": json.dumps(
        {"cigars-sn": "0.1.0", "jax": "0.10.2", "torch": "2.13.0", "numpyro": "0.22.0", "sbi": "0.27.0", "arviz": "0.23.4"}
    ),
    "seed": "20251121",
    "created": "2025-11-21 10:32 UTC",
    "command": "cigars infer demo/run demo/mock.parquet -o demo/posterior.nc --seed 20251121",
}


def fake_inputs(*, objects: int = 400, draws: int = 1000, seed: int = 0, truth: bool = True, local: bool = True, **changes) -> ReportInputs:
    """Inputs of a mock survey with `objects` supernovae; `changes` replace fields of the result."""
    rng = np.random.default_rng(seed)
    latents = _latents(rng, objects)
    variables, coords = _globals(rng, draws), {"object": [f"SN{i:05d}" for i in range(objects)], "band": list("ugrizy")}
    dims = {}
    if local:
        variables |= {name: _local(rng, getattr(latents, name), LOCAL_SD[name], draws) for name in LOCALS}
        dims = {name: ["object"] for name in LOCALS}
    catalogue = _catalogue(rng, latents)
    posterior = az.from_dict(
        posterior=variables,
        observed_data=catalogue,
        coords=coords,
        dims=dims | {name: ["object"] + ["band"] * (values.ndim - 1) for name, values in catalogue.items()},
    )
    posterior["posterior"].attrs.update(ATTRIBUTES)
    names = tuple(SD)
    inputs = ReportInputs(
        posterior=Posterior(posterior),
        truth=latents if truth else None,
        theta_true={n: float(getattr(FIDUCIAL, n)) for n in names} if truth else None,
        prior=Config().marginals,
        curves=_curves(rng),
        sbc_ranks=rng.integers(0, 201, (300, len(names))),
        sbc_draws=200,
        sbc_names=names,
        timings={"bank of hosts": 27.4, "simulate": 61.2, "train local": 153.0, "train global": 171.9, "calibrate": 8.6, "infer": 4.1},
        check=fake_check(shift=9.0, odd=15),
    )
    return inputs._replace(**changes)


def changed(inputs: ReportInputs, posterior=None, observed_data=None, **attributes) -> ReportInputs:
    """The same with other groups or attributes of the posterior."""
    old = inputs.posterior.to_arviz()
    group = (old["posterior"] if posterior is None else posterior).assign_attrs(attributes)
    catalogue = old["observed_data"] if observed_data is None else observed_data
    return inputs._replace(posterior=Posterior(az.InferenceData(posterior=group, observed_data=catalogue)))


def fake_check(*, shift: float = 0.0, odd: int = 0, objects: int = 400, level: float = 0.01) -> dict:
    """What `cigars check` writes of a catalogue whose g − r is off by `shift` standard deviations, with some odd objects."""
    from inference.checks import Check, judge

    rng = np.random.default_rng(1)
    kinds = ("mean", "sd", "5% quantile", "50% quantile", "95% quantile")
    names = [f"{q}: {k}" for q in ("r", "u - g", "g - r", "r - i", "i - z", "z - y", "m", "x", "c", "photo-z") for k in kinds]
    names = ["ln number", *names, *(f"N(z): 0.{k}0 to 0.{k + 1}0" for k in range(1, 5))]
    values = rng.normal(size=len(names)).clip(-2.5, 2.5)
    values[names.index("g - r: mean")] += shift
    rows = [Check("statistics", n, float(v), -2.6, 2.6, float(2 * stats.norm.sf(abs(v)))) for n, v in zip(names, values, strict=True)]
    rows += [
        Check(t, "all", 1.0, 0.0, 1.5, 0.4)
        for t in ("all statistics", "network summary", "summary density", "objects together", "odd objects")
    ]
    tests = judge(rows, level)
    return {
        "passed": all(t.passed for t in tests),
        "level": level,
        "tests": [t._asdict() | {"worst": t.worst._asdict()} for t in tests],
        "checks": [c._asdict() for c in rows],
        "odd_objects": [{"id": f"SN{i:05d}", "p_value": 1e-4 * (i + 1), "reason": "g - r", "p_without": 0.4} for i in range(odd)],
        "objects": objects,
        "surveys": 400,
        "fingerprint": ATTRIBUTES["fingerprint"],
        "catalogue": "0",
    }


def fake_validation(*, failing: str = "", surveys: int = 500, level: float = 0.01) -> dict:
    """What `cigars validate` writes of a calibrated posterior, or of one that fails a test."""
    from inference.checks import Check, judge

    names = ["ranks", "shift", "width", "coverage", "joint coverage", "TARP", "correlations"]
    tests = judge([Check(n, "M0", 1.234, 0.921, 1.079, 1e-9 if n == failing else 0.4) for n in names], level)
    levels = np.linspace(0, 1, 21)
    error = 2.58 * np.sqrt(levels * (1 - levels) / surveys)
    inside = levels + 0.3 * error
    curve = {"levels": levels.tolist(), "inside": inside.tolist(), "low": (levels - error).tolist(), "high": (levels + error).tolist()}
    return {
        "passed": all(t.passed for t in tests),
        "level": level,
        "tests": [t._asdict() | {"worst": t.worst._asdict()} for t in tests],
        "curves": {"coverage": curve, "tarp": curve},
        "surveys": surveys,
        "fingerprint": ATTRIBUTES["fingerprint"],
    }


def _globals(rng: np.random.Generator, draws: int) -> dict[str, np.ndarray]:
    names = [c.name for c in GLOBALS if c.name in SD]
    correlation = np.eye(len(names))
    for a, b, r in (
        ("Om0", "Ode0", 0.91),
        ("M0", "Ode0", -0.55),
        ("M0", "Om0", -0.3),
        ("mass_step", "M0", -0.4),
        ("gamma_age", "M0", -0.35),
        ("gamma_Z", "mass_step", -0.3),
    ):
        i, j = names.index(a), names.index(b)
        correlation[i, j] = correlation[j, i] = r
    root = np.linalg.cholesky(correlation) * np.array([SD[n] for n in names])[:, None]
    centre = np.array([getattr(FIDUCIAL, n) for n in names]) + root @ rng.normal(size=len(names))
    values = centre + rng.normal(size=(20 * draws, len(names))) @ root.T
    prior = Config().marginals  # the posterior lives on the prior's support
    inside = np.all([(values[:, i] > prior[n].low) & (values[:, i] < prior[n].high) for i, n in enumerate(names)], axis=0)
    values = values[inside][:draws]
    return {n: values[None, :, i] for i, n in enumerate(names)}


def _local(rng: np.random.Generator, true: np.ndarray, sd: float, draws: int) -> np.ndarray:
    width = sd * rng.lognormal(0, 0.3, true.size)
    values = true + width * rng.normal(size=true.size) + width * rng.normal(size=(1, draws, true.size))
    return values.astype(np.float32)


def _latents(rng: np.random.Generator, n: int) -> Latents:
    z = np.clip(rng.gamma(9, 0.053, n), 0.04, 1.1)
    return Latents(
        z=z,
        mass_log10_msun=np.clip(rng.normal(10.6, 0.6, n), 8.5, 12),
        metallicity_log10_zsun=np.clip(rng.normal(-0.3, 0.35, n), -1.98, 0.19),
        dust_tau2=np.abs(rng.normal(0.3, 0.3, n)),
        dust_index=np.clip(rng.normal(-0.1, 0.35, n), -1, 0.4),
        dust_ratio=np.clip(rng.normal(1, 0.3, n), 0, 2),
        gas_metallicity_log10_zsun=rng.uniform(-2, 0.5, n),
        age_gyr=rng.gamma(2, 1.5, n),
        R_V=rng.normal(3, 0.5, n),
        A_V=rng.exponential(0.1, n),
        x_int=rng.normal(0, 1, n),
        c_int=rng.normal(0, 0.1, n),
        delta_M=rng.normal(-0.05, 0.04, n),
    )


def _catalogue(rng: np.random.Generator, t: Latents) -> dict[str, np.ndarray]:
    n = t.z.size
    var_m, var_x, var_c = (np.exp(rng.normal(a, s, n)) for a, s in ((-6.4, 0.8), (-3, 1), (-7, 0.6)))
    mu = LambdaCDM(70, 0.3, 0.7, Tcmb0=0).distmod(t.z).value
    reddening = t.A_V / t.R_V
    absolute = rng.normal(-19.5 + t.delta_M - 0.14 * t.x_int + 2.2 * t.c_int, 0.1) + (t.R_V + 1) * reddening
    magnitudes = 20 + 5 * np.log10(t.z / 0.4)[:, None] + np.array([2.4, 1.6, 0.6, 0.2, 0, -0.2]) + rng.normal(0, 0.5, (n, 6))
    return {
        "mag": magnitudes,
        "mag_err": np.full((n, 6), 0.01),
        "m": rng.normal(absolute + mu, np.sqrt(var_m)),
        "x": rng.normal(t.x_int, np.sqrt(var_x)),
        "c": rng.normal(t.c_int + reddening, np.sqrt(var_c)),
        "var_m": var_m,
        "var_x": var_x,
        "var_c": var_c,
        "z_spec": np.full(n, np.nan),
    }


def _curves(rng: np.random.Generator) -> dict[str, dict[str, list[float]]]:
    out = {}
    for stage, epochs, end, gap in (("local", 24, -7.5, 0.05), ("global", 40, 0.4, 0.5)):
        t = np.arange(epochs)
        train = end + 9 * np.exp(-t / 3) - 0.02 * t + rng.normal(0, 0.03, epochs)
        validation = end + gap + 9 * np.exp(-t / 3) + 0.0006 * (t - 18) ** 2 + rng.normal(0, 0.05, epochs)
        out[stage] = {"train": train.tolist(), "validation": validation.tolist()}
    return out
