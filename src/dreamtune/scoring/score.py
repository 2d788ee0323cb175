"""Grade answers in three readings, and measure how the answers look.

`correct`, which the report calls accuracy: the answer that the configured extractors find is mathematically equivalent
to the reference. `strict`: the reference's own characters stand after the marker. `lenient`: the last number anywhere
in the completion is the reference's. Rows whose reference holds no checkable answer (a proof, an essay) have
`gradable = False`: they are counted apart, never as wrong. An answer whose comparison with the reference ran
out of CPU time twice is `undecided`: it has no grade (`correct` is null), and is neither right nor wrong.
All readings leave out reasoning tags, and what follows where another question or turn begins (`score.cut`); `uncut` is
`correct` without that cut, so that both can be stated.

Reads ANSWERS/answers.parquet and, for the sampler's settings, ANSWERS/generation.json; writes OUT/scores.parquet
(one row per question and sample) and OUT/scores.json.
"""

from pathlib import Path
from typing import Any

import polars as pl

from dreamtune.errors import UserError
from dreamtune.files import read_json, write_json
from dreamtune.formats.answers import ANSWERS_FILE, GENERATION_FILE
from dreamtune.formats.scores import GRADES, RATES_FILE, SCORES, SCORES_FILE
from dreamtune.progress import track
from dreamtune.scoring import backstop
from dreamtune.scoring.announcements import final_answer
from dreamtune.scoring.equivalence import SECOND_TRY, equivalent
from dreamtune.scoring.extraction import NUMBER, answer_part, extract
from dreamtune.scoring.form import left_to_right, order_correlation, summarise_answers
from dreamtune.scoring.meaning import classes_of_answers
from dreamtune.scoring.notation import strict_form
from dreamtune.scoring.quantities import as_number
from dreamtune.scoring.references import checkable, reference_answer
from dreamtune.settings.score import ScoreConfig

# Wall seconds without progress for each CPU second that one try may take: 1.2 % of a core is enough.
BACKSTOP = 90.0
NEEDED = ("example_id", "cluster", "sample", "question", "answer", "completion", "tokens", "ended")


def is_correct(completion: str, solution: str, score: ScoreConfig | None = None) -> bool:
    """Whether the completion's answer is shown to mean the same as the solution's.

    It is False also where the solution has no checkable answer, and where the comparison stays undecided after its
    second try; scores.parquet tells these from wrong answers (`gradable`, `undecided`).
    """
    score = score or ScoreConfig()
    reference = reference_answer(solution, score.marker)
    answer, _ = extract(answer_part(completion, score), score.extractors, score.marker)
    if reference is None or answer is None:
        return False
    return equivalent(answer, reference, float(score.timeout_s)) is True


def reads_strictly(completion: str, reference: str, marker: str) -> bool:
    """Whether the text after the marker is the reference, apart from white space, case and closing punctuation."""
    answer = final_answer(completion, marker)
    return answer is not None and strict_form(answer.text) == strict_form(reference)


def reads_leniently(completion: str, reference: str, marker: str) -> bool | None:
    """Whether the completion's last number is the reference's; None where the reference is not a number."""
    expected = as_number(reference)
    if expected is None:
        return None
    numbers = NUMBER.findall(completion)
    return bool(numbers) and as_number(numbers[-1]) == expected


def repetition(tokens: list[int], n: int = 4) -> float:
    """Return the share of n-grams that repeat an earlier one: 0 for none, near 1 for a loop.

    >>> repetition([1, 2, 1, 2, 1, 2, 1], n=2)  # six pairs, two of them distinct
    0.6666666666666667
    """
    return 1.0 - distinct(tokens, n)


def distinct(tokens: list[int], n: int) -> float:
    """Return the number of distinct n-grams / the number of n-grams; 1.0 for fewer than n tokens.

    >>> distinct([5, 5, 5, 6], 1)
    0.5
    """
    total = len(tokens) - n + 1
    return len({tuple(tokens[i : i + n]) for i in range(total)}) / total if total > 0 else 1.0


def score_row(row: dict[str, Any], score: ScoreConfig) -> dict[str, Any]:
    """Return one row of scores.parquet for one row of answers.parquet."""
    completion = row["completion"] or ""
    place = f"question {row['example_id']}, sample {row['sample']}"
    backstop.note(row=place, answer=completion[-backstop.SHOWN :], reference=row["answer"] or "")
    reference = None if row["example_id"] < 0 else checkable(row["question"], row["answer"], score)[0]
    part, whole = answer_part(completion, score), answer_part(completion, score, cut=False)
    answer, extractor = extract(part, score.extractors, score.marker)
    graded: dict[str, bool | None] = {
        "correct": None,
        "cut": part != whole,
        "uncut": None,
        "strict": None,
        "lenient": None,
    }
    if reference is not None:
        graded["correct"] = graded["uncut"] = _means(answer, reference, score)
        if part != whole:
            graded["uncut"] = _means(extract(whole, score.extractors, score.marker)[0], reference, score)
        graded["strict"] = reads_strictly(part, reference, score.marker)
        graded["lenient"] = reads_leniently(part, reference, score.marker)
    return {
        "example_id": row["example_id"],
        "cluster": row["cluster"],
        "sample": row["sample"],
        "gradable": reference is not None,
        **graded,
        "undecided": reference is not None and graded["correct"] is None,
        "reference": reference,
        "extracted": answer,
        "extractor": extractor,
        "parse_failed": answer is None,
        "ended": row["ended"],
        "tokens": len(row["tokens"]),
        "passes": row.get("passes"),
        "repetition": repetition(row["tokens"]),
        "distinct_2": distinct(row["tokens"], 2),
        "distinct_1": distinct(row["tokens"], 1),
        "choices": max(0, len(set(row.get("unmasked_at") or [])) - 1),
        "left_to_right": left_to_right(row.get("unmasked_at") or []),
        "order_correlation": order_correlation(row.get("unmasked_at") or []),
    }


