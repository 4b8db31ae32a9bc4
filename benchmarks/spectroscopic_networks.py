r"""Are networks trained on spectroscopic surveys as sharp as the exact posterior, and centred where it is, at 1,600 supernovae?

In the spectroscopic limit (`simulators.spectroscopic`) the host of every supernova is known, so that the likelihood has no sum and the
no-U-turn sampler gives the exact posterior at any number of objects. Here the networks see the same: in the place of host magnitudes
each object has its redshift, the mass and metallicity of its host, and what its star-formation history says of the delay times. Box and
training are those of limit_box.toml, with the place of the mass step known (that of hosts with known masses has a ragged posterior) and
without host thresholds: that a host of known absolute magnitude passes one is a hard limit on its distance, which no width from scores
contains and the networks are not told. `--thresholds` keeps them: then the exact √det is below that of spectroscopic_limit.py.

Where hosts are known the score of each object is known too, beside the one that the networks learned.

Expected on mocks at the fiducial Θ: means of the networks within 0.3 σ of the exact ones, widths within 15 %.

usage: python benchmarks/spectroscopic_networks.py FOLDER [--mocks 10] [--thresholds] [--exact FILE]; FOLDER keeps the networks, and is
continued if it exists. FILE is a former result: exact posteriors do not depend on networks, so converged ones of the same mocks are taken
from it. spectroscopic_networks.json, with the exact posteriors of two former results: --mocks 5 --set training.surveys 48000
--set training.pilot_surveys 4000 --set training.objects 3000000
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from common import write_result

SLOPES = (-1.7, -1.34, -1.0)  # of the delay-time distribution, at which the rates of a host are told; the middle one weighs its ages
REDSHIFT_ERROR, NO_ERROR = 1e-3, 0.01
NEURAL = 4000
NO_THRESHOLD = 60.0  # mag
SCORED = 8  # mocks whose objects' scores are compared
CONVERGED = 1.05  # largest R-hat of an exact posterior that is used again


def histories(simulator: Any, bands: int) -> np.ndarray:
    """What a spectrum tells of each host: log M, log Z, mean and ln sd of the delay, ln of its rate at the outer slopes over the middle."""
    import jax.numpy as jnp

    from simulators.rates import age_bounds_gyr, ln_bin_ages, ln_rate_per_bin, ln_total_rate
    from simulators.simulator import unpack

    h = unpack(simulator.table, bands)
    rates = [ln_rate_per_bin(h.ln_mass, ln_bin_ages(h.z), slope) for slope in SLOPES]
    low, middle, high = (ln_total_rate(rate) for rate in rates)
    p = jnp.exp(rates[1] - middle[:, None])
    young, old = age_bounds_gyr(h.z)
    mean = (p * (young + old) / 2).sum(-1)
    variance = (p * (young**2 + young * old + old**2) / 3).sum(-1) - mean**2
    columns = [h.mass_log10_msun, h.metallicity_log10_zsun, mean, 0.5 * jnp.log(variance.clip(1e-6)), low - middle, high - middle]
    return np.stack([np.asarray(column, np.float32) for column in columns], -1)


def spectroscopic(survey: Any, table: np.ndarray, z: np.ndarray) -> Any:
    """A survey (numpy) with what spectra tell in the place of magnitudes, and its redshifts."""
    host = np.where(survey.observed, survey.host, 0)
    known = table[host]
    seen = survey.observations._replace(
        mag=known, mag_err=np.full_like(known, NO_ERROR), z_spec=z[host], z_spec_err=np.full(host.shape, REDSHIFT_ERROR, np.float32)
    )
    return survey._replace(observations=seen)


def trained_networks(config: Any, source: Any, folder: Path, report: Any) -> Any:
    """The global posterior trained on surveys of `source`; its joint scores are without host magnitudes."""
    import torch

    from cigars.scores import joint_scores
    from inference.ablation import train_global
    from inference.priors import Prior
    from inference.stages import Stages
    from simulators.cosmology import fiducial_distance_table

    scores, prior = joint_scores(config), Prior(config.marginals)

    def joint_score(packed: Any, theta: Any) -> tuple[Any, Any]:
        score, modulus = scores(packed, theta)
        return score, modulus * 0

    folder.mkdir(parents=True, exist_ok=True)
    distance, device = fiducial_distance_table(), torch.device("cpu")
    stages = Stages(source, config.training, config.seed, prior, distance, folder, device, report, joint_score, config.fixed)
    return train_global(stages)


def of_mock(survey: Any, k: int = 0) -> tuple[Any, np.ndarray]:
    """Observations and hosts of the detected objects of one mock of a batch."""
    from cigars.schema import Observations

    seen = survey.observed[k]
    return Observations(*(leaf[k][seen] for leaf in survey.observations)), survey.host[k][seen]


def exact_posterior(
    ours: np.ndarray, survey: Any, simulator: Any, config: Any, surface: Callable[[], Any], arguments: Any, number: int
) -> dict[str, Any]:
    """Mean and sd of each parameter by the sampler, whose chains begin at draws of the networks with steps of their shape."""
    from simulators.exact import ExactPosterior
    from simulators.spectroscopic import sample_spectroscopic

    observations, hosts = of_mock(survey)
    names, start = tuple(config.marginals), time.monotonic()
    begin = ExactPosterior(ours[None], names, np.ones(len(names)), np.ones(len(names)), 0, np.zeros((0, 0), int))
    exact = sample_spectroscopic(
        observations, hosts, simulator, config, draws=arguments.draws, warmup=arguments.warmup, chains=arguments.chains, seed=number,
        pilot=begin, surface=surface(),
    )  # fmt: skip
    theta = exact.theta.reshape(-1, len(exact.names)).astype(float)
    return {
        "objects": len(hosts), "exact_mean": theta.mean(0).tolist(), "exact_sd": theta.std(0, ddof=1).tolist(),
        "exact_area": area(theta, exact.names), "n_eff": exact.n_eff.tolist(), "r_hat": float(exact.r_hat.max()),
        "divergences": exact.divergences, "seconds": time.monotonic() - start,
    }  # fmt: skip


def score_accuracy(trained: Any, surveys: Any, packed: Any, simulator: Any, config: Any) -> dict[str, Any]:
    r"""The learned score of each object at the fiducial Θ beside the exact one, and what a survey's sum of it can tell.

    Sums of the learned score tell $C^T V^{-1} C$ of Θ, with V their covariance and C that with the sums of the exact one, of which all the
    information is the covariance. The number of objects, and a Gaussian prior as wide as the true one, are added to both.
    """
    from simulators.spectroscopic import scores

    one, names, count = trained.summary, list(trained.names), len(surveys.number)
    scale = one.score.scale.double().numpy()
    learned = one.of_objects(packed, one.score.standardise(packed.theta)).double().numpy()
    exact = np.concatenate([scores(*of_mock(surveys, k), simulator, config) for k in range(count)]) * scale
    slope = exact.mean(0)  # of ln Λ
    learned, exact = learned - learned.mean(0), exact - slope
    known = np.eye(len(slope)) + len(exact) / count * np.outer(slope, slope)
    both, own = learned.T @ exact / count, learned.T @ learned / count
    information = {"exact_": exact.T @ exact / count, "": both.T @ np.linalg.pinv(own, hermitian=True) @ both}
    covariance = {name: np.linalg.inv(value + known) * np.outer(scale, scale) for name, value in information.items()}
    widths = {name: np.sqrt(np.diagonal(value)) for name, value in covariance.items()}
    pair = [names.index(name) for name in ("Om0", "Ode0")]
    areas = {f"{name}sqrt_det_Om0_Ode0": float(np.linalg.det(value[np.ix_(pair, pair)]) ** 0.5) for name, value in covariance.items()}
    varied = np.flatnonzero(exact.std(0) > 1e-4 * (1 + np.abs(slope)))  # the score of an amplitude is the same for all objects
    return {
        "objects": len(exact),
        "correlation": {names[k]: float(np.corrcoef(learned[:, k], exact[:, k])[0, 1]) for k in varied},
        "width_ratio": dict(zip(names, (widths[""] / widths["exact_"]).tolist(), strict=True)),
        **areas,
    }


def compare(ours: np.ndarray, exact: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Networks against sampler on one mock."""
    from cigars.schema import FIDUCIAL

    truth, mean, sd = np.array([getattr(FIDUCIAL, name) for name in names]), np.array(exact["exact_mean"]), np.array(exact["exact_sd"])
    return {
        **exact, "shift": ((ours.mean(0) - mean) / sd).tolist(), "width_ratio": (ours.std(0, ddof=1) / sd).tolist(),
        "exact_pull": ((truth - mean) / sd).tolist(), "pull": ((truth - ours.mean(0)) / ours.std(0, ddof=1)).tolist(),
        "area": area(ours, names),
    }  # fmt: skip


