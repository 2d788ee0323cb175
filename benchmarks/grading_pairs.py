r"""The share of completion and solution pairs whose grade is right, by kind.

    python benchmarks/grading_pairs.py FILE [--wrong] [--grades OUT] [--busy 10] [--at-least 0.97]

FILE holds one JSON object per line: `completion`, `solution`, `right` (the grade that the pair deserves) and, if the
pairs come in kinds, `kind`. `--wrong` prints the pairs that are graded otherwise, with what was compared. `--grades`
writes a line `true` or `false` per pair, so that two runs can be compared with `cmp`: a grade is to be the same
alone and beside `--busy` busy processes, which end with the benchmark.
"""

import argparse
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import _src  # noqa: F401, puts src on the path

from dreamtune.files import replace_with
from dreamtune.scoring.extraction import answer_part, extract
from dreamtune.scoring.references import reference_answer
from dreamtune.scoring.score import is_correct
from dreamtune.settings.score import ScoreConfig

BUSY = "while True: pass"


def main(arguments: argparse.Namespace) -> float:
    """Print a row per kind and one over all; return the share of right grades over all."""
    pairs = [json.loads(line) for line in arguments.file.read_text(encoding="utf-8").splitlines() if line.strip()]
    neighbours = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(arguments.busy)]
    try:
        grades = [is_correct(pair["completion"], pair["solution"]) for pair in pairs]
    finally:
        for neighbour in neighbours:
            neighbour.kill()
    right, rows = Counter[str](), Counter[str]()
    for pair, grade in zip(pairs, grades, strict=True):
        kind = pair.get("kind", "")
        rows[kind] += 1
        right[kind] += grade == pair["right"]
        if arguments.wrong and grade != pair["right"]:
            print(describe(pair))
    lines = [(kind, right[kind], n) for kind, n in rows.items()] + [("all", right.total(), rows.total())]
    print("| kind | pairs | right | share |\n|---|---|---|---|")
    for kind, found, n in lines:
        print(f"| {kind} | {n} | {found} | {found / n:.1%} |" if n else f"| {kind} | 0 | 0 | |")
    if arguments.grades:
        with replace_with(arguments.grades) as private:
            private.write_text("".join(f"{json.dumps(grade)}\n" for grade in grades))
    return right.total() / max(1, rows.total())


def describe(pair: dict[str, Any]) -> str:
    """Return a pair that is graded otherwise than it deserves, with the two texts that were compared."""
    score = ScoreConfig()
    answer, extractor = extract(answer_part(pair["completion"], score), score.extractors, score.marker)
    shown = {"expected": pair["right"], **pair, "answer": answer, "extractor": extractor}
    shown["reference"] = reference_answer(pair["solution"], score.marker)
    return json.dumps(shown, ensure_ascii=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="pairs, one JSON object per line")
    parser.add_argument("--wrong", action="store_true", help="print the pairs that are graded otherwise")
    parser.add_argument("--grades", type=Path, help="file for one grade per line")
    parser.add_argument("--busy", type=int, default=0, help="busy processes beside the grading")
    parser.add_argument("--at-least", type=float, default=0.0, help="fail where a smaller share is right")
    arguments = parser.parse_args()
    sys.exit(0 if main(arguments) >= arguments.at_least else 1)
