"""Choose the best method of a study on validation answers, and measure its gain on the answers to the test split.

reads   of each run: the same as study, and the scores of its answers to the validation split
writes  confirm.json
usage   python workflow/scripts/confirm.py --out results/confirm/VERSION
"""

import _src  # noqa: F401, puts src on the path

from dreamtune.workflow.code import code_digest

BEFORE = code_digest(__file__)
from dreamtune.settings.report import Comparison
from dreamtune.settings.study import StudyConfig
from dreamtune.study.confirmation import run_confirm
from dreamtune.study.ended import Ended, stopped_runs
from dreamtune.study.points import Point
from dreamtune.workflow.stage import Stage

if __name__ == "__main__":
    with Stage(__file__, BEFORE) as stage:
        reads = stage.reads()
        stage.counts = run_confirm(
            [Point(**point) for point in stage.spec["settings"]["points"]],
            stage.section("study", StudyConfig),
            stage.section("comparison", Comparison),
            reads,
            stage.out,
            [*(Ended(**one) for one in stage.spec["settings"]["ended"]), *stopped_runs(reads)],
        )
