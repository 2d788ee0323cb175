"""The audit of the data: losses under each truncation policy, lengths, repeats, contamination, oddities of the text."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from dreamtune.contamination.giveaway import WHAT
from dreamtune.data.giveaways import EXAMPLES
from dreamtune.data.oddities import count_flags, flag_warnings
from dreamtune.data.template import split_template
from dreamtune.data.truncation import POLICIES, Fit, Policy, fit
from dreamtune.settings.data import DataConfig
from dreamtune.sources.choice import NOT_DRAWN, REASONS

QUANTILES = {"p05": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "p99": 0.99}
MANY_DROPPED = 0.5  # share of the rows from which on dropping them is a warning
LEFT_OUT = {NOT_DRAWN, *REASONS} - {""}  # reasons that the user's own settings of a source give
TOKEN_COLUMNS = ("prompt_tokens", "reasoning_tokens", "answer_tokens", "tokens")
CHARACTER_COLUMNS = ("question_characters", "reasoning_characters", "answer_characters")


def audit_lengths(
    lengths: Path, data: DataConfig, duplicates: dict[str, int], leaks: dict[str, dict[str, Any]], unknown: int
) -> dict[str, Any]:
    """Return the content of audit.json.

    `policies` has for every truncation policy at `data.max_tokens`: rows_lost (dropped), answers_lost (dropped, or kept
    without the whole answer and its end token), rows_shortened and reasoning_tokens_lost (answer whole, reasoning cut).
    `tokens` has lengths before truncation; `kept_tokens` and `response_tokens` lengths in the shards, by split.
    `characters` has lengths of all rows with text; `kept_characters` those of the rows in the shards, by split. `flags`
    has for each oddity of the text its number of rows and the first example ids; `scripts` the rows by script.

    Args:
        lengths: lengths.parquet, a finished file.
        data: settings of the stage.
        duplicates: counts of repeated questions, see `Survey.duplicates`.
        leaks: `contamination` (counts and pairs, see `heldout_contamination`, and `benchmarks`), `templates` (number
            of clusters, and the column that gives them) and `gives_away` (see `Giveaways`).
        unknown: number of tokens that the vocabulary could not write.
    """
    table = pl.scan_parquet(lengths)  # one column at a time is read: a table of all would cost 100 bytes a row
    usable = table.filter(pl.col("prompt_tokens").is_not_null())
    kept = table.filter(pl.col("dropped").is_null())
    by_split = {name: kept.filter(pl.col("split") == name) for name in ("train", "validation", "test")}
    dropped = table.filter(pl.col("dropped").is_not_null()).group_by("dropped").len().collect()
    lengths_of = _distributions(usable, by_split)
    scripts, flags = count_flags(usable, lengths_of["characters"]["answer_characters"].get("p95"))
    audit = {
        "max_tokens": data.max_tokens,
        "too_long": data.too_long,
        "source_rows": _rows(table),
        "rows_with_text": _rows(usable),
        "rows": {name: _rows(rows) for name, rows in by_split.items()},
        "dropped": dict(sorted(dropped.iter_rows())),
        "policies": _policies(usable, data.max_tokens),
        **lengths_of,
        "scripts": scripts,
        "flags": flags,
        "unknown_tokens": unknown,
        "duplicates": {"policy": data.duplicates, **duplicates},
        "contamination": {"policy": data.contaminated, "ngram": data.ngram, **leaks["contamination"]},
        "templates": leaks["templates"],
        "gives_away": {"policy": data.gives_away, **leaks["gives_away"]},
    }
    return audit | {"warnings": _warnings(audit, data)}


def _rows(table: pl.LazyFrame) -> int:
    return int(table.select(pl.len()).collect().item())


def _policies(usable: pl.LazyFrame, max_tokens: int) -> dict[Policy, dict[str, int]]:
    """Return the losses under each truncation policy, from the lengths of all rows that have text."""
    table = usable.select(TOKEN_COLUMNS[:3]).collect()
    prompt, reasoning, answer = (column.to_numpy() for column in table)  # [rows] int32
    return {policy: _losses(fit(policy, prompt, reasoning, answer, max_tokens), reasoning) for policy in POLICIES}


def _losses(outcome: Fit, reasoning: np.ndarray) -> dict[str, int]:
    """Return one policy's losses; `reasoning` [rows] has the tokens before truncation."""
    lost = outcome.dropped != ""
    whole = ~lost & outcome.complete
    shortened = whole & (outcome.reasoning < reasoning)
    return {
        "rows_lost": int(lost.sum()),
        "answers_lost": int((~whole).sum()),
        "rows_shortened": int(shortened.sum()),
        "reasoning_tokens_lost": int((reasoning - outcome.reasoning)[shortened].sum()),
    }


