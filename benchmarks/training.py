"""What does a posterior for one catalogue cost, in surveys and seconds, by truncation rounds?

A mock at the fiducial Θ is the target of `cigars train CONFIG --target mock --rounds 2`; afterwards: surveys simulated and seconds
of each round (host bank cached, compilation included), the share of the prior's volume in the last box, √det of the (Ω_m, Ω_Λ)
covariance and the widths of the mock's posterior, the same on other mocks at the fiducial Θ with their pulls, and calibration on fresh
surveys of the last prior as in information_limit.py, and the share of the draws outside the region that is left of it. Aims:
15 minutes on two cores for `lsst`, 40 for `lsst-16k`, 3 on a GPU.

usage: python benchmarks/training.py CONFIG FOLDER [--rounds 2] [--mocks 20] [--surveys 500] [--set KEY=VALUE ...] [--device cpu]
       python benchmarks/training.py CONFIG FOLDER --pretrained lsst ...  # with its summary in the first round
FOLDER keeps the run: an interrupted one is continued, with the seconds of the whole rounds since, and a finished one only measured.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from common import write_result
from information_limit import calibrate, fiducial_widths, packed_surveys


def main() -> None:
    """Train in rounds for a mock and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--pretrained", metavar="NAME", help="posterior whose summary the first round has")
    parser.add_argument("--mocks", type=int, default=20)
    parser.add_argument("--surveys", type=int, default=500, help="fresh ones")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()

    from cigars.devices import Device, use_device

    device = use_device(Device(arguments.device))
    from cigars.config import load_config
    from cigars.pipeline import simulate, train
    from cigars.pretrained import path
    from cigars.runs import run_config
    from cigars.schema import FIDUCIAL
    from cigars.targets import as_survey
    from cigars.truncation import inside, read_rounds, volume
    from inference.batches import select
    from inference.model import load_run
    from inference.posterior import GlobalPosterior

    config = load_config(arguments.config, arguments.set)
    target, _ = simulate(config)
    start = path(arguments.pretrained) if arguments.pretrained else None
    calibration = train(config, arguments.folder, target=target, rounds=arguments.rounds, device=device, resume=True, start=start)
    record = read_rounds(arguments.folder)
    assert record is not None
    trained = load_run(arguments.folder, device)
    theta = GlobalPosterior(trained).sample(4000, as_survey(target.observations))[:, 0].cpu().double().numpy()
    inner = run_config(arguments.folder)
    fiducial = fiducial_widths(trained, packed_surveys(inner, "limit-mocks", arguments.mocks, FIDUCIAL), trained.names)
    fresh = packed_surveys(inner, "limit-fresh", arguments.surveys)
    some = GlobalPosterior(trained).sample(100, select(fresh, range(min(256, arguments.surveys)))).cpu().double().numpy()
    outside = {
        who: float(1 - inside(d, trained.names, inner.prior.region).mean())
        for who, d in (("target", theta), ("fresh", some.reshape(-1, theta.shape[1])))
    }
    numbers = {
        "config": arguments.config,
        "settings": arguments.set,
        "pretrained": arguments.pretrained,
        "device": device,
        "objects": len(target.id),
        "rounds": [
            {"surveys": r.surveys, "seconds": r.seconds, "volume_ratio": r.volume_ratio, "steps": len(r.steps)} for r in record.history
        ],
        "volume_ratio": volume(config, inner),
        "seconds": round(sum(r.seconds for r in record.history), 1),
        "sqrt_det_Om0_Ode0": float(np.linalg.det(np.cov(theta[:, :2].T)) ** 0.5),
        "width": dict(zip(trained.names, theta.std(0).tolist(), strict=True)),
        "fiducial": fiducial,
        "fresh": calibrate(trained, fresh, trained.names, fiducial),
        "outside_region": outside,
        "coverage_68": float((np.abs(calibration.ranks / calibration.draws - 0.5) < 0.34).mean()),
        "training": inner.training.model_dump(),
    }
    print(f"{numbers['seconds']:.0f} s in {arguments.rounds} rounds, √det {numbers['sqrt_det_Om0_Ode0']:.2e}")
    write_result(arguments.output, str(__doc__).splitlines()[0], numbers)


if __name__ == "__main__":
    main()
