"""Two GPUs against one, through the rule and NCCL: the same losses; and one job alone, on whichever is free."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from dreamtune.device.gpus import take_gpus
from project import MICRO, Project
from tests.train.test_processes import lines

pytestmark = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


@pytest.mark.parametrize("finetuning", ["lora", "full"])
def test_two_gpus_train_what_one_does(finetuning: str, tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.edit(MICRO, "device: cpu", "device: cuda")
    if finetuning == "full":
        project.edit(MICRO, "quantization: nf4", "quantization: none")
    project.edit(MICRO, "lora: {rank: 4,", "lora: {dropout: 0.0, rank: 4,")
    project.edit(MICRO, "  learning_rate: 1e-3", f"  learning_rate: 1e-3\n  finetuning: {finetuning}")
    project.edit(MICRO, "micro_batch_tokens: 512", "micro_batch_tokens: 64\n  compile: false")
    project.edit(MICRO, "full: {rows: 16, epochs: 1", "full: {rows: 20, epochs: 2")
    project.snakemake("--until", "train_adapter")  # the shards, and smoke: its folder tells full's from it
    one = train(project)
    project.edit(MICRO, f"  finetuning: {finetuning}", f"  finetuning: {finetuning}\n  gpus: 2")
    two = train(project, "--resources", "gpu=2")
    assert "torchrun" not in one[0] and "torchrun.py --nproc-per-node 2" in two[0]
    assert len(one[1]) == len(two[1]) > 6
    for mine, theirs in zip(two[1], one[1], strict=True):
        for name in ("loss", "elbo", "grad_norm", "validation_nll"):
            assert mine.get(name) == pytest.approx(theirs.get(name), abs=2e-5), (name, mine)


def test_a_training_takes_the_gpu_that_no_other_job_has(tmp_path: Path) -> None:
    """Whole on the second: a tensor that stood on the first would end it."""
    assert take_gpus(1) == [0], "another job of yours runs here"
    project = Project(tmp_path)
    project.edit(MICRO, "device: cpu", "device: cuda")
    project.edit(MICRO, "micro_batch_tokens: 512", "micro_batch_tokens: 512\n  compile: false")
    project.snakemake("--until", "train_adapter")
    [smoke] = [path.parent for path in project.manifests() if path.parts[-3] == "train_adapter"]
    assert json.loads((smoke / "training.json").read_text())["ran_as"]["device"] == "cuda"
    assert "sharing" not in (smoke / "job.log").read_text()


def train(project: Project, *arguments: str) -> tuple[str, list[dict[str, float]]]:
    """Run full alone; return what Snakemake printed and the training's log, and leave nothing of it."""
    planned = (project.folder / "results/train_adapter").glob("*/config.json")
    [full] = [path.parent for path in planned if '"run": "full"' in path.read_text()]
    target = str((full / "manifest.json").relative_to(project.folder))
    output = project.snakemake(target, "--printshellcmds", *arguments)
    log, config = lines(full), (full / "config.json").read_text()
    shutil.rmtree(full)
    full.mkdir()
    (full / "config.json").write_text(config)
    return output, log
