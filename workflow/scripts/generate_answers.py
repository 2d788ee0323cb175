"""Answer questions with the base or the tuned model.

reads   test split of the shards (or a benchmark's parquet files), base model, adapter (or tuned model)
writes  answers.parquet, timings.parquet, generation.json
usage   python workflow/scripts/generate_answers.py --out results/generate_answers/VERSION [--part 2/7]
        python workflow/scripts/generate_answers.py --adapter results/latest/demo/full/adapter --prompt "2 + 3 = ?"
"""

import sys

import _src  # noqa: F401, puts src on the path

from dreamtune.workflow.code import code_digest

BEFORE = code_digest(__file__)
from dreamtune.generate.answers import generate_answers
from dreamtune.generate.ask import by_hand
from dreamtune.model.adapter_format import trained_weights
from dreamtune.settings.benchmark import Benchmark
from dreamtune.settings.generate import GenerateConfig
from dreamtune.settings.model import ModelConfig
from dreamtune.workflow.stage import Stage

if __name__ == "__main__":
    if any(argument.startswith("--prompt") for argument in sys.argv):
        sys.exit(by_hand(sys.argv[1:]))
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
        )
