"""Which summary of a survey tells most of Θ for the same simulations?

Held-out loss of the global posterior (nats, parameters in units of the prior) of trainings that differ in one setting, at the same seeds,
surveys and validation surveys. Seconds include the simulation of every stage, so a recipe with pilots pays for them.

usage: python benchmarks/recipes.py [--config demo] [--surveys 2000] [--seeds 3] [--recipes NAME ...]
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from attention import AttentionEncoder
from common import write_result
from pretraining import by_objects, by_subsets, fixed, member

__all__ = ["RECIPES", "held_out"]

RECIPES: dict[str, dict[str, Any]] = {
    "physics moments": {"encoder": "moments"},
    "score at the estimate from moments": {"refinements": 0},
    "score, refined once": {},
    "score, refined twice": {"refinements": 2},
    "score, refined once, anchored": {"anchored": True},
    "score, refined once, not centred": {},
    "score, refined once, heads decay by .01": {},
    "score, refined once, ensemble of 4": {"ensemble": 4},
    "score, refined once, ensemble of 8": {"ensemble": 8},
    "score at the fiducial Θ": {"refinements": 0},
    "learned set": {"encoder": "set"},
    "learned set, pre-trained on objects": {"encoder": "set"},
    "learned set, pre-trained on subsets": {"encoder": "set"},
    "set pre-trained on objects, then fixed": {"encoder": "moments"},
    "set pre-trained on subsets, then fixed": {"encoder": "moments"},
    "moments and learned set": {"encoder": "both"},
    "moments and attention": {"encoder": "both"},
}


def _fiducial(one: Any, packed: Any, features: Any, estimate: Any, _: Any) -> Any:
    """The fiducial Θ in the place of an estimate, for every survey."""
    import torch

    from cigars.schema import FIDUCIAL

    theta = torch.tensor([getattr(FIDUCIAL, name) for name in one.score.names])
    return one.score.standardise(theta).expand(len(packed.lengths), -1), (packed, features, estimate)


PATCHES: dict[str, dict[str, Any]] = {  # what is no setting
    "score, refined once, not centred": {
        "inference.centring.Polynomial.fit": lambda self, *_: self,
        "inference.one_step.train_centring": lambda *_: None,
    },
    "score, refined once, heads decay by .01": {"inference.stages.HEAD_DECAY": 0.01},
    "score at the fiducial Θ": {"inference.score.OneStep._estimated": _fiducial},
    "learned set, pre-trained on objects": {"inference.stages.Stages._member": member(by_objects)},
    "learned set, pre-trained on subsets": {"inference.stages.Stages._member": member(by_subsets)},
    "set pre-trained on objects, then fixed": {"inference.stages.Stages.summary": fixed(by_objects)},
    "set pre-trained on subsets, then fixed": {"inference.stages.Stages.summary": fixed(by_subsets)},
    "moments and attention": {"inference.stages.SetEncoder": AttentionEncoder},
}


def held_out(config: Any, folder: Path) -> tuple[float, float, float]:
    """Train the global posterior into a folder; held-out loss, its standard error, and seconds."""
    import torch

    from cigars.scores import joint_scores
    from cigars.surveys import survey_source
    from inference.ablation import judge, train_global
    from inference.priors import Prior
    from inference.stages import Stages
    from inference.train import silent
    from simulators.cosmology import fiducial_distance_table

    source, prior, device = survey_source(config, "training"), Prior(config.marginals), torch.device("cpu")
    distance, scores = fiducial_distance_table(), joint_scores(config)
    stages = Stages(source, config.training, config.seed, prior, distance, folder, device, silent, scores, config.fixed)
    started = time.monotonic()
    trained = train_global(stages)
    seconds = time.monotonic() - started
    loss = judge(trained, stages, draws=2).loss.numpy()
    spread = float(np.log(prior.variance.sqrt().numpy()).sum())
    return float(loss.mean()) - spread, float(loss.std() / len(loss) ** 0.5), seconds


def main() -> None:
    """Train every recipe at every seed and write JSON after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="demo")
    parser.add_argument("--surveys", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--recipes", nargs="*", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    from cigars.config import load_config
    from cigars.devices import Device, use_device

    use_device(Device.cpu)
    results: dict[str, Any] = {name: [] for name in arguments.recipes}
    for seed in range(arguments.seeds):
        for name in arguments.recipes:
            settings = {"surveys": arguments.surveys, "pilot_surveys": arguments.surveys // 4, "objects": 200_000, "local_epochs": 3}
            settings |= {"validation_surveys": 512, "calibration_surveys": 1024, "ensemble": 1, "refinements": 1} | RECIPES[name]
            config = load_config(arguments.config, seed=seed, **{f"training.{k}": v for k, v in settings.items()})
            with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as changes:
                for target, value in PATCHES.get(name, {}).items():
                    changes.enter_context(patch(target, value))
                loss, error, seconds = held_out(config, Path(folder))
            results[name].append({"seed": seed, "held_out_nats": loss, "error": error, "seconds": round(seconds, 1)})
            print(f"{name:40s} seed {seed}  {loss:7.3f} ± {error:.3f} nats  {seconds:6.1f} s", flush=True)
            numbers = {"config": arguments.config, "surveys": arguments.surveys, "recipes": results}
            write_result(arguments.output, "Which summary of a survey tells most of Θ for the same simulations?", numbers)


if __name__ == "__main__":
    main()
