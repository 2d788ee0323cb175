"""The data audit as the report's template shows it: short texts and tables."""

from collections.abc import Callable
from typing import Any

from dreamtune.readable import DASH, number
from dreamtune.report.text import reveal

MAX_REFERENCE = 160  # characters shown of a reference
MAX_PAIRS = 25  # overlapping rows shown for one comparison
Table = list[dict[str, Any]]
Names = Callable[[list[int]], list[str]]


def audit_facts(audit: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the data audit as pairs of name and value, without those that the audit does not have."""
    said = audit.get("conversations")
    facts = [("Source rows", number(audit.get("source_rows")))] if not said else []
    if said:
        facts += [("Conversations", number(said["rows"])), ("Assistant turns", number(said["turns"]))]
        facts += [("Most turns of a conversation", number(said["most"]))]
        facts += [("Closes a turn", reveal(said["turn_end"])), ("Follows it and fills the canvas", reveal(said["end"]))]
    facts += [(f"Rows in {name}", number(rows)) for name, rows in (audit.get("rows") or {}).items()]
    facts += [(f"Dropped: {reveal(str(why))}", number(n)) for why, n in (audit.get("dropped") or {}).items()]
    repeats, leak = audit.get("duplicates") or {}, audit.get("contamination") or {}
    facts += (
        [("Rows that repeat a question", f"{number(repeats.get('rows'))} ({repeats.get('policy')})")] if repeats else []
    )
    if leak:
        words = f"{number(leak.get('train_rows'))} ({leak.get('policy')}; {leak.get('ngram')} words in a row)"
        facts += [("Questions both in train and held out", number(leak.get("question_copies")))]
        facts += [("Training rows that overlap a held-out question", words)]
    facts += leak_facts(audit)
    median = (audit.get("response_tokens") or {}).get("train", {})
    facts += [
        ("Training response, median and longest", f"{number(median.get('median'))}, {number(median.get('max'))} tokens")
    ]
    return facts if audit else []


def leak_facts(audit: dict[str, Any]) -> list[tuple[str, str]]:
    """Return facts on near copies, restated questions, templates and questions that give their answer away."""
    leak, templates, given = (audit.get(key) or {} for key in ("contamination", "templates", "gives_away"))
    facts = []
    if copies := leak.get("copies"):
        words = f"{number(copies['train_rows'])} ({leak.get('policy')}), of {number(copies['heldout_rows'])} questions"
        facts.append(("Training rows that nearly repeat a held-out question with its answer", words))
        facts.append(("The same with another answer", number(copies["other_answer"])))
        restated = number(leak["restated"]["rows"])
        facts.append(("Held-out questions restated in training answers or reasonings", restated))
    if templates:
        by = f"column {reveal(templates['column'])}" if templates.get("column") else "other names and numbers only"
        words = f"{number(templates['found'])} ({by}), the largest with {number(templates['largest'])} rows"
        facts.append(("Templates of the questions", words))
        known = number(leak.get("known_templates", {}).get("test"))
        facts.append(("Test questions of a template that is trained on", known))
    if given:
        rows = ", ".join(f"{number(given[f'{split}_rows'])} in {split}" for split in ("train", "validation", "test"))
        facts.append(("Questions that give their answer away", f"{rows} (in train: {given.get('policy')})"))
    return facts


def reference_view(references: dict[str, Any]) -> dict[str, Any] | None:
    """Return how many test rows can be graded, in a sentence, and examples of what answers are compared with.

    None where nothing is to be graded, as for conversations without score.answer.
    """
    if not references or not references["rows"]:
        return None
    rows = [
        (
            str(example["example_id"]),
            reveal(example["reference"], MAX_REFERENCE) or DASH,
            reveal(example["compared"], MAX_REFERENCE) if example["compared"] else f"{DASH} ({example['state']})",
        )
        for example in references["examples"]
    ]
    counts = ", ".join(f"{number(n)}: {reveal(str(why))}" for why, n in references["reasons"].items())
    sentence = f"{number(references['gradable'])} of {number(references['rows'])} test rows can be graded"
    return {"sentence": sentence + (f" ({counts})" if counts else ""), "rows": rows}


def contamination_rows(found: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    """Return a row per benchmark: how many of its questions the training rows repeat, and how."""
    rows = []
    for name, block in found.items():
        exact, copies, overlap = (block.get(key) or {} for key in ("exact", "copies", "overlap"))
        asked = (kind.get("benchmark_rows") for kind in (block, exact, copies, overlap))
        counts = (*asked, overlap.get("train_rows"), block.get("known_templates"))
        rows.append((name, *(number(count) for count in counts)))
    return rows


def overlap_tables(audit: dict[str, Any], found: dict[str, dict[str, Any]], names: Names) -> Table:
    """Return a table for held-out rows and one for each benchmark: pairs of rows that share words, both quoted.

    Args:
        audit: content of audit.json.
        found: contamination.json of each benchmark.
        names: returns the sources of rows by their example ids, "" where there are not several.
    """
    leak = audit.get("contamination") or {}
    held_out = ((leak.get("copies") or {}).get("pairs") or []) + (leak.get("pairs") or [])
    tables: list[tuple[str, list[dict[str, Any]], str]] = [("training rows and held-out rows", held_out, "heldout")]
    for name, block in found.items():
        pairs = [pair for kind in ("exact", "copy", "overlap") for pair in block.get(f"{kind}_pairs") or []]
        tables.append((f"training rows and {name}", pairs, "benchmark"))
    return [
        {
            "title": f"{title}: {len(pairs)} pair{'' if len(pairs) == 1 else 's'}"
            + (f", the first {MAX_PAIRS}" if len(pairs) > MAX_PAIRS else ""),
            "rows": [_pair(pair, other, names) for pair in pairs[:MAX_PAIRS]],
        }
        for title, pairs, other in tables
        if pairs
    ]


def _pair(pair: dict[str, Any], other: str, names: Names) -> tuple[str, ...]:
    ours = [pair["train"], *([pair[other]] if other == "heldout" and other in pair else [])]  # no benchmark's row
    said = [f"{row} ({reveal(name, 80)})" if name else str(row) for row, name in zip(ours, names(ours), strict=True)]
    rows = " / ".join([*said, *([str(pair[other])] if other in pair and other != "heldout" else [])])
    return rows, *(reveal(pair.get(key), 300) or DASH for key in ("text", "train_question", f"{other}_question"))


def flag_rows(audit: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return a row (name, rows, examples) for each flag that occurs, then one for each script of the data."""
    flags: list[tuple[str, ...]] = [
        (name.replace("_", " "), number(flag["rows"]), ", ".join(map(str, flag["examples"])))
        for name, flag in (audit.get("flags") or {}).items()
        if flag["rows"]
    ]
    scripts: list[tuple[str, ...]] = [
        ("too few letters to tell the script" if name == "none" else f"mostly {name} letters", number(rows), DASH)
        for name, rows in (audit.get("scripts") or {}).items()
    ]
    return flags + scripts


def length_rows(audit: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the lengths of question, reasoning and answer before truncation, in tokens and in characters."""
    tokens, characters = audit.get("tokens") or {}, audit.get("characters") or {}
    segments = {"question": "prompt", "reasoning": "reasoning", "answer": "answer"}
    rows = []
    for segment, in_tokens in segments.items():
        found = (tokens.get(f"{in_tokens}_tokens") or {}, characters.get(f"{segment}_characters") or {})
        if any(found):
            rows.append((segment, *(number(lengths.get(q)) for lengths in found for q in ("median", "p95", "max"))))
    return rows