def _means(answer: str | None, reference: str, score: ScoreConfig) -> bool | None:
    """Whether an extracted answer means the reference; None if that stays undecided."""
    return answer is not None and equivalent(answer, reference, float(score.timeout_s))


def score_answers(score: ScoreConfig, answers: Path, out: Path) -> dict[str, Any]:
    """Grade every answer, and write scores.parquet and scores.json.

    Args:
        score: extractors, marker, where a completion is cut, and the limit of CPU time.
        answers: output of generate_answers.
        out: folder for the two files.

    Returns:
        counts for the manifest: rows, own_prompts, gradable, ungradable, correct and, if there are any, undecided.

    Raises:
        UserError: answers.parquet lacks a column.
    """
    frame = pl.read_parquet(answers / ANSWERS_FILE)
    if missing := [name for name in NEEDED if name not in frame.columns]:
        raise UserError(f"{answers / ANSWERS_FILE} has no column {missing[0]!r}; it has {', '.join(frame.columns)}")
    columns = [*NEEDED, *(name for name in ("unmasked_at", "passes") if name in frame.columns)]
    rows = frame.select(columns).iter_rows(named=True)
    with backstop.backstop(BACKSTOP * SECOND_TRY * score.timeout_s):
        scores = pl.DataFrame([score_row(r, score) for r in track(rows, "score", frame.height)], schema=GRADES)
        # Which answers mean the same is decided here, so that the report can count votes without the grader.
        classes = classes_of_answers(scores, float(score.timeout_s))
    scores = scores.join(classes, on=["example_id", "sample"], how="left", maintain_order="left")
    assert scores.schema == SCORES, f"the table has other columns than {SCORES}: {scores.schema}"
    scores.write_parquet(out / SCORES_FILE)
    asked = pl.col("example_id") >= 0
    form = summarise_answers(scores.filter(asked), frame.filter(asked)["completion"], _generation_settings(answers))
    summary = summarise(scores) | form
    write_json(out / RATES_FILE, summary)
    counted = ("rows", "own_prompts", "gradable", "ungradable", "correct")
    return {name: summary[name] for name in (*counted, *(["undecided"] if summary["undecided"] else []))}


def _generation_settings(answers: Path) -> dict[str, Any]:
    file = answers / GENERATION_FILE
    settings: dict[str, Any] = read_json(file).get("settings", {}) if file.exists() else {}
    return settings


def summarise(scores: pl.DataFrame) -> dict[str, Any]:
    """Return the entries of scores.json that need no texts: counts, and rates, which are None for no rows."""
    asked = scores.filter(pl.col("example_id") >= 0)
    gradable = asked.filter("gradable")
    return {
        "rows": asked.height,
        "own_prompts": scores.height - asked.height,
        "gradable": gradable.height,
        "ungradable": asked.height - gradable.height,
        "correct": int(gradable["correct"].sum()),
        "undecided": int(gradable["undecided"].sum()),
        "cut": int(asked["cut"].sum()),
        "uncut_correct": int(gradable["uncut"].sum()),
        "uncut_otherwise": int(gradable["correct"].ne_missing(gradable["uncut"]).sum()),
        "strict": int(gradable["strict"].sum()),
        "lenient": int(gradable["lenient"].sum()),
        "lenient_rows": gradable.height - gradable["lenient"].null_count(),
        "parse_failed": _mean(asked, "parse_failed"),
        "ended": _mean(asked, "ended"),
        "early_ends": int((asked["ended"] & asked["parse_failed"]).sum()),  # before any answer was found
        "tokens": _mean(asked, "tokens"),
        "repetition": _mean(asked, "repetition"),
        "distinct_2": _mean(asked, "distinct_2"),
        "extractors": {
            str(name): n for name, n in asked["extractor"].drop_nulls().value_counts().sort("extractor").rows()
        },
    }


def _mean(frame: pl.DataFrame, column: str) -> float | None:
    value = frame[column].cast(pl.Float64).mean()
    return None if value is None else float(value)  # type: ignore[arg-type]
