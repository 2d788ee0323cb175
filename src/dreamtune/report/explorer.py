"""The report's explorer: answers of base and tuned side by side, with the steps at which their tokens were revealed.

Those of the few-shot base stand beside them where it answered.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import polars as pl
from markupsafe import escape

from dreamtune.formats.answers import ANSWERS_FILE
from dreamtune.formats.names import BASE, FEW_SHOT_BASE, TUNED
from dreamtune.formats.reads import Reads
from dreamtune.formats.scores import SCORES_FILE
from dreamtune.formats.turns import TURNS_FILE
from dreamtune.report.sources import source_names
from dreamtune.report.text import json_for_script, reveal

KINDS = {
    "won": "tuned right, base wrong",
    "lost": "base right, tuned wrong",
    "right": "both right",
    "wrong": "both wrong",
    "ungraded": "not graded",
}
MAX_BYTES = 4_000_000  # all answers shown together: bounds the page, however large `report.examples` is
REPLAYED = 1_024  # tokens of one answer whose denoising can be replayed
END = "⟨end⟩"
KEYS = ["example_id", "sample"]
WHO = {"base": BASE, "tuned": TUNED, "few_shot": FEW_SHOT_BASE}  # end of a column's name -> folder


def choose_answers(reads: Reads, count: int) -> list[dict[str, Any]]:
    """Return up to `count` greedy answers to the test split, and half as many for each other question set and setting.

    Together they have at most MAX_BYTES.
    """
    chosen: list[dict[str, Any]] = []
    for questions, setting in reads.comparisons():
        first = (questions, setting) == ("test", "greedy")
        chosen += choose_examples(reads, questions, setting, count if first else count // 2)
    return list(bounded(chosen))


def choose_examples(
    reads: Reads, questions: str, setting: str, count: int, kinds: Collection[str] = tuple(KINDS)
) -> list[dict[str, Any]]:
    """Return up to `count` questions with both completions, in proportion to the KINDS, see `shares`.

    Within a kind they are evenly spaced. The user's own prompts come first, and do not count.

    Args:
        kinds: the only KINDS that are chosen from.
    """
    graded = _graded(reads, f"{questions}/{setting}")
    if graded is None:
        return []
    asked, own = graded.filter(pl.col("example_id") >= 0), graded.filter(pl.col("example_id") < 0)
    of_kind = {kind: asked.filter(pl.col("kind") == kind) for kind in kinds}
    counts = shares({kind: rows.height for kind, rows in of_kind.items()}, count)
    drawn = [rows[[i * rows.height // counts[kind] for i in range(counts[kind])]] for kind, rows in of_kind.items()]
    chosen = pl.concat([own, pl.concat(drawn).sort(KEYS)])
    both = _with_turns(reads, questions, _joined(reads, f"{questions}/{setting}", chosen))
    if both is None:
        return []
    names = source_names(reads, both["example_id"].to_list()) if questions == "test" else [""] * both.height
    rows = zip(both.iter_rows(named=True), names, strict=True)
    return [_row(row, f"{questions} · {setting}") | {"source": reveal(name, 80)} for row, name in rows]


def shares(totals: Mapping[str, int], count: int) -> dict[str, int]:
    """Divide `count` places among kinds in proportion to their totals (largest remainders); none gets more than it has.

    A kind that occurs gets at least one place if there are enough, at the expense of the one with most.

    >>> shares({"won": 300, "lost": 1, "wrong": 39}, 60)
    {'won': 52, 'lost': 1, 'wrong': 7}
    """
    everything = sum(totals.values())
    count = min(count, everything)
    exact = {kind: total * count / everything if everything else 0.0 for kind, total in totals.items()}
    places = {kind: int(share) for kind, share in exact.items()}
    left = count - sum(places.values())
    for kind in sorted(exact, key=lambda kind: places[kind] - exact[kind])[:left]:
        places[kind] += 1
    for kind in (kind for kind, total in totals.items() if total and not places[kind]):
        most = max(places, key=lambda kind: places[kind])
        if places[most] > 1:
            places[most] -= 1
            places[kind] += 1
    return places


def shown_of(reads: Reads, examples: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each question set and setting: how many answers of each kind are shown, and of how many."""
    said = []
    for questions, setting in reads.comparisons():
        graded = _graded(reads, f"{questions}/{setting}")
        where = f"{questions} · {setting}"
        shown = Counter(e["kind"] for e in examples if e["where"] == where and not e["own"])
        if graded is None or not shown:
            continue
        asked = graded.filter(pl.col("example_id") >= 0)
        totals = Counter(asked["kind"])
        kinds = "; ".join(f"{words} {shown[kind]} of {totals[kind]}" for kind, words in KINDS.items() if totals[kind])
        said.append(f"{where}: {shown.total()} of {asked.height}, drawn in proportion to the outcomes: {kinds}")
    return said


