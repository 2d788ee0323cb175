"""Answers of base and tuned to the same question, side by side, with what is needed to replay their denoising."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import polars as pl
from markupsafe import escape

from dreamtune.report.reads import Reads
from dreamtune.report.text import json_for_script, reveal

KINDS = {
    "won": "tuned right, base wrong",
    "lost": "base right, tuned wrong",
    "right": "both right",
    "wrong": "both wrong",
    "ungraded": "not graded",
}
MAX_BYTES = 4_000_000  # of all answers shown: bounds the page, whatever `report.examples` asks for
REPLAYED = 1_024  # tokens of one answer that can be replayed
END = "⟨end⟩"


def choose_answers(reads: Reads, count: int) -> list[dict[str, Any]]:
    """Return up to `count` answers of the test split, greedy, and half as many of every other set and setting."""
    chosen: list[dict[str, Any]] = []
    for questions, setting in reads.comparisons():
        first = (questions, setting) == ("test", "greedy")
        chosen += choose_examples(reads, questions, setting, count if first else count // 2)
    return list(_bounded(chosen))


def choose_examples(reads: Reads, questions: str, setting: str, count: int) -> list[dict[str, Any]]:
    """Return up to `count` questions with both completions, every kind in turn; own prompts first, uncounted."""
    both = _joined(reads, f"{questions}/{setting}")
    if both is None:
        return []
    rows = [_row(row, f"{questions} · {setting}") for row in both.iter_rows(named=True)]
    own = [row for row in rows if row["own"]]
    by_kind: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if not row["own"]:
            by_kind[row["kind"]].append(row)
    chosen: list[dict[str, Any]] = []
    while len(chosen) < count and any(by_kind.values()):
        chosen += [by_kind[kind].pop(0) for kind in KINDS if by_kind[kind]]
    return own + sorted(chosen[:count], key=lambda row: (row["example_id"], row["sample"]))


def _joined(reads: Reads, key: str) -> pl.DataFrame | None:
    """Return one row per question and sample: text, tokens and grades of both models."""
    sides = []
    for who in ("base", "tuned"):
        answers = reads.table(f"answers/{key}/{who}", "answers.parquet")
        scores = reads.table(f"scores/{key}/{who}", "scores.parquet")
        if answers is None or scores is None:
            return None
        grades = scores.select("example_id", "sample", "gradable", "correct", "extracted", "repetition")
        columns = ("example_id", "sample", "question", "answer", "completion", "ended", "pieces", "unmasked_at")
        text = answers.select(name for name in columns if name in answers.columns)
        sides.append(text.join(grades, on=["example_id", "sample"]))
    base, tuned = sides
    return base.join(tuned.drop("question", "answer"), on=["example_id", "sample"], suffix="_tuned").sort(
        "example_id", "sample"
    )


def _row(row: dict[str, Any], where: str) -> dict[str, Any]:
    kinds = {(False, True): "won", (True, False): "lost", (True, True): "right", (False, False): "wrong"}
    graded = row["gradable"] and row["correct"] is not None and row["correct_tuned"] is not None
    return {
        "where": where,
        "example_id": row["example_id"],
        "sample": row["sample"],
        "own": row["example_id"] < 0,
        "kind": kinds[row["correct"], row["correct_tuned"]] if graded else "ungraded",
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
        "replay": _replay(row.get(f"pieces{suffix}"), row.get(f"unmasked_at{suffix}"), row[f"ended{suffix}"]),
    }


def _replay(pieces: list[str] | None, steps: list[int] | None, ended: bool) -> dict[str, list[Any]] | None:
    """Return the text of each token and the step, from 0, that unmasked it; None for answers without them."""
    if not pieces or not steps:
        return None
    shown = [reveal(piece) for piece in pieces[:REPLAYED]]
    if ended and len(pieces) <= REPLAYED:
        shown[-1] += END
    if len(pieces) > REPLAYED:
        shown[-1] += f" … ({len(pieces) - REPLAYED:,} more tokens)"
    return {"pieces": shown, "steps": steps[:REPLAYED]}


def _bounded(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield rows until their text, escaped as in the page, fills MAX_BYTES."""
    size = 0
    for row in rows:
        texts = [row["question"], row["reference"], *(row[who]["completion"] for who in ("base", "tuned"))]
        size += sum(len(escape(text).encode()) for text in texts)
        size += len(json_for_script([row[who]["replay"] for who in ("base", "tuned")]))
        if size > MAX_BYTES:
            return
        yield row