def _distributions(usable: pl.LazyFrame, by_split: dict[str, pl.LazyFrame]) -> dict[str, Any]:
    """Return the lengths of all rows with text, and those in the shards per split."""
    response = pl.col("kept_tokens") - pl.col("prompt_tokens")
    return {
        "tokens": {column: _quantiles(usable, pl.col(column)) for column in TOKEN_COLUMNS},
        "characters": {column: _quantiles(usable, pl.col(column)) for column in CHARACTER_COLUMNS},
        "kept_tokens": {name: _quantiles(rows, pl.col("kept_tokens")) for name, rows in by_split.items()},
        "response_tokens": {name: _quantiles(rows, response) for name, rows in by_split.items()},
        "kept_characters": {
            name: {column: _quantiles(rows, pl.col(column)) for column in CHARACTER_COLUMNS}
            for name, rows in by_split.items()
        },
    }


def _quantiles(table: pl.LazyFrame, length: pl.Expr) -> dict[str, float]:
    """Return minimum, quantiles, maximum and mean of a length; {} without rows.

    The quantiles are exact, and equal numpy's: they come from a count of each value, which is small for any number of
    rows. Between two rows they are interpolated.

    >>> found = _quantiles(pl.LazyFrame({"tokens": [10, 20, 20, 40]}), pl.col("tokens"))
    >>> found["p25"], found["median"], found["p75"], found["mean"]
    (17.5, 20.0, 25.0, 22.5)
    """
    counts = table.select(length.alias("length")).group_by("length").len().sort("length").collect(engine="streaming")
    if not counts.height:
        return {}
    values, occurrences = counts["length"].to_numpy(), counts["len"].to_numpy().astype(np.int64)
    upto = np.cumsum(occurrences)  # [values], number of rows that are at most this long
    middle = {}
    for name, share in QUANTILES.items():
        place = share * (upto[-1] - 1)  # place in the sorted rows, from 0; a fraction lies between two rows
        low, high = (values[np.searchsorted(upto, row, side="right")] for row in (int(place), int(np.ceil(place))))
        middle[name] = float(low + (high - low) * (place - int(place)))
    mean = float((values * occurrences).sum() / upto[-1])
    return {"min": int(values[0]), **middle, "max": int(values[-1]), "mean": mean}


def _warnings(audit: dict[str, Any], data: DataConfig) -> list[str]:
    """Return the warnings that a user should read before training, one sentence each."""
    warnings = _drop_warnings(audit["dropped"], audit["source_rows"])
    rows, chosen = audit["rows_with_text"], audit["policies"][data.too_long]
    if chosen["answers_lost"]:
        others = ", ".join(
            f"{name} would lose {losses['answers_lost']}"
            for name, losses in audit["policies"].items()
            if name != data.too_long
        )
        warnings.append(
            f"{chosen['answers_lost']} of {rows} rows lose their answer at max_tokens {data.max_tokens} "
            f"under too_long: {data.too_long} ({others})"
        )
    if chosen["rows_shortened"]:
        warnings.append(f"{chosen['rows_shortened']} of {rows} rows keep their answer with shortened reasoning")
    if audit["duplicates"]["rows"]:
        fate = "dropped" if data.duplicates == "drop" else "kept in training; the test split asks each question once"
        warnings.append(f"{audit['duplicates']['rows']} rows repeat an earlier question ({fate})")
    warnings += _giveaway_warnings(audit["gives_away"]) + _leak_warnings(audit["contamination"], data)
    leak = audit["contamination"]
    if (share := min(found["kept_share"] for found in [leak, *leak["benchmarks"].values()])) < 1:
        warnings.append(f"only a {share:.3g} share of the n-grams was compared: there are too many")
    warnings += [f"the {name} split is empty" for name in ("validation", "test") if not audit["rows"][name]]
    warnings += flag_warnings(audit["flags"], rows)
    if audit["unknown_tokens"]:
        warnings.append(f"the tokenizer could not write {audit['unknown_tokens']} tokens and replaced them")
    if data.turns is None and split_template(data.layout.template)[0].endswith(" "):
        warnings.append("the template's prompt ends in a space; most tokenizers expect it at the start of the response")
    return warnings


