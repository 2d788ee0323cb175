"""Answers of base and tuned to the same question, side by side, for reading."""

from collections import defaultdict
from typing import Any

import polars as pl

from dreamtune.report.reads import Reads
from dreamtune.report.text import reveal

KINDS = {
    "won": "tuned right, base wrong",
    "lost": "base right, tuned wrong",
    "right": "both right",
    "wrong": "both wrong",
    "ungraded": "not graded",
}
MAX_CHARACTERS = 2_500_000  # of all completions shown: bounds the page, whatever `report.examples` asks for


def choose_examples(reads: Reads, questions: str, setting: str, count: int) -> list[dict[str, Any]]:
    """Return up to `count` questions with both completions, every kind in turn; own prompts first, uncounted."""
    both = _joined(reads, f"{questions}/{setting}")
    if both is None:
        return []
    rows = [_row(row) for row in both.iter_rows(named=True)]
    own = [row for row in rows if row["own"]]
    by_kind: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if not row["own"]:
            by_kind[row["kind"]].append(row)
    chosen: list[dict[str, Any]] = []
    while len(chosen) < count and any(by_kind.values()):
        chosen += [by_kind[kind].pop(0) for kind in KINDS if by_kind[kind]]
    return _bounded(own + sorted(chosen[:count], key=lambda row: (row["example_id"], row["sample"])))


def _joined(reads: Reads, key: str) -> pl.DataFrame | None:
    """Return one row per question and sample: text, completions and grades of both models."""
    sides = []
    for who in ("base", "tuned"):
        answers = reads.table(f"answers/{key}/{who}", "answers.parquet")
        scores = reads.table(f"scores/{key}/{who}", "scores.parquet")
        if answers is None or scores is None:
            return None
        grades = scores.select("example_id", "sample", "gradable", "correct", "extracted", "repetition")
        text = answers.select("example_id", "sample", "question", "answer", "completion", "ended")
        sides.append(text.join(grades, on=["example_id", "sample"]))
    base, tuned = sides
    return base.join(tuned.drop("question", "answer"), on=["example_id", "sample"], suffix="_tuned").sort(
        "example_id", "sample"
    )


def _row(row: dict[str, Any]) -> dict[str, Any]:
    graded = row["gradable"] and row["correct"] is not None and row["correct_tuned"] is not None
    pair = (bool(row["correct"]), bool(row["correct_tuned"]))
    kinds = {(False, True): "won", (True, False): "lost", (True, True): "right", (False, False): "wrong"}
    return {
        "example_id": row["example_id"],
        "sample": row["sample"],
        "own": row["example_id"] < 0,
        "kind": kinds[pair] if graded else "ungraded",
        "changed": row["completion"] != row["completion_tuned"],
        "question": reveal(row["question"]),
        "reference": reveal(row["answer"], 600),
        "base": _side(row, ""),
        "tuned": _side(row, "_tuned"),
    }


def _side(row: dict[str, Any], suffix: str) -> dict[str, Any]:
    return {
        "completion": reveal(row[f"completion{suffix}"]),
        "extracted": reveal(row[f"extracted{suffix}"], 200),
        "correct": row[f"correct{suffix}"] if row["gradable"] else None,
        "ended": row[f"ended{suffix}"],
        "looping": (row[f"repetition{suffix}"] or 0) > 0.5,
    }


def _bounded(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kept, characters = [], 0
    for row in rows:
        characters += sum(len(row[who]["completion"]) for who in ("base", "tuned")) + len(row["question"])
        if characters > MAX_CHARACTERS:
            break
        kept.append(row)
    return kept
