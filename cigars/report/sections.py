"""What the report shows, in which order, with which words; a section whose material is missing says why."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from markupsafe import Markup
from matplotlib.figure import Figure

from cigars.report import figures, hubble, likeness, objects, products
from cigars.report.inputs import ReportInputs, calibration_gap, local_parameters, spread_parameters, training_gap
from cigars.report.statistics import rank_p_values
from cigars.report.tables import Listing, label_html, label_text
from cigars.report.words import calibration_verdict, redshift_quality, validation_verdict
from cigars.schema import LOCALS

__all__ = ["Plot", "Section", "build"]

_NO_LOCALS = Markup("Absent: only the global parameters were sampled, not the redshift and host of each object.")


class Plot(NamedTuple):
    """A figure to draw: file name, function of the inputs, text for those who cannot see it, caption.

    `wide` ones scroll sideways on a phone, `folded` ones open on a click.
    """

    name: str
    function: Callable[[ReportInputs], Figure]
    alt: str
    caption: Markup
    wide: bool = False
    folded: bool = False


class Section(NamedTuple):
    """A section of the page: anchor, title, paragraphs, tables and figures; `table` asks for the table of Θ."""

    anchor: str
    title: str
    paragraphs: list[Markup]
    plots: list[Plot]
    table: bool = False
    listings: tuple[Listing, ...] = ()


def build(inputs: ReportInputs) -> list[Section]:
    """All sections but the summary and the provenance, in order."""
    return [
        _parameters(inputs),
        _hubble(inputs),
        _redshifts(inputs),
        _hosts(inputs),
        _derived(inputs),
        _training(inputs),
        _calibration(inputs),
        _likeness(inputs),
    ]


def _parameters(inputs: ReportInputs) -> Section:
    truth = " The orange-red line is the truth." if inputs.theta_true else ""
    spread = spread_parameters(inputs)
    flat = " The dashed line marks flat universes." if {"Om0", "Ode0"} <= set(spread) else ""
    marginals = Plot(
        "marginals",
        figures.marginals_figure,
        "Histogram of the posterior of each global parameter, with its prior",
        Markup("Posterior of each parameter (blue) and its prior (grey), each on the scale of the posterior.{}").format(truth),
        wide=True,
    )
    cosmology = Plot(
        "corner-cosmology",
        figures.cosmology_corner,
        "Corner plot: joint posterior of the cosmological parameters and the absolute magnitude",
        Markup("Cosmology and absolute magnitude; contours hold 39 and 86 % of the posterior (1σ and 2σ of a Gaussian).{}{}").format(
            flat, truth
        ),
    )
    everything = Plot(
        "corner-all",
        figures.full_corner,
        "Corner plot: joint posterior of all free parameters, pair by pair",
        Markup("All parameters, pair by pair."),
        wide=True,
        folded=True,
    )
    intro = Markup(
        "Mean, standard deviation and quantiles of the marginal posterior. “sd / prior” is the posterior’s "
        "standard deviation over the prior’s: the smaller, the more was learnt."
    )
    corners = [cosmology] * bool(figures.cosmology_names(inputs)), [everything] * bool(spread)
    return Section("parameters", "Parameters", [intro, *_prior(inputs)], [*corners[0], marginals, *corners[1]], table=True)


def _prior(inputs: ReportInputs) -> list[Markup]:
    """Which prior is shown, where rounds of training cut it."""
    if not (target := inputs.posterior.attributes.get("truncated_for")):
        return []
    shown = "what they left of it" if inputs.cut else "as it was configured, before that"
    return [
        Markup("Rounds of training cut the prior to where the parameters of one catalogue ({}) are; shown is {}.").format(target, shown)
    ]


def _hubble(inputs: ReportInputs) -> Section:
    if "z" not in inputs.posterior:
        return Section("hubble", "Hubble diagram", [_NO_LOCALS], [])
    seen = hubble.with_light_curve(inputs)
    if not seen.any():
        note = Markup("Absent: no object has a light-curve fit; they were hidden from the inference or are not in the catalogue.")
        return Section("hubble", "Hubble diagram", [note], [])
    data = hubble.hubble_data(inputs)
    caption = Markup(
        "Standardised magnitudes against posterior redshifts; the curve and its band are the posterior cosmology, "
        "aligned at the median redshift. "
        "The median effect of dust and hosts on brightness, {} mag, is taken off the points. Vertical bars hold "
        "measurement errors and intrinsic scatter."
    ).format(f"{data.offset:+.3f}".replace("-", "−"))
    if not seen.all():
        caption += Markup(" Shown are the {:,} of {:,} objects with a light-curve fit.").format(int(seen.sum()), len(seen))
    if data.unreached:
        caption += Markup(" {:.2g} % of the cosmologies have no distance at some of these redshifts and are left out.").format(
            100 * data.unreached
        )
    plot = Plot("hubble", hubble.hubble_figure, "Hubble diagram with posterior redshifts, posterior cosmology and residuals", caption)
    return Section("hubble", "Hubble diagram", [], [plot])


def _redshifts(inputs: ReportInputs) -> Section:
    if "z" not in inputs.posterior:
        return Section("redshifts", "Redshifts", [_NO_LOCALS], [])
    quality = redshift_quality(inputs)
    if quality is None:
        note = Markup(
            "No comparison: the catalogue has neither a truth nor spectroscopic redshifts. The distribution of the "
            "posterior is shown with the hosts below."
        )
        return Section("redshifts", "Redshifts", [note], [])
    kind, number, q = quality
    bias = f"{q.bias:+.4f}".replace("-", "−")
    numbers = Markup(
        "<strong>NMAD {:.4f}</strong>, <strong>outliers {:.2g} %</strong>, <strong>bias {}</strong> for {:,} objects with {} redshifts."
    ).format(q.nmad, 100 * q.outliers, bias, number, kind)
    definitions = Markup(
        "With Δ = (<i>ẑ</i> − <i>z</i>)/(1 + <i>z</i>) and <i>ẑ</i> the posterior mean: NMAD = 1.4826 median|Δ − "
        "median Δ|; outliers are objects with |Δ| > 0.15; the bias is median Δ."
    )
    caveat = (
        []
        if kind == "true"
        else [Markup("Where a spectroscopic redshift was given to the inference, the comparison is not independent of it.")]
    )
    name = kind.capitalize()
    plots = [
        Plot(
            "redshift",
            objects.redshift_figure,
            f"{name} redshift against posterior-mean redshift, with differences below",
            Markup("Posterior mean and standard deviation of each redshift. The grey wedge holds |Δ| < 0.15."),
        ),
        Plot(
            "redshift-calibration",
            objects.calibration_figure,
            "Histogram of redshift pulls against a unit normal, and of the probability integral transform against uniform",
            Markup(
                "Left: pulls of the redshifts. Right: the fraction of each posterior below the {} redshift, uniform within "
                "the grey 99 % band if widths are right."
            ).format(kind),
            wide=True,
        ),
    ]
    return Section("redshifts", "Redshifts", [numbers, definitions, *caveat], plots)


def _hosts(inputs: ReportInputs) -> Section:
    if "z" not in inputs.posterior:
        return Section("hosts", "Hosts and supernovae", [_NO_LOCALS], [])
    names = ", ".join(label_text(n) for n in local_parameters(inputs))
    spread = Plot(
        "local-distributions",
        objects.distribution_figure,
        f"Distribution over the catalogue of {names}",
        Markup(
            "Distribution over the catalogue: all posterior draws stacked (filled) and the posterior means (line), "
            "which scatter less where single objects say little."
        ),
        wide=True,
    )
    if inputs.truth is None:
        return Section("hosts", "Hosts and supernovae", [Markup("No comparison with a truth: a real catalogue has none.")], [spread])
    recovered = Plot(
        "hosts",
        objects.host_figure,
        f"True value against posterior mean of {names}",
        Markup(
            "Recovered properties of hosts and supernovae. rms is that of posterior mean − truth; over the stated one, of the widths of "
            "posteriors, it is 1 where these are right."
        ),
        wide=True,
    )
    return Section("hosts", "Hosts and supernovae", [], [recovered, spread])


def _derived(inputs: ReportInputs) -> Section:
    title = "Hosts and brightness"
    if set(local_parameters(inputs)) != set(LOCALS):
        return Section("derived", title, [_NO_LOCALS], [])
    posterior = inputs.posterior
    brightness = Plot(
        "brightness",
        lambda _: products.brightness_figure(posterior),
        "Mean shift of brightness against host mass, metallicity and progenitor age, and the parts it is made of",
        Markup(
            "Mean δM of the sample against host properties, draw by draw, relative to the sample’s mean; brighter is up. Where "
            "metallicity or age follows mass, its part looks like a mass step."
        ),
        wide=True,
    )
    rest = Plot(
        "dtd",
        lambda _: products.dtd_figure(posterior),
        "Delay-time distribution with bands of 68 and 95 %",
        Markup("Delay-time distribution: rate of type Ia supernovae after a burst of star formation, per solar mass formed."),
    )
    counts = Plot(
        "counts",
        lambda _: products.counts_figure(posterior),
        "Numbers of objects in bins of redshift and of host mass, with bands",
        Markup("Redshifts and host masses of the sample; bands hold the uncertainty of every object’s, jointly."),
        wide=True,
    )
    return Section("derived", title, [], [brightness, rest, counts])


def _training(inputs: ReportInputs) -> Section:
    if gap := training_gap(inputs):
        return Section("training", "Training", [Markup("Absent: {}.").format(gap)], [])
    caption = Markup(
        "Mean loss (−log density of the truth; in “density” of the summary) of the training and the held-out simulations; "
        "the first epochs may leave the panel at the top."
    )
    alt = f"Training and validation loss against epoch for {', '.join(inputs.curves)}"
    plot = Plot("training", figures.training_figure, alt, caption, wide=len(inputs.curves) > 1)
    return Section("training", "Training", [], [plot])


def _calibration(inputs: ReportInputs) -> Section:
    gap = calibration_gap(inputs)
    validated = [text] if (text := validation_verdict(inputs)) else []
    curves = [_coverage()] if {"coverage", "tarp"} <= set(inputs.validation.get("curves", ())) else []
    if gap or inputs.sbc_ranks is None:
        return Section("calibration", "Calibration", [*validated, Markup("Absent: {}.").format(gap)], curves)
    p = rank_p_values(inputs.sbc_ranks, inputs.sbc_draws)
    low = [label_html(n) for n, value in zip(inputs.sbc_names, p, strict=True) if value * p.size < 0.01]
    shape = Markup("A hump means that posteriors are too wide, a trough too narrow, a slope shifted.")
    blame = [Markup("Not uniform: {}.").format(Markup(", ").join(low))] if low else []
    caption = Markup(
        "Ranks of the true parameters among {:,} posterior draws for each of {:,} surveys, over what uniform ranks "
        "give; grey: 99 % band of a single bin; dots: bins outside it."
    ).format(inputs.sbc_draws, len(inputs.sbc_ranks))
    plot = Plot("sbc-ranks", figures.sbc_figure, "Rank histogram of each parameter with 99 % binomial bands", caption, wide=True)
    return Section("calibration", "Calibration", [calibration_verdict(inputs), *blame, shape, *validated], [plot, *curves])


def _coverage() -> Plot:
    caption = Markup(
        "Share of the surveys of <code>cigars validate</code> whose true parameters, all together, lie inside regions of the posterior, "
        "against the probability that these regions hold; grey: 99&nbsp;% bands, of right posteriors on the left, of the curve itself "
        "on the right. Below the diagonal posteriors are too narrow."
    )
    return Plot("coverage", figures.coverage_figure, "Expected coverage of regions of highest density and of TARP", caption)


def _likeness(inputs: ReportInputs) -> Section:
    title = "Does the catalogue look like the simulations?"
    if not inputs.check:
        absent = Markup("Absent: <code>cigars check</code> was not run, or its result not named with <code>--check</code>.")
        return Section("likeness", title, [absent], [])
    how = Markup(
        "Surveys were simulated at draws of this posterior and treated as the catalogue was. Every statistic is compared with what the "
        "posterior of its survey lets one expect, so that what the parameters explain is not held against the model."
    )
    caption = Markup(
        "Residual of each statistic of the catalogue, in units of the scatter of simulated surveys; the colours tell number of objects, "
        "magnitudes, host colours, stretch, supernova colour and redshifts (photometric, and shares of N(z)) apart. Grey: 99&nbsp;% of "
        "simulated surveys; dashed: beyond it a single statistic rejects the model at the level of the check."
    )
    plot = Plot("residuals", likeness.residual_figure, "Standardised residuals of the statistics of the catalogue", caption)
    listings = [likeness.tests_listing(inputs), *([likeness.odd_objects(inputs)] if inputs.check["odd_objects"] else [])]
    return Section("likeness", title, [likeness.likeness_verdict(inputs), how], [plot], listings=tuple(listings))
