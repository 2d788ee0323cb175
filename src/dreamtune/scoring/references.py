r"""The checkable answer of a reference solution, and how many test rows have one: known before anybody trains."""

import re
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dreamtune.errors import TooFewToChoose
from dreamtune.files import write_json
from dreamtune.formats.shards import REFERENCES_FILE
from dreamtune.scoring.announcements import answer_tag, final_answer, without_reason
from dreamtune.scoring.boxes import closed_boxes, last_box
from dreamtune.scoring.characters import visible
from dreamtune.scoring.displays import block, on_one_line
from dreamtune.scoring.equivalence import equivalent
from dreamtune.scoring.extraction import SPECIAL_TOKEN, extract
from dreamtune.scoring.turns import without_reasoning
from dreamtune.settings.score import ScoreConfig
from dreamtune.shards import read_meta, read_split, sources_of

MAX_CHARACTERS = 120  # a longer reference without a marked answer is an essay or a proof
MAX_WORDS = 12
MAX_AFTER = 200  # characters that may follow the line of GSM8K's ####
EXAMPLES, EXCERPT = 5, 160  # references that the audit keeps, and characters of each, from its end
SHOWN = 60  # of these on the terminal
MOST_GRADABLE = 3  # gradable examples that are shown where there are many that are not
REMEDY = (
    r"accuracy will say little; mark each reference's answer (\boxed{…}, #### 18, Answer: 18, or the words of "
    "score.marker)"
)
UNGRADED = "conversations are not graded (score.answer is null): their likelihood alone decides"
COMMAND = re.compile(r"\\[A-Za-z]+")
WORD = re.compile(r"[^\W\d_]{2,}")
CALCULATION = re.compile(r"<<[^<>\n]{0,80}>>")  # GSM8K's
HEADED_ANSWER = re.compile(
    r"^[#*>\t ]*(?:the[\t ]+)?(?:final[\t ]+|correct[\t ]+)?(?:answer|ans\.?)\b[*\t ]*(?:is\b(?:[\t ]+thus\b)?[*\t ]*:?"
    r"|[:=：])[*\t ]*\n{0,2}\s*(?=\S)"
    r"|(?:^|[.!?]\s+)(?:so,?|thus,?|therefore,?|hence,?)?[\t ]*(?:the[\t ]+)(?:final[\t ]+"
    r"|correct[\t ]+)?answer[\t ]+is\b(?:[\t ]+(?:thus|then|therefore)\b)?[*\t ]*:?[*\t ]*(?=\S)",
    re.IGNORECASE | re.MULTILINE,
)
HASHED_ANSWER = re.compile(r"####[ \t]*(?=\S)")
HASHED_LINE = re.compile(r"[ \t]*(?P<answer>\S[^\n]*?)[ \t]*(?:\n|$)")
BEFORE_SENTENCE = re.compile(r"\s+(?=(?:The|So|Therefore|Thus)\b)")
STEP = re.compile(r"\d{1,2}[.)]\s+[A-Za-z]|(?:step|part|case|lemma)\b", re.IGNORECASE)
PROOF = re.compile(r"\b(?:prove|show) that\b|^\s*prove\b", re.IGNORECASE)
# "Which" asks only in a sentence that ends in a question mark: elsewhere it is a relative pronoun.
ASKS = re.compile(
    r"\b(?:find|determine|compute|calculate|evaluate|what|how (?:many|much|long)|which(?=[^.?!]{1,300}\?))\b",
    re.IGNORECASE,
)


