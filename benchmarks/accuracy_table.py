"""How generation_accuracy.py compares settings, what it demands of one, and its table."""

import json
from pathlib import Path
from typing import Any

import polars as pl

from dreamtune.evaluate.comparison import compare_scores
from dreamtune.settings.report import Comparison

OFFICIAL = "exact"
LONG = 65  # tokens of an answer that reaches into a third block of 32
MARGIN, QUESTIONS, TOKENS_PER_PASS = -0.01, 4000, 2.0  # what `check` demands


def speed(out: Path) -> dict[str, Any]:
    """Return passes, tokens per pass and seconds of a folder of answers; tokens count up to the end token."""
    answers = pl.read_parquet(out / "answers.parquet")
    tokens, passes = answers["tokens"].list.len(), int(answers["passes"].sum())
    return {
        "passes": passes / answers.height,
        "tokens_per_pass": int(tokens.sum()) / passes,
        "long": int((tokens >= LONG).sum()) / answers.height,
        "seconds": json.loads((out / "generation.json").read_text())["seconds"],
    }


def paired(exact: pl.DataFrame, other: pl.DataFrame) -> dict[str, Any]:
    """Return other − exact accuracy on the questions whose exact answer reaches into a third block.

    What the exact mode answers decides, not what the other does: an answer that it cut short must count as its loss.
    """
    long = exact.filter(pl.col("tokens") >= LONG)
    block: dict[str, Any] = compare_scores(
        long, other.join(long, on=["example_id", "sample"], how="semi"), "correct", Comparison()
    )
    gain: dict[str, Any] = block["gain"]
    return gain | {"left_out": exact.height - long.height}


def check(lines: list[dict[str, Any]], setting: str) -> list[str]:
    """Return what speaks against a setting."""
    found = next((line for line in lines if line["setting"] == setting), None)
    if found is None or found["against"] is None:
        return [f"{setting!r} was not compared with {OFFICIAL!r}; name it in --settings"]
    gain, faults = found["against"], []
    if gain["n"] < QUESTIONS:
        faults.append(f"{gain['n']} questions with long answers; {QUESTIONS} are needed")
    if gain["low"] is None or gain["low"] < MARGIN:
        faults.append(f"{setting!r}: the interval of its accuracy starts at {gain['low']}, not above {MARGIN}")
    if found["tokens_per_pass"] < TOKENS_PER_PASS:
        faults.append(f"{setting!r}: {found['tokens_per_pass']} tokens per pass; {TOKENS_PER_PASS} are needed")
    return faults


def markdown(lines: list[dict[str, Any]]) -> str:
    """Return the table of all settings."""
    rows = [
        [
            line["setting"],
            f"{100 * line['accuracy']:.2f}",
            points(line["against"]),
            f"{line['tokens_per_step']:.2f}",
            f"{line['tokens_per_pass']:.2f}",
            f"{line['passes']:.1f}",
            f"{100 * line['long']:.1f}",
            f"{line['seconds']:.0f}",
        ]
        for line in lines
    ]
    head = ["setting", "accuracy, %", "against exact, points", "positions per step at least", "answer tokens per pass"]
    return table([*head, "passes", "three blocks, %", "seconds"], rows)


def points(gain: dict[str, Any] | None) -> str:
    """Return a difference in percentage points with its interval, alone where clusters are too few for an interval."""
    if gain is None or gain["value"] is None:
        return "—"
    if gain["low"] is None:
        return f"{100 * gain['value']:+.2f}"
    value, low, high = (100 * gain[name] for name in ("value", "low", "high"))
    return f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def report(what: str, **values: Any) -> None:
    """Print one line of JSON."""
    rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in values.items()}
    print(json.dumps({"what": what} | rounded), flush=True)
