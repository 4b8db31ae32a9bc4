"""The summary of a report in words, every number of it computed from the posterior."""

from __future__ import annotations

import math

import numpy as np
from markupsafe import Markup

from cigars.convergence import convergence
from cigars.report.inputs import ReportInputs, calibration_gap
from cigars.report.likeness import likeness_verdict
from cigars.report.objects import redshift_pairs
from cigars.report.statistics import RedshiftStatistics, rank_p_values, redshift_statistics
from cigars.report.tables import ParameterRow, format_value, label_html
from cigars.schema import COSMOLOGY

__all__ = ["calibration_verdict", "headline", "redshift_quality", "summary", "validation_verdict"]


def estimate(row: ParameterRow) -> Markup:
    """`Ω_m = 0.31 ± 0.04 mag` with the digits that the uncertainty deserves."""
    value, sd = format_value(row.mean, row.sd), format_value(row.sd, row.sd)
    return Markup('<span class="nobr">{} = {} ± {}{}</span>').format(label_html(row.name), value, sd, f" {row.unit}" if row.unit else "")


def redshift_quality(inputs: ReportInputs) -> tuple[str, int, RedshiftStatistics] | None:
    """Kind of reference, number of objects compared and the statistics of the posterior-mean redshifts; None without a reference."""
    pairs = redshift_pairs(inputs) if "z" in inputs.posterior else None
    if pairs is None:
        return None
    kind, draws, z = pairs
    return kind, z.size, redshift_statistics(draws.mean(0, dtype=np.float64), z)


def headline(inputs: ReportInputs, rows: list[ParameterRow]) -> list[tuple[Markup, str, str]]:
    """The numbers to see first: (label, value, remark)."""
    number, dropped = len(inputs.posterior.ids), _dropped(inputs)
    cards = [(Markup("supernovae"), f"{number:,}", f"of {number + dropped:,} in the catalogue" if dropped else "in the catalogue")]
    inferred = [] if inputs.posterior.attributes.get("theta_from_prior") else [r for r in rows if r.name in COSMOLOGY]
    cards += [(label_html(r.name), f"{format_value(r.mean, r.sd)} ± {format_value(r.sd, r.sd)}", r.meaning) for r in inferred]
    quality = redshift_quality(inputs)
    if quality:
        kind, _, numbers = quality
        cards.append((Markup("redshift NMAD"), f"{numbers.nmad:.4f}", f"against {kind} redshifts"))
        cards.append((Markup("outliers"), f"{100 * numbers.outliers:.2g} %", "|Δz|/(1+z) > 0.15"))
    return cards


def summary(inputs: ReportInputs, rows: list[ParameterRow]) -> list[Markup]:
    """Sentences of the summary: the result, what to know of it, what the truth says of it, the redshifts, reasons to believe it."""
    parts = [_result(inputs, rows), _caveats(inputs), _against_truth(rows), _redshifts(inputs)]
    parts += [calibration_verdict(inputs), validation_verdict(inputs), likeness_verdict(inputs)]
    return [p for p in parts if p]


def calibration_verdict(inputs: ReportInputs) -> Markup:
    """What simulation-based calibration says, with the smallest p-value corrected for the number of parameters."""
    if calibration_gap(inputs) or inputs.sbc_ranks is None:
        return Markup("Calibration was not tested: {}.").format(calibration_gap(inputs))
    p = rank_p_values(inputs.sbc_ranks, inputs.sbc_draws)
    worst, corrected = int(np.argmin(p)), min(1.0, float(p.min()) * p.size)
    verdict = "shows no sign of miscalibration" if corrected > 0.01 else "finds the posterior miscalibrated"
    return Markup(
        "Simulation-based calibration on {:,} fresh surveys {}: the smallest of {} p-values is {:.2g} ({}), {:.2g} "
        "after allowing for their number."
    ).format(len(inputs.sbc_ranks), verdict, p.size, float(p.min()), label_html(inputs.sbc_names[worst]), corrected)


def validation_verdict(inputs: ReportInputs) -> Markup:
    """Verdict of `cigars validate`, each test with its p-value, and of those that fail what is wrong; empty where it was not run."""
    found = inputs.validation
    if not found:
        return Markup("")
    failed = [t for t in found["tests"] if not t["passed"]]
    verdict = f"{len(failed)} of {len(found['tests'])} tests fail" if failed else f"all {len(found['tests'])} tests pass"
    tests = _listed([Markup("{} ({:.2g})").format(t["worst"]["test"], t["adjusted"]) for t in found["tests"]])
    text = Markup(
        "<code>cigars validate</code> on {:,} further surveys: <strong>{}</strong> at the family-wise level {:g}. p-values, "
        "corrected for the number of parameters and of tests: {}."
    ).format(found["surveys"], verdict, found["level"], tests)
    wrong = [
        Markup("{} of {}: {:.3f}, expected {:.3f} to {:.3f}").format(w["test"], w["of"], w["value"], w["low"], w["high"])
        for w in (t["worst"] for t in failed)
    ]
    return text + (Markup(" Farthest off: {}.").format(Markup("; ").join(wrong)) if wrong else Markup(""))


