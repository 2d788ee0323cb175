"""Delete the versions that no experiment under results/latest needs, and checkpoints of finished trainings.

Merges of versions that are needed stay, and so does unfinished work.

reads   results/latest/EXPERIMENT/versions.json, the config.json of every version
usage   python workflow/scripts/prune.py
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
