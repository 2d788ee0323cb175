"""Count the training rows that overlap a benchmark: the same question, nearly the same, or a shared run of words.

reads   training split of the shards, tokenizer, benchmark's parquet files
writes  contamination.json, questions.parquet
usage   python workflow/scripts/audit_contamination.py --out results/audit_contamination/VERSION
"""

import _src  # noqa: F401, puts src on the path

from dreamtune.workflow.code import code_digest

BEFORE = code_digest(__file__)
from dreamtune.contamination.audit import audit_contamination
from dreamtune.data.tokenizer import load_tokenizer
from dreamtune.settings.benchmark import Benchmark
from dreamtune.settings.model import ModelConfig
from dreamtune.workflow.stage import Stage

if __name__ == "__main__":
    with Stage(__file__, BEFORE) as stage:
        model = stage.section("model", ModelConfig)
        stage.counts = audit_contamination(
            stage.reads()["shards"],
            stage.section("benchmark", Benchmark),
            stage.spec["settings"]["ngram"],
            load_tokenizer(model.path, model.revision, model.mask_token, not model.causal).decode,
            stage.out,
        )
