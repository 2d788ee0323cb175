"""The report from made-up reads: one file, no network, hostile text harmless, every part optional, strict JSON."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import polars as pl
import pytest
import vl_convert

from conftest import ROOT
from dreamtune.errors import UserError
from dreamtune.report.charts import lengths_figure
from dreamtune.report.reads import finite
from dreamtune.report.render import chart_library, render_report
from dreamtune.report.text import duration, json_for_script, number, percent, points, reveal
from dreamtune.scoring import score_answers
from dreamtune.settings.report import Comparison, ReportConfig
from dreamtune.settings.score import ScoreConfig
from report_fixture import BIDI, HOSTILE, write_answers, write_reads

FAST = Comparison(resamples=300)
SCHEMA = json.loads((ROOT / "docs/summary.schema.json").read_text())
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
    jsonschema.validate(json.loads(text), SCHEMA)  # of every summary that is made here
    return (out / "report.html").read_text(), json.loads(text), counts


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any], dict[str, Any]]:
    folder = tmp_path_factory.mktemp("made")
    return render(write_reads(folder, samples=2), folder / "out")


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
        if "gain" in block:
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
    assert summary["settings"]["full"]["model"] == {"path": "resources/tiny"}


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
    assert "targets_hidden is 812" in html and '<tr class="bad">' in html
    other = write_reads(tmp_path / "copy", questions=40, tuned=0.9)
    manifest = json.loads((other["full"] / "manifest.json").read_text())
    manifest["settings"]["train"]["objective"] = "copy"
    (other["full"] / "manifest.json").write_text(json.dumps(manifest))
    html, summary, _ = render(other, tmp_path / "out2")
    assert summary["verdict"] == "improved" and '<header class="good">' in html


@pytest.mark.parametrize(
    "absent",
    [
        ("likelihood",),
        ("answers/", "scores/"),
        ("smoke",),
        ("shards",),
        ("full",),
        ("answers/",),
        ("scores/test/greedy/base",),
    ],
)
def test_parts_may_be_absent(tmp_path: Path, absent: tuple[str, ...]) -> None:
    reads = {n: f for n, f in write_reads(tmp_path / "reads", questions=12).items() if not n.startswith(absent)}
    html, summary, _ = render(reads, tmp_path / "out")
    assert "</html>" in html
    if "full" in absent:
        assert summary["training"] == {}
    if any(name.startswith("scores") for name in absent):
        assert summary["accuracy"]["gain"]["value"] is None and "not enough data" in html.lower()


def test_files_may_be_absent_and_folders_empty(tmp_path: Path) -> None:
    reads = write_reads(tmp_path / "reads", questions=12)
    for folder in reads.values():
        for file in folder.iterdir():
            if file.name != "manifest.json":
                file.unlink()
    html, summary, _ = render(reads, tmp_path / "out")
    assert summary["verdict"] == "invalid" and "did not run" in html


def test_one_question_and_none(tmp_path: Path) -> None:
    html, summary, _ = render(write_reads(tmp_path / "one", questions=1), tmp_path / "out1")
    assert summary["accuracy"]["base"]["n"] == 1 and "nan" not in html.lower().split("<script>")[0].split()
    reads = write_reads(tmp_path / "none", questions=4)
    for who in ("base", "tuned"):
        for file in (
            reads[f"answers/test/greedy/{who}"] / "answers.parquet",
            reads[f"scores/test/greedy/{who}"] / "scores.parquet",
        ):
            pl.read_parquet(file).clear().write_parquet(file)
    frame = reads["likelihood"] / "likelihood.parquet"
    pl.read_parquet(frame).clear().write_parquet(frame)
    html, summary, _ = render(reads, tmp_path / "out2")
    assert summary["accuracy"]["base"] == {"value": None, "low": None, "high": None, "n": 0}
    assert "not enough data" in html


def test_answers_of_another_split_are_refused(tmp_path: Path) -> None:
    reads = write_reads(tmp_path / "reads", questions=12)
    scores = reads["scores/test/greedy/base"] / "scores.parquet"
    pl.read_parquet(scores).with_columns(pl.col("example_id") + 5).write_parquet(scores)
    with pytest.raises(UserError, match="not the same ones"):
        render(reads, tmp_path / "out")


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


def test_overlaps_and_flags_are_shown_with_both_sides(made: Any) -> None:
    page = Page(made[0])
    assert "Overlaps of training rows and held-out rows: 1 pair" in page.text
    assert "7 / 9" in page.text and f"shared words {HOSTILE}" in page.text and "What is 1 + 4?" in page.text
    assert "html" in page.text and "3, 5" in page.text and "mojibake" not in page.text
    assert "mostly Latin letters" in page.text and "too few letters to tell" in page.text
    assert "question2133.5478199" + "1,234" in page.text  # a row of the table of lengths


def test_several_samples_show_pass_at_k_and_the_majority(made: Any) -> None:
    rows = re.findall(r'<th scope="row">([^<]*)</th>', made[0])
    assert (
        rows.count("correct") == 2 and [rows.count(name) for name in ("pass@1", "pass@2", "majority vote")] == [1] * 3
    )
    assert made[0].count("steps that went left to right") == 2


def test_a_collapse_is_said_where_the_verdict_stands(tmp_path: Path) -> None:
    reads = write_reads(tmp_path / "reads", questions=12)
    answers, scores = (reads[f"{what}/test/greedy/tuned"] for what in ("answers", "scores"))
    looping = pl.read_parquet(answers / "answers.parquet").with_columns(
        completion=pl.lit("2 × " * 50), tokens=pl.lit([7, 8] * 50), unmasked_at=pl.lit(list(range(100)))
    )
    looping.write_parquet(answers / "answers.parquet")
    score_answers(ScoreConfig(), answers, scores)
    html, summary, _ = render(reads, tmp_path / "out")
    said = "the tuned model's answers collapsed: 100 % loop"
    assert any(said in reason for reason in summary["reasons"]) and said in Page(html).text
    assert "written left to right (100 % of the steps)" in Page(html).text


def test_warnings_of_packages_and_lengths(tmp_path: Path) -> None:
    reads = write_reads(tmp_path / "reads", questions=12)
    manifest = json.loads((reads["full"] / "manifest.json").read_text())
    manifest["packages"]["polars"] = "9.9.9"
    (reads["full"] / "manifest.json").write_text(json.dumps(manifest))
    html, summary, _ = render(reads, tmp_path / "out")
    assert summary["package_differences"]["polars"]["9.9.9"] == ["full"]
    assert "different versions of polars" in html
    assert "training responses are longer than max_new_tokens = 32" in html


def test_examples_are_bounded_and_of_every_kind(tmp_path: Path, made: Any) -> None:
    html, _, _ = made
    found = re.findall(r'<article class="answer" data-kind="(\w+)" [^>]*data-where="([^"]*)"', html)
    assert {where for _, where in found} == {"test · greedy", "test · sampled"}
    kinds = [kind for kind, where in found if where == "test · greedy"]
    assert len(kinds) == 61 and {"won", "wrong", "right", "ungraded"} <= set(kinds)
    reads = write_reads(tmp_path / "reads", questions=12)
    html, _, _ = render(reads, tmp_path / "out", examples=0)
    assert html.count("<article") == 1  # the user's own prompt is always shown
    for who in ("base", "tuned"):
        file = reads[f"answers/test/greedy/{who}"] / "answers.parquet"
        text = "<數\u202e&" * 100_000  # each character becomes several in the page
        pieces = [[f"<&{i}" for i in range(5_000)]] * 13
        steps = [list(range(5_000))] * 13
        long = pl.read_parquet(file).with_columns(
            completion=pl.lit(text), pieces=pl.Series(pieces), unmasked_at=pl.Series(steps)
        )
        long.write_parquet(file)
    shutil.rmtree(tmp_path / "out")
    html, _, _ = render(reads, tmp_path / "out", examples=1000)
    assert len(html.encode()) < 6_000_000 and "394,000 more characters" in html and "3,976 more tokens" in html
    assert html.count("<article") > 1


def test_numbers_for_people() -> None:
    assert (percent(0.123), percent(None)) == ("12.3\u00a0%", "–")
    assert (points(-0.051), points(0.62)) == ("−5.1", "+62.0")
    assert (number(98765), number(0.000123), number(12345.6), number(-2)) == ("98,765", "0.000123", "12,346", "−2")
    assert (duration(5.25), duration(75), duration(7500)) == ("5.2 s", "1 min 15 s", "2 h 5 min")
    assert reveal("a\u202eb\tc\n", 3) == "a⟨U+202E⟩b … (3 more characters)"
    assert finite({"a": [float("nan"), 1.0, float("inf")]}) == {"a": [None, 1.0, None]}
