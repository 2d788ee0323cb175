"""Merge an adapter into its base model, a checkpoint that the model's official code loads; or export it by itself.

reads   base model, adapter, test split of the shards
writes  merged/ (safetensors, official key names and config) or adapter/ (for PEFT), merge.json
usage   snakemake merge --cores 1 --configfile CONFIG
        python workflow/scripts/merge_adapter.py --out results/merge_adapter/VERSION
"""

import _src  # noqa: F401, puts src on the path

from dreamtune.workflow.code import code_digest

BEFORE = code_digest(__file__)
from dreamtune.merge import merge_adapter
from dreamtune.settings.likelihood import LikelihoodConfig
from dreamtune.settings.merge import MergeConfig
from dreamtune.settings.model import ModelConfig
from dreamtune.workflow.stage import Stage

if __name__ == "__main__":
    with Stage(__file__, BEFORE) as stage:
        reads = stage.reads()
        stage.counts = merge_adapter(
            stage.section("model", ModelConfig),
            reads["full"] / "adapter",
            stage.out,
            reads["shards"],
            stage.section("likelihood", LikelihoodConfig),
            stage.section("merge", MergeConfig),
        )
