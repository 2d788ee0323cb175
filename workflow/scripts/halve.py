"""Decide after a rung of a grid's trainings which points go on: successive halving by the validation NLL.

reads   the rungs of the runs that have not stopped, and the decisions before
writes  halve.json
usage   python workflow/scripts/halve.py --out results/halve/VERSION
"""

import _src  # noqa: F401, puts src on the path

from dreamtune.workflow.code import code_digest

BEFORE = code_digest(__file__)
from dreamtune.settings.study import Halving
from dreamtune.study.decisions import run_halve
from dreamtune.workflow.stage import Stage

if __name__ == "__main__":
    with Stage(__file__, BEFORE) as stage:
        settings = stage.spec["settings"]
        stage.counts = run_halve(
            stage.section("halving", Halving), settings["share"], settings["methods"], stage.reads(), stage.out
        )
