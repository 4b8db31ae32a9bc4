r"""Is the joint posterior of the networks that of the model, redshifts and their correlation with Ω_m included?

On mocks of about 100 objects from a fixed bank of hosts the likelihood is a finite sum (`simulators.likelihood`). Draws of Θ from the
networks, weighted by exact over neural density, are draws of the exact posterior; given each Θ the host of every object has
an exact distribution, whose moments of redshift are averaged. `nats` is E_p[ln p/q], what the networks lack. Expected: means within 0.3 σ,
widths within 15 %, correlations of redshift and Ω_m within 0.1, redshift posteriors within 0.1 of their width (Wasserstein distance).

With --bank-seed the sum is over another bank of the same population, in which the hosts of the mocks are not: where the posterior is then
as wide as the networks', what they lack is to recognise single hosts, which is in no population.

An OUTPUT of the same draws, bank and weights is continued: mocks that it holds are not computed again.

usage: cigars train benchmarks/exact_posterior.toml -o RUN
       python benchmarks/exact_posterior.py RUN [--mocks 10] [--bank-seed 1] [--output OUTPUT]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import write_result
from host_posteriors import mocks
from scipy import stats

from cigars.schema import Globals

COUNT_SAMPLE, NEURAL = 1 << 13, 4000
PRUNED_AT, LOST = 24, 1e-3
FEWEST_HOSTS = 5  # that share an object's probability, below which its redshift is left out of the comparison


def exact(theta: np.ndarray, ln_q: np.ndarray, matches: Any, simulator: Any, config: Any) -> tuple[np.ndarray, ...]:
    """The exact posterior at draws of q: its ln up to a constant [draw], mean and variance of every redshift given Θ [draw, object], and
    the probability of each candidate host with Θ averaged over [object, candidate]."""
    import jax
    import jax.numpy as jnp

    from cigars.priors import prior_distribution
    from simulators.counts import expected_count
    from simulators.exact import stacked
    from simulators.likelihood import ln_terms

    z = simulator.table[matches.row, 0]

    @jax.jit
    def at(theta: Globals, matches: Any, simulator: Any, z: Any) -> tuple[Any, Any, Any, Any]:
        terms = ln_terms(theta, matches, config)
        ln_rate = jax.nn.logsumexp(terms, -1)
        p = jnp.exp(terms - ln_rate[:, None])
        mean = jnp.sum(p * z, -1)
        return ln_rate.sum() - expected_count(theta, simulator, config, COUNT_SAMPLE), mean, jnp.sum(p * (z - mean[:, None]) ** 2, -1), p

    prior = sum(prior_distribution(m).logpdf(theta[:, k]) for k, m in enumerate(config.marginals.values()))
    rows, hosts, largest = [], 0.0, -np.inf
    for t, ln_prior, ln_proposal in zip(zip(*stacked(theta, config), strict=True), prior, ln_q, strict=True):
        ln_l, mean, variance, p = jax.device_get(at(Globals(*t), matches, simulator, z))
        ln_w = ln_l + ln_prior - ln_proposal
        hosts = hosts * np.exp(min(largest - ln_w, 0.0)) + np.exp(min(ln_w - largest, 0.0)) * p
        largest = max(largest, ln_w)
        rows.append((ln_l + ln_prior, mean, variance))
    ln_p, mean, variance = (np.array(column, np.float64) for column in zip(*rows, strict=True))
    return ln_p, mean, variance, hosts / hosts.sum(-1, keepdims=True)


def pruning_error(theta: np.ndarray, full: Any, pruned: Any, config: Any) -> float:
    """Largest change of ln L by the pruning, less its mean, over Θ at which it was not made."""
    from simulators.exact import stacked
    from simulators.likelihood import ln_rates

    at = [Globals(*values) for values in zip(*stacked(theta, config), strict=True)]
    change = np.array([float((ln_rates(t, full, config) - ln_rates(t, pruned, config)).sum()) for t in at])
    return float(np.abs(change - change.mean()).max())


def hosts_per_object(theta: np.ndarray, matches: Any, config: Any) -> np.ndarray:
    """How many hosts share each object's probability: exp of the entropy [object]."""
    from simulators.exact import stacked
    from simulators.likelihood import host_probabilities

    p = np.asarray(host_probabilities(Globals(*(leaf[0] for leaf in stacked(theta[:1], config))), matches, config), float)
    return np.exp(-(p * np.log(np.maximum(p, 1e-30))).sum(-1))


