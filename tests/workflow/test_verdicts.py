"""The lines that a run ends with; that Snakemake prints them is tested in test_workflow.py."""

import json
import shutil
from pathlib import Path

import pytest

from dreamtune.workflow.publish import publish, report_of
from dreamtune.workflow.verdicts import lines_of_finished, verdict_lines
from versions import finish, freeze, specification

SENTENCE = "Improved: 1 → 9 of 10 held-out questions correct (+80.0 points)"


@pytest.fixture(autouse=True)
def latest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """results/latest in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    return Path("results/latest")


def made(name: str, **more: object) -> str:
    """Publish a report under a name; return the path of its marker."""
    spec = specification("render_report", settings={"experiment": name})
    folder = freeze(spec)
    reading = {"base": {"value": 0.25}, "tuned": {"value": 0.75}}
    training = {"first_loss": 2.43324, "last_loss": 0.04036}
    summary = {"sentence": SENTENCE, "remedy": None, "lenient": reading, "training": training} | more
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "report.html").write_text("")
    finish(folder, spec)
    publish(Path(f"results/latest/{name}/.published-0123"), {"report": str(folder)})
    return f"results/latest/{name}/.published-0123"


def test_the_verdict_stands_in_one_line_before_the_report(latest: Path) -> None:
    made("demo")
    assert verdict_lines(latest / "demo") == [
        f"demo: {SENTENCE}",
        "  last number anywhere 25.0% → 75.0%; training loss 2.4332 → 0.0404",
        f"  {latest}/demo/report.html",
    ]


def test_an_invalid_verdict_says_what_to_change(latest: Path) -> None:
    nothing = {"base": {"value": None}, "tuned": {"value": None}}
    made("copy", sentence="Invalid: …", remedy="mask the targets", lenient=nothing, training={})
    assert verdict_lines(latest / "copy") == [
        "copy: Invalid: …",
        "  what to change: mask the targets",
        f"  {latest}/copy/report.html",
    ]


def test_jobs_that_asked_slurm_for_far_too_much_are_named(latest: Path) -> None:
    asked = {"by": "SLURM", "cpus": 1, "memory_gib": 64.0, "minutes": 720}
    used = {"asked": asked, "processes": 1, "wall_s": 30_000, "cpu_s": 30_000, "memory_gib": 9.2}
    part = {"number": 1, "usage": used | {"memory_gib": 4.0}}
    links = {}
    for rule, record in {
        "train_adapter": {"usage": used},
        "generate_answers": {"usage": used, "parts": [part]},
    }.items():
        spec = specification(rule)
        links[rule] = str(folder := freeze(spec))
        finish(folder, spec, **record)
    made("demo")
    publish(Path("results/latest/demo/.published-0123"), links | {"report": str(report_of(latest / "demo"))})
    assert verdict_lines(latest / "demo")[2] == (
        "  jobs used less than half of what they asked for; in the profile, under set-resources: "
        "generate_answers_part: mem_mb: 6656; train_adapter: mem_mb: 14848"
    )
    shutil.rmtree(links["train_adapter"])  # by hand, to have it made again
    assert verdict_lines(latest / "demo")[2].endswith(" generate_answers_part: mem_mb: 6656")


def test_only_what_is_published_under_this_configuration_is_said(latest: Path) -> None:
    markers = {"demo": made("demo"), "changed": made("changed") + "4", "new": "absent"}
    said = list(lines_of_finished(latest, markers))
    assert [line for line in said if SENTENCE in line] == [f"demo: {SENTENCE}"]
    assert list(lines_of_finished(latest, {})) == []


def test_a_damaged_report_says_so_in_its_line(latest: Path) -> None:
    markers = {"demo": made("demo"), "other": made("other")}
    summary = (latest / "demo/summary.json").resolve()
    summary.write_text(summary.read_text().replace("Improved: 1", "Improved: 8"))
    first, *rest = lines_of_finished(latest, markers)
    assert first.startswith("demo: ") and "summary.json" in first and "Improved" not in first
    assert rest[0] == f"other: {SENTENCE}"
