"""The page holds every section and figure, needs nothing from outside, escapes what it is given and overwrites nothing."""

import base64
import json
import re
from html.parser import HTMLParser

import arviz as az
import numpy as np
import pytest
from matplotlib.path import Path
from scipy import stats

from cigars.config import Config
from cigars.files import FileError
from cigars.posterior import Posterior, load_posterior
from cigars.report import likeness, sections
from cigars.report.figures import corner_figure
from cigars.report.page import ReportInputs, parameter_table, render_report, write_report
from cigars.report.tables import format_value
from cigars.report.words import calibration_verdict, headline, summary
from cigars.schema import GLOBALS
from inference.checks import Check, judge
from tests.cigars.report.fake import changed, fake_check, fake_inputs, fake_validation

SECTIONS = ["summary", "parameters", "hubble", "redshifts", "hosts", "derived", "training", "calibration", "likeness", "provenance"]
FIGURES = [
    "corner-cosmology",
    "marginals",
    "corner-all",
    "hubble",
    "redshift",
    "redshift-calibration",
    "hosts",
    "local-distributions",
    "brightness",
    "dtd",
    "counts",
    "training",
    "sbc-ranks",
    "coverage",
    "residuals",
]
FEW = ("Om0", "Ode0", "M0")


class Page(HTMLParser):
    """Tags with their attributes, and the text of the page; complains about tags that do not nest."""

    VOID = ("meta", "img", "link", "br")

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text, self.open = "", []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text += data

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


def few_parameters(inputs: ReportInputs) -> ReportInputs:
    """The same with three parameters: the big corner plot is what takes time."""
    post = inputs.posterior.to_arviz()["posterior"]
    inputs = changed(
        inputs, posterior=post.drop_vars([c.name for c in GLOBALS if c.name in post and c.name not in (*FEW, "alpha", "beta")])
    )
    return inputs


@pytest.fixture(scope="module")
def complete(full_report):
    """The inputs of a full report, its path, and the page as it nests."""
    inputs, path = full_report
    return inputs, path, Page(path.read_text(encoding="utf-8"))


def test_every_section_and_figure_is_there(complete):
    _, _, page = complete
    assert [s["id"] for s in page.all("section")] == SECTIONS
    assert [f["id"] for f in page.all("figure")] == [f"figure-{name}" for name in FIGURES]
    assert {a["href"] for a in page.all("a")} == {f"#{s}" for s in SECTIONS}
    assert not page.open


def test_figures_are_real_images_with_alternative_text(complete):
    _, _, page = complete
    for image in page.all("img"):
        kind, payload = re.fullmatch(r"data:image/(svg\+xml|png);base64,(.*)", image["src"]).groups()
        content = base64.b64decode(payload, validate=True)
        assert content.startswith(b"\x89PNG") if kind == "png" else b"<svg" in content[:1000]
        assert len(content) > 5000
        assert len(image["alt"]) > 20


def test_page_needs_nothing_from_outside_and_no_script(complete):
    _, path, page = complete
    text = path.read_text(encoding="utf-8")
    assert not page.all("script")
    assert not re.search(r"""(src|href|action)\s*=\s*["']?\s*(https?:)?//""", text)
    assert not re.search(r"@import|url\(", text)
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    for image in page.all("img"):
        if "svg" in image["src"][:20]:
            svg = base64.b64decode(image["src"].split(",", 1)[1]).decode()
            assert not re.search(r"""href="(?!#|data:)|<script""", svg)
    assert path.stat().st_size < 5e6


def test_table_shows_numpy_quantiles(complete):
    inputs, _, page = complete
    for row in parameter_table(inputs):
        draws = inputs.posterior[row.name]
        sd = draws.std(ddof=1)
        quantiles = [format_value(q, sd) for q in np.quantile(draws, (0.16, 0.5, 0.84))]
        cells = f"{format_value(draws.mean(), sd)} ± {format_value(sd, sd)}", *quantiles
        assert re.search(r"\s+".join(map(re.escape, cells)), page.text), row.name


