"""Flags for oddities of a row's text: blank or repeated fields, remnants of a bad conversion, another script.

A flag drops no row. Its name says what it measures: `script` is the script of the letters (`alphabets.py`), and
`few_english_words` the share of English function words. No language is identified: a model for that weighs several
megabytes and takes longer than tokenising the row.
"""

from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from dreamtune.data.alphabets import LATIN, NAMES, scripts_of

EXAMPLES = 5  # example ids given for each flag
NOTABLE = 0.01  # share of the rows above which a flag becomes a warning
LONG = 10  # an answer is long above this many times the 95th percentile of all answers
FIELDS = ("question", "reasoning", "answer")
ROW_FLAGS = {  # columns of lengths.parquet -> words with which a warning describes the flagged rows
    "blank_reasoning": "have a blank reasoning",
    "answer_equals_question": "have an answer that repeats the question",
    "no_answer": "have an answer that stands for a missing one, such as nan, None, N/A or -",
    "control_characters": "hold control characters or invisible ones",
    "replacement_characters": "hold U+FFFD, which stands for bytes that could not be read as text",
    "mojibake": "hold text that was decoded with a wrong encoding, such as â€™ for an apostrophe",
    "html": "hold HTML tags or entities",
    "few_english_words": "have a question in Latin script with hardly an English function word, unlike the others",
    "mixed_scripts": "have parts in different scripts",
}
FLAGS = ROW_FLAGS | {
    "other_script": "are in another script than most rows",
    "long_answer": f"have an answer more than {LONG} times as long as the 95th percentile",
}
FLAG_COLUMNS = pa.schema([("script", pa.string()), *((name, pa.bool_()) for name in ROW_FLAGS)])

# What exports of tables write for a missing value. NA alone is left out, because it is also sodium.
NO_ANSWER = r"(?i)^(?:nan|none|null|nil|n/a|#n/a|<na>|-+|–|—|\?+)$"
# All control characters but tab, line feed and carriage return; zero-width space, word joiner, byte order mark.
CONTROL = r"[\x00-\x08\x0B\x0C\x0E-\x1F\x7F-\x9F\u{200B}\u{2060}\u{FEFF}]"
# UTF-8 that was read as Latin-1 or Windows-1252: accented letters, quotation marks, signs, the mark, emoji.
MOJIBAKE = "Ã[\u0080-\u00bf]|â€|Â[\u00a0-\u00bf]|ï»¿|ðŸ"
# Tags with a name of one letter are left out, because mathematics writes <a, b>.
TAGS = "br|hr|div|span|table|tbody|tr|td|th|li|ul|ol|em|strong|sup|sub|img|pre|blockquote|h[1-6]"
HTML = rf"(?i)</?(?:{TAGS})(?:\s[^<>]*)?/?>|</?p>|&(?:nbsp|lt|gt|amp|quot|#\d+);"
# English function words that no other large language in Latin script has, so neither "in" nor "die". They are about a
# third of the words of an English text.
ENGLISH = (
    "the|of|and|is|that|are|with|for|what|how|from|this|which|if|be|by|it|his|her|their|each|has|have|was|were|they|"
    "then|than|find|many|at|to"
)
ENGLISH_SHARE = 0.04  # share of such words in the first SAMPLE characters below which a question is flagged
WORDS = 20  # a question with fewer words of two letters and more is too short to tell
SAMPLE = 1_000  # characters


def row_flags(questions: list[str], reasonings: list[str] | None, answers: list[str]) -> pl.DataFrame:
    """Return `script` (text, null for too few letters) and the ROW_FLAGS (bool) of each row.

    Args:
        questions, answers: [rows] texts.
        reasonings: [rows] texts, or None if the data has no such column.
    """
    fields = {"question": questions, "reasoning": reasonings or [""] * len(questions), "answer": answers}
    texts = pl.DataFrame(fields, schema=dict.fromkeys(FIELDS, pl.String))
    question, answer = (pl.col(field).str.strip_chars().str.to_lowercase() for field in ("question", "answer"))
    scripts = np.stack([scripts_of(field) for field in fields.values()])  # [3, rows]
    of_question, of_reasoning, of_answer = scripts
    row_script = np.where(of_question, of_question, np.where(of_reasoning, of_reasoning, of_answer))
    lowest = np.where(scripts, scripts, len(NAMES)).min(axis=0)
    return texts.select(
        pl.Series("script", [NAMES[number] or None for number in row_script], pl.String),
        blank_reasoning=pl.col("reasoning").str.strip_chars() == "" if reasonings is not None else pl.lit(False),
        answer_equals_question=(question == answer) & (answer != ""),
        no_answer=answer.str.contains(NO_ANSWER),
        control_characters=pl.any_horizontal(pl.all().str.contains(CONTROL)),
        replacement_characters=pl.any_horizontal(pl.all().str.contains("\ufffd", literal=True)),
        mojibake=pl.any_horizontal(pl.all().str.contains(MOJIBAKE)),
        html=pl.any_horizontal(pl.all().str.contains(HTML)),
        few_english_words=_few_english_words() & pl.Series(of_question == LATIN),
        mixed_scripts=pl.Series(lowest < scripts.max(axis=0)),
    )


def _few_english_words() -> pl.Expr:
    """Return an expression over the column `question`: true if a long enough text has hardly an English word."""
    text = pl.col("question").str.head(SAMPLE).str.replace_all(r"\\[A-Za-z]+", " ")
    words = text.str.count_matches(r"\p{L}{2,}")
    return (words >= WORDS) & (text.str.count_matches(rf"(?i)\b(?:{ENGLISH})\b") < ENGLISH_SHARE * words)


def count_flags(usable: pl.LazyFrame, answer_p95: float | None) -> tuple[dict[str, int], dict[str, dict[str, Any]]]:
    """Return the number of rows by script, the commonest first, and of each of FLAGS with its first example ids.

    Args:
        usable: the rows of lengths.parquet that have text.
        answer_p95: 95th percentile of their answers' lengths in characters; None without rows.
    """
    by_script = usable.group_by(pl.col("script").fill_null("none")).len().collect()
    scripts = dict(by_script.sort(["len", "script"], descending=[True, False]).iter_rows())
    commonest = next((name for name in scripts if name != "none"), "none")
    conditions = {name: pl.col(name) for name in ROW_FLAGS} | {
        "other_script": (pl.col("script") != commonest).fill_null(False),
        "long_answer": pl.col("answer_characters") > LONG * (answer_p95 or 0),
    }
    counts = usable.select(**{name: condition.sum() for name, condition in conditions.items()}).collect().row(0)
    flags = {}
    for (name, condition), rows in zip(conditions.items(), counts, strict=True):
        first = usable.filter(condition).select("example_id").head(EXAMPLES).collect() if rows else None
        flags[name] = {"rows": int(rows), "examples": first["example_id"].to_list() if first is not None else []}
    return scripts, flags


def flag_warnings(flags: dict[str, dict[str, Any]], rows: int) -> list[str]:
    """Return a sentence for each flag that at least the share NOTABLE of the rows has.

    Args:
        flags: as `count_flags` returns them.
        rows: number of rows with text.
    """
    found = []
    for name, flag in flags.items():
        # Rows without English words are odd among rows that have them, but not where most rows have none (French data).
        most = name == "few_english_words" and flag["rows"] > rows / 2
        if flag["rows"] >= max(NOTABLE * rows, 1) and not most:
            examples = ", ".join(map(str, flag["examples"]))
            found.append(f"{flag['rows']} of {rows} rows {FLAGS[name]} (example ids {examples})")
    return found
