"""What the training rows say of the held-out questions: copies, restatements, shared words, known templates.

Reads the held-out shards' questions once, and writes OUT/questions.parquet.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from dreamtune.contamination.copies import Copies
from dreamtune.contamination.ngrams import excerpt
from dreamtune.contamination.rows import RowOverlap
from dreamtune.data.giveaways import EXAMPLES
from dreamtune.formats.questions import QUESTIONS, QUESTIONS_FILE


@dataclass(frozen=True)
class Findings:
    """What was found while all training rows were compared with the held-out questions.

    Attributes:
        overlap: shared n-grams.
        copies: near copies.
        known: [rows] bool, whether a row in the training shards has the cluster of this source row.
        gives_away: how a held-out question gives its answer away, by example id.
        dropped: whether the training rows that overlap or copy were dropped.
    """

    overlap: RowOverlap
    copies: Copies
    known: np.ndarray
    gives_away: dict[int, str]
    dropped: bool


def heldout_contamination(
    out: Path,
    splits: dict[str, Any],
    findings: Findings,
    question_copies: int,
    questions_of: Callable[[Iterable[int]], dict[int, str]],
) -> dict[str, Any]:
    """Write questions.parquet; return how training and held-out questions overlap.

    The result's `pairs` are examples, the longest overlaps first: example ids, the shared words (`text`) and excerpts
    of both questions. `copies` counts near copies and has such pairs, too. `restated` names the held-out questions that
    stand as a whole in training answers or reasonings. A `kept_share` below 1 means that only this share of the n-grams
    was compared.

    Args:
        out: folder of the shards.
        splits: "splits" of shards.json.
        findings: of all training rows.
        question_copies: number of normalised questions that occur on both sides.
        questions_of: takes example ids, returns their questions.
    """
    tables = {name: _questions(out, splits[name]["files"], name, findings) for name in ("validation", "test")}
    table = pl.concat(tables.values())
    table.select(QUESTIONS.names()).write_parquet(out / QUESTIONS_FILE)
    pairs = findings.overlap.pairs()
    texts = questions_of(pair.other for _, pair in pairs)
    restated = table.filter("restated")
    return {
        "question_copies": question_copies,
        "train_rows": findings.overlap.rows,
        **{f"{name}_rows": int(found["touched"].sum()) for name, found in tables.items()},
        "copies": findings.copies.counts("heldout_rows") | {"pairs": findings.copies.shown("heldout")},
        "restated": {"rows": restated.height, "examples": restated["example_id"].head(EXAMPLES).to_list()},
        "known_templates": {name: int(found["known_template"].sum()) for name, found in tables.items()},
        "kept_share": findings.overlap.index.kept_share,
        "pairs": [
            {
                "train": pair.row,
                "heldout": pair.other,
                "text": pair.words,
                "part": part,
                "train_question": pair.question,
                "heldout_question": excerpt(texts[pair.other]),
            }
            for part, pair in pairs
        ],
    }


def _questions(out: Path, files: list[str], split: str, findings: Findings) -> pl.DataFrame:
    """Return the rows of questions.parquet for a split, and `touched`: whether a training row shares an n-gram."""
    tables = [pl.DataFrame(schema={**QUESTIONS, "touched": pl.Boolean})]
    for name in files:
        with pa.OSFile(str(out / name)) as file, pa.ipc.open_stream(file) as stream:
            for batch in stream:
                ids, texts = batch.column("example_id").to_numpy(), batch.column("question").to_pylist()
                columns = {
                    "example_id": ids,
                    "split": [split] * len(ids),
                    "known_template": findings.known[ids],
                    "copy_of": [None] * len(ids) if findings.dropped else findings.copies.of(ids),
                    "restated": findings.overlap.restated(texts) & (not findings.dropped),
                    "gives_away": [findings.gives_away.get(i) for i in ids.tolist()],
                    "touched": findings.overlap.touched(texts),
                }
                tables.append(pl.DataFrame(columns, schema=tables[0].schema))
    return pl.concat(tables)
