"""Compare the methods of a study with each other: adjusted tests, intervals, the best one, learning curves.

reads   of each run: its training runs' records, likelihood, answers to the test split and their scores
writes  study.json, and the table of comparisons as study.parquet and study.csv
usage   python workflow/scripts/study.py --out results/study/VERSION
"""

import _src  # noqa: F401, puts src on the path

from dreamtune.workflow.code import code_digest

BEFORE = code_digest(__file__)
from dreamtune.settings.report import Comparison
from dreamtune.settings.study import StudyConfig
from dreamtune.study.ended import Ended, stopped_runs
from dreamtune.study.points import Point
from dreamtune.study.results import run_study
from dreamtune.workflow.stage import Stage

if __name__ == "__main__":
    with Stage(__file__, BEFORE) as stage:
        reads = stage.reads()
        stage.counts = run_study(
            stage.section("study", StudyConfig),
            stage.section("comparison", Comparison),
            [Point(**point) for point in stage.spec["settings"]["points"]],
            reads,
            stage.out,
            [*(Ended(**one) for one in stage.spec["settings"]["ended"]), *stopped_runs(reads)],
        )
