"""Train a QLoRA adapter, or all weights; the smoke run and the full run differ only in their settings.

reads   shards, base model; for the full run the gate.json of the smoke run; in a halved grid the rung before
writes  adapter/ (PEFT) or model/, train_log.jsonl, training.json, gate.json; checkpoints/, to resume from; or, as a
        rung, reached/, train_log.jsonl and rung.json
usage   python workflow/scripts/train_adapter.py --out results/train_adapter/VERSION
"""

import _src  # noqa: F401, puts src on the path

from dreamtune.workflow.code import code_digest

BEFORE = code_digest(__file__)
from dreamtune.formats.halving import rung_of
from dreamtune.settings.model import ModelConfig
from dreamtune.settings.train import TrainConfig
from dreamtune.train.train import train_adapter
from dreamtune.workflow.stage import Stage

if __name__ == "__main__":
    with Stage(__file__, BEFORE) as stage:
        reads = stage.reads()
        stage.counts = train_adapter(
            stage.section("train", TrainConfig),
            stage.section("model", ModelConfig),
            reads["shards"],
            stage.out,
            stage.folder,
            reads.get("gate"),
            stage.section("full", TrainConfig) if "full" in stage.spec["runtime"] else None,
            stage.spec.get("canvases"),
            rung_of(stage.spec),
            reads.get("rung"),
            reads.get("decision"),
        )
