r"""Do two neural routes and the exact sum over a bank of hosts agree on about 100 objects, and where does each fall short?

On the mocks of exact_posterior.py: the networks of a run; the density of single objects with chains on their product
(`cigars.crosscheck`); and the exact posteriors by the bank of the mocks and by another bank, from the results of exact_posterior.py.
Where two routes lose different parts of what the data say, their means scatter by √(r² − 1) σ at a ratio r of their widths. Expected:
widths within 15 %, and the exact ones narrower only by what the bank recognises.

usage: python benchmarks/object_likelihood.py RUN [--mocks 4] with RUN and the two results of exact_posterior.py
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from common import write_result
from exact_posterior import NEURAL
from host_posteriors import mocks

HERE = Path(__file__).parent
SEED = 0


def second(trained: Any, net: Any, one: Any, seed: int, draws: int, warmup: int) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Draws [draw, parameter] of the networks and of the second route, and how its chains did."""
    import torch

    from cigars.density_chains import sample_density
    from inference.object_likelihood import object_data
    from inference.posterior import GlobalPosterior

    networks = GlobalPosterior(trained).sample(NEURAL, one, seed=seed)[:, 0]  # the draws of exact_posterior.py
    begin = trained.prior.transform.inv(networks).double().numpy()
    data = net.standardise(object_data(one.observations))
    eta, (r_hat, n_eff, divergences) = sample_density(net, data, 1.0, begin, draws, warmup, 2, seed, lambda *_: None)
    theta = trained.prior.transform(torch.as_tensor(eta, dtype=torch.float32)).double().numpy()
    return networks.double().numpy(), theta, {"r_hat": float(r_hat.max()), "n_eff": float(n_eff.min()), "divergences": divergences}


def against(rows: list[dict[str, Any]], names: list[str], one: str, other: str) -> dict[str, dict[str, float]]:
    """Mean of `one` less that of `other` in units of the latter's σ, rms over the mocks, and mean ratio of their σ, by parameter."""
    mean, sd = ({key: np.array([row[key][what] for row in rows]) for key in (one, other)} for what in ("mean", "sd"))
    shift, ratio = (mean[one] - mean[other]) / sd[other], sd[one] / sd[other]
    return {
        name: {"shift_rms": float((shift[:, k] ** 2).mean() ** 0.5), "width_ratio": float(ratio[:, k].mean())}
        for k, name in enumerate(names)
    }


def main() -> None:
    """Measure, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--mocks", type=int, default=4, help="at most as many as the results of exact_posterior.py have")
    parser.add_argument("--surveys", type=int, default=16000)
    parser.add_argument("--objects", type=int, default=400_000)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--warmup", type=int, default=150)
    parser.add_argument("--exact", type=Path, nargs=2, default=[HERE / "exact_posterior.json", HERE / "exact_posterior_other_bank.json"])
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    from cigars.crosscheck import trained_density
    from cigars.runs import run_config
    from inference.batches import select
    from inference.model import load_run

    config, trained = run_config(arguments.run), load_run(arguments.run)
    folder = arguments.run / "crosscheck" / f"prior-{arguments.surveys}-{arguments.objects}-{SEED}"
    prior = np.random.default_rng(SEED).normal(size=(arguments.surveys, len(trained.names)))  # posteriors of such small surveys fill it
    net = trained_density(config, prior, folder, arguments.surveys, arguments.objects, 1.0, SEED, lambda *_, **__: None)
    exact = [json.loads(path.read_text())["rows"] for path in arguments.exact]
    packed, rows, names = mocks(config, arguments.mocks), [], list(trained.names)
    for path, found in zip(arguments.exact, exact, strict=True):
        if [row["objects"] for row in found[: arguments.mocks]] != packed.lengths.tolist():
            raise SystemExit(f"{path}: expected exact posteriors of mocks of {packed.lengths.tolist()} objects, got others; make them anew")
    for k in range(arguments.mocks):
        networks, density, chains = second(trained, net, select(packed, [k]), k, arguments.draws, arguments.warmup)
        row = {name: {"mean": d.mean(0), "sd": d.std(0, ddof=1)} for name, d in (("networks", networks), ("density", density))}
        for name, found in zip(("own bank", "another bank"), exact, strict=True):
            sd = np.array(found[k]["exact_sd"])
            row[name] = {"mean": networks.mean(0) - np.array(found[k]["shift"]) * sd, "sd": sd}
        rows.append(row | {"chains": chains})
        print(f"mock {k}: {chains}")
        for name in row:
            print(
                f"  {name:13s} " + "  ".join(f"{m:.3f} ± {s:.3f}" for m, s in zip(row[name]["mean"], row[name]["sd"], strict=True)),
                flush=True,
            )
    pairs = [("networks", "density"), *((one, bank) for bank in ("own bank", "another bank") for one in ("networks", "density"))]
    numbers = {f"{one} against {other}": against(rows, names, one, other) for one, other in pairs}
    for what, table in numbers.items():
        print(what, {n: f"{v['shift_rms']:.2f} σ, × {v['width_ratio']:.2f}" for n, v in table.items()})
    plain = [{key: {w: list(v) for w, v in value.items()} if key != "chains" else value for key, value in row.items()} for row in rows]
    write_result(arguments.output, str(__doc__).splitlines()[0], {"mocks": arguments.mocks, "parameters": names, **numbers, "rows": plain})


if __name__ == "__main__":
    main()
