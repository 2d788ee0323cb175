"""What benchmarks/objectives.py compares: the ways to mask, and rows with responses of a wanted length."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import _src  # noqa: F401, puts src on the path
import pyarrow as pa

from dreamtune.data.shard_writer import ShardWriter
from dreamtune.formats.shards import SHARD, SHARDS_FILE
from dreamtune.shards import read_meta, read_split

REFERENCE = "independent t"
ALONE: dict[str, Any] = {"rate_draws": "independent"}
RANDOM: dict[str, Any] = {"mask_counts": "random"}
EXACT: dict[str, Any] = {"mask_counts": "exact"}
PAIRS: dict[str, Any] = {"complementary": True}
MIRROR: dict[str, Any] = PAIRS | {"pairs": "mirror"}
LOSS, GRADIENT = {"rate_density": "loss"}, {"rate_density": "gradient"}  # measured, see `objective_noise.densities`
WAYS: dict[str, dict[str, Any]] = {
    REFERENCE: RANDOM | ALONE,
    "even t": RANDOM,
    "t per document": RANDOM | {"rate_draws": "per_document"},
    "exact counts": EXACT | ALONE,
    "exact counts, even": EXACT,
    "exact counts, per document": EXACT | {"rate_draws": "per_document"},
    "P-POTS": RANDOM | LOSS | ALONE,
    "gradient's density": RANDOM | GRADIENT | ALONE,
    "exact counts, gradient's density": EXACT | GRADIENT,
    "pairs": RANDOM | PAIRS | ALONE,
    "exact pairs": EXACT | PAIRS,
    "mirrored pairs": EXACT | MIRROR,
    "P-POTS, mirrored pairs": EXACT | MIRROR | LOSS,
    "exact pairs, P-POTS": EXACT | PAIRS | LOSS,
    "exact pairs, gradient's density": EXACT | PAIRS | GRADIENT,
    "tail together": {"tail_masks": "together"} | EXACT,
    "clipped t": RANDOM | ALONE | {"rate_range": [0.1, 1.0]},
    "blocks": {"mask_block": 15} | EXACT,
    "random cuts": {"cut_share": 0.3} | EXACT,
    "unweighted": {"objective": "uniform"} | EXACT,
    "CART": {"objective": "cart"} | EXACT,
}
BIASED = ("tail together", "clipped t", "blocks", "random cuts", "unweighted", "CART")  # they train another loss
SPREAD = ("even t", "t per document", "exact counts, even", "exact counts, per document")  # of several documents' rates
OF_RUNS = (*SPREAD, "random cuts")  # one document's gradient does not show what they do
NAMED = [name for name in WAYS if name not in OF_RUNS]  # those whose gradient's noise is measured


def longer_rows(shards: Path, out: Path, tokens: int, rows: int) -> Path:
    """Write shards whose training rows have responses of exactly `tokens` tokens into a folder, and return it.

    Behind a row's own response stand the questions and responses of those after it, cut to the length, and an end
    token: text of the same kind, in which what follows hangs on what stands before.
    """
    meta = read_meta(shards)
    writer = ShardWriter(out, "train", rows)
    writer.write(pa.Table.from_pylist(list(_joined(shards, tokens, rows, meta["tokenizer"]["end_id"])), SHARD))
    longest = tokens + meta["max_tokens"]
    splits = {name: ShardWriter(out, name, 1).close() for name in ("validation", "test")} | {"train": writer.close()}
    (out / SHARDS_FILE).write_text(json.dumps(meta | {"max_tokens": longest, "splits": splits}))
    return out


def _joined(shards: Path, tokens: int, rows: int, end_id: int) -> Iterator[dict[str, Any]]:
    stored = [row for row in read_split(shards, "train") if row["complete"]]
    place = 0
    for number in range(rows):
        first = stored[place % len(stored)]
        response = first["input_ids"][first["prompt_tokens"] : -1]
        while len(response) < tokens - 1:
            place += 1
            response = response + stored[place % len(stored)]["input_ids"][1:-1]
        place += 1
        whole = [*first["input_ids"][: first["prompt_tokens"]], *response[: tokens - 1], end_id]
        yield first | {"example_id": number, "cluster": number, "input_ids": whole}