def former_posteriors(file: Path | None, model: str) -> list[dict[str, Any]]:
    """Exact posteriors of a former result; raises SystemExit for one of another model or prior."""
    if file is None:
        return []
    found = json.loads(file.read_text())
    if found.get("model") != model:
        raise SystemExit(f"{file}: expected exact posteriors of the very same model and prior, got others; leave --exact out")
    keys = ("objects", "exact_mean", "exact_sd", "exact_area", "n_eff", "r_hat", "divergences", "seconds")
    return [{key: row[key] for key in keys} for row in found["rows"]]


def area(theta: np.ndarray, names: Any) -> float:
    """√det of the covariance of (Ω_m, Ω_Λ)."""
    return float(np.linalg.det(np.cov(theta[:, [names.index("Om0"), names.index("Ode0")]].T)) ** 0.5)


def summary(rows: list[dict[str, Any]], names: tuple[str, ...]) -> dict[str, Any]:
    """Over the mocks: shifts (rms, mean), width ratios (mean and its error), of which the scatter of the sampler is part."""
    shift, ratio, n_eff, sd, exact_pull, pull = (
        np.array([row[key] for row in rows]) for key in ("shift", "width_ratio", "n_eff", "exact_sd", "exact_pull", "pull")
    )
    parameters = {
        name: {
            "width_ratio": float(ratio[:, k].mean()),
            "width_ratio_error": float(ratio[:, k].std(ddof=1) / len(rows) ** 0.5),
            "shift_rms": rms(shift[:, k]),
            "shift_mean": float(shift[:, k].mean()),
            "shift_from_sampling": float((1 / n_eff[:, k] + 1 / NEURAL).mean() ** 0.5),
            "exact_sd": float(sd[:, k].mean()),
            "pull_rms": rms(pull[:, k]),
            "exact_pull_rms": rms(exact_pull[:, k]),
        }
        for k, name in enumerate(names)
    }
    return {
        "parameters": parameters,
        "sqrt_det_Om0_Ode0": float(np.mean([row["area"] for row in rows])),
        "exact_sqrt_det_Om0_Ode0": float(np.mean([row["exact_area"] for row in rows])),
        "largest_r_hat": max(row["r_hat"] for row in rows),
        "divergences": sum(row["divergences"] for row in rows),
    }