def moments(values: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean and standard deviation over the draws."""
    mean = weight @ values
    return mean, np.sqrt(weight @ (values - mean) ** 2)


def redshifts(mean: np.ndarray, variance: np.ndarray, om0: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, standard deviation and correlation with Ω_m of each redshift, from its mean and variance given each draw of Θ."""
    centre, spread = moments(om0[:, None], weight)
    z, between = moments(mean, weight)
    sd = np.sqrt(between**2 + weight @ variance)
    return z, sd, ((weight * (om0 - centre)) @ (mean - z)) / sd / spread


def compare(trained: Any, one: Any, simulator: Any, config: Any, draws: int, seed: int) -> dict[str, Any]:
    """Neural against exact posterior of one mock; the exact one at the first `draws` of the neural draws."""
    from cigars.importance import effective_number
    from inference.posterior import GlobalPosterior, LocalPosterior
    from simulators.candidates import candidates
    from simulators.exact import stacked
    from simulators.pruning import prune

    posterior, k = GlobalPosterior(trained), list(config.marginals).index("Om0")
    neural = posterior.sample(NEURAL, one, seed=seed)
    ln_q = posterior.log_prob(neural[:draws], one)[:, 0].double().numpy()
    neural_z = LocalPosterior(trained).sample(one.observations, neural[:, 0], seed=seed).double().numpy()[..., 0]
    neural = neural[:, 0].double().numpy()
    theta, flat = neural[:draws], np.full(NEURAL, 1 / NEURAL)
    observations = type(one.observations)(*(np.asarray(leaf) for leaf in one.observations))
    full = candidates(observations, simulator, config)
    matches = prune(full, stacked(theta[:PRUNED_AT], config), config, LOST)
    ln_p, z_given, z_variance, probability = exact(theta, ln_q, matches, simulator, config)
    ln_w = ln_p - ln_q - (ln_p - ln_q).max()
    weight = np.exp(ln_w) / np.exp(ln_w).sum()
    true = one.theta[0].double().numpy()
    (mean, sd), (exact_mean, exact_sd) = moments(neural, flat), moments(theta, weight)
    hosts = hosts_per_object(theta, matches, config)
    many = hosts >= FEWEST_HOSTS  # the others are recognised, and their exact redshifts have hardly a width
    neural_z, z_given, z_variance = neural_z[:, many], z_given[:, many], z_variance[:, many]
    host_z = np.asarray(simulator.table[matches.row, 0], np.float64)[many]
    z, z_sd, r = redshifts(neural_z, np.zeros_like(neural_z), neural[:, k], flat)
    exact_z, exact_z_sd, exact_r = redshifts(z_given, z_variance, theta[:, k], weight)
    apart = [stats.wasserstein_distance(a, b, None, w) for a, b, w in zip(neural_z.T, host_z, probability[many], strict=True)] / exact_z_sd
    rng = np.random.default_rng(seed)
    again = [np.bincount(rng.integers(draws, size=draws), minlength=draws) * weight for _ in range(100)]
    scatter = np.std([redshifts(z_given, z_variance, theta[:, k], w / w.sum())[2] for w in again], axis=0)
    return {
        "objects": len(hosts), "recognised": int((~many).sum()), "pairs": [int((m.place >= 0).sum()) for m in (full, matches)],
        "pruning_error": pruning_error(theta[-8:], full, matches, config), "hosts_per_object": float(np.median(hosts)),
        "effective_draws": effective_number(ln_p - ln_q), "nats": float(weight @ ln_w - np.log(np.exp(ln_w).mean())),
        "pull": ((true - mean) / sd).tolist(), "exact_pull": ((true - exact_mean) / exact_sd).tolist(),
        "shift": ((mean - exact_mean) / exact_sd).tolist(), "exact_sd": exact_sd.tolist(),
        "width_ratio": (sd / exact_sd).tolist(), "z_shift_rms": _rms((z - exact_z) / exact_z_sd),
        "z_width_ratio": float(np.median(z_sd / exact_z_sd)), "z_wasserstein": apart.tolist(),
        "correlation": r.tolist(), "exact_correlation": exact_r.tolist(),
        "correlation_noise": float((np.mean(scatter**2) + 1 / NEURAL) ** 0.5), "correlation_rms_difference": _rms(r - exact_r),
    }  # fmt: skip


def summary(rows: list[dict[str, Any]], names: list[str]) -> dict[str, Any]:
    """Over the mocks: mean and scatter of shifts and width ratios, and how the correlations of all objects agree."""
    shift, ratio = (np.array([r[k] for r in rows]) for k in ("shift", "width_ratio"))
    ours, exact = (np.concatenate([r[k] for r in rows]) for k in ("correlation", "exact_correlation"))
    difference, noise = _rms(ours - exact), float(np.mean([r["correlation_noise"] for r in rows]))
    parameters = {
        n: {"shift_mean": float(shift[:, k].mean()), "shift_rms": _rms(shift[:, k]), "width_ratio": float(ratio[:, k].mean())}
        | {key: _rms(np.array([r[key][k] for r in rows])) for key in ("pull", "exact_pull")}
        for k, n in enumerate(names)
    }
    correlation = {
        "objects": len(ours),
        "rms_exact": _rms(exact),
        "rms_difference": difference,
        "expected_from_noise": noise,
        "beyond_noise": max(difference**2 - noise**2, 0.0) ** 0.5,
        "share_within_0.1": float(np.mean(np.abs(ours - exact) < 0.1)),
        "slope_ours_on_exact": float(np.polyfit(exact, ours, 1)[0]),
    }
    means = {k: float(np.mean([r[k] for r in rows])) for k in ("nats", "z_width_ratio", "z_shift_rms")}
    apart = np.concatenate([r["z_wasserstein"] for r in rows])
    means |= {"z_wasserstein_median": float(np.median(apart)), "z_wasserstein_share_below_0.1": float(np.mean(apart < 0.1))}
    means["recognised"] = sum(r["recognised"] for r in rows)
    return {"parameters": parameters, "correlation": correlation, **means, "effective_draws": [round(r["effective_draws"]) for r in rows]}


def moved(rows: list[dict[str, Any]], beside: list[dict[str, Any]], names: list[str]) -> dict[str, float]:
    """By how many of its σ the exact mean of each parameter moves from one bank to another, rms over the same mocks."""
    shift, other = (np.array([np.multiply(r["shift"], r["exact_sd"]) for r in some]) for some in (rows, beside[: len(rows)]))
    sd = np.array([r["exact_sd"] for r in beside[: len(rows)]])
    return {name: _rms(((shift - other) / sd)[:, k]) for k, name in enumerate(names)}


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def main() -> None:
    """Measure, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--mocks", type=int, default=10)
    parser.add_argument("--draws", type=int, default=300)
    parser.add_argument("--bank-seed", type=int, help="of the bank that is summed over; that of the mocks unless given")
    parser.add_argument("--beside", type=Path, help="result of the same run by the mocks' own bank, to say how means move")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    from cigars.runs import run_config
    from inference.batches import select
    from inference.model import load_run
    from simulators.survey import load_simulator

    config, trained = run_config(arguments.run), load_run(arguments.run)
    seed = config.hosts.bank_seed if arguments.bank_seed is None else arguments.bank_seed
    simulator, packed = load_simulator(config.updated(**{"hosts.bank_seed": seed})), mocks(config, arguments.mocks)
    same = {
        "draws": arguments.draws,
        "bank_seed": seed,
        "weights": hashlib.sha256((arguments.run / "weights.pt").read_bytes()).hexdigest()[:16],
    }
    former = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    kept = same.items() <= former.items()
    rows, start = (former["rows"][: arguments.mocks], time.monotonic() - former["seconds"]) if kept else ([], time.monotonic())
    for k in range(len(rows), arguments.mocks):
        rows.append(compare(trained, select(packed, [k]), simulator, config, arguments.draws, seed=k))
        r = rows[-1]
        print(
            f"mock {k}: {r['objects']} objects of {r['hosts_per_object']:.0f} hosts each, "
            f"{r['recognised']} of fewer than {FEWEST_HOSTS}, pairs {r['pairs']}, "
            f"pruning {r['pruning_error']:.3f}, {r['effective_draws']:.0f} effective draws, {r['nats']:.2f} nats, "
            f"largest shift {np.abs(r['shift']).max():.2f}, "
            f"widths {min(r['width_ratio']):.2f}-{max(r['width_ratio']):.2f}, redshift widths {r['z_width_ratio']:.3f} "
            f"and distances {np.median(r['z_wasserstein']):.3f}, "
            f"correlations differ by {r['correlation_rms_difference']:.3f} (noise {r['correlation_noise']:.3f})",
            flush=True,
        )
        numbers = {
            "mocks": k + 1,
            **same,
            "seconds": time.monotonic() - start,
            **summary(rows, list(config.marginals)),
        }
        if arguments.beside:
            beside = json.loads(arguments.beside.read_text())["rows"]
            numbers["moved_from_the_bank_of_the_mocks"] = moved(rows, beside, list(config.marginals))
        write_result(arguments.output, str(__doc__).splitlines()[0], numbers | {"rows": rows})


if __name__ == "__main__":
    main()
