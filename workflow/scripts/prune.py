"""Delete the versions that no experiment under results/latest points to.

reads   results/latest/EXPERIMENT/versions.json
usage   python workflow/scripts/prune.py
"""

import argparse

import _src  # noqa: F401, puts src on the path

from dreamtune.publish import prune

if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for folder in prune():
        print(f"deleted {folder}")