def rms(values: np.ndarray) -> float:
    """Root mean square."""
    return float(np.mean(values**2) ** 0.5)


def main() -> None:
    """Train or load, compare, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mocks", type=int, default=10)
    parser.add_argument("--draws", type=int, default=300, help="of each chain")
    parser.add_argument("--warmup", type=int, default=150, help="chains begin at draws of the networks, with steps of their shape")
    parser.add_argument("--thresholds", action="store_true", help="keep the thresholds of host magnitudes")
    parser.add_argument("--exact", type=Path, metavar="FILE", help="former result whose exact posteriors are used again")
    parser.add_argument("--set", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"), help="change a key of limit_box.toml")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()

    import jax

    arguments.chains = 2
    jax.config.update("jax_num_cpu_devices", min(arguments.chains, len(os.sched_getaffinity(0))))
    import jax.numpy as jnp

    from cigars.config import load_config
    from cigars.schema import FIDUCIAL
    from inference.batches import pack
    from inference.posterior import GlobalPosterior
    from simulators.hosts import load_bank
    from simulators.spectroscopic import count_surface_around, information
    from simulators.survey import draw_surveys, prepare

    box = load_config(str(Path(__file__).with_name("limit_box.toml")))
    changes = {
        "hosts.effective_hosts": 1e5,
        "prior.mass_step_loc": {"fixed": FIDUCIAL.mass_step_loc},
    }
    if not arguments.thresholds:
        changes["selection.host_thresholds"] = [NO_THRESHOLD] * len(box.hosts.bands)
    config = box.updated(**changes, **dict(arguments.set))
    simulator = prepare(config, load_bank(config.hosts))
    table, z = histories(simulator, len(config.hosts.bands)), np.asarray(simulator.table[:, 0])

    def drawn(stream: int, first: int, count: int, theta: Any = None) -> Any:
        key = jax.random.fold_in(jax.random.key(config.seed), stream)
        return jax.device_get(draw_surveys(key, jnp.arange(first, first + count), simulator, config, theta))

    def report(stage: str, done: int, total: int, **metrics: float) -> None:
        if done == total or done % max(total // 4, 1) == 0:
            said = " ".join(f"{k} {v:.3f}" for k, v in metrics.items())
            print(f"{time.monotonic() - start:6.0f} s {stage} {done}/{total} {said}", flush=True)

    start, names = time.monotonic(), tuple(config.marginals)
    model = hashlib.sha256(config.model_dump_json(exclude={"name", "training"}).encode()).hexdigest()[:16]
    former = former_posteriors(arguments.exact, model)
    trained = trained_networks(config, lambda first, count: spectroscopic(drawn(1, first, count), table, z), arguments.folder, report)

    fiducial = drawn(3, 0, SCORED, FIDUCIAL)
    accuracy = score_accuracy(trained, fiducial, pack(spectroscopic(fiducial, table, z), trained.names), simulator, config)
    print(f"scores: correlations from {min(accuracy['correlation'].values()):.4f}, √det {accuracy['sqrt_det_Om0_Ode0']:.2e}", flush=True)

    @cache
    def surface() -> Any:
        fitted = count_surface_around(information(*of_mock(drawn(2, 0, 1, FIDUCIAL)), simulator, config), simulator, config)
        print(f"{time.monotonic() - start:6.0f} s expected count, error of its ln {fitted.error:.1e}", flush=True)
        return fitted

    rows: list[dict[str, Any]] = []
    for k in range(arguments.mocks):
        survey = drawn(2, k, 1, FIDUCIAL)
        packed = pack(spectroscopic(survey, table, z), trained.names)
        ours = GlobalPosterior(trained).sample(NEURAL, packed, seed=k)[:, 0].double().numpy()
        if k < len(former) and former[k]["r_hat"] < CONVERGED and former[k]["objects"] == int(packed.lengths[0]):
            exact = former[k]
        else:
            exact = exact_posterior(ours, survey, simulator, config, surface, arguments, k)
        rows.append(compare(ours, exact, names))
        r = rows[-1]
        print(
            f"mock {k}: {r['objects']} objects, {r['seconds']:.0f} s, R-hat {r['r_hat']:.3f}, n_eff {min(r['n_eff']):.0f}, "
            f"{r['divergences']} divergences, shifts up to {np.abs(r['shift']).max():.2f}, widths "
            f"{min(r['width_ratio']):.2f}-{max(r['width_ratio']):.2f}, area {r['area']:.2e} (exact {r['exact_area']:.2e})",
            flush=True,
        )
        if k:
            numbers = {
                "mocks": k + 1,
                "model": model,
                "training": config.training.model_dump(),
                "host_thresholds": list(config.selection.host_thresholds),
                "scores": accuracy,
                **summary(rows, names),
            }
            write_result(arguments.output, str(__doc__).splitlines()[0], numbers | {"rows": rows})


if __name__ == "__main__":
    main()