def test_pdfs_of_all_figures(complete):
    _, path, _ = complete
    files = list((path.parent / "figures").iterdir())
    assert {f.name for f in files} == {f"{name}.pdf" for name in FIGURES}
    assert all(f.read_bytes().startswith(b"%PDF") for f in files)


def test_provenance_is_shown(complete):
    _, _, page = complete
    for expected in ("3f9a2c51d07be846", "cigars infer demo/run", "20251121", "torch 2.13.0", "2 min 52 s", '"encoder": "score"'):
        assert expected in page.text


def test_overwriting_is_refused_unless_asked(tmp_path):
    inputs = few_parameters(fake_inputs(objects=25, draws=50, local=False, sbc_ranks=None, curves={}))
    path = tmp_path / "report.html"
    path.write_text("mine")
    with pytest.raises(FileError, match=r"report\.html: exists already"):
        write_report(path, inputs)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "marginals.pdf").write_text("mine")
    with pytest.raises(FileError, match=r"marginals\.pdf: exists already"):
        write_report(tmp_path / "other.html", inputs, figures_dir=tmp_path / "figures")
    assert path.read_text() == "mine"
    assert not (tmp_path / "other.html").exists()
    write_report(path, inputs, overwrite=True)
    assert "</html>" in path.read_text(encoding="utf-8")
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    inputs = few_parameters(fake_inputs(objects=25, draws=50, local=False, sbc_ranks=None, curves={}))
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(FileError, match="no space left"):
        write_report(tmp_path / "report.html", inputs)
    assert list(tmp_path.iterdir()) == []


def test_missing_material_is_explained():
    inputs = few_parameters(
        fake_inputs(objects=25, draws=50, truth=False, local=False, sbc_ranks=None, curves={}, timings={}, prior={}, check={})
    )
    text = render_report(inputs)
    page = Page(text)
    assert [s["id"] for s in page.all("section")] == SECTIONS
    assert [f["id"] for f in page.all("figure")] == [f"figure-{n}" for n in FIGURES[:3]]
    assert page.text.count("Absent:") == 7  # Hubble diagram, redshifts, hosts, brightness, training, calibration, likeness
    assert "pull" not in page.text
    assert "Whether the catalogue looks like the simulations was not tested" in page.text
    lost = "the run that made this posterior was not found; name its folder with --run."
    assert page.text.count(f"Absent: {lost}") == 2  # training, calibration
    assert f"Calibration was not tested: {lost}" in page.text


@pytest.mark.parametrize(
    ("attributes", "changes", "said"),
    [
        ({}, {"sbc_ranks": None}, "Calibration was not tested: simulation-based calibration was not run for this posterior."),
        ({"method": "exact"}, {"sbc_ranks": None, "curves": {}}, "Calibration was not tested: no network made this posterior."),
    ],
)
def test_why_calibration_was_not_tested_is_said(attributes, changes, said):
    """Where the run is at hand, and where there is none."""
    inputs = changed(few_parameters(fake_inputs(objects=25, draws=50, local=False, **changes)), **attributes)
    assert str(calibration_verdict(inputs)) == said


def test_objects_without_a_light_curve_are_left_out_of_the_hubble_diagram():
    """`cigars infer --hide sn` leaves the columns, with no number in them."""
    inputs = fake_inputs(objects=40, draws=50)
    group = inputs.posterior.to_arviz()["observed_data"]
    for count, words in ((10, "Shown are the 30 of 40 objects"), (40, "Absent: no object has a light-curve fit")):
        hidden = group.assign({n: group[n].where(np.arange(40) >= count) for n in ("m", "x", "c", "var_m", "var_x", "var_c")})
        inputs = changed(inputs, observed_data=hidden)
        section = sections.build(inputs)[1]
        assert words in str([*section.paragraphs, *(p.caption for p in section.plots)])
        for plot in section.plots:
            assert all(np.isfinite(axes.get_ylim()).all() for axes in plot.function(inputs).axes)
    assert "nan" not in " ".join(map(str, summary(inputs, parameter_table(inputs))))