def reference_answer(solution: str, marker: str) -> str | None:
    r"""Return the checkable answer of a reference, or None where it has none (a proof, an essay).

    The answer of a worked solution is the one that it marks: by `\boxed{…}`, by the marker, by GSM8K's `####` or by
    "Answer: …", the last of these. A reference that marks nothing is an answer by itself if it is short: a line or a
    displayed formula.

    >>> reference_answer("3 * 6 = 18 eggs\n#### 18", "the final answer is:")
    '18'
    >>> reference_answer("3 * 6 = 18 eggs. #### 18", ""), reference_answer("$$\n18\n$$", "")
    ('18', '$$ 18 $$')
    """
    text = SPECIAL_TOKEN.sub(" ", CALCULATION.sub("", without_reasoning(visible(solution)))).strip()
    boxes = [box.content for box in closed_boxes(text)]
    if len(set(boxes)) > 1 and not all(equivalent(box, boxes[-1]) for box in boxes[:-1]):
        listed = last_box(text)
        if listed is None or sorted(re.split(", | and ", listed.content)) != sorted(boxes):
            return None  # ASSUME: several different boxes are several answers; which one is asked for is unknown
        return _checkable(listed.content, MAX_CHARACTERS)
    if boxes:
        return _checkable(boxes[-1], MAX_CHARACTERS)
    marked = [found for found in (final_answer(text, marker), answer_tag(text, marker)) if found]
    places = [(found.start, found.text) for found in marked] + _headed(text) + _hashed(text)
    if places:
        return _checkable(without_reason(max(places)[1]), MAX_CHARACTERS)
    whole = text if "\n" not in text else on_one_line(text) if block(text) == text else ""
    return _checkable(whole, MAX_CHARACTERS, MAX_WORDS)


def _checkable(answer: str, characters: int, words: int | None = None) -> str | None:
    line = on_one_line(answer) if "\n" in answer else answer
    if not line or len(line) > characters or (words and len(WORD.findall(COMMAND.sub(" ", line))) > words):
        return None
    return line


def _headed(text: str) -> list[tuple[int, str]]:
    """Return place and text of the last "Answer: …", if any."""
    last = _last(HEADED_ANSWER, text)
    answer = block(text[last.end() :]) if last else ""
    return [(last.end(), re.sub(r"(?<=\S)\*+$", "", answer))] if last and len(answer) <= MAX_AFTER else []


def _hashed(text: str) -> list[tuple[int, str]]:
    """Return place and text of the last line after ####, if it ends the text or holds a number and little follows.

    Elsewhere #### begins a heading in Markdown.
    """
    last = _last(HASHED_ANSWER, text)
    line = HASHED_LINE.match(text, last.end()) if last else None
    if last is None or line is None:
        return []
    answer, rest = line["answer"], text[line.end() :].strip()
    marked = len(rest) <= MAX_AFTER and re.search(r"\d", answer) and not STEP.match(answer)
    return [(last.end(), BEFORE_SENTENCE.split(answer, maxsplit=1)[0])] if not rest or marked else []


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    return next(iter(deque(pattern.finditer(text), maxlen=1)), None)


def asks_for_a_proof(question: str) -> bool:
    """Whether the question asks for an argument and no value; a box in its reference then holds the claim itself.

    >>> asks_for_a_proof("Prove that 2 + 2 = 4."), asks_for_a_proof("Show that x > 0 and find x.")
    (True, False)
    """
    return bool(PROOF.search(question)) and not ASKS.search(question)


def _reference(solution: str, score: ScoreConfig) -> str | None:
    """Return the checkable answer of a reference; of a conversation's turn, what score.answer extracts of it."""
    if score.answer_extractor is None:
        return reference_answer(solution, score.marker)
    found, _ = extract(without_reasoning(visible(solution)), [score.answer_extractor], score.marker)
    return _checkable(found or "", MAX_CHARACTERS)


def checkable(question: str, solution: str | None, score: ScoreConfig) -> tuple[str | None, str]:
    """Return what answers to a question are compared with, and "gradable"; else None and the reason why not.

    >>> checkable("Prove it.", "It holds.", ScoreConfig()), checkable("2 + 3?", "2 + 3 = 5. #### 5", ScoreConfig())
    ((None, 'asks for a proof'), ('5', 'gradable'))
    """
    if solution is None or not solution.strip():
        return None, "no reference"
    if asks_for_a_proof(question):
        return None, "asks for a proof"
    reference = _reference(solution, score)
    return reference, "no short answer is marked" if reference is None else "gradable"