def _drop_warnings(dropped: dict[str, int], rows: int) -> list[str]:
    """Return a warning if at least the share MANY_DROPPED of the rows that the sources' settings take is dropped.

    >>> _drop_warnings({"null_answer": 1, "too_long": 4}, 8)
    ['5 of 8 rows are dropped (too_long 4, null_answer 1); check data.columns and the settings that these reasons name']
    """
    rows -= sum(dropped.get(name, 0) for name in LEFT_OUT)
    dropped = {name: count for name, count in dropped.items() if name not in LEFT_OUT}
    if sum(dropped.values()) < MANY_DROPPED * max(rows, 1):
        return []
    reasons = ", ".join(f"{name} {n}" for name, n in sorted(dropped.items(), key=lambda item: -item[1]))
    return [
        f"{sum(dropped.values())} of {rows} rows are dropped ({reasons}); check data.columns and the settings that "
        "these reasons name"
    ]


def _giveaway_warnings(found: dict[str, Any]) -> list[str]:
    """Return warnings about questions that give their answer away."""
    ways = "; ".join(
        f"{found[way]['rows']} {words} (example ids {_ids(found[way]['examples'])})"
        for way, words in WHAT.items()
        if found[way]["rows"]
    )
    if not ways:
        return []
    fate = "dropped" if found["policy"] == "drop" else "kept"
    return [
        f"questions give their answer away: {ways}; {found['train_rows']} of them are training rows ({fate}), "
        f"{found['test_rows']} are test questions (left out of a second reading in the report)"
    ]


def _leak_warnings(leak: dict[str, Any], data: DataConfig) -> list[str]:
    """Return warnings about training rows that overlap held-out questions and benchmarks."""
    warnings, fate = [], "dropped" if data.contaminated == "drop" else "kept"
    if (copies := leak["copies"])["train_rows"]:
        pairs = ", ".join(f"{pair['train']} of {pair['heldout']}" for pair in copies["pairs"][:EXAMPLES])
        warnings.append(
            f"{copies['train_rows']} training rows nearly repeat {copies['heldout_rows']} held-out questions with the "
            f"same answer (example ids {pairs}; {fate})"
        )
    if copies["other_answer"]:
        warnings.append(
            f"{copies['other_answer']} training rows ask a held-out question with another answer (example "
            f"ids {', '.join(f'{row} of {asked}' for row, asked in copies['other_answer_examples'])}): one of the two "
            "answers may be wrong"
        )
    if leak["restated"]["rows"]:
        warnings.append(
            f"{leak['restated']['rows']} held-out questions stand as a whole in training answers or reasonings "
            f"(example ids {_ids(leak['restated']['examples'])})"
        )
    if leak["train_rows"]:
        warnings.append(
            f"{leak['train_rows']} training rows share {data.ngram} words in a row with a held-out question ({fate}); "
            f"{leak['test_rows']} test rows are concerned"
        )
    for name, found in leak["benchmarks"].items():
        if found["train_rows"]:
            warnings.append(f"{found['train_rows']} training rows overlap benchmark {name} (dropped)")
    return warnings


def _ids(examples: list[int]) -> str:
    return ", ".join(map(str, examples))
