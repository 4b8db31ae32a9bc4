"""Do bfloat16 and torch.compile make the summary of a survey, or a step of the posterior's training, faster, and what do they change?

With the posterior that comes along, `lsst`, on fresh surveys of its size: milliseconds a survey of the summary as it is, under bfloat16
(autocast) and on a GPU under TF32, and how far the summary moves in units of its spread over surveys; of the score network alone, compiled
or not; of one forward and backward pass of all heads, compiled or not, with the seconds that compiling takes. Times are the least of some
repeats on one thread, in turns, so that another job on the machine changes all alike.

usage: python benchmarks/encoder_speed.py [--surveys 32] [--device cpu]
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import write_result
from torch import Tensor

REPEATS = 7
HEAD_BATCH = 64


def least(variants: dict[str, Callable[[], Any]], device: str) -> dict[str, float]:
    """Least milliseconds of each, in turns; the first call of each is not counted."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for repeat in range(REPEATS + 1):
        for name, call in variants.items():
            begun = time.perf_counter()
            call()
            if device == "cuda":
                torch.cuda.synchronize()
            if repeat:
                times[name].append(1e3 * (time.perf_counter() - begun))
    return {name: float(np.min(values)) for name, values in times.items()}


@contextlib.contextmanager
def tf32() -> Iterator[None]:
    """Products of float32 matrices in TensorFloat-32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def moved(other: Tensor, right: Tensor) -> dict[str, float]:
    """Root mean square change of the columns of a summary, in units of their spread over surveys: median and largest."""
    spread = right.std(0)
    ratio = ((other - right).square().mean(0).sqrt() / spread)[spread > 1e-6]
    return {"median": float(ratio.median()), "largest": float(ratio.max())}


def compiled(call: Callable[..., Any], *arguments: Any, dynamic: bool | None = None) -> tuple[Callable[..., Any], float]:
    """A compiled function, and the seconds of its first call."""
    out, begun = torch.compile(call, dynamic=dynamic), time.perf_counter()
    found = out(*arguments)
    if found.requires_grad:
        found.mean().backward()
    if found.is_cuda:
        torch.cuda.synchronize()
    return out, time.perf_counter() - begun


def main() -> None:
    """Measure, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--surveys", type=int, default=32)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()

    from cigars.devices import Device, use_device
    from cigars.pretrained import path
    from cigars.runs import run_config
    from cigars.surveys import survey_source
    from inference.batches import pack
    from inference.ensemble import Ensemble
    from inference.model import load_run
    from inference.summaries import in_blocks

    device = use_device(Device(arguments.device))
    torch.set_num_threads(1)
    trained = load_run(path("lsst"), device)
    source = survey_source(run_config(path("lsst")).of_exposure(1.0), "encoder-speed")
    packed, summary = pack(source(0, arguments.surveys), trained.names, device), trained.summary
    count, objects = arguments.surveys, len(packed.observations.m)

    with torch.no_grad():
        right = summary(packed)

        def under(context: Any) -> Callable[[], Tensor]:
            def call() -> Tensor:
                with context():
                    return summary(packed)

            return call

        variants = {"float32": under(contextlib.nullcontext), "bfloat16": under(lambda: torch.autocast(device, torch.bfloat16))}
        if device == "cuda":
            variants["tf32"] = under(tf32)
        encoder = {name: ms / count for name, ms in least(variants, device).items()}
        change = {name: moved(call(), right) for name, call in variants.items() if name != "float32"}
        net = summary.score.supernova
        rows = torch.randn(objects, net[0].in_features, device=device)
        fast, compiling = compiled(net, rows, dynamic=True)
        score = least({"eager": lambda: in_blocks(net, rows), "compiled": lambda: in_blocks(fast, rows)}, device)

    heads = Ensemble(trained.estimators).to(device).train()
    some = torch.randint(len(right), (len(trained.estimators), HEAD_BATCH), device=device)
    theta, table = packed.theta[some], right[some]
    faster, compiling_heads = compiled(heads.losses, theta, table)
    step = least(
        {"eager": lambda: heads.losses(theta, table).mean().backward(), "compiled": lambda: faster(theta, table).mean().backward()}, device
    )
    numbers = {
        "device": device,
        "objects_a_survey": objects / count,
        "summary_ms_a_survey": encoder,
        "summary_moved": change,
        "score_network_ms_a_survey": {name: ms / count for name, ms in score.items()} | {"compiling_s": compiling},
        "heads_pass_ms": step | {"compiling_s": compiling_heads},
    }
    for name, value in numbers.items():
        print(name, value)
    write_result(arguments.output, str(__doc__).splitlines()[0], numbers)


if __name__ == "__main__":
    main()
