"""The page in headless Chromium, which draws every figure and has nothing to complain of: offline, on a phone, in print."""

import os
import re
import shutil

import pytest

from tests.cigars.report.test_page import FIGURES

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None)
PHONE, PAPER = {"width": 390, "height": 844}, {"width": 688, "height": 1001}  # A4 within its margins, in CSS pixels

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on the path to show the page")


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        yield opened
        opened.close()


@pytest.fixture
def path(full_report):
    return full_report[1]


@pytest.fixture
def shown(browser):
    """A function that opens a file in a viewport: the page and what the browser complained of or asked from elsewhere."""
    opened = []

    def open_page(path, viewport):
        page = browser.new_page(viewport=viewport)
        opened.append(page)
        complaints = []
        page.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: None if re.match("data:|file:", request.url) else complaints.append(request.url))
        page.goto(path.as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        page.evaluate("Promise.allSettled([...document.images].map(i => i.decode()))")
        return page, complaints

    yield open_page
    for page in opened:
        page.close()


def drawn(page):
    """Names of the figures whose image was decoded and takes up room on the page."""
    return page.evaluate(
        """[...document.querySelectorAll("figure")].filter(f => {
            const image = f.querySelector("img"), box = image.getBoundingClientRect();
            return image.complete && image.naturalWidth > 100 && box.width > 100 && box.height > 50;
        }).map(f => f.id)"""
    )


def test_every_figure_is_drawn_without_a_complaint(path, shown):
    page, complaints = shown(path, {"width": 1280, "height": 900})
    assert drawn(page) == [f"figure-{name}" for name in FIGURES]
    assert complaints == []
    assert "supernovae" in page.inner_text("#summary")


def test_a_broken_page_is_noticed(path, shown, tmp_path):
    """A figure that is no image, a script, a picture from elsewhere: each is one that the test above would fail for."""
    text = path.read_text(encoding="utf-8")
    first = text.index("data:image/svg+xml;base64,") + len("data:image/svg+xml;base64,")
    (tmp_path / "figure.html").write_text(text[:first] + "AAAA" + text[first:], encoding="utf-8")
    page, _ = shown(tmp_path / "figure.html", {"width": 1280, "height": 900})
    assert len(drawn(page)) == len(FIGURES) - 1
    for name, addition in (("script", "<script>1</script>"), ("picture", '<img src="https://example.org/a.png">')):
        (tmp_path / f"{name}.html").write_text(text.replace("</main>", f"{addition}</main>"), encoding="utf-8")
        _, complaints = shown(tmp_path / f"{name}.html", {"width": 1280, "height": 900})
        assert complaints != [], name


def test_a_phone_scrolls_down_alone(path, shown):
    """Wide figures and tables scroll in frames of their own."""
    page, complaints = shown(path, PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert page.evaluate("Math.min(...[...document.querySelectorAll('p')].map(p => parseFloat(getComputedStyle(p).fontSize)))") >= 12
    assert complaints == []


def test_print_has_every_figure_whole_on_a_page(path, shown, tmp_path):
    page, complaints = shown(path, PAPER)
    page.emulate_media(media="print")
    assert not page.is_visible("nav")
    assert drawn(page) == [f"figure-{name}" for name in FIGURES]
    boxes = page.evaluate("[...document.images].map(i => i.getBoundingClientRect()).map(b => [b.right, b.height])")
    assert max(right for right, _ in boxes) <= PAPER["width"] + 1
    assert max(height for _, height in boxes) <= PAPER["height"]
    page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    assert complaints == []
