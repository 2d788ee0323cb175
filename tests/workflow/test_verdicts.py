"""The lines that a run ends with; that Snakemake prints them is tested in test_workflow.py."""

import json
from pathlib import Path

from dreamtune.workflow.verdicts import lines_of_finished, verdict_lines

SENTENCE = "Improved: 1 → 9 of 10 held-out questions correct (+80.0 points)"


def publish(latest: Path, name: str, **more: object) -> str:
    """Publish a summary under a name; return the path of its marker."""
    folder = latest / name
    folder.mkdir(parents=True)
    reading = {"base": {"value": 0.25}, "tuned": {"value": 0.75}}
    training = {"first_loss": 2.43324, "last_loss": 0.04036}
    summary = {"sentence": SENTENCE, "remedy": None, "lenient": reading, "training": training} | more
    (folder / "summary.json").write_text(json.dumps(summary))
    marker = folder / ".published-0123"
    marker.touch()
    return str(marker)


def test_the_verdict_stands_in_one_line_before_the_report(tmp_path: Path) -> None:
    publish(tmp_path, "demo")
    assert verdict_lines(tmp_path / "demo") == [
        f"demo: {SENTENCE}",
        "  last number anywhere 25.0% → 75.0%; training loss 2.4332 → 0.0404",
        f"  {tmp_path}/demo/report.html",
    ]


def test_an_invalid_verdict_says_what_to_change(tmp_path: Path) -> None:
    nothing = {"base": {"value": None}, "tuned": {"value": None}}
    publish(tmp_path, "copy", sentence="Invalid: …", remedy="mask the targets", lenient=nothing, training={})
    assert verdict_lines(tmp_path / "copy") == [
        "copy: Invalid: …",
        "  what to change: mask the targets",
        f"  {tmp_path}/copy/report.html",
    ]


def test_only_what_is_published_under_this_configuration_is_said(tmp_path: Path) -> None:
    markers = {"demo": publish(tmp_path, "demo"), "changed": publish(tmp_path, "changed") + "4", "new": "absent"}
    said = list(lines_of_finished(tmp_path, markers))
    assert [line for line in said if SENTENCE in line] == [f"demo: {SENTENCE}"]
    assert list(lines_of_finished(tmp_path, {})) == []
