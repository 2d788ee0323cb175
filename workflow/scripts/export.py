"""Write finished runs into the files of an experiment tracker, by its own client and without a network.

Curves by step, settings, final figures with their intervals, the verdict; of a finished study its comparisons, too. A
run that is there already is left as it is. Needs the client: pip install mlflow-skinny sqlalchemy alembic, or wandb.

reads   results/latest/RUN/report and the training it was made from; results/latest/members.json and the study
writes  OUT: mlflow.db and artifacts/, wandb/offline-run-…, or TensorBoard's events
usage   python workflow/scripts/export.py --to mlflow --out exported
"""

import argparse
import sys
from pathlib import Path

import _src  # noqa: F401, puts src on the path

from dreamtune.errors import UserError
from dreamtune.export.export import TRACKERS, export
from dreamtune.export.record import read_records
from dreamtune.workflow.disk import one_line

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", metavar="RUN", help="names of published runs; all, and the study, without")
    parser.add_argument("--to", required=True, choices=sorted(TRACKERS), help="whose files")
    parser.add_argument("--out", required=True, type=Path, help="folder of the files, also one with earlier exports")
    parser.add_argument("--project", default="dreamtune", help="under which the tracker lists the runs")
    given = parser.parse_args()
    try:
        with one_line(given.out):
            for line in export(read_records(Path("results/latest"), given.runs), given.to, given.out, given.project):
                print(line)
    except UserError as error:
        sys.exit(f"export: {error}")
