"""Count the test rows whose reference holds an answer that can be graded, and show five of them, before anybody trains.

A stage of its own, because it takes the grader: an edit of the grader, or of a setting of `score`, makes this count
again, and neither the shards nor a training that waited for it.

reads   test and validation split of the shards
writes  references.json, and one line on stderr
usage   python workflow/scripts/audit_references.py --out results/audit_references/VERSION
"""

import _src  # noqa: F401, puts src on the path

from dreamtune.workflow.code import code_digest

BEFORE = code_digest(__file__)
from dreamtune.scoring.references import audit_references
from dreamtune.settings.score import ScoreConfig
from dreamtune.workflow.stage import Stage

if __name__ == "__main__":
    with Stage(__file__, BEFORE) as stage:
        stage.counts = audit_references(
            stage.section("score", ScoreConfig),
            stage.reads()["shards"],
            stage.out,
            stage.spec.get("fewest_validation", 0),
        )