def test_real_catalogue_is_compared_with_its_spectroscopic_redshifts():
    inputs = fake_inputs(objects=80, draws=100, truth=False, sbc_ranks=None)
    unknown = sections.build(inputs)[2]
    assert unknown.plots == []
    assert "neither" in str(unknown.paragraphs[0])
    z_spec = inputs.posterior["z"].mean(0)
    z_spec[60:] = np.nan
    inputs = changed(inputs, observed_data=inputs.posterior.to_arviz()["observed_data"].assign(z_spec=("object", z_spec)))
    known = sections.build(inputs)[2]
    assert [p.name for p in known.plots] == ["redshift", "redshift-calibration"]
    assert "60 objects with spectroscopic redshifts" in str(known.paragraphs[0])
    assert "NMAD 0.0000" in str(known.paragraphs[0])
    assert all(p.function(inputs).axes for p in known.plots)


def test_too_few_calibration_surveys_are_named():
    inputs = fake_inputs(objects=25, draws=50, local=False)
    few = sections.build(inputs._replace(sbc_ranks=inputs.sbc_ranks[:8]))[6]
    assert few.plots == []
    assert "8 surveys are too few" in str(few.paragraphs[0])


def test_a_posterior_read_back_from_disk_gives_the_same_page_content(tmp_path):
    inputs = fake_inputs(objects=25, draws=50)
    again = inputs._replace(posterior=load_posterior(inputs.posterior.save(tmp_path / "posterior.nc")))
    assert parameter_table(again) == parameter_table(inputs)
    assert again.posterior.attributes["fingerprint"] == inputs.posterior.attributes["fingerprint"]
    assert summary(again, parameter_table(again)) == summary(inputs, parameter_table(inputs))


def test_hostile_text_stays_text():
    inputs = few_parameters(fake_inputs(objects=25, draws=50, local=False, sbc_ranks=None))
    evil = "</pre></style><script>alert(1)</script><img src=x onerror=alert(1)>"
    names = inputs.posterior.to_arviz()["observed_data"].assign_coords(object=[f"{evil}{i}" for i in range(25)])
    config = Config(name=evil).model_dump_json()
    inputs = changed(inputs, None, names, config=config, command=evil, fingerprint=evil, versions=json.dumps({evil: evil}), created=evil)
    inputs = inputs._replace(timings={evil: 1.0}, curves={evil: {"train": [1.0, 0.5], "validation": [1.1, 0.7]}})
    page = Page(render_report(inputs))
    assert not page.all("script")
    assert all("onerror" not in attributes for _, attributes in page.tags)
    assert page.text.count(evil) >= 6


def test_summary_follows_the_posterior_and_condemns_bad_ranks():
    inputs = fake_inputs(objects=60, draws=200, seed=2)
    words = " ".join(map(str, summary(inputs, parameter_table(inputs))))
    assert "60 supernovae" in words
    assert "no sign of miscalibration" in words
    assert "accelerates" in words
    skewed = inputs.sbc_ranks.copy()
    skewed[:, 4] //= 2  # M0 always in the lower half
    words = " ".join(map(str, summary(inputs._replace(sbc_ranks=skewed), parameter_table(inputs))))
    assert "finds the posterior miscalibrated" in words
    assert "Not uniform: <i>M</i><sub>0</sub>" in " ".join(map(str, sections.build(inputs._replace(sbc_ranks=skewed))[6].paragraphs))


