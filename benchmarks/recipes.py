"""Which summary of a survey tells most of Θ for the same simulations?

Held-out loss of the global posterior (nats, parameters in units of the prior) of trainings that differ in one setting, at the same seeds,
surveys and validation surveys. Seconds include the simulation of every stage, so a recipe with pilots pays for them.

usage: python benchmarks/recipes.py [--config demo] [--surveys 4000] [--seeds 3] [--recipes NAME ...]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from attention import AttentionEncoder
from common import write_result

__all__ = ["RECIPES", "held_out"]

RECIPES: dict[str, dict[str, Any]] = {
    "physics moments": {"encoder": "moments"},
    "score at the estimate from moments": {"encoder": "score", "refinements": 0},
    "score, refined once": {"encoder": "score", "refinements": 1},
    "score, refined twice": {"encoder": "score", "refinements": 2},
    "score, refined once, ensemble of 4": {"encoder": "score", "refinements": 1, "ensemble": 4},
    "learned set": {"encoder": "set"},
    "moments and learned set": {"encoder": "both"},
    "moments and attention": {"encoder": "both"},
}


def held_out(config: Any, folder: Path) -> tuple[float, float, float]:
    """Train into a folder; held-out loss, its standard error, and seconds."""
    from cigars.pipeline import survey_source
    from cigars.scores import joint_scores
    from inference.batches import join, pack, select
    from inference.fit import fit, split
    from inference.posterior import GlobalPosterior
    from simulators.cosmology import fiducial_distance_table

    source, started = survey_source(config, "training"), time.monotonic()
    trained = fit(source, config, config.marginals, fiducial_distance_table(), folder, joint_score=joint_scores(config))
    seconds, batch = time.monotonic() - started, config.training.batch_surveys
    first, count = split(config.training).calibration, config.training.calibration_surveys
    fresh = join([pack(source(first + i, batch), trained.names) for i in range(0, count, batch)])
    posterior = GlobalPosterior(trained)
    parts = [select(fresh, range(i, min(i + 64, len(fresh.lengths)))) for i in range(0, len(fresh.lengths), 64)]
    loss = -np.concatenate([posterior.log_prob(p.theta[None], p)[0].double().numpy() for p in parts])
    spread = float(np.log(trained.prior.variance.sqrt().numpy()).sum())
    return float(loss.mean()) - spread, float(loss.std() / len(loss) ** 0.5), seconds


def main() -> None:
    """Train every recipe at every seed and write JSON after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="demo")
    parser.add_argument("--surveys", type=int, default=4000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--recipes", nargs="*", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    from cigars.config import load_config
    from inference.embedding import SetEncoder

    results: dict[str, Any] = {name: [] for name in arguments.recipes}
    for seed in range(arguments.seeds):
        for name in arguments.recipes:
            settings = {"surveys": arguments.surveys, "pilot_surveys": arguments.surveys // 4, "objects": 100_000, "local_epochs": 5}
            settings |= {"validation_surveys": 512, "calibration_surveys": 512} | RECIPES[name]
            config = load_config(arguments.config, seed=seed, **{f"training.{k}": v for k, v in settings.items()})
            with tempfile.TemporaryDirectory() as folder:
                encoder = AttentionEncoder if "attention" in name else SetEncoder
                with patch("inference.stages.SetEncoder", encoder):
                    loss, error, seconds = held_out(config, Path(folder))
            results[name].append({"seed": seed, "held_out_nats": loss, "error": error, "seconds": round(seconds, 1)})
            print(f"{name:40s} seed {seed}  {loss:7.3f} ± {error:.3f} nats  {seconds:6.1f} s", flush=True)
            numbers = {"config": arguments.config, "surveys": arguments.surveys, "recipes": results}
            write_result(arguments.output, "Which summary of a survey tells most of Θ for the same simulations?", numbers)


if __name__ == "__main__":
    main()
