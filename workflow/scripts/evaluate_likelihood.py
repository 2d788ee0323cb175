"""Estimate the held-out likelihood of base and tuned model, on identical masks.

reads   test and training split of the shards, base model, adapter (or fully fine-tuned model)
writes  likelihood.parquet and likelihood_full.parquet (per example and draw), likelihood.json
usage   python workflow/scripts/evaluate_likelihood.py --out results/evaluate_likelihood/VERSION [--part 2/7]
"""

import _src  # noqa: F401, puts src on the path

from dreamtune.workflow.code import code_digest

BEFORE = code_digest(__file__)
from dreamtune.evaluate.likelihood import evaluate_likelihood
from dreamtune.model.adapter_format import trained_weights
from dreamtune.settings.likelihood import LikelihoodConfig
from dreamtune.settings.model import ModelConfig
from dreamtune.settings.train import TrainConfig
from dreamtune.workflow.stage import Stage

if __name__ == "__main__":
    with Stage(__file__, BEFORE) as stage:
        reads = stage.reads()
        stage.counts = evaluate_likelihood(
            stage.section("likelihood", LikelihoodConfig),
            stage.section("model", ModelConfig),
            reads["shards"],
            trained_weights(reads["adapter"]),
            stage.out,
            stage.part,
            stage.parts(),
            TrainConfig(**stage.spec["settings"]["tails"]),
        )
