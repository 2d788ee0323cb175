"""Count the training rows that overlap a benchmark: the same question, or a shared run of words.

reads   training split of the shards, benchmark's parquet files
writes  contamination.json
usage   python workflow/scripts/audit_contamination.py --out results/audit_contamination/VERSION
"""

import _src  # noqa: F401, puts src on the path

from dreamtune.workflow.code import code_digest

BEFORE = code_digest(__file__)
from dreamtune.contamination.audit import audit_contamination
from dreamtune.settings.benchmark import Benchmark
from dreamtune.workflow.stage import Stage

if __name__ == "__main__":
    with Stage(__file__, BEFORE) as stage:
        stage.counts = audit_contamination(
            stage.reads()["shards"],
            stage.section("benchmark", Benchmark),
            stage.spec["settings"]["ngram"],
            stage.out,
        )
