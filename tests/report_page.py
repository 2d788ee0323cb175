"""A rendered report and what a browser would make of its file."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from conftest import ROOT
from dreamtune.report.render import render_report
from dreamtune.settings.report import Comparison, ReportConfig
from report_fixture import write_reads

FAST = Comparison(resamples=300)
SCHEMA = json.loads((ROOT / "docs/summary.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)  # jsonschema.validate checks the schema, too, each time
ESTIMATE = {
    "type": "object",
    "required": ["value", "low", "high", "n"],
    "properties": {"value": {"type": "number"}, "low": {"type": "number"}, "high": {"type": "number"}},
}


class Page(HTMLParser):
    """Collects what a browser would make of the file: elements, script texts and visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.replays = 0
        self.text = ""
        self.inside: str | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "script":
            self.scripts.append("")
            self.replays += dict(attrs).get("class") == "steps"

    def handle_endtag(self, tag: str) -> None:
        self.inside = None

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts[-1] += data
        elif self.inside != "style":
            self.text += data


def render(reads: dict[str, Path], out: Path, **report: Any) -> tuple[str, dict[str, Any], dict[str, Any]]:
    out.mkdir()
    counts = render_report(ReportConfig(**report), FAST, "demo", reads, out)
    text = (out / "summary.json").read_text()
    assert not re.search(r"\b(NaN|Infinity)\b", text)
    VALIDATOR.validate(json.loads(text))  # of every summary that is made here
    return (out / "report.html").read_text(), json.loads(text), counts


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any], dict[str, Any]]:
    folder = tmp_path_factory.mktemp("made")
    return render(write_reads(folder, samples=2), folder / "out")
