"""Grade generated answers, and measure signs of degenerate text such as repetition.

reads   answers.parquet of one generation
writes  scores.parquet, scores.json
usage   python workflow/scripts/score_answers.py --out results/score_answers/VERSION
"""

import _src  # noqa: F401, puts src on the path

from dreamtune.workflow.code import code_digest

BEFORE = code_digest(__file__)
from dreamtune.scoring.score import score_answers
from dreamtune.settings.score import ScoreConfig
from dreamtune.workflow.stage import Stage

if __name__ == "__main__":
    with Stage(__file__, BEFORE) as stage:
        stage.counts = score_answers(stage.section("score", ScoreConfig), stage.reads()["answers"], stage.out)
