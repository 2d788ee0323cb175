"""Delete the versions that no experiment under results/latest needs, and the checkpoints of finished trainings.

Unfinished versions and merges of needed versions are kept.

reads   results/latest/EXPERIMENT/versions.json, manifest or config.json of every version
writes  nothing; deletes folders under results, and prints them
usage   python workflow/scripts/prune.py [--unfinished]
"""

import argparse
import sys

import _src  # noqa: F401, puts src on the path

from dreamtune.errors import UserError
from dreamtune.workflow.prune import prune

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unfinished", action="store_true", help="delete unfinished versions and checkpoints, too")
    try:
        for folder in prune(unfinished=parser.parse_args().unfinished):
            print(f"deleted {folder}")
    except UserError as error:
        sys.exit(f"prune: {error}")