def test_expansion_accelerates_where_dark_energy_is_enough_for_its_pressure():
    """Flat and with w0 = -1/2 it does up to Om0 = 1/3, which half of the draws are below; with w0 = -1 all would, up to 2/3."""
    inputs = few_parameters(fake_inputs(objects=60, draws=200, local=False))
    config = Config().updated(**{"supernovae.cosmology": "flat-w0waCDM", "prior.w0": {"fixed": -0.5}, "prior.wa": {"fixed": 0.0}})
    post = inputs.posterior.to_arviz()["posterior"].drop_vars("Ode0")
    inputs = changed(
        inputs, post.assign(Om0=(("chain", "draw"), np.where(np.arange(200) % 2, 0.25, 0.45)[None])), config=config.model_dump_json()
    )
    assert "accelerates today with 50&nbsp;%" in " ".join(map(str, summary(inputs, parameter_table(inputs))))


def test_validation_is_told_with_what_fails():
    worst = {"test": "width", "of": "M0", "value": 1.234, "low": 0.921, "high": 1.079, "p_value": 1e-7}
    tests = [
        {"worst": worst | {"test": "ranks"}, "adjusted": 0.5, "passed": True},
        {"worst": worst, "adjusted": 2e-6, "passed": False},
    ]
    found = {"tests": tests, "level": 0.01, "surveys": 500}
    inputs = fake_inputs(objects=25, draws=50)
    words = " ".join(map(str, sections.build(inputs._replace(validation=found))[6].paragraphs))
    assert "500 further surveys: <strong>1 of 2 tests fail</strong>" in words
    assert "ranks (0.5) and width (2e-06)" in words
    assert "width of M0: 1.234, expected 0.921 to 1.079" in words
    words = " ".join(map(str, sections.build(inputs._replace(validation=found | {"tests": tests[:1]}, sbc_ranks=None))[6].paragraphs))
    assert "all 1 tests pass" in words
    assert "Farthest" not in words
    assert "cigars validate" not in " ".join(map(str, sections.build(inputs)[6].paragraphs))


def test_summary_says_when_validation_failed():
    """Uniform ranks of the training are no reason to keep silent about what `cigars validate` rejects."""
    inputs = fake_inputs(objects=25, draws=50, local=False, validation=fake_validation(failing="width"))
    words = " ".join(map(str, summary(inputs, parameter_table(inputs))))
    assert "<strong>1 of 7 tests fail</strong>" in words
    assert "width of M0: 1.234" in words
    words = " ".join(map(str, summary(inputs._replace(validation=fake_validation()), parameter_table(inputs))))
    assert "<strong>all 7 tests pass</strong>" in words


def test_coverage_is_drawn_as_it_was_found():
    inputs = fake_inputs(objects=25, draws=50, sbc_ranks=None, validation=fake_validation())
    calibration = sections.build(inputs)[6]
    assert [plot.name for plot in calibration.plots] == ["coverage"]
    for axes in calibration.plots[0].function(inputs).axes:
        assert np.allclose(axes.lines[1].get_ydata(), inputs.validation["curves"]["coverage"]["inside"])
    assert sections.build(inputs._replace(validation={}))[6].plots == []


def test_a_catalogue_unlike_the_simulations_is_told_with_what_is_off():
    inputs = fake_inputs(objects=25, draws=50)
    wrong = sections.build(inputs)[7]
    words = " ".join(map(str, wrong.paragraphs))
    assert "does <strong>not</strong> look like what the model simulates" in words
    assert "rejected by statistics (p = " in words
    assert "Farthest off is g − r: mean, by +" in words
    assert "15 of 400 objects are unlike simulated ones, 15 of them for g − r" in words
    tests, odd = wrong.listings
    assert [row[-1] for row in tests.rows] == ["rejected"] + ["passed"] * 5
    assert [row[0] for row in odd.rows] == [f"SN{i:05d}" for i in range(12)]
    assert words.split("Surveys were")[0].strip() in " ".join(map(str, summary(inputs, parameter_table(inputs))))


def test_a_catalogue_like_the_simulations_is_not_accused():
    right = sections.build(fake_inputs(objects=25, draws=50, check=fake_check()))[7]
    words = " ".join(map(str, right.paragraphs))
    assert "the catalogue looks like what the model simulates" in words
    assert "No object is unlike simulated ones by more than chance explains" in words
    assert len(right.listings) == 1
    assert {row[-1] for row in right.listings[0].rows} == {"passed"}


