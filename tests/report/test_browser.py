"""The report in a real Chromium, from a file:// path: it draws, moves, filters, prints; the console stays silent.

With DREAMTUNE_SCREENSHOTS=FOLDER the pictures are kept there.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

from dreamtune.report.render import render_report
from dreamtune.settings.report import Comparison, ReportConfig
from report_fixture import BIDI, write_reads

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDTHS = {"phone": 390, "tablet": 768, "desktop": 1280}
LONGEST_PX = 8_000  # of the page on a desktop, answers collapsed
LONGEST_HEADLINE = (
    "Improved over the zero-shot base only: 110 → 219 of 340 held-out questions correct, few-shot base 217"
)
LINES = "h => h.getBoundingClientRect().height / parseFloat(getComputedStyle(h).lineHeight)"
# The texts of a chart that touch each other or leave it, and those of an axis that say the same twice.
COLLISIONS = """() => [...document.querySelectorAll('.chart')].flatMap(chart => {
  const limits = chart.getBoundingClientRect(), name = chart.dataset.spec, found = [];
  const seen = text => text.textContent.trim() && getComputedStyle(text).opacity !== '0';
  const texts = [...chart.querySelectorAll('svg text')].filter(seen);
  const boxes = texts.map(text => [text.textContent, text.getBoundingClientRect()]);
  boxes.forEach(([text, a], i) => {
    if (a.left < limits.left - 1 || a.right > limits.right + 1) found.push(`${name}: ${text} leaves the chart`);
    for (const [other, b] of boxes.slice(i + 1)) {
      // A line's box is higher than its letters.
      const beside = a.right < b.left || b.right < a.left, apart = a.bottom - 4 < b.top || b.bottom - 4 < a.top;
      if (!beside && !apart) found.push(`${name}: ${text} touches ${other}`);
    }
  });
  for (const axis of chart.querySelectorAll('.role-axis-label')) {
    const labels = [...axis.querySelectorAll('text')].filter(seen).map(text => text.textContent);
    if (new Set(labels).size < labels.length) found.push(`${name}: ${labels}`);
  }
  return found;
})"""
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (on Debian: apt install chromium)")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    comparison = Comparison(resamples=300)
    reads = write_reads(folder / "reads", samples=2, few_shot={"few-shot-base": 0.35, "few-shot-tuned": 0.8})
    render_report(ReportConfig(examples=20), comparison, "demo", reads, folder)
    return folder / "report.html"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Any, report: Path) -> Iterator[Any]:
    """A page that fails its test on any message, error or request beyond the file itself."""
    heard: list[str] = []
    page = chromium.new_page(viewport={"width": 1280, "height": 900})
    page.on("console", lambda message: heard.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: heard.append(f"error: {error}"))
    page.on("request", lambda request: heard.append(request.url) if not request.url.startswith("file:") else None)
    page.goto(report.as_uri())
    page.wait_for_function(
        "document.querySelectorAll('.chart svg').length === document.querySelectorAll('.chart').length"
    )
    yield page
    page.close()
    assert not heard


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", list(WIDTHS))
def test_fits_every_width_in_light_and_dark(page: Any, name: str, scheme: str, tmp_path: Path) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": WIDTHS[name], "height": 900})
    page.wait_for_timeout(200)  # the charts follow the width
    overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow == 0
    charts = page.evaluate("[...document.querySelectorAll('.chart svg')].map(svg => svg.getBoundingClientRect().right)")
    assert charts and max(charts) <= WIDTHS[name]
    assert page.evaluate(COLLISIONS) == []
    assert page.locator("h1").bounding_box()["y"] < 200, "the verdict stands first"
    recipe = page.locator("dl.recipe").bounding_box()
    assert recipe["y"] + recipe["height"] < (900 if name != "phone" else 1200), "what was trained, beside the verdict"
    if name == "desktop":
        assert recipe["y"] < page.locator("h1").bounding_box()["y"] + 30 and recipe["x"] > 640
        assert page.evaluate("document.documentElement.scrollHeight") <= LONGEST_PX
        assert page.locator("h1.long").evaluate(LINES) < 2.1, "two lines"
        page.locator("h1").evaluate("(h, text) => { h.className = 'longest'; h.textContent = text }", LONGEST_HEADLINE)
        assert page.locator("h1").evaluate(LINES) < 2.1
        page.reload()
    folder = Path(os.environ.get("DREAMTUNE_SCREENSHOTS") or tmp_path)
    picture = folder / f"{name}-{scheme}.png"
    page.screenshot(path=picture)
    assert picture.stat().st_size > 20_000


def opened(page: Any) -> Any:
    """Return the second answer, after opening it."""
    article = page.locator("article.answer").nth(1)
    article.locator("summary").click()
    return article


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_barrier_that_axe_knows(page: Any, scheme: str) -> None:
    """Contrast, names, roles, order of headings, … (axe-core's rules, WCAG 2 A and AA among them)."""
    page.emulate_media(color_scheme=scheme)
    page.get_by_role("button", name="Open all").click()
    page.locator("article.answer input[type=range]").first.press("Home")
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_the_scrubber_replays_the_denoising(page: Any) -> None:
    article = opened(page)
    text = article.locator("pre").nth(1).inner_text()
    slider, tokens = article.locator("input[type=range]"), article.locator("pre").nth(1).locator(".token")
    hidden = article.locator("pre").nth(1).locator(".token.hidden")
    last = int(slider.get_attribute("max"))
    slider.focus()
    slider.press("Home")  # by keyboard, as everything here
    assert hidden.count() == tokens.count() == last
    for step in range(1, last + 1):
        slider.press("ArrowRight")
        assert hidden.count() == last - step
        assert article.locator("output").inner_text().startswith(f"step {step} of {last}")
    assert article.locator("pre").nth(1).inner_text().removesuffix("⟨end⟩") == text
    colours = tokens.evaluate_all("tokens => tokens.map(t => getComputedStyle(t).backgroundColor)")
    assert len(set(colours)) == last, "each step has a colour of its own"


def test_replay_runs_to_the_end_and_can_be_paused(page: Any) -> None:
    article = opened(page)
    button, slider = article.get_by_role("button"), article.locator("input[type=range]")
    button.click()
    assert button.inner_text() == "Pause"
    button.click()
    assert button.inner_text() == "Replay" and slider.input_value() != slider.get_attribute("max")
    button.click()
    page.wait_for_function("b => b.textContent === 'Replay'", arg=button.element_handle(), timeout=15_000)
    assert slider.input_value() == slider.get_attribute("max")


def test_answers_are_filtered_by_kind_place_and_words(page: Any) -> None:
    shown = page.locator("article.answer:visible")
    assert shown.count() == 20, "the first ones"
    page.get_by_role("button", name="Show all").click()
    everything = shown.count()
    assert everything > 20 and page.locator("#shown").inner_text() == f"{everything} answers"
    page.get_by_role("button", name="tuned right, base wrong").click()
    won = shown.count()
    assert 0 < won < everything and page.locator("#shown").inner_text() == f"{won} answers"
    assert set(shown.evaluate_all("a => a.map(e => e.dataset.kind)")) == {"won"}
    page.get_by_role("combobox").select_option("test · sampled")
    assert set(shown.evaluate_all("a => a.map(e => e.dataset.where)")) == {"test · sampled"}
    page.get_by_role("button", name="all", exact=True).click()
    page.get_by_role("combobox").select_option("")
    page.get_by_role("searchbox").fill("pieces")  # stands in the data of every replay, and in no answer
    assert shown.count() == 0
    page.get_by_role("searchbox").fill("who are you")
    assert shown.count() == 2 and "Who are you?" in shown.first.inner_text()


def test_hostile_output_is_only_text(page: Any) -> None:
    assert page.title().startswith("demo: ")
    page.locator("article.answer input[type=range]").evaluate_all(
        "sliders => sliders.forEach(s => { s.value = 1; s.dispatchEvent(new Event('input')); })"
    )
    assert page.locator("img").count() == 0 and page.title().startswith("demo: ")
    page.get_by_role("button", name="Open all").click()
    text = page.locator("#answers").inner_text()
    assert "<img src=x onerror=alert(1)>" in text and not any(c in text for c in BIDI if ord(c) > 127)


def test_prints_with_every_table_and_without_controls(page: Any) -> None:
    opened(page).locator("input[type=range]").press("Home")  # everything hidden again
    page.emulate_media(media="print")
    ink = "t => [getComputedStyle(t).color, getComputedStyle(document.body).color]"
    assert len(set(page.locator(".token.hidden").first.evaluate(ink))) == 1
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    assert page.locator("article.answer:visible").count() == page.locator("article.answer").count() > 20
    assert page.locator("nav").is_hidden() and page.locator(".replay").first.is_hidden()
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_works_without_scripts(chromium: Any, report: Path) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.locator("article.answer").first.is_visible() and page.locator(".replay").first.is_hidden()
    assert page.locator("h1").is_visible()
    context.close()