def audit_references(score: ScoreConfig, shards: Path, out: Path, fewest_validation: int = 0) -> dict[str, Any]:
    """Count the test rows whose answers can be graded, show how, write OUT/references.json, and say it on stderr.

    Args:
        score: the marker.
        shards: output folder of prepare_shards.
        out: folder for the file.
        fewest_validation: gradable validation rows that a study needs to choose by; 0 if none does.

    Returns:
        counts for the manifest: rows, gradable, and the number of rows by the reason why they are not.

    Raises:
        TooFewToChoose: there are fewer gradable validation rows.
    """
    meta = read_meta(shards)
    audit = gradability(_with_references(shards, "test", meta), score)
    validation = gradability(_with_references(shards, "validation", meta), score)
    audit |= {"validation": {name: validation[name] for name in ("rows", "gradable")}}
    if (gradable := validation["gradable"]) < fewest_validation:
        raise TooFewToChoose(fewest_validation, f"{gradable} of {validation['rows']} can be")
    if "template" in meta and meta["template"] is None and score.answer is None:
        audit |= {"sentence": UNGRADED, "warning": None}
    write_json(out / REFERENCES_FILE, audit)
    print("\n".join([f"references: {audit['sentence']}", *map(_shown, audit["examples"])]), file=sys.stderr)
    return {name: audit[name] for name in ("rows", "gradable", "reasons")}


def _with_references(shards: Path, split: str, meta: dict[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a split that may be graded: of a conversation only the last turn has a reference."""
    if meta["splits"].get(split, {}).get("rows"):
        yield from (row for row in read_split(shards, split) if row["answer"] or not _is_turn(row, meta))


def _is_turn(row: Mapping[str, Any], meta: dict[str, Any]) -> bool:
    """Return whether a row is a conversation's turn; of several sources some can hold rows, and some conversations."""
    if "sources" not in meta:
        return "template" in meta and meta["template"] is None
    [source] = sources_of(meta, np.array([row["example_id"]]))
    return bool(meta["sources"][source]["conversations"])


def _shown(example: Mapping[str, Any]) -> str:
    """Return the line of one example: the end of its reference, and what answers are compared with."""
    reference = " ".join(example["reference"].split())[-SHOWN:]
    compared = f"compared with {example['compared']}" if example["compared"] else f"not graded: {example['state']}"
    return f"  row {example['example_id']}: …{reference} → {compared}"


def gradability(rows: Iterable[Mapping[str, Any]], score: ScoreConfig) -> dict[str, Any]:
    """Return the content of references.json: counts, five examples and, if fewer than half can be graded, a warning.

    Args:
        rows: of a split, with example_id, question and answer.
        score: the marker.
    """
    counts, examples = Counter[str](), dict[str, list[dict[str, Any]]]()
    for row in rows:
        compared, state = checkable(row["question"], row["answer"], score)
        counts[state] += 1
        example = {"example_id": row["example_id"], "reference": (row["answer"] or "").strip()[-EXCERPT:]}
        shown = examples.setdefault(state, [])
        if len(shown) < EXAMPLES:
            shown.append(example | {"compared": compared, "state": state})
    total, gradable = counts.total(), counts.pop("gradable", 0)
    others = [example for state, found in examples.items() if state != "gradable" for example in found]
    chosen = examples.get("gradable", [])[: max(EXAMPLES - len(others), MOST_GRADABLE)]
    sentence = f"{gradable} of {total} test rows can be graded"
    if counts:
        sentence += f" ({', '.join(f'{n}: {state}' for state, n in sorted(counts.items()))})"
    warning = f"only {gradable} of {total} test rows can be graded: {REMEDY}" if 2 * gradable < total else None
    return {
        "rows": total,
        "gradable": gradable,
        "reasons": dict(sorted(counts.items())),
        "examples": (chosen + others)[:EXAMPLES],
        "sentence": f"{sentence}; {warning}" if warning else sentence,
        "warning": warning,
    }
