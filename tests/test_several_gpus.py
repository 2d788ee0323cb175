"""Two GPUs against one, through the rule and NCCL: the same losses, for an adapter and for all weights."""

import shutil
from pathlib import Path

import pytest
import torch

from project import MICRO, Project
from test_processes import lines

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
