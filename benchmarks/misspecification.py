"""How often does `cigars check` reject surveys that the model makes, and how often those of wrong ones? Expected: 5 % at the 5 % level.

    python benchmarks/misspecification.py alarms --exposure 0.25 --surveys 208 --mocks 100
    python benchmarks/misspecification.py power --kinds right --sets 4 --mocks 50
    python benchmarks/misspecification.py power --emulator FILE
    python benchmarks/misspecification.py table

`alarms` does what the command does, on surveys of the prior: each has references of its own, at draws of its own posterior. `power`
compares many mocks at the fiducial Θ with the same references, at draws of the posteriors of eight other mocks of the same kind, so that
they are where the posterior of such a mock is; four such sets for the right model and one for each wrong one. Wrong kinds have the
expected number of the right one: none is given away by its size.

Wrong are: g magnitudes 0.03 mag too faint; dust of hosts with the extinction curve of the SMC bar, τ_2 (λ / 5500 A)^-1.2 without a bump;
5 % core collapse, M ~ N(M_0 + 1.2, 0.9), c ~ N(0.15, 0.25), x ~ N(0, 1.5) before errors, in hosts by their star formation of the last
100 Myr, selected as the others; another stellar library; no supernovae from the youngest one or two age bins that have them.
"another bank" is the right model on as few hosts as the wrong ones have.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cigars.check
import simulators.sps.ssp as ssp
from benchmarks.common import write_result
from cigars.catalogue import Catalogue
from cigars.check import compared
from cigars.config import Config
from cigars.pretrained import path
from cigars.runs import run_config
from cigars.schema import FIDUCIAL, Globals, Observations, Survey
from cigars.seen import Seen, see
from cigars.targets import as_survey
from cigars.training_range import inside
from inference.checks import judge_among
from inference.model import load_run
from inference.posterior import GlobalPosterior
from simulators.hosts import HostBank, build_bank, load_bank, read_bank, write_bank
from simulators.selection import detection_probability, faintest_modulus, read_detection_table
from simulators.simulator import transverse_modulus
from simulators.survey import draw_surveys, prepare

LEVEL = 0.05
HOSTS = 1e5  # effective number of the banks of wrong kinds: 60 times the objects of a mock
NEVER = -60.0  # ln of a mass that hosts no supernova
ANCHORS = 8
POOL = 16_000  # objects among which neighbours are looked for, in place of 40,000: the share of odd ones alone is asked for
PRIOR = "of the prior"
KINDS = ["right", "g + 0.03 mag", "core collapse", "no supernovae below 0.3 Gyr", "SMC dust", "emulator"]
KINDS += ["FSPS conventions", "another bank", "no supernovae below 0.9 Gyr", "no emission lines"]
QUESTION = "How often does `cigars check` reject surveys of the model (expected: 5 %) and of wrong ones?"
SMC_SLOPE = -1.2
CORE_COLLAPSE = {"share": 0.05, "fainter": 1.2, "scatter": 0.9, "colour": (0.15, 0.25), "stretch": (0.0, 1.5)}


class Setup(NamedTuple):
    """The posterior and its configuration at one size."""

    trained: Any
    config: Config
    exposure: float
    surveys: int  # references


def setup(exposure: float, surveys: int) -> Setup:
    folder = path("lsst")
    config = run_config(folder)
    return Setup(load_run(folder), config.of_exposure(exposure).updated(**{"size.capacity": 12288}), exposure, surveys)


# banks ---------------------------------------------------------------------------------------------------------------------------------


def smc_optical_depth(tau2: jax.Array, dust_index: jax.Array, basis: Any) -> jax.Array:
    """In place of the diffuse curve of Kriek & Conroy: a power law that fits the SMC bar (Gordon+03), whatever the index."""
    return tau2[..., None] * jnp.exp(SMC_SLOPE * basis.ln_ratio.reshape((1,) * tau2.ndim + basis.ln_ratio.shape))


def bank(kind: str, config: Config, emulator: str | None, work: Path) -> HostBank:
    """Hosts of a kind; those that have to be computed are kept in `work`."""
    if kind.startswith("no supernovae"):
        right, bins = load_bank(config.hosts), 1 if "0.3" in kind else 2
        ln_mass = right.ln_mass.copy()
        ln_mass[:, :bins] = NEVER
        return right._replace(ln_mass=ln_mass)
    changes: dict[str, Any] = {
        "another bank": {"bank_seed": 1},
        "SMC dust": {"bank_seed": 1},
        "FSPS conventions": {"bank_seed": 1, "convention": "fsps"},
        "no emission lines": {"bank_seed": 1, "nebular": False},
        "emulator": {"bank_seed": 1, "backend": "emulator", "emulator_file": emulator},
    }
    if kind not in changes:
        return load_bank(config.hosts)
    file = work / f"{kind}.npz"
    if not file.exists():
        right = ssp.diffuse_optical_depth
        if kind == "SMC dust":
            ssp.diffuse_optical_depth = smc_optical_depth
        jax.clear_caches()  # what was compiled has the other curve in it
        try:
            write_bank(file, build_bank(config.hosts.model_copy(update=changes[kind] | {"effective_hosts": HOSTS})))
        finally:
            ssp.diffuse_optical_depth = right
            jax.clear_caches()
    return read_bank(file)


# mocks ---------------------------------------------------------------------------------------------------------------------------------


def source(config: Config, hosts: HostBank, stream: int) -> Callable[[int, int, Globals | None], Survey]:
    """`source(first, count, theta)` simulating surveys of a stream; Θ of the prior where there is none."""
    simulator, key = prepare(config, hosts), jax.random.key(stream)

    def draw(first: int, count: int, theta: Globals | None = None) -> Survey:
        return jax.device_get(draw_surveys(key, jnp.arange(first, first + count), simulator, config, theta))

    return draw


def rows(survey: Survey, k: int) -> Observations:
    return Observations(*(np.asarray(leaf)[k][: int(survey.number[k])] for leaf in survey.observations))


def contaminated(o: Observations, right: HostBank, config: Config, rng: np.random.Generator) -> Observations:
    """The same with core-collapse supernovae among them; see the module."""
    wanted = rng.binomial(len(o.m), CORE_COLLAPSE["share"] / (1 - CORE_COLLAPSE["share"]))
    old = np.exp(right.ln_mass.astype(np.float64)).sum(1) * (1 + right.z)
    young = np.maximum(10.0**right.mass_log10_msun - old, 0)
    weight = young / (1 + right.z) / right.keep_probability
    host = rng.choice(len(weight), 400 * max(wanted, 1), p=weight / weight.sum())
    z, size, obs = right.z[host], len(host), config.observation
    modulus = np.asarray(transverse_modulus(FIDUCIAL, jnp.asarray(z), config.hosts.z_max))
    true = {
        "m": rng.normal(FIDUCIAL.M0 + CORE_COLLAPSE["fainter"], CORE_COLLAPSE["scatter"], size) + modulus + 5 * np.log10(1 + z),
        "x": rng.normal(*CORE_COLLAPSE["stretch"], size),
        "c": rng.normal(*CORE_COLLAPSE["colour"], size),
    }
    found = {}
    for name, model in (("m", obs.sn_m), ("x", obs.sn_x), ("c", obs.sn_c)):
        variance = np.exp(model.offset + model.slope * (true["m"] - model.pivot) + model.scatter * rng.normal(size=size))
        found |= {name: true[name] + variance**0.5 * rng.normal(size=size), f"var_{name}": variance}
    probability = detection_probability(jnp.asarray(z), jnp.asarray(found["m"], jnp.float32), config.selection, read_detection_table(None))
    visible = modulus < np.asarray(faintest_modulus(jnp.asarray(right.magnitude[host]), config.selection.host_thresholds))
    kept = np.flatnonzero(visible & (rng.uniform(size=size) < np.asarray(probability)))[:wanted]
    if len(kept) < wanted:
        raise ValueError(f"core collapse: expected {wanted} detected of {size}, got {len(kept)}; draw more")
    noise = obs.host_sigma * rng.normal(size=(wanted, o.mag.shape[1]))
    added = {
        "mag": right.magnitude[host[kept]] + modulus[kept, None] + noise,
        "mag_err": np.full_like(noise, obs.host_sigma),
        **{name: values[kept] for name, values in found.items()},
    }
    empty = {"z_spec": np.nan, "z_spec_err": np.nan}
    extra = (added.get(name, np.full(wanted, empty.get(name, 0.0))) for name in Observations._fields)
    return Observations(*(np.concatenate([leaf, new]).astype(np.float32) for leaf, new in zip(o, extra, strict=True)))


def mocks(kind: str, count: int, s: Setup, hosts: HostBank, stream: int) -> list[Observations]:
    """Surveys at the fiducial Θ."""
    draw = source(s.config, hosts, stream)
    every = [rows(survey, k) for first in range(0, count, 16) for survey in [draw(first, 16, FIDUCIAL)] for k in range(16)][:count]
    if kind == "g + 0.03 mag":
        every = [o._replace(mag=o.mag + np.float32(0.03) * (np.arange(o.mag.shape[1]) == 1)) for o in every]
    if kind == "core collapse":
        every = [contaminated(o, hosts, s.config, np.random.default_rng([stream, k])) for k, o in enumerate(every)]
    return every


# checks --------------------------------------------------------------------------------------------------------------------------------


def within(s: Setup, every: list[Observations]) -> tuple[list[Survey], list[int]]:
    """Each as a survey without the objects beyond the range of the training, and how many those are; as `cigars check` does."""
    found = [inside(s.trained, Catalogue(np.arange(len(o.m)).astype(str), o, None), None) for o in every]
    return [as_survey(c.observations, s.exposure, len(c.id) + n) for c, n in found], [n for _, n in found]


def references(s: Setup, anchors: list[Survey], draw: Callable, seed: int) -> list[Seen]:
    """Surveys of the model at draws of the posteriors of some surveys."""
    posterior, each = GlobalPosterior(s.trained), s.surveys // len(anchors)
    theta = np.concatenate([posterior.sample(each, a, seed + k)[:, 0].cpu().numpy() for k, a in enumerate(anchors)])
    every = s.config.globals_of(dict(zip(s.trained.names, theta.T, strict=True)))

    def batches() -> Iterator[Survey]:
        for first in range(0, len(theta), 16):
            count = min(16, len(theta) - first)
            some = Globals(*(v if np.ndim(v) == 0 else v[first : first + count] for v in every))
            yield draw(first + 100_000 * seed, count, some)

    return see(s.trained, batches(), s.config, seed)


def judged(s: Setup, simulated: list[Seen], surveys: list[Survey], outside: list[int], seed: int) -> list[dict[str, float]]:
    """p-value of each test of each survey, corrected for its number of statistics, and "any test", corrected for that of tests."""
    out = []
    for compared_, _ in compared(simulated, see(s.trained, surveys, s.config, seed), outside, s.trained, s.config, reasons=False):
        tests = judge_among(compared_, LEVEL)
        out.append({t.worst.test: t.p_value for t in tests} | {"any test": min(t.adjusted for t in tests)})
    return out


def alarms(s: Setup, count: int, first: int, file: Path) -> None:
    """p-values of surveys of the prior, each with references of its own."""
    found: list[dict[str, float]] = []
    draw, sizes = source(s.config, load_bank(s.config.hosts), 11), []
    for number in range(first, first + count):
        o = rows(draw(number, 1), 0)
        surveys, outside = within(s, [o])
        found += judged(s, references(s, surveys, draw, number + 1), surveys, outside, number)
        sizes.append(len(o.m))
        keep(file, s, found, sizes, "prior")


def power(s: Setup, count: int, sets: int, kinds: list[str], emulator: str | None, work: Path) -> None:
    """p-values of mocks at the fiducial Θ that share sets of references."""
    model = source(s.config, load_bank(s.config.hosts), 21)
    for kind in kinds:
        file = work / f"{kind}.json"
        if file.exists():
            continue
        number, found, sizes, beyond = KINDS.index(kind), [], [], 0
        every = mocks(kind, sets * (count + ANCHORS), s, bank(kind, s.config, emulator, work), 31 + number)
        for k in range(sets):
            surveys, outside = within(s, every[k * (count + ANCHORS) : (k + 1) * (count + ANCHORS)])
            simulated = references(s, surveys[:ANCHORS], model, 10 * number + k + 1)
            found += judged(s, simulated, surveys[ANCHORS:], outside[ANCHORS:], number)
            sizes += [int(one.number[0]) for one in surveys]
            beyond += sum(outside)
        keep(file, s, found, sizes, "fiducial", beyond=beyond)


def keep(file: Path, s: Setup, found: list[dict[str, float]], sizes: list[int], theta: str, **more: Any) -> None:
    about = {"theta": theta, "references": s.surveys, "exposure": s.exposure, "objects": np.quantile(sizes, (0, 0.5, 1)).tolist(), **more}
    file.write_text(json.dumps({**about, "p_values": found}, indent=1))
    print(file.stem, len(found), {t: float(np.mean([p[t] < LEVEL for p in found])) for t in found[0]}, flush=True)


def gathered(kind: str, work: Path) -> dict[str, Any]:
    """What is there of a kind, put together."""
    first, *others = (json.loads(file.read_text()) for file in sorted(work.glob(f"{kind}*.json")))
    return first | {"p_values": sum((o["p_values"] for o in others), first["p_values"])}


def table(work: Path, output: Path) -> None:
    """Rates with binomial errors, and how often a wrong mock has a lower p than a right one, from the p-values that are there."""
    raw = {kind: gathered(kind, work) for kind in [PRIOR, *KINDS] if list(work.glob(f"{kind}*.json"))}
    if "right" not in raw:
        raise SystemExit(f"{work}: expected p-values of the right model, got none; run `power --kinds right` first")
    right, out = raw["right"]["p_values"], {}
    for kind, found in raw.items():
        p, rows_ = found.pop("p_values"), {}
        for test in p[0]:
            values, good = (np.array([one[test] for one in some]) for some in (p, right))
            rate = float((values < LEVEL).mean())
            smooth = (rate * len(p) + 1) / (len(p) + 2)  # an error also where none or all are rejected
            rows_[test] = {"rate": rate, "error": (smooth * (1 - smooth) / len(p)) ** 0.5}
            if kind in (PRIOR, "right") and test in ("all statistics", "network summary", "summary density", "objects together"):
                rows_[test]["uniform"] = float(stats.kstest(values, "uniform").pvalue)
            elif kind not in (PRIOR, "right"):
                rows_[test]["auc"] = float((values[:, None] < good).mean() + 0.5 * (values[:, None] == good).mean())
        out[kind] = {"mocks": len(p), **found, "tests": rows_, "p_values": p}
        said = (f"{100 * r['rate']:.0f} ± {100 * r['error']:.0f}" + (f" ({r['auc']:.2f})" if "auc" in r else "") for r in rows_.values())
        print(f"| {kind} | {len(p)} | " + " | ".join(said) + " |")
    write_result(output, QUESTION, {"level": LEVEL, "core collapse": CORE_COLLAPSE, "SMC slope": SMC_SLOPE, "kinds": out})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["alarms", "power", "table"])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, metavar="KIND")
    parser.add_argument("--mocks", type=int, default=40, help="of a set of references, or of the prior")
    parser.add_argument("--sets", type=int, default=1, help="of references")
    parser.add_argument("--first", type=int, default=0, help="mock of the prior")
    parser.add_argument("--surveys", type=int, default=240, help="of a set of references")
    parser.add_argument("--exposure", type=float, default=1.0)
    parser.add_argument("--emulator", help="Speculator-format network, for that kind")
    parser.add_argument("--work", type=Path, default=Path("misspecification"), help="folder for p-values and banks of hosts")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    cigars.check.REFERENCE = cigars.check.COMMON = POOL
    if given.part == "table":
        table(given.work, given.output)
    elif given.part == "alarms":
        name = f"{PRIOR}.json" if given.first == 0 else f"{PRIOR} {given.first}.json"
        alarms(setup(given.exposure, given.surveys), given.mocks, given.first, given.work / name)
    else:
        power(setup(given.exposure, given.surveys), given.mocks, given.sets, given.kinds, given.emulator, given.work)
