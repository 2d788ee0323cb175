"""Print each experiment's verdict in one line, and the path of its report, as every run of Snakemake does at its end.

reads   summary.json of the report that results/latest/EXPERIMENT links to, once it is verified
usage   python workflow/scripts/print_verdict.py demo demo-copy
"""

import argparse
import sys
from pathlib import Path

import _src  # noqa: F401, puts src on the path

from dreamtune.errors import UserError
from dreamtune.workflow.verdicts import verdict_lines

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="+", help="names of finished experiments")
    try:
        for name in parser.parse_args().experiments:
            print(*verdict_lines(Path("results/latest") / name), sep="\n")
    except UserError as error:
        sys.exit(f"print_verdict: {error}")
