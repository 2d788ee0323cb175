"""What became of each of several sources: counts, training loss, held-out likelihood and accuracy, by source."""

from typing import Any

import numpy as np
import polars as pl

from dreamtune.evaluate.comparison import compare_nll, compare_scores, nothing
from dreamtune.formats.likelihood import LIKELIHOOD_FILE
from dreamtune.formats.names import BASE, HEADLINE, TUNED
from dreamtune.formats.reads import Reads
from dreamtune.formats.scores import SCORES_FILE
from dreamtune.formats.shards import SHARDS_FILE
from dreamtune.formats.training import TRAINING_FILE
from dreamtune.readable import nats, number, percent, points
from dreamtune.report.text import arrow, reveal, with_limits
from dreamtune.settings.report import Comparison
from dreamtune.shards import sources_of


def compare_sources(reads: Reads, comparison: Comparison) -> list[dict[str, Any]]:
    """Return for each source its counts from shards.json, its training losses, and blocks `nll` and `accuracy`.

    The blocks are of the test split, accuracy under the headline's setting; [] where there are not several sources.
    They decide nothing: with several sources some difference is found by chance.
    """
    meta = reads.json("shards", SHARDS_FILE)
    if not meta.get("sources"):
        return []
    trained = {source["name"]: source for source in reads.json("full", TRAINING_FILE).get("sources", [])}
    draws = reads.table("likelihood", LIKELIHOOD_FILE)
    scores = [reads.table(f"scores/test/{HEADLINE}/{who}", SCORES_FILE) for who in (BASE, TUNED)]
    found = []
    for which, source in enumerate(meta["sources"]):
        own = [frame if frame is None else _of(meta, which, frame) for frame in (draws, *scores)]
        likelihood, base, tuned = own
        graded = base is not None and tuned is not None and base.height > 0
        found.append(
            source
            | {name: trained.get(source["name"], {}).get(name) for name in ("first_loss", "last_loss", "loss_tokens")}
            | {
                "nll": compare_nll(likelihood, comparison)
                if likelihood is not None and likelihood.height
                else nothing("rows"),
                "accuracy": compare_scores(base, tuned, "correct", comparison)
                if graded and base is not None and tuned is not None
                else nothing("questions"),
            }
        )
    return found


def source_names(reads: Reads, example_ids: list[int]) -> list[str]:
    """Return the name of each example's source, "" for the user's own prompts, and where there are not several."""
    meta = reads.json("shards", SHARDS_FILE)
    if not meta.get("sources") or not example_ids:
        return [""] * len(example_ids)
    names = [str(source["name"]) for source in meta["sources"]]
    numbers = sources_of(meta, np.array(example_ids)).tolist()
    return [names[which] if row >= 0 else "" for which, row in zip(numbers, example_ids, strict=True)]


def source_rows(summary: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return a row of the report's table for each source."""
    rows: list[tuple[str, ...]] = []
    for source in summary["sources"]:
        splits, nll, accuracy = source["splits"], source["nll"], source["accuracy"]
        dropped = ", ".join(f"{reveal(str(why))} {number(n)}" for why, n in source["dropped"].items())
        trained = number(splits["train"] + source["copies"])
        trained += f" ({number(splits['train'])} different)" if source["copies"] else ""
        rows.append(
            (
                reveal(str(source["name"]), 80),
                number(source["weight"]),
                number(source["rows"]),
                trained,
                number(splits["test"]),
                dropped or "none",
                arrow(number(source["first_loss"]), number(source["last_loss"])),
                with_limits(lambda value: nats(value, True), nll["delta"], "nats") if nll["base"]["n"] else "no rows",
                f"{arrow(percent(accuracy['base']['value'], 0), percent(accuracy['tuned']['value'], 0))}, "
                + with_limits(points, accuracy["gain"], "points")
                if accuracy["base"]["n"]
                else "not graded",
            )
        )
    return rows


def _of(meta: dict[str, Any], which: int, frame: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of a table whose examples belong to a source."""
    ids = frame["example_id"].to_numpy()
    return frame.filter(pl.Series((ids >= 0) & (sources_of(meta, ids) == which), dtype=pl.Boolean))
