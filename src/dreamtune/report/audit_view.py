"""What the template shows of the data audit, as short texts and tables."""

from typing import Any

from dreamtune.readable import DASH, number
from dreamtune.report.text import reveal

MAX_PAIRS = 25  # overlapping rows shown for one comparison
Table = list[dict[str, Any]]


def audit_facts(audit: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the data audit as pairs of name and value; each part only where the audit has it."""
    facts = [("Source rows", number(audit.get("source_rows")))]
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
    median = (audit.get("response_tokens") or {}).get("train", {})
    facts += [
        ("Training response, median and longest", f"{number(median.get('median'))}, {number(median.get('max'))} tokens")
    ]
    return facts if audit else []


def contamination_rows(found: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    """Return, per benchmark, how many of its questions the training rows contain."""
    rows = []
    for name, block in found.items():
        exact, overlap = block.get("exact") or {}, block.get("overlap") or {}
        counts = (block.get("benchmark_rows"), exact.get("benchmark_rows"), overlap.get("benchmark_rows"))
        rows.append((name, *(number(count) for count in counts), number(overlap.get("train_rows"))))
    return rows


def overlap_tables(audit: dict[str, Any], found: dict[str, dict[str, Any]]) -> Table:
    """Return, for held-out rows and each benchmark, the pairs of rows that share words, both sides quoted."""
    held_out = (audit.get("contamination") or {}).get("pairs") or []
    tables: list[tuple[str, list[dict[str, Any]], str]] = [("training rows and held-out rows", held_out, "heldout")]
    for name, block in found.items():
        pairs = (block.get("exact_pairs") or []) + (block.get("overlap_pairs") or [])
        tables.append((f"training rows and {name}", pairs, "benchmark"))
    return [
        {
            "title": f"{title}: {len(pairs)} pair{'' if len(pairs) == 1 else 's'}"
            + (f", the first {MAX_PAIRS}" if len(pairs) > MAX_PAIRS else ""),
            "rows": [_pair(pair, other) for pair in pairs[:MAX_PAIRS]],
        }
        for title, pairs, other in tables
        if pairs
    ]


def _pair(pair: dict[str, Any], other: str) -> tuple[str, ...]:
    rows = f"{pair['train']} / {pair[other]}" if other in pair else str(pair["train"])
    return rows, *(reveal(pair.get(key), 300) or DASH for key in ("text", "train_question", f"{other}_question"))


def flag_rows(audit: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the flags that some row carries: name, rows, examples; then the scripts the rows are written in."""
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
    """Return the lengths of each part of a row before truncation, in tokens and in characters."""
    tokens, characters = audit.get("tokens") or {}, audit.get("characters") or {}
    parts = {"question": "prompt", "reasoning": "reasoning", "answer": "answer"}
    rows = []
    for part, in_tokens in parts.items():
        found = (tokens.get(f"{in_tokens}_tokens") or {}, characters.get(f"{part}_characters") or {})
        if any(found):
            rows.append((part, *(number(lengths.get(q)) for lengths in found for q in ("median", "p95", "max"))))
    return rows
