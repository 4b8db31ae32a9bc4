"""Does it save time to simulate the next batch while a network works on this one (`inference.prefetch`)?

Expected: on an accelerator the shorter of the two times, nearly; on a CPU only what one core idles while the other packs, as simulator and
network both use every core: a ratio of 0.8 to 1. Both ways run in turns, so that others on the machine slow them alike.

usage: python benchmarks/overlap.py [--objects 1600] [--surveys 64] [--out benchmarks/overlap.json]
on a GPU: JAX_PLATFORMS=cuda python benchmarks/overlap.py --surveys 1024 --out benchmarks/overlap_gpu.json
"""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

__all__ = ["overlap"]

PASSES = 6  # of a network over the objects, as a one-step summary with one refinement makes them


def overlap(config: Any, simulator: Any, surveys: int, batches: int, repeats: int) -> dict[str, Any]:
    """Wall and processor time of simulating, packing and summarising some batches: by turns, and with the next one in the making."""
    import jax
    import jax.numpy as jnp
    import torch

    from inference.batches import pack
    from inference.prefetch import one_ahead
    from simulators.survey import draw_surveys

    key, bands, on_cpu = jax.random.key(2), len(config.band_names), jax.default_backend() == "cpu"
    device = "cpu" if on_cpu else "cuda"
    net = torch.nn.Sequential(torch.nn.Linear(2 * bands, 128), torch.nn.SiLU(), torch.nn.Linear(128, 128), torch.nn.SiLU()).to(device)

    def make(i: int) -> Any:
        survey = draw_surveys(key, jnp.arange(i * surveys, (i + 1) * surveys), simulator, config)
        return pack(jax.device_get(survey) if on_cpu else survey, device=device)

    @torch.no_grad()
    def work(packed: Any) -> float:
        rows = torch.nan_to_num(torch.cat([packed.observations.mag, packed.observations.mag_err], -1))
        return float(sum(net(part).mean() for _ in range(PASSES) for part in rows.split(16384)))

    def by_turns() -> list[float]:
        return [work(make(i)) for i in range(batches)]

    def ahead() -> list[float]:
        with one_ahead(make, batches) as ask:
            return [work(ask(i)) for i in range(batches)]

    if by_turns() != ahead():
        raise RuntimeError("overlap: expected the same numbers both ways")
    found: dict[str, list[float]] = {"by turns": [], "one ahead": []}
    for _ in range(repeats):
        for name, call in (("by turns", by_turns), ("one ahead", ahead)):
            begin = time.perf_counter()
            call()
            found[name].append(time.perf_counter() - begin)
            print(f"{name}: {found[name][-1]:.2f} s", flush=True)
    begin = time.perf_counter()
    packed = make(0)
    making, begin = time.perf_counter() - begin, time.perf_counter()
    work(packed)
    return {
        **{f"{name}_s": round(min(times), 3) for name, times in found.items()},
        "ratio_of_best": round(min(found["one ahead"]) / min(found["by turns"]), 3),
        "ratios": [round(a / b, 3) for a, b in zip(found["one ahead"], found["by turns"], strict=True)],
        "last_making_s": round(making, 3),
        "last_working_s": round(time.perf_counter() - begin, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--objects", type=int, default=1600)
    parser.add_argument("--surveys", type=int, default=64, help="in a batch")
    parser.add_argument("--batches", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--effective", type=float, default=1e5, help="effective number of hosts in the bank")
    parser.add_argument("--out", default="benchmarks/overlap.json")
    args = parser.parse_args()
    import jax

    if jax.config.jax_platforms in (None, "", "cpu"):
        jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))

    from common import write_result
    from simulate_throughput import configured

    config, simulator = configured("lsst", {"hosts.effective_hosts": args.effective}, args.objects, 5 * args.objects)
    numbers = {"objects": args.objects, "surveys": args.surveys} | overlap(config, simulator, args.surveys, args.batches, args.repeats)
    write_result(args.out, "Does it save time to simulate the next batch while a network works on this one?", numbers)


if __name__ == "__main__":
    main()
