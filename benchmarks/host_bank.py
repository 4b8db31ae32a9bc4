"""How long does an importance bank of hosts take, and how seldom do two supernovae share a host?

Expected on two cores with the `ssp` back-end: effective number 10⁶ in under 4 minutes, 10⁵ in under 30 s; with the former, fewer than 3 %
of 16,000 objects share a host. Banks are built afresh and then kept in the cache, as `load_bank` would.

usage: python benchmarks/host_bank.py [--effective 1e5 1e6] [--backend ssp] [--out benchmarks/host_bank.json]
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

__all__ = ["build", "sharing"]

TARGET_S = {1e5: 30.0, 1e6: 240.0}
OBJECTS = 16_000


def build(effective: float, settings: dict[str, Any]) -> dict[str, Any]:
    """Build a bank and keep it in the cache; seconds, numbers of hosts, and how many objects share one."""
    from cigars.config import load_config
    from simulators.hosts import bank_fingerprint, build_bank, cache_folder, effective_number, read_bank, write_bank

    config = load_config("lsst-16k", **settings, **{"hosts.effective_hosts": effective})
    start, cpu = time.perf_counter(), time.process_time()
    bank = build_bank(config.hosts)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    path = cache_folder() / f"hosts-{bank_fingerprint(config.hosts)}.npz"
    write_bank(path, bank)
    start = time.perf_counter()
    read_bank(path)
    return {
        "build_s": round(seconds, 1),
        "build_cpu_s": round(cpu_seconds, 1),
        "read_s": round(time.perf_counter() - start, 2),
        "target_s": TARGET_S.get(effective),
        "effective_number": round(effective_number(bank)),
        "hosts": len(bank.z),
        "population": float(bank.population),
        "megabytes": round(path.stat().st_size / 1e6),
        **sharing(bank, config),
    }


def sharing(bank: Any, config: Any, surveys: int = 8) -> dict[str, float]:
    """Share of objects of surveys of about 16,000, at the fiducial, whose host has another object; and of distinct hosts."""
    import jax
    import jax.numpy as jnp

    from cigars.schema import FIDUCIAL
    from simulators.survey import draw_surveys, prepare

    survey = jax.device_get(draw_surveys(jax.random.key(0), jnp.arange(surveys), prepare(config, bank), config, FIDUCIAL))
    shared, distinct = [], []
    for host, seen in zip(survey.host, survey.observed, strict=True):
        _, counts = np.unique(host[seen][:OBJECTS], return_counts=True)
        shared.append(counts[counts > 1].sum() / counts.sum())
        distinct.append(len(counts) / counts.sum())
    return {
        "objects": round(float(survey.number.mean())),
        "share_of_objects_with_a_shared_host": round(float(np.mean(shared)), 4),
        "distinct_hosts_per_object": round(float(np.mean(distinct)), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--effective", type=float, nargs="+", default=[1e5, 1e6])
    parser.add_argument("--backend", default="ssp", choices=("ssp", "emulator"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="further settings, as for `cigars simulate`")
    parser.add_argument("--out", default="benchmarks/host_bank.json")
    args = parser.parse_args()

    from common import write_result

    settings = {"hosts.backend": args.backend} | dict(s.split("=", 1) for s in args.set)
    banks = {}
    for effective in args.effective:
        banks[f"{effective:g}"] = build(effective, settings)
        print(effective, banks[f"{effective:g}"])
    question = "How long does an importance bank take (10⁶ in 240 s, 10⁵ in 30 s on two cores), and do objects share hosts (< 3 %)?"
    write_result(args.out, question, {"backend": args.backend, "banks": banks})


if __name__ == "__main__":
    main()
