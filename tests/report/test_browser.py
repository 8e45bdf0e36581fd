"""The page in a real browser: no complaint, no request, nothing too wide; light, dark, narrow and on paper."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from repq_deploy.report.page import page
from tests.report.browser import Browser, chromium, opened
from tests.report.facts import report

pytestmark = pytest.mark.skipif(chromium() is None, reason="no chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with opened(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page(report(blocks=24)), encoding="utf-8")
    return path


@pytest.mark.parametrize(("width", "dark"), [(1000, False), (1000, True), (360, False), (360, True)])
def test_it_opens_without_complaint_and_fits(browser: Browser, html: Path, width: int, dark: bool) -> None:
    browser.events.clear()
    browser.open(html, width=width, dark=dark)
    assert browser.requests() == [html.as_uri()]
    assert browser.complaints() == []
    assert browser.value("document.documentElement.scrollWidth") == width
    assert browser.value("document.querySelectorAll('table.net').length") == 3
    background = browser.value("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(18, 24, 30)" if dark else "rgb(255, 255, 255)")
    # What is wider than the screen scrolls by itself: nothing outside of these boxes is cut off.
    over = (
        "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll') && "
        f"e.getBoundingClientRect().right > {width}).map(e => e.outerHTML.slice(0, 80))"
    )
    assert browser.value(over) == []


def test_the_worst_site_and_the_speed_are_on_the_first_screen(browser: Browser, html: Path) -> None:
    browser.open(html)
    bottom = "Math.max(...[...document.querySelectorAll('.card')].map(e => e.getBoundingClientRect().bottom))"
    assert browser.value(bottom) < 600


def test_it_prints_with_its_colours_and_nothing_cut_off(browser: Browser, html: Path, tmp_path: Path) -> None:
    browser.open(html, width=700)
    browser.call("Emulation.setEmulatedMedia", media="print")
    cut = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > 703).map(e => e.ariaLabel)"
    assert browser.value(cut) == []
    assert browser.value("getComputedStyle(document.querySelector('.h0')).printColorAdjust") == "exact"
    browser.pdf(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
