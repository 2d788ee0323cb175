"""Fetch models and data from the Hugging Face hub, at their pinned revisions, into the hub's cache.

reads   the hub, logged in by `hf auth login` or HF_TOKEN where a repository needs it
writes  the files that the cache (in HF_HOME) lacks, and the marker --out, last
usage   snakemake download --cores 1
        python workflow/scripts/download.py Dream-org/Dream-v0-Base-7B@6572adb5535263e4d1a337b56942ba48b6dee2a9
"""

import argparse
import json
import os
import sys
from functools import partial
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "0")  # the one script that goes to the network, unless the user forbids it
import _src  # noqa: F401, puts src on the path

from dreamtune.errors import UserError
from dreamtune.inputs.download import download

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="empty file to write when all sources are in the cache")
    parser.add_argument(
        "--column", nargs=2, action="append", default=[], metavar=("FILE", "NAME"), help="to be checked"
    )
    parser.add_argument("sources", nargs="*", help="OWNER/NAME@REVISION, or hf://datasets/OWNER/NAME@REVISION/PATH")
    parser.add_argument("--models", nargs="*", type=json.loads, default=[], metavar="JSON", help="models to be checked")
    arguments = parser.parse_args()
    try:
        columns = list(map(tuple, arguments.column))
        download(arguments.sources, partial(print, flush=True), arguments.models, columns)
        if arguments.out:
            arguments.out.touch()
    except UserError as error:
        sys.exit(f"download: {error}")