def test_residuals_are_drawn_where_they_are():
    """One far beyond the panel stays in sight, with its value beside it."""
    axes = sections.build(fake_inputs(objects=25, draws=50))[7].plots[0].function(fake_inputs(objects=25, draws=50)).axes[0]
    values = [float(line.get_xdata()[0]) for line in axes.lines if len(line.get_xdata()) == 1]
    checks = [c["value"] for c in fake_check(shift=9.0)["checks"] if c["test"] == "statistics"]
    assert np.allclose(np.sort(values)[:-1], np.sort(checks)[:-1])
    assert max(checks) > max(values)
    assert [text.get_text() for text in axes.texts] == [f"{max(checks):+.0f}"]
    assert "σ" in axes.get_xlabel()


def test_decelerating_posterior_is_not_called_accelerating():
    inputs = fake_inputs(objects=10, draws=1000, local=False)
    post = inputs.posterior.to_arviz()["posterior"]
    inputs = changed(inputs, posterior=post.assign(Om0=post.Om0 * 0 + 0.9, Ode0=post.Ode0 * 0 + 0.1))
    assert "less than 0.1" in str(summary(inputs, parameter_table(inputs))[0])


@pytest.mark.parametrize(
    ("attributes", "limit"), [({}, "98"), ({"weighted_by": "another", "effective_draws": 20.4}, "95"), ({"effective_draws": 9e3}, "98")]
)
def test_a_probability_is_no_nearer_to_one_than_the_draws_tell(attributes, limit):
    inputs = fake_inputs(objects=10, draws=50, local=False)
    post = inputs.posterior.to_arviz()["posterior"]
    inputs = changed(inputs, posterior=post.assign(Om0=post.Om0 * 0 + 0.1, Ode0=post.Ode0 * 0 + 0.9), **attributes)
    assert f"today with more than {limit}&nbsp;%" in str(summary(inputs, parameter_table(inputs))[0])


def told(**attributes):
    """Lead, other sentences, cards and page of a posterior with some attributes."""
    inputs = few_parameters(fake_inputs(objects=25, draws=50, local=False, sbc_ranks=None, curves={}))
    inputs = changed(inputs, **attributes)
    lead, *rest = map(str, summary(inputs, parameter_table(inputs)))
    return inputs, lead, " ".join(rest)


def test_a_weighted_posterior_is_not_called_that_of_the_supernovae_alone():
    _, lead, rest = told()
    assert "together with" not in lead
    assert "Take care" not in rest
    inputs, lead, rest = told(weighted_by="gaussian on Om0 & Ode0", effective_draws=1234.4)
    assert "25 supernovae</strong> and the photometry of their hosts, <strong>together with</strong> gaussian on Om0 &amp; Ode0:" in lead
    assert "hosts, conditional on Om0=0.3:" in told(weighted_by="conditional on Om0=0.3", effective_draws=60.0)[1]
    assert "its draws are weighted (gaussian on Om0 &amp; Ode0) and rest on 1,234 effective ones" in rest
    provenance = Page(render_report(inputs)).text.split("Provenance")[-1]
    assert re.search(r"weighted by\s*gaussian on Om0 & Ode0\s*effective draws\s*1,234", provenance)


def test_a_run_cut_for_another_catalogue_is_told():
    _, _, rest = told(truncated_for="0123", catalogue="0123")
    assert "Take care" not in rest
    inputs, _, rest = told(truncated_for="0123", catalogue="4567")
    assert "cut in rounds for another catalogue (0123), and what is said of this one (4567) holds within that" in rest
    for cut, words in ((True, "what they left of it"), (False, "as it was configured")):
        told_of = inputs._replace(cut=cut)
        assert f"of one catalogue (0123) are; shown is {words}" in str(sections.build(told_of)[0].paragraphs)
        row = parameter_table(told_of)[0]
        assert (row.prior, row.shrinkage is None) == ("U(0, 1)", cut)


