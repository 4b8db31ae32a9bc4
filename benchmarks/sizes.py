r"""Does one posterior serve every size, and how much does another bank of hosts matter?

Fresh surveys of the run's prior at single exposures, the ends of its range included: mean and spread of the pulls of every parameter,
(truth - mean) / width, and the smallest p-value of Kolmogorov-Smirnov tests of uniform ranks, corrected for the number of
parameters (Bonferroni). The same on surveys from another bank of the same population and size, and from one of a tenth of the hosts, which
the run has not learned: what it is off there is what a finite bank costs.

usage: python benchmarks/sizes.py [RUN] [--sizes 320,800,1600,5000,20000] [--surveys 128] [--output benchmarks/sizes.json]
RUN: by default the posterior that comes along
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from common import write_result
from scipy import stats

DRAWS, BATCH = 255, 16


def pulls(trained: Any, config: Any, exposure: float, surveys: int) -> dict[str, Any]:
    """Pulls and ranks of every parameter on surveys of one exposure."""
    import torch

    from cigars.surveys import survey_source
    from inference.batches import pack
    from inference.posterior import GlobalPosterior

    names, posterior = tuple(trained.names), GlobalPosterior(trained)
    source = survey_source(config.of_exposure(exposure), "sizes")
    packed = [pack(source(i, min(BATCH, surveys - i)), names) for i in range(0, surveys, BATCH)]
    draws = torch.cat([posterior.sample(DRAWS, p, seed=i) for i, p in enumerate(packed)], 1).numpy()
    truth = torch.cat([p.theta for p in packed]).numpy()
    pull = (truth - draws.mean(0)) / draws.std(0)
    ranks = ((draws < truth).sum(0) + 0.5) / (DRAWS + 1)
    p = [float(stats.kstest(ranks[:, k], "uniform").pvalue) for k in range(len(names))]
    return {
        "pull_mean": dict(zip(names, pull.mean(0).tolist(), strict=True)),
        "pull_sd": dict(zip(names, pull.std(0, ddof=1).tolist(), strict=True)),
        "rank_p_value": min(1.0, min(p) * len(names)),
    }


def main() -> None:
    """Measure a run and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("--sizes", default="320,800,1600,5000,20000")
    parser.add_argument("--surveys", type=int, default=128)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    from cigars import pretrained
    from cigars.runs import run_config
    from inference.model import load_run

    run = arguments.run or pretrained.path("lsst")
    trained, config = load_run(run), run_config(run)
    hosts = config.hosts
    expected = config.size.expected_supernovae
    assert expected is not None
    banks: dict[str, dict[str, Any]] = {
        "own": {},
        "another": {"hosts.bank_seed": hosts.bank_seed + 1},
        "tenth": {"hosts.effective_hosts": 0.1 * hosts.effective_hosts, "hosts.bank_seed": hosts.bank_seed + 1},
    }
    result: dict[str, Any] = {}
    for bank, changes in banks.items():
        changed = config.updated(**changes)
        for size in map(int, arguments.sizes.split(",")):
            one = pulls(trained, changed, size / expected, arguments.surveys)
            result.setdefault(bank, {})[str(size)] = one
            worst = max(one["pull_mean"], key=lambda k: abs(one["pull_mean"][k]))
            spread = np.array(list(one["pull_sd"].values()))
            print(
                f"{bank:8s} {size:6d}: largest mean pull {one['pull_mean'][worst]:+.2f} ± {arguments.surveys**-0.5:.2f} ({worst}), "
                f"rms {np.sqrt(np.mean(np.square(list(one['pull_mean'].values())))):.2f}, sd {spread.min():.2f} to {spread.max():.2f}, "
                f"corrected p of ranks {one['rank_p_value']:.1e}",
                flush=True,
            )
    numbers = {"config": config.name, "surveys": arguments.surveys, "effective_hosts": hosts.effective_hosts, "banks": result}
    write_result(arguments.output, str(__doc__).splitlines()[0], numbers)


if __name__ == "__main__":
    main()
