"""Write the page of all experiments again, as the end of a run does: also what failed, and what has not run yet.

reads   results/latest: members.json, which the driver wrote of a study, and all reports; the study's versions
writes  results/latest/index.html; of a study side-by-side.html, study.parquet and study.csv, too
usage   python workflow/scripts/write_page.py
"""

import argparse
import sys
from pathlib import Path

import _src  # noqa: F401, puts src on the path

from dreamtune.errors import UserError
from dreamtune.workflow.disk import one_line
from dreamtune.workflow.publish import write_index

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("latest", nargs="?", type=Path, default=Path("results/latest"), help="folder of the page")
    latest = parser.parse_args().latest
    try:
        with one_line(latest):
            write_index(latest)
            print(latest / "index.html")
    except UserError as error:
        sys.exit(f"write_page: {error}")
