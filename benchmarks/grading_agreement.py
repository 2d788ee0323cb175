r"""Our grading against the published grades of LLaDA-8B-Instruct's answers to GSM8K and MATH-500.

    python benchmarks/grading_agreement.py FOLDER [--check]

FOLDER holds parquet files with the columns question, completion, ground_truth and published_correct. Prints the
agreement of every file and over all with Wilson's 95 % interval, and refreshes the tables of docs/grading.md between
its markers. Every disagreement must have a judgement in docs/grading_judgements.csv (whose grade is right, under which
reason, and why), under a key of file, row and question. Fails on a disagreement without a judgement, on a judgement
without a disagreement and, with --check, where the document is not what would be written.
"""

import argparse
import hashlib
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import _src  # noqa: F401, puts src on the path
import polars as pl

from dreamtune.evaluate.intervals import wilson
from dreamtune.files import replace_with
from dreamtune.scoring.extraction import answer_part, extract
from dreamtune.scoring.score import is_correct
from dreamtune.settings.score import ScoreConfig

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs/grading.md"
JUDGEMENTS = ROOT / "docs/grading_judgements.csv"
JUDGED = ("ours right", "theirs right", "ambiguous")
NOT_JUDGED = "not judged yet"
EXCERPT = 60  # characters of a reference or an answer that are shown


@dataclass(frozen=True)
class Disagreement:
    """One completion on which the grades differ."""

    key: str
    reference: str
    extracted: str
    ours: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of parquet files with published grades")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the document is out of date")
    arguments = parser.parse_args()
    files = sorted(arguments.folder.glob("*.parquet"))
    if not files:
        sys.exit(f"{arguments.folder} holds no parquet files; give the folder of the published grades")
    rows: dict[str, int] = {}
    found: list[Disagreement] = []
    for file in files:
        frame = pl.read_parquet(file)
        rows[file.stem] = frame.height
        found += disagreements(file.stem, frame)
    judgements = read_judgements()
    agreement = agreement_table(rows, found)
    print(agreement)
    complaints = check(found, judgements)
    text = DOCUMENT.read_text(encoding="utf-8")
    fresh = put(put(text, "agreement", agreement), "disagreements", disagreement_tables(found, judgements))
    if arguments.check and fresh != text:
        complaints.append(f"{DOCUMENT.name} is out of date: run this without --check")
    elif not arguments.check:
        with replace_with(DOCUMENT) as private:
            private.write_text(fresh, encoding="utf-8")
    if complaints:
        sys.exit("\n".join(complaints))


def disagreements(name: str, frame: pl.DataFrame) -> list[Disagreement]:
    """Return the rows of a file on which our grade differs from the published one."""
    score = ScoreConfig()
    found = []
    for row, fields in enumerate(frame.iter_rows(named=True)):
        ours = is_correct(fields["completion"], fields["ground_truth"])
        if ours != fields["published_correct"]:
            digest = hashlib.sha256(fields["question"].encode()).hexdigest()[:8]
            extracted, _ = extract(answer_part(fields["completion"], score), score.extractors, score.marker)
            found.append(Disagreement(f"{name}/{row}/{digest}", fields["ground_truth"], extracted or "", ours))
    return found


def read_judgements() -> dict[str, dict[str, str]]:
    """Return {key: {judgement, reason, why}}."""
    rows = pl.read_csv(JUDGEMENTS).iter_rows(named=True)
    judgements = {row["key"]: row for row in rows}
    if wrong := [key for key, row in judgements.items() if row["judgement"] not in JUDGED]:
        sys.exit(f"{JUDGEMENTS.name}: the judgement of {wrong[0]} is none of {', '.join(JUDGED)}")
    return judgements


def check(found: list[Disagreement], judgements: dict[str, dict[str, str]]) -> list[str]:
    """Return a line for each disagreement without a judgement, and for each judgement without a disagreement."""
    keys = {one.key for one in found}
    new = [f"{NOT_JUDGED}: {key}; add it to {JUDGEMENTS.name}" for key in sorted(keys - judgements.keys())]
    return new + [f"no disagreement any more: {key}; delete its judgement" for key in sorted(judgements.keys() - keys)]


def agreement_table(rows: dict[str, int], found: list[Disagreement]) -> str:
    """Return the agreement per file and over all."""
    apart = Counter(one.key.split("/")[0] for one in found)
    lines = ["| file | rows | agree | agreement | 95 % interval |", "|---|---|---|---|---|"]
    for name, n, differ in [
        *((name, n, apart[name]) for name, n in rows.items()),
        ("all", sum(rows.values()), len(found)),
    ]:
        share = wilson(n - differ, n)
        interval = f"{share.low:.2%} to {share.high:.2%}"
        lines.append(f"| {name} | {n:,} | {n - differ:,} | {share.value:.2%} | {interval} |")
    return "\n".join(lines)


def disagreement_tables(found: list[Disagreement], judgements: dict[str, dict[str, str]]) -> str:
    """Return the counts by judgement and reason, then every disagreement."""
    unjudged = {"judgement": NOT_JUDGED, "reason": "", "why": ""}
    judged = [(one, judgements.get(one.key, unjudged)) for one in found]
    counts = Counter((row["judgement"], row["reason"]) for _, row in judged)
    lines = ["| judgement | reason | rows |", "|---|---|---|"]
    lines += [f"| {judgement} | {reason} | {n} |" for (judgement, reason), n in sorted(counts.items())]
    lines += ["", "| file/row/question | reference | extracted | ours | published | judgement | reason | why |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for one, row in judged:
        grades = ("right", "wrong") if one.ours else ("wrong", "right")
        cells = [
            one.key,
            code(one.reference),
            code(one.extracted),
            *grades,
            row["judgement"],
            row["reason"],
            row["why"],
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def code(text: str) -> str:
    """Return a short excerpt as Markdown code that a table can hold."""
    line = " ".join(text.split()).replace("|", "\\|").replace("`", "'")
    return f"`{line if len(line) <= EXCERPT else line[:EXCERPT] + '…'}`" if line else ""


def put(document: str, name: str, content: str) -> str:
    """Return the document with `content` between its markers `<!-- name -->` and `<!-- end of name -->`."""
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, _, rest = document.partition(start)
    _, found, after = rest.partition(end)
    if not found:
        sys.exit(f"{DOCUMENT.name} lacks the markers {start} and {end}")
    return f"{before}{start}\n{content}\n{end}{after}"


if __name__ == "__main__":
    main()
