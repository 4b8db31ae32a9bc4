r"""Do classifier, harmonic mean and analytic evidence agree on the linear-Gaussian survey?

Four models of `linear_gaussian.GaussianSurvey`, with different parameters free, have analytic evidences. ln K of fresh surveys against the
first model: by a classifier of simulated surveys, and by a harmonic mean with a learned target on exact posterior draws. Expected: where
|ln K| < 4 both are right to 0.2 rms, the harmonic mean far better; the classifier's stated errors are its errors; wrong versions (shuffled
labels, the odds of unequal training numbers left in, a target wider than the posterior) are not.

usage: python benchmarks/model_comparison.py [--surveys 2000 4000] [--evidences 24]
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from linear_gaussian import MARGINALS, PRIOR_SD, GaussianSurvey

__all__ = ["MODELS", "classified", "evidences", "judged", "labelled"]

MODELS = {"all free": tuple(MARGINALS), "alpha fixed": ("M0", "beta"), "M0 fixed": ("alpha", "beta"), "both fixed": ("beta",)}
NEAR = 4.0  # of |ln K|: beyond, few training surveys show the less likely model
TEST, DRAWS = 1000, 2000


def labelled(sizes: list[int]) -> tuple[list[Any], np.ndarray]:
    """Surveys of every model in parts of these sizes, and exact ln evidences [survey, model] of the last part."""
    import torch

    from inference.batches import join, pack
    from inference.classify import Labelled
    from inference.embedding import FeatureMoments
    from inference.standardise import Standardiser

    sources = [GaussianSurvey(free=free, stream=k) for k, free in enumerate(MODELS.values())]
    parts = [[s(int(a), int(b - a)) for s in sources] for a, b in pairwise(np.cumsum([0, *sizes]))]
    packed = [[pack(survey, tuple(MARGINALS)) for survey in part] for part in parts]
    summary = FeatureMoments(Standardiser(2).fit(join(packed[1]).observations))
    which = lambda part: torch.arange(len(part)).repeat_interleave(len(part[0].lengths))  # noqa: E731
    data = [Labelled(torch.cat([summary(p) for p in part]), which(part), torch.cat([p.theta[:, :2] for p in part])) for part in packed]
    return data, np.concatenate([np.stack([s.ln_evidence(survey) for s in sources], -1) for survey in parts[-1]])


def judged(ln_evidence: np.ndarray, exact: np.ndarray, made: np.ndarray) -> dict[str, Any]:
    """Errors of ln K against the first model, of surveys that either model made, from ln evidences [member, survey, model]."""
    from inference.classify import calibrate

    out = {}
    for k, name in enumerate(list(MODELS)[1:], 1):
        rows = (made == 0) | (made == k)
        each, true = (ln_evidence[..., k] - ln_evidence[..., 0])[:, rows], (exact[:, k] - exact[:, 0])[rows]
        found, near = each.mean(0), np.abs(true) < NEAR
        error = found - true
        out[name] = {
            "surveys": int(near.sum()), "rms": float(np.sqrt(np.mean(error[near] ** 2))), "bias": float(error[near].mean()),
            "worst": float(np.abs(error[near]).max()), "calibration": calibrate(found, made[rows] == k)._asdict(),
        }  # fmt: skip
        if len(each) > 1:
            out[name]["pull_rms"] = float(np.sqrt(np.mean((error / each.std(0, ddof=1))[near] ** 2)))
            out[name]["relative_rms_4_to_20"] = float(np.sqrt(np.mean((error / true)[(~near) & (np.abs(true) < 20)] ** 2)))
    return out


def classified(data: list[Any], exact: np.ndarray, surveys: int) -> dict[str, Any]:
    """The classifier on the first `surveys` of each model, and its wrong versions."""
    import torch

    from inference.classify import Labelled, train_classifier

    whole, held, test = data
    place = torch.cat([torch.arange(int((whole.model == k).sum())) for k in range(len(MODELS))])
    train, made = Labelled(*(leaf[place < surveys] for leaf in whole)), test.model.numpy()

    def evidence(train: Labelled) -> tuple[Any, np.ndarray]:
        net = train_classifier(train, held, len(MODELS))[0]
        return net, net.ln_evidence(test.summary).double().numpy()

    start = time.monotonic()
    _, right = evidence(train)
    seconds = time.monotonic() - start
    order = torch.randperm(len(train.model), generator=torch.Generator().manual_seed(0))
    shuffled = evidence(train._replace(model=train.model[order]))[1]
    fewer = (train.model == 0) | (torch.arange(len(train.model)) % 4 == 0)
    net, unequal = evidence(Labelled(*(leaf[fewer] for leaf in train)))
    wrong = {"shuffled labels": shuffled, "odds of training left in": unequal + net.share.log().numpy()}
    return {
        "surveys": surveys, "training_s": seconds, "models": judged(right, exact, made), "unequal numbers": judged(unequal, exact, made),
        "wrong": {name: judged(one, exact, made) for name, one in wrong.items()},
    }  # fmt: skip


def evidences(count: int, temperature: float | None = None) -> dict[str, Any]:
    """ln K by the harmonic mean on exact posterior draws, for surveys that the models made in turn."""
    from inference.harmonic import TEMPERATURE, HeavyTail, harmonic_mean

    models = [GaussianSurvey(free=free, stream=k) for k, free in enumerate(MODELS.values())]
    error, pull, refused, start = [], [], 0, time.monotonic()
    for number in range(count):
        survey = models[number % len(models)](10**6 + number, 1)
        found, exact = [], []
        for model in (models[0], models[1 + number % (len(models) - 1)]):
            linear, information = model.ln_likelihood_terms(survey)
            sd = PRIOR_SD[model.free]
            b, j = linear[0, model.free] * sd, information[0][np.ix_(model.free, model.free)] * np.outer(sd, sd)
            covariance = np.linalg.inv(np.eye(len(b)) + j)
            draws = np.random.default_rng(number).multivariate_normal(covariance @ b, covariance, DRAWS)
            ln_posterior = draws @ b - 0.5 * ((draws @ j) * draws).sum(1) - 0.5 * (draws**2).sum(1) - 0.5 * len(b) * np.log(2 * np.pi)
            try:
                found.append(harmonic_mean(draws, ln_posterior, temperature=temperature or TEMPERATURE, seed=number))
            except HeavyTail:
                refused += 1
            exact.append(model.ln_evidence(survey)[0])
        if len(found) == 2:
            error.append(found[1].ln_z - found[0].ln_z - (exact[1] - exact[0]))
            pull.append(error[-1] / np.hypot(found[0].error, found[1].error))
    seconds = (time.monotonic() - start) / count
    rms = lambda v: float(np.sqrt(np.mean(np.square(v)))) if v else None  # noqa: E731
    worst = float(np.abs(error).max()) if error else None
    return {
        "surveys": count,
        "draws": DRAWS,
        "refused": refused,
        "rms": rms(error),
        "worst": worst,
        "pull_rms": rms(pull),
        "seconds": seconds,
    }


def main() -> None:
    """Measure, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--surveys", type=int, nargs="+", default=[2000, 4000])
    parser.add_argument("--evidences", type=int, default=24)
    arguments = parser.parse_args()
    from common import write_result

    harmonic = {"learned": evidences(arguments.evidences), "wider than the posterior": evidences(4, temperature=4.0)}
    print(harmonic, flush=True)
    data, exact = labelled([max(arguments.surveys), 500, TEST])
    rows = []
    for surveys in arguments.surveys:
        rows.append(classified(data, exact, surveys))
        print(surveys, {k: round(v["rms"], 3) for k, v in rows[-1]["models"].items()}, flush=True)
    numbers = {"near": NEAR, "classifier": rows, "harmonic_mean": harmonic}
    write_result(Path(__file__).with_suffix(".json"), str(__doc__).splitlines()[0], numbers)


if __name__ == "__main__":
    main()
