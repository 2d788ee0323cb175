"""Answer questions with the base or the tuned model.

reads   test split of the shards (or a benchmark's parquet files), base model, adapter (or fully fine-tuned model)
writes  answers.parquet, timings.parquet, generation.json
usage   python workflow/scripts/generate_answers.py --out results/generate_answers/VERSION [--part 2/7]
"""

import _src  # noqa: F401, puts src on the path

from dreamtune.workflow.code import code_digest

BEFORE = code_digest(__file__)
from dreamtune.generate.answers import generate_answers
from dreamtune.model.adapter_format import trained_weights
from dreamtune.settings.benchmark import Benchmark
from dreamtune.settings.few_shot import FewShot
from dreamtune.settings.generate import GenerateConfig
from dreamtune.settings.model import ModelConfig
from dreamtune.workflow.stage import Stage

if __name__ == "__main__":
    with Stage(__file__, BEFORE) as stage:
        reads = stage.reads()
        stage.counts = generate_answers(
            stage.section("generate", GenerateConfig),
            stage.section("model", ModelConfig),
            reads["shards"],
            stage.optional("benchmark", Benchmark),
            trained_weights(reads["adapter"]) if "adapter" in reads else None,
            stage.out,
            stage.part,
            stage.parts(),
            stage.optional("few_shot", FewShot),
            stage.spec["settings"].get("split", "test"),
        )