def _result(inputs: ReportInputs, rows: list[ParameterRow]) -> Markup:
    if hidden := inputs.posterior.attributes.get("theta_from_prior"):
        return Markup(
            "The parameters are <strong>drawn from their prior, not inferred</strong>, as {} was hidden; what is said of the hosts of "
            "<strong>{:,} supernovae</strong> holds for that prior."
        ).format(hidden, len(inputs.posterior.ids))
    cosmology = [estimate(r) for r in rows if r.name in COSMOLOGY]
    others = [estimate(r) for r in rows if r.name in ("M0", "alpha", "beta", "sigma_int")]
    weights = inputs.posterior.attributes.get("weighted_by", "")
    how = Markup("{}" if weights.startswith("conditional") else "<strong>together with</strong> {}")
    text = Markup("From <strong>{:,} supernovae</strong> and the photometry of their hosts{}: <strong>{}</strong>").format(
        len(inputs.posterior.ids),
        Markup(", {}").format(how.format(weights)) if weights else "",
        _listed(cosmology or others),
    )
    if "Om0" in inputs.posterior.names:
        text += Markup(", so the expansion accelerates today with {}&nbsp;% posterior probability.").format(
            _percent(_acceleration(inputs), inputs.posterior.effective_draws)
        )
    else:
        text += Markup(".")
    if cosmology and others:
        text += Markup(" The supernovae have {}.").format(_listed(others))
    return text


def _caveats(inputs: ReportInputs) -> Markup:
    attributes = inputs.posterior.attributes
    found = convergence(attributes)
    caveats = list(found.caveats) if found else []
    if dropped := _dropped(inputs):
        unlike = "any host of the bank" if found else "those of the training"
        caveats.append(
            f"{dropped:,} of {len(inputs.posterior.ids) + dropped:,} objects of the catalogue are left out as unlike {unlike}; they count "
            "in the number of objects, which carries the rates, and tell nothing else"
        )
    if weights := attributes.get("weighted_by"):
        caveats.append(
            f"this is not the posterior of the catalogue alone, its draws are weighted ({weights}) and rest on "
            f"{float(attributes['effective_draws']):,.0f} effective ones"
        )
    target, inferred = attributes.get("truncated_for"), attributes.get("catalogue")
    if target and inferred and target != inferred:
        caveats.append(
            f"the prior of the run was cut in rounds for another catalogue ({target}), and what is said of this one ({inferred}) holds "
            "within that; train for this one, or without a target"
        )
    said = [Markup("<strong>Take care:</strong> {}.").format(text) for text in caveats]
    return Markup(" ").join(said)


def _dropped(inputs: ReportInputs) -> int:
    """Number of objects of the catalogue that were left out of the inference."""
    return int(inputs.posterior.attributes.get("dropped", 0))


def _acceleration(inputs: ReportInputs) -> float:
    """Posterior probability of q_0 = Om0 / 2 + (1 + 3 w0) Ode0 / 2 < 0."""
    c = inputs.posterior.parameters()
    return float(np.mean(c["Om0"] + (1 + 3 * c["w0"]) * c["Ode0"] < 0))


def _against_truth(rows: list[ParameterRow]) -> Markup:
    pulls = [(abs(r.pull), r) for r in rows if r.pull is not None]
    if not pulls:
        return Markup("")
    inside = sum(p < 1 for p, _ in pulls)
    largest, row = max(pulls, key=lambda pair: pair[0])
    return Markup(
        "The catalogue is a mock: the truth lies within one standard deviation for {} of {} parameters (some {} "
        "expected), and farthest for {}, at {:.1f}."
    ).format(inside, len(pulls), round(0.683 * len(pulls)), label_html(row.name), largest)


def _redshifts(inputs: ReportInputs) -> Markup:
    quality = redshift_quality(inputs)
    if quality is None:
        return Markup("")
    kind, number, q = quality
    return Markup(
        "Host redshifts agree with the {} ones of {:,} objects to an NMAD of <strong>{:.4f}</strong> in "
        "Δ<i>z</i>/(1+<i>z</i>), with {:.2g}&nbsp;% outliers and a median offset of {}."
    ).format(kind, number, q.nmad, 100 * q.outliers, f"{q.bias:+.4f}".replace("-", "−"))


def _listed(items: list[Markup]) -> Markup:
    return Markup(", ").join(items[:-1]) + Markup(" and ") + items[-1] if len(items) > 1 else Markup("").join(items)


def _percent(probability: float, draws: float) -> str:
    """A probability in per cent, nearer to 0 or 1 than a tenth of one per cent, or than one of the draws tells, only as a limit."""
    edge = max(0.1, math.ceil(1000 / draws - 1e-9) / 10)
    if 100 * probability > 100 - edge:
        return f"more than {100 - edge:g}"
    return f"less than {edge:g}" if 100 * probability < edge else f"{100 * probability:.3g}"
