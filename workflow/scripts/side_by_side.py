"""Write a page with the answers of two runs of a study beside each other, where exactly one of them is right.

reads   results/latest/members.json, answers and scores of both runs
writes  results/latest/FIRST--SECOND.html
usage   python workflow/scripts/side_by_side.py qlora full --questions 100
"""

import argparse
import sys
from pathlib import Path

import _src  # noqa: F401, puts src on the path

from dreamtune.errors import UserError
from dreamtune.overview.side_by_side import MOST_QUESTIONS, write_pair

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs=2, metavar="RUN", help="name of a run, as the page has it")
    parser.add_argument("--questions", type=int, default=MOST_QUESTIONS, help="how many questions to show at most")
    given = parser.parse_args()
    try:
        print(write_pair(Path("results/latest"), *given.runs, given.questions))
    except UserError as error:
        sys.exit(f"side_by_side: {error}")