def test_what_was_left_out_is_told():
    inputs, lead, rest = told(dropped=300)
    assert "From <strong>25 supernovae" in lead
    assert "300 of 325 objects of the catalogue are left out as unlike those of the training" in rest
    assert headline(inputs, parameter_table(inputs))[0][1:] == ("25", "of 325 in the catalogue")
    inputs, lead, _ = told(theta_from_prior="sn")
    assert lead.startswith("The parameters are <strong>drawn from their prior, not inferred</strong>, as sn was hidden")
    assert "accelerates" not in lead
    assert not [card for card in headline(inputs, parameter_table(inputs)) if "density" in card[2]]


def test_parameters_without_a_spread_are_in_no_corner_plot():
    """As after `conditional`, or where the configuration fixes all cosmology and the absolute magnitude."""
    inputs = few_parameters(fake_inputs(objects=25, draws=50, local=False, sbc_ranks=None, curves={}))
    post = inputs.posterior.to_arviz()["posterior"]
    still = {n: post[n] * 0 + value for n, value in zip(FEW, (0.3, 0.7, -19.5), strict=True)}
    for group, shown in (
        (post.assign(Om0=still["Om0"]), FIGURES[:3]),
        (post.assign(still), FIGURES[1:3]),
        (post.drop_vars(FEW), FIGURES[1:3]),
    ):
        inputs = changed(inputs, posterior=group)
        assert [f["id"] for f in Page(render_report(inputs)).all("figure")][: len(shown)] == [f"figure-{n}" for n in shown]
    inputs = changed(inputs, posterior=post.assign(still))
    assert [(row.sd, row.pull) for row in parameter_table(inputs)][:2] == [(0.0, None)] * 2


def correlated(rng, n):
    return rng.multivariate_normal([0.3, 0.7], [[0.01, 0.012], [0.012, 0.018]], n)


def curved(rng, n):
    x = rng.normal(size=n)
    return np.column_stack([0.3 + 0.05 * x, 0.6 + 0.1 * x**2 + 0.03 * rng.normal(size=n)])


def with_outliers(rng, n):
    return np.concatenate([correlated(rng, n - 5), correlated(rng, 5) + 9])


@pytest.mark.parametrize("law", [correlated, curved, with_outliers])
def test_contours_hold_what_they_say(law):
    """Of the draws, and of others of the same law."""
    rng = np.random.default_rng(3)
    draws, others = law(rng, 2000), law(rng, 20_000)
    posterior = az.from_dict(posterior={"Om0": draws[None, :, 0], "Ode0": draws[None, :, 1]})
    (panel,) = (axes for axes in corner_figure(ReportInputs(Posterior(posterior)), ("Om0", "Ode0")).axes if axes.collections)
    filled = next(c for c in panel.collections if c.filled)
    for points in (draws, others):
        bands = [np.mean(sum(Path(p).contains_points(points) for p in band.to_polygons()) % 2) for band in filled.get_paths()]
        assert [sum(bands), bands[1]] == pytest.approx([1 - np.exp(-2.0), 1 - np.exp(-0.5)], abs=0.03)
    assert np.diff(panel.get_xlim())[0] < 9 * np.std(draws[:1900, 0])


def test_the_dashed_line_is_where_one_statistic_rejects_the_model():
    """Just within it the test of the statistics passes, just beyond it fails."""
    figure = likeness.residual_figure(fake_inputs(objects=25, draws=50, check=fake_check()))
    places = [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    assert places == [-places[1], places[1]]
    rows = fake_check()["checks"]
    for factor, passes in ((0.99, True), (1.01, False)):
        p_value = float(2 * stats.norm.sf(factor * places[1]))
        changed = [Check(**rows[0] | {"p_value": p_value}), *(Check(**row | {"p_value": 0.9}) for row in rows[1:])]
        judged = {row.worst.test: row.passed for row in judge(changed, fake_check()["level"])}
        assert judged["statistics"] is passes