def _graded(reads: Reads, key: str) -> pl.DataFrame | None:
    """Return a row per question and sample: the grades of all who answered, and the kind (a key of KINDS)."""
    sides = {}
    for who, folder in WHO.items():
        scores = reads.table(f"scores/{key}/{folder}", SCORES_FILE)
        if scores is not None:
            grades = scores.select("example_id", "sample", "gradable", "correct", "extracted", "repetition")
            sides[who] = grades.rename({name: f"{name}_{who}" for name in grades.columns if name not in KEYS})
    if not {"base", "tuned"} <= sides.keys():
        return None
    both = sides["base"].join(sides["tuned"], on=KEYS).sort(KEYS)
    if "few_shot" in sides:  # which was not asked the user's own prompts
        both = both.join(sides["few_shot"], on=KEYS, how="left", maintain_order="left")
    base, tuned = pl.col("correct_base"), pl.col("correct_tuned")
    kind = (
        pl.when(~pl.col("gradable_base") | base.is_null() | tuned.is_null())
        .then(pl.lit("ungraded"))
        .when(base == tuned)
        .then(pl.when(base).then(pl.lit("right")).otherwise(pl.lit("wrong")))
        .otherwise(pl.when(tuned).then(pl.lit("won")).otherwise(pl.lit("lost")))
    )
    return both.with_columns(kind=kind)


def _joined(reads: Reads, key: str, chosen: pl.DataFrame) -> pl.DataFrame | None:
    """Return the chosen rows, in their order, with question, reference, and completions and tokens of all."""
    for who, folder in WHO.items():
        answers = reads.lazy(f"answers/{key}/{folder}", ANSWERS_FILE)
        if answers is None and who == "few_shot":
            continue
        if answers is None:
            return None
        names = answers.collect_schema().names()
        columns = ["completion", "ended", *(name for name in ("pieces", "unmasked_at") if name in names)]
        asked = ["question", "answer"] if who == "base" else []
        texts = answers.select(*KEYS, *asked, *(pl.col(name).alias(f"{name}_{who}") for name in columns))
        texts = texts.join(chosen.lazy().select(KEYS), on=KEYS, how="semi")
        chosen = chosen.join(texts.collect(), on=KEYS, maintain_order="left")
    return chosen


def _with_turns(reads: Reads, questions: str, chosen: pl.DataFrame | None) -> pl.DataFrame | None:
    """Return the chosen rows with conversation, turn, what was said before and the reply, where there is one."""
    turns = reads.lazy("shards", TURNS_FILE) if questions == "test" else None
    if chosen is None or turns is None:
        return chosen
    said = turns.join(chosen.lazy().select("example_id").unique(), on="example_id", how="semi").collect()
    return chosen.join(said, on="example_id", how="left", maintain_order="left")


def _row(row: dict[str, Any], where: str) -> dict[str, Any]:
    return {
        "where": where,
        "example_id": row["example_id"],
        "sample": row["sample"],
        "own": row["example_id"] < 0,
        "kind": row["kind"],
        "changed": row["completion_base"] != row["completion_tuned"],
        "question": reveal(row["question"]),
        "reference": reveal(row["answer"] or row.get("reply"), 600),
        "turn": _turn(row),
        "context": reveal(row.get("context") or "", 4_000),
        "base": _side(row, "base"),
        "tuned": _side(row, "tuned"),
        "few_shot": _side(row, "few_shot") if row.get("completion_few_shot") is not None else None,
    }


def _turn(row: dict[str, Any]) -> str:
    """Return which turn of which conversation a question belongs to, in words; "" for a row that is no conversation."""
    return f"conversation {row['row']}, assistant turn {row['turn']}" if row.get("turn") is not None else ""


def _side(row: dict[str, Any], who: str) -> dict[str, Any]:
    return {
        "completion": reveal(row[f"completion_{who}"]),
        "extracted": reveal(row[f"extracted_{who}"], 200),
        "correct": row[f"correct_{who}"] if row["gradable_base"] else None,
        "ended": row[f"ended_{who}"],
        "looping": (row[f"repetition_{who}"] or 0) > 0.5,
        "replay": _replay(row.get(f"pieces_{who}"), row.get(f"unmasked_at_{who}"), row[f"ended_{who}"]),
    }


def _replay(pieces: list[str] | None, steps: list[int] | None, ended: bool) -> dict[str, list[Any]] | None:
    """Return each token's text and the denoising step, from 0, that revealed it; None if these were not stored."""
    if not pieces or not steps:
        return None
    shown = [reveal(piece) for piece in pieces[:REPLAYED]]
    if ended and len(pieces) <= REPLAYED:
        shown[-1] += END
    if len(pieces) > REPLAYED:
        shown[-1] += f" … ({len(pieces) - REPLAYED:,} more tokens)"
    return {"pieces": shown, "steps": steps[:REPLAYED]}


def bounded(rows: Iterable[dict[str, Any]], most: int = MAX_BYTES) -> Iterator[dict[str, Any]]:
    """Yield rows until their text, escaped as in the page, would exceed `most` bytes."""
    size = 0
    for row in rows:
        sides = [row[who] for who in WHO if row[who]]
        texts = [row["question"], row["reference"], row["context"], *(side["completion"] for side in sides)]
        size += sum(len(escape(text).encode()) for text in texts)
        size += len(json_for_script([side["replay"] for side in sides]))
        if size > most:
            return
        yield row
