"""The page of a study of 1,000 runs in a real Chromium, from a file:// path: it opens at once, fits, sorts, prints."""

from collections.abc import Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

from dreamtune.overview.page import write_page
from tests.overview.studies import LATEST, Studies
from tests.report.test_browser import CHROMIUM, QUIET, WIDTHS

LARGEST, LONGEST_S = 10_000_000, 2.0
TIME = "performance.getEntriesByType('navigation')[0].duration / 1000"
FIRST = "table.runs tbody tr:first-child th"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (on Debian: apt install chromium)")


@pytest.fixture
def chromium() -> Iterator[Any]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


def test_a_page_of_1000_runs(studies: Studies, chromium: Any) -> None:
    grid = {"train.lora.rank": list(range(1, 21)), "train.epochs": list(range(1, 26))}
    studies.make(compared=False, grid=grid, seeds=2, study={"max_points": 1000})
    write_page(LATEST, {})
    assert max((LATEST / name).stat().st_size for name in ("index.html", "side-by-side.html")) < LARGEST
    page, heard = chromium.new_page(viewport={"width": 1280, "height": 900}), []
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    seconds = []
    for _ in range(2):  # the first one starts the browser's processes
        page.goto((LATEST / "index.html").resolve().as_uri())
        seconds.append(page.evaluate(TIME))
    assert min(seconds) < LONGEST_S
    assert page.locator("table.runs tbody tr").count() == 1000
    for width in WIDTHS.values():
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
        shown = [page.locator(f".picture .{kind}").first.is_visible() for kind in ("wide", "narrow")]
        assert shown == [width != WIDTHS["phone"], width == WIDTHS["phone"]]
    best = page.locator(FIRST).inner_text()
    page.get_by_role("button", name="Accuracy").click()
    assert page.locator("thead [aria-sort=descending]").count() == 1 and page.locator(FIRST).inner_text() == best
    page.get_by_role("button", name="Accuracy").click()
    assert page.locator("thead [aria-sort=ascending]").count() == 1 and page.locator(FIRST).inner_text() != best
    page.evaluate("document.querySelectorAll('table.runs tbody tr:nth-child(n+30)').forEach(row => row.remove())")
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
    assert not heard
    context = chromium.new_context(java_script_enabled=False)
    plain = context.new_page()
    plain.goto((LATEST / "index.html").resolve().as_uri())
    assert plain.locator(FIRST).inner_text() == best and plain.locator(".picture svg").first.is_visible()
    context.close()
