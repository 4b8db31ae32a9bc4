"""How many surveys and detected objects are simulated a second, where does the time go, and how far is memory from its limit?

Expected on two cores: at least 8e5 detected objects/s at 16,000 a survey (1,600: 5 ms a survey, 16,000: 40 ms; a plain numpy prototype
takes 3.9 and 33 ms on one core, the published code 248-620 and 347-742 ms). On one H200-class GPU: at least 1e8. Time a survey grows in
proportion to its objects, a batch's to its surveys, within 20 %; a larger bank costs what its look-ups miss of the caches. Where
others use the machine, processor times stand: `objects_a_second_of_a_core` times the cores is what they give when they are free.
One device a core, so that surveys are shared out; the best of several repeats counts, as others may use the machine.

Bytes that must move for one detected object, with c candidates a detection (2.9 fiducial, 4 over the prior) and B bands, float32:
    a candidate:  8 (slot of the alias table) + 4 (14 + B) (record of its host)     = 88 for 6 bands
    a detection:  2 × 36 (what it depends on, put aside and read) + 4 (14 + B) (record again) + 4 (24 + 2 B) + 5 (row of the survey)
    padding:      4 (24 + 2 B) + 5 for every row of the capacity that is not used
Random numbers and what is between them stay in registers and caches. Bandwidth over these bytes is the limit of objects/s; a processor
is far from it, as the threefry bits, logarithms and exponentials of a candidate take 250 ns of a core.

usage: python benchmarks/simulate_throughput.py [--preset lsst] [--effective 1e5] [--seconds 20] [--out benchmarks/simulate_throughput.json]
on a GPU: JAX_PLATFORMS=cuda python benchmarks/simulate_throughput.py --larger --out benchmarks/simulate_throughput_gpu.json
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

__all__ = ["bandwidth", "best", "configured", "in_turns", "measure", "scaling", "stages"]

CASES = {1600: (8192, 128), 16000: (65536, 16)}  # expected objects: capacity, surveys in a batch
LARGER = {1600: (8192, 4096), 16000: (65536, 512)}  # that fill a GPU
TARGET_MS = {1600: 5.0, 16000: 40.0}


def best(run: Callable[[], Any], seconds: float, least: int = 4) -> tuple[float, float, float]:
    """Shortest and median wall time and shortest processor time of a call, s; the first one compiles and does not count."""
    import jax

    jax.block_until_ready(run())
    begin, runs = time.perf_counter(), []
    while len(runs) < least or time.perf_counter() - begin < seconds:
        wall, cpu = time.perf_counter(), time.process_time()
        jax.block_until_ready(run())
        runs.append((time.perf_counter() - wall, time.process_time() - cpu))
    walls = sorted(r[0] for r in runs)
    return walls[0], walls[len(walls) // 2], min(r[1] for r in runs)


def configured(preset: str, settings: dict[str, Any], expected: int, capacity: int):
    """A configuration of a size, and its simulator."""
    from cigars.config import load_config
    from simulators.survey import load_simulator

    config = load_config(preset, **settings, **{"size.expected_supernovae": expected, "size.capacity": capacity})
    return config, load_simulator(config)


def measure(config: Any, simulator: Any, surveys: int, seconds: float, limit: float) -> dict[str, Any]:
    """Times of one batch of surveys at the fiducial Θ and over the prior, and how near they are to the bandwidth (bytes/s)."""
    import jax
    import jax.numpy as jnp

    from cigars.schema import FIDUCIAL
    from simulators.survey import draw_surveys

    key, out = jax.random.key(0), {}
    for name, theta in (("fiducial", FIDUCIAL), ("prior", None)):
        run = lambda theta=theta: draw_surveys(key, jnp.arange(surveys), simulator, config, theta)  # noqa: E731
        start = time.perf_counter()
        survey = jax.block_until_ready(run())
        compiling = time.perf_counter() - start
        wall, median, cpu = best(run, seconds)
        objects = float(survey.number.mean())
        moved = bytes_an_object(config, simulator, survey, objects)
        out[name] = {
            "objects": round(objects, 1),
            "wall_ms_a_survey": round(1e3 * wall / surveys, 3),
            "wall_ms_a_survey_median": round(1e3 * median / surveys, 3),
            "cpu_ms_a_survey": round(1e3 * cpu / surveys, 3),
            "surveys_a_second": round(surveys / wall, 1),
            "objects_a_second": round(surveys * objects / wall),
            "objects_a_second_of_a_core": round(surveys * objects / cpu),
            "bytes_an_object": round(moved),
            "objects_a_second_at_the_bandwidth": round(limit / moved),
            "first_call_s": round(compiling, 1),
        }
        print(f"{config.size.expected_supernovae:.0f} {name}: {out[name]}", flush=True)
    return out


def bytes_an_object(config: Any, simulator: Any, survey: Any, objects: float) -> float:
    """The count of the docstring, with the candidates of these surveys."""
    import jax
    import numpy as np

    from cigars.schema import FIDUCIAL
    from simulators.rates import ln_slope_bound

    slope, amplitude = (np.asarray(v, np.float32) for v in (survey.theta.dtd_slope, survey.theta.dtd_logA))
    bound = jax.vmap(lambda s: ln_slope_bound(s, FIDUCIAL.dtd_slope, simulator.ln_age_range))(slope)
    candidates = float(np.mean(np.exp(float(simulator.ln_total) + np.log(10) * amplitude + np.asarray(bound)))) / objects
    bands = len(config.band_names)
    record, row = 4 * (14 + bands), 4 * (24 + 2 * bands) + 5
    return candidates * (8 + record) + 2 * 36 + record + row * config.size.capacity / objects


def stages(config: Any, simulator: Any, seconds: float) -> dict[str, float]:
    """ns for each row of a block, on one device, at the fiducial Θ: of the stages of a candidate, and of a detected object."""
    import jax
    import jax.numpy as jnp

    from cigars.schema import FIDUCIAL, Globals
    from simulators.categorical import draw_alias
    from simulators.cosmology import transverse_distance_table
    from simulators.objects import SurveyState, draw_candidates, observe
    from simulators.survey import LARGEST_BLOCK, detected_first

    theta, key = Globals(*(jnp.float32(v) for v in FIDUCIAL)), jax.random.key(0)
    state = SurveyState(theta, transverse_distance_table(theta, config.hosts.z_max), jnp.float32(0))
    size = LARGEST_BLOCK
    candidates = jax.jit(lambda key, sim: draw_candidates(key, size, state, sim, config))
    found, detected = candidates(key, simulator)
    calls: dict[str, tuple[Callable, tuple]] = {
        "draw hosts": (lambda key, sim: sim.table[draw_alias(key, sim.alias, size)], (key, simulator)),
        "candidates with their hosts": (candidates, (key, simulator)),
        "packing": (lambda found, detected: jax.tree.map(lambda v: v[detected_first(detected)], found), (found, detected)),
        "observe the detected": (lambda key, found, sim: observe(key, found, state, sim, config), (key, found, simulator)),
    }
    out = {}
    for name, (call, arguments) in calls.items():
        repeated = jax.jit(call)
        _, _, cpu = best(lambda f=repeated, a=arguments: [f(*a) for _ in range(20)], seconds)
        out[f"{name}, ns of a core"] = round(1e9 * cpu / size / 20, 1)
    print(out, flush=True)
    return out


def bandwidth(seconds: float, size: int = 1 << 26) -> float:
    """Bytes/s that all devices read and write together, adding two arrays that no cache holds (STREAM)."""
    import jax
    import jax.numpy as jnp

    devices = jax.local_devices()
    arrays = [jax.device_put(jnp.ones(size, jnp.float32), d) for d in devices]
    add = jax.jit(lambda x: x + 1)
    wall, _, cpu = best(lambda: [add(x) for x in arrays], seconds)
    taken = min(wall, cpu / len(devices)) if devices[0].platform == "cpu" else wall  # others on the machine do not count
    return 2 * 4 * size * len(devices) / taken


def scaling(preset: str, settings: dict[str, Any], seconds: float, shapes: dict[int, tuple[int, int]]) -> dict[str, dict[str, float]]:
    """Processor time an object against that of a reference in the same series: 1 is linear.

    The cases of a series take turns, so that others on the machine slow them alike, and the best of each counts. Capacities are in
    proportion to the objects, as padding is written too.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    from cigars.schema import FIDUCIAL
    from simulators.categorical import alias_table
    from simulators.survey import draw_surveys

    def call(config: Any, simulator: Any, surveys: int) -> Callable[[], Any]:
        return lambda: draw_surveys(jax.random.key(0), jnp.arange(surveys), simulator, config, FIDUCIAL)

    largest = max(shapes)
    capacity, surveys = shapes[largest]
    sizes = sorted({*shapes, largest // 4})
    of_size = {n: configured(preset, settings, n, capacity * n // largest) for n in sizes}
    config, simulator = of_size[largest]
    weight, banks = np.exp(np.asarray(simulator.ln_weight, np.float64)), {}
    for copies in (1, 4, 16):  # the same hosts again and again: the law is that of one copy, the memory that of a larger bank
        table, alias = jnp.tile(simulator.table, (copies, 1)), alias_table(np.tile(weight, copies))
        banks[copies * len(simulator.table)] = simulator._replace(table=table, alias=alias)
    series = {
        "objects a survey": {n: call(*of_size[n], surveys * largest // n) for n in sizes},
        "surveys a batch": {n: call(config, simulator, n) for n in (surveys // 2, surveys, 2 * surveys)},
        "hosts in the bank": {n: call(config, bank, surveys) for n, bank in banks.items()},
    }
    reference = {"objects a survey": largest, "surveys a batch": surveys, "hosts in the bank": min(banks)}
    out = {}
    for name, runs in series.items():
        cost = in_turns(runs, seconds)
        out[name] = {str(n): round(c / cost[reference[name]], 3) for n, c in cost.items()}
        print(name, out[name], flush=True)
    return out


def in_turns(runs: dict[int, Callable[[], Any]], seconds: float) -> dict[int, float]:
    """Shortest processor time an object of each of some calls that return surveys, one call of each at a time."""
    import jax

    objects = {n: float(jax.block_until_ready(run()).number.sum()) for n, run in runs.items()}
    found: dict[int, list[float]] = {n: [] for n in runs}
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds * len(runs) or len(min(found.values(), key=len)) < 8:
        for n, run in runs.items():
            cpu = time.process_time()
            jax.block_until_ready(run())
            found[n].append((time.process_time() - cpu) / objects[n])
    return {n: min(times) for n, times in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--preset", default="lsst")
    parser.add_argument("--effective", type=float, default=1e5, help="effective number of hosts in the bank")
    parser.add_argument("--seconds", type=float, default=20.0, help="time to repeat each case for")
    parser.add_argument("--devices", type=int, default=len(os.sched_getaffinity(0)), help="devices to share a CPU's cores out to")
    parser.add_argument("--larger", action="store_true", help="batches that fill a GPU")
    parser.add_argument("--out", default="benchmarks/simulate_throughput.json")
    args = parser.parse_args()
    import jax

    if jax.config.jax_platforms in (None, "", "cpu"):
        jax.config.update("jax_num_cpu_devices", args.devices)

    from common import write_result

    settings, limit = {"hosts.effective_hosts": args.effective}, bandwidth(args.seconds / 4)
    cases, shapes = {}, LARGER if args.larger else CASES
    for expected, (capacity, surveys) in shapes.items():
        config, simulator = configured(args.preset, settings, expected, capacity)
        cases[str(expected)] = measure(config, simulator, surveys, args.seconds, limit) | {
            "capacity": capacity, "surveys": surveys, "hosts": len(simulator.table), "target_ms": TARGET_MS.get(expected)
        }  # fmt: skip
    numbers = {
        "preset": args.preset,
        "effective_hosts": args.effective,
        "devices": [str(d.device_kind) for d in jax.local_devices()],
        "bandwidth_gb_s": round(limit / 1e9, 1),
        "cases": cases,
        "stages": stages(config, simulator, args.seconds / 10),
        "processor time an object relative to a reference": scaling(args.preset, settings, args.seconds / 4, shapes),
    }
    write_result(args.out, "How many detected objects are simulated a second? At least 8e5 on two cores, 1e8 on a GPU.", numbers)


if __name__ == "__main__":
    main()
