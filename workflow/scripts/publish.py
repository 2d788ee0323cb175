"""Point the links in results/latest/EXPERIMENT at the experiment's newest versions.

reads   manifests of the versions, the trained weights; summary.json of every experiment under results/latest
writes  a link per name, report.html, summary.json, lm-eval; adapter/ or model/, the weights with their model card;
        versions.json, results/latest/index.html, and last the marker --out
usage   python workflow/scripts/publish.py --out results/latest/demo/.published-DIGEST full=results/train_adapter/X
"""

import argparse
import sys
from pathlib import Path

import _src  # noqa: F401, puts src on the path

from dreamtune.errors import UserError
from dreamtune.workflow.disk import one_line
from dreamtune.workflow.publish import publish

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="empty file to write when all links are set")
    parser.add_argument(
        "--configuration", default="", help="files of the configuration, to tell when another replaces it"
    )
    parser.add_argument("links", nargs="+", metavar="NAME=FOLDER", help="version folder to link under a name")
    arguments = parser.parse_args()
    links = dict(link.split("=", 1) for link in arguments.links)
    try:
        with one_line(arguments.out.parent):
            if replaced := publish(arguments.out, links, arguments.configuration):
                print(f"dreamtune: {replaced}")
    except UserError as error:
        sys.exit(f"publish: {error}")
