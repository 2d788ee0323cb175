"""The report from made-up reads: one file, no network, hostile text harmless, every part optional, strict JSON."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import polars as pl
import pytest
import vl_convert

from conftest import ROOT
from dreamtune.files import finite
from dreamtune.readable import duration, number, percent, points
from dreamtune.report.charts import lengths_figure
from dreamtune.report.render import chart_library
from dreamtune.report.text import json_for_script, reveal
from report_fixture import BIDI, HOSTILE, write_answers, write_reads
from report_page import ESTIMATE, SCHEMA, Page, render

pytest_plugins = "report_page"  # its fixture


def test_summary_has_what_other_tools_rely_on(made: Any) -> None:
    _, summary, counts = made
    assert counts == {"verdict": "improved", "questions": 100, "accuracy_gain": 0.62}
    assert summary["verdict"] == "improved" and summary["format"] == 1
    for block in (
        summary["accuracy"],
        summary["strict"],
        summary["lenient"],
        *summary["comparisons"]["test/sampled"].values(),
    ):
        if block and "gain" in block:
            jsonschema.validate(block["base"], ESTIMATE)
            jsonschema.validate(block["tuned"], ESTIMATE)
            jsonschema.validate(block["gain"], ESTIMATE | {"required": ["value", "low", "high", "p"]})
    for side in ("base", "tuned", "delta"):
        jsonschema.validate(summary["nll"][side], ESTIMATE)
    assert summary["accuracy"]["base"]["value"] == 0.12 and summary["accuracy"]["tuned"]["value"] == 0.74
    assert all({"name", "hard", "passed", "value", "source"} <= set(canary) for canary in summary["canaries"])
    assert {"first_loss", "last_loss", "steps", "tokens"} <= set(summary["training"])
    assert summary["training"]["predicted_minutes"] is None  # written as NaN by the stage
    assert summary["wall_s"]["total"] == sum(v for k, v in summary["wall_s"].items() if k != "total")
    assert summary["minimum_detectable_effect"]["accuracy"] > 0
    assert summary["settings"]["full"]["train"]["lora"] == {"rank": 16}
    assert summary["settings"]["full"]["model"] == {"path": "resources/tiny", "quantization": "nf4"}


def test_every_key_of_the_summary_is_documented(made: Any) -> None:
    text = (ROOT / "docs/summary.md").read_text()
    assert [key for key in made[1] if f"`{key}`" not in text] == []
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_page_is_one_file_that_asks_for_nothing(made: Any) -> None:
    html, _, _ = made
    assert len(html.encode()) <= 6_000_000
    page = Page(html)
    for tag, attributes in page.tags:
        assert tag not in ("iframe", "object", "embed", "base")
        for name in ("src", "href", "action", "srcset"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy") or ""
    assert "default-src 'none'" in policy and "'unsafe-inline'" not in policy.split("script-src")[1]
    assert "@import" not in html.split("</style>")[0] and "url(" not in html.split("</style>")[0]


def test_model_output_is_text_and_nothing_else(made: Any) -> None:
    html, _, _ = made
    page = Page(html)
    assert not any(tag == "img" for tag, _ in page.tags)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    kinds = [attributes.get("type") for tag, attributes in page.tags if tag == "script"]
    assert kinds.count(None) == 2  # the chart library and the page's own
    replays = [s for s in page.scripts if s.startswith('{"base"')]
    assert len(replays) == page.replays > 0 and not any(c in "".join(replays) for c in "<>&\u202e")
    assert not any("owned" in script for script in page.scripts if not script.startswith('{"base"'))
    assert HOSTILE in page.text  # shown, not run
    assert not any(c in html for c in BIDI if ord(c) > 127)
    assert "⟨U+202E⟩drawkcab⟨U+2066⟩⟨U+200B⟩" in page.text


def test_hostile_names_of_settings_and_titles_are_escaped(tmp_path: Path) -> None:
    reads = write_reads(tmp_path / "reads", questions=10)
    manifest = json.loads((reads["full"] / "manifest.json").read_text())
    manifest["settings"]["train"][HOSTILE] = HOSTILE
    manifest["host"] = HOSTILE
    (reads["full"] / "manifest.json").write_text(json.dumps(manifest))
    with (reads["full"] / "train_log.jsonl").open("a") as log:
        log.write("\n" + json.dumps({"step": 1, "loss": 1.0, "note": HOSTILE}))
    html, _, _ = render(reads, tmp_path / "out", title=HOSTILE)
    page = Page(html)
    assert not any(tag == "img" for tag, _ in page.tags)
    assert not any("owned" in script for script in page.scripts if not script.startswith('{"base"'))


def test_json_for_script_cannot_leave_its_element() -> None:
    text = str(json_for_script({"a": "</script><!--<script>&\u2028"}))
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"a": "</script><!--<script>&\u2028"}
    assert "</script" not in chart_library().lower() and "<!--" not in chart_library()


def test_every_chart_draws_and_has_a_table(made: Any) -> None:
    html, _, _ = made
    page = Page(html)
    scripts = zip(page.scripts, [a for tag, a in page.tags if tag == "script"], strict=True)
    by_id = {a["id"]: text for text, a in scripts if a.get("id")}
    ids, specs = set(by_id), list(by_id.values())
    names = {"accuracy", "mask-rate", "loss", "validation", "learning-rate", "lengths", "truncation", "stages", "speed"}
    assert ids == {f"spec-{name}" for name in names}
    for spec in specs:
        svg = vl_convert.vegalite_to_svg({**json.loads(spec), "width": 600})
        marks = re.findall(r'<path [^>]*role="graphics-symbol"[^>]* d="([^"]*)"', svg)
        assert marks and "NaN" not in svg
        assert not any(re.match(r"M[\d.,]+h0v", d) for d in marks), "bars of no width"
    assert html.count("The same as a table") == len(names)


@pytest.mark.parametrize("limit", [64, 61, 1000, None])
def test_no_bar_of_lengths_stands_on_both_sides_of_the_limit(limit: int | None) -> None:
    tokens = [5, 60, 61, 62, 64, 64, 170]
    figure = lengths_figure(pl.DataFrame({"tokens": tokens}), limit)
    assert figure is not None
    first = figure.spec["layer"][0] if "layer" in figure.spec else figure.spec
    bars = first.get("data", figure.spec.get("data"))["values"]
    assert sum(bar["rows"] for bar in bars) == len(tokens)
    for bar in bars:
        assert bar["rows"] == sum(bar["from"] < t <= bar["to"] for t in tokens)
        assert limit is None or not bar["from"] < limit < bar["to"]


def test_page_can_be_used_without_a_mouse_and_a_screen(made: Any) -> None:
    page = Page(made[0])
    ids = {a["id"] for _, a in page.tags if a.get("id")}
    links = [a["href"] for tag, a in page.tags if tag == "a"]
    assert links and all((link or "")[1:] in ids for link in links)
    assert [t for t, _ in page.tags].count("h1") == 1
    assert all(a.get("aria-label") for t, a in page.tags if a.get("role") == "region")
    assert any(t == "html" and a.get("lang") == "en" for t, a in page.tags)
    assert any(a.get("name") == "viewport" for _, a in page.tags)
    assert all(a.get("aria-pressed") in ("true", "false") for t, a in page.tags if t == "button" and "data-filter" in a)
    assert all(a.get("scope") for t, a in page.tags if t == "th")


def test_failed_canaries_are_red_whatever_the_objective_is_called(tmp_path: Path) -> None:
    reads = write_reads(tmp_path / "leak", questions=40, tuned=0.9, leak=True)
    html, summary, counts = render(reads, tmp_path / "out")
    assert counts["verdict"] == summary["verdict"] == "invalid"
    assert '<header class="bad">' in html
    header = html.split("</header>")[0].split("<header")[1]
    assert "the model was shown the tokens it had to predict" in header and "What to change:" in header
    assert "targets_hidden" not in header and '<tr class="bad">' in html
    other = write_reads(tmp_path / "copy", questions=40, tuned=0.9)
    manifest = json.loads((other["full"] / "manifest.json").read_text())
    manifest["settings"]["train"]["objective"] = "copy"
    (other["full"] / "manifest.json").write_text(json.dumps(manifest))
    html, summary, _ = render(other, tmp_path / "out2")
    assert summary["verdict"] == "improved" and '<header class="good">' in html


def test_benchmarks_stand_beside_the_test_split(tmp_path: Path) -> None:
    reads = write_reads(tmp_path / "reads", questions=12)
    for who in ("base", "tuned"):
        reads[f"answers/gsm8k/greedy/{who}"] = write_answers(tmp_path / "reads", f"gsm8k/greedy/{who}", 12, 0.5)
        reads[f"scores/gsm8k/greedy/{who}"] = reads[f"scores/test/greedy/{who}"]
    audit = tmp_path / "reads" / "contamination"
    audit.mkdir()
    exact = {"train_rows": 2, "benchmark_rows": 2}
    (audit / "contamination.json").write_text(json.dumps({"benchmark_rows": 12, "exact": exact, "overlap": exact}))
    html, summary, _ = render(reads | {"contamination/gsm8k": audit}, tmp_path / "out")
    assert list(summary["comparisons"]) == ["test/greedy", "gsm8k/greedy"]
    assert "gsm8k · greedy" in html and "Benchmarks seen in training rows" in html


def test_numbers_for_people() -> None:
    assert (percent(0.123), percent(None)) == ("12.3\u00a0%", "–")
    assert (points(-0.051), points(0.62)) == ("−5.1", "+62.0")
    assert (number(98765), number(0.000123), number(12345.6), number(-2)) == ("98,765", "0.000123", "12,346", "−2")
    assert (duration(5.25), duration(75), duration(7500)) == ("5.2 s", "1 min 15 s", "2 h 5 min")
    assert reveal("a\u202eb\tc\n", 3) == "a⟨U+202E⟩b … (3 more characters)"
    assert finite({"a": [float("nan"), 1.0, float("inf")]}) == {"a": [None, 1.0, None]}
