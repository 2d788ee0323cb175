"""Full fine-tuning through the workflow: from rows to a verdict, and the same training by two processes."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from project import MICRO, Project
from tests.train.test_processes import ONCE, lines, plant

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the project with everything made by one process; its trainings lie in `one/` besides."""
    project = Project(tmp_path_factory.mktemp("full"))
    project.edit(MICRO, "quantization: nf4", "quantization: none")
    project.edit(MICRO, ONCE, f"{ONCE}\n  finetuning: full\n  checkpoint_steps: 1\n  keep_checkpoints: 9")
    project.edit(MICRO, "likelihood: {draws: 1,", "likelihood: {draws: 2, batch_tokens: 128,")
    project.edit(MICRO, "  sampled: {temperature: 0.7, top_p: 0.9}\n", "")
    project.edit(MICRO, "micro_batch_tokens: 512", "micro_batch_tokens: 64")  # several micro-batches for each process
    project.edit(MICRO, "full: {rows: 16, epochs: 1", "full: {rows: 20, epochs: 2")
    project.snakemake()
    shutil.copytree(project.folder / "results/train_adapter", project.folder / "one")
    return project


def runs(project: Project, folder: str = "one") -> dict[str, Path]:
    """Return the folders of smoke and full."""
    found = (project.folder / folder).iterdir()
    return {json.loads((path / "config.json").read_text())["settings"]["run"]: path for path in found}


def same_training(project: Project) -> None:
    """Compare what stands in results/ with what one process made."""
    for run, one in runs(project).items():
        two = project.folder / "results/train_adapter" / one.name
        for mine, theirs in zip(lines(two), lines(one), strict=True):
            for name in ("loss", "elbo", "grad_norm", "validation_nll"):
                if name in theirs or name in mine:  # gradient norms are as large as 6, in float32
                    assert mine[name] == pytest.approx(theirs[name], rel=1e-5, abs=1e-5), (run, name, mine)
        weights, expected = (load_file(path / "model/model.safetensors") for path in (two, one))
        assert weights.keys() == expected.keys()
        for name, value in expected.items():  # stored in bf16, as the base: a rounding may fall the other way
            assert torch.allclose(weights[name].float(), value.float(), atol=1e-5, rtol=2**-7), name
        log = (two / "job.log").read_text()
        assert "Traceback" not in log and "Warning" not in log


def test_it_ends_in_a_verdict(project: Project) -> None:
    latest = project.folder / "results/latest/one"
    summary = json.loads((latest / "report/summary.json").read_text())
    assert summary["verdict"] != "invalid", summary
    training = json.loads((latest / "full/training.json").read_text())
    assert training["trainable"] == training["parameters"] > 1e6
    assert {"config.json", "tokenizer.json", "model.safetensors"} <= {p.name for p in (latest / "full/model").iterdir()}
    card = (latest / "model/README.md").read_text()
    assert "base_model_relation" not in card and "library_name: transformers" in card and "PeftModel" not in card
    assert (latest / "model/model.safetensors").samefile(latest / "full/model/model.safetensors")
    nll = pl.read_parquet(latest / "likelihood/likelihood.parquet")
    assert (nll["nll_base"] != nll["nll_tuned"]).all()
    answers = [pl.read_parquet(latest / f"answers-test-greedy-{who}/answers.parquet") for who in ("base", "tuned")]
    assert not answers[0].equals(answers[1])


def test_the_tuned_model_answers_by_hand(project: Project) -> None:
    """With base, precision and template of its training."""
    asked = ["--adapter", "results/latest/one/full/model", "--prompt", "2 + 3 = ?", "--max-new-tokens", "4"]
    command = [project.python, "workflow/scripts/ask.py", *asked]
    done = subprocess.run(command, cwd=project.folder, env=project.environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("question: 2 + 3 = ?\nanswer: "), done.stderr


def test_the_likelihood_of_three_jobs_is_that_of_one(project: Project) -> None:
    made = (project.folder / "results/latest/one/likelihood").resolve()
    bytes_of_one = (made / "likelihood.parquet").read_bytes()
    shutil.rmtree(made)
    config = (project.folder / MICRO).read_text()
    project.edit(MICRO, "likelihood: {", "likelihood: {scatter: 3, ")
    output = project.snakemake(str(made.relative_to(project.folder) / "manifest.json"))
    assert output.count("evaluate_likelihood_part") >= 3
    assert (made / "likelihood.parquet").read_bytes() == bytes_of_one
    (project.folder / MICRO).write_text(config)


@pytest.fixture
def again(project: Project) -> Project:
    """The project without its trainings, two processes being asked for; put back as it was afterwards."""
    config = (project.folder / MICRO).read_text()
    trainings = project.folder / "results/train_adapter"
    shutil.rmtree(trainings)
    project.edit(MICRO, ONCE, f"{ONCE}\n  gpus: 2")
    yield project
    shutil.rmtree(trainings, ignore_errors=True)
    shutil.copytree(project.folder / "one", trainings)
    (project.folder / MICRO).write_text(config)


def target(project: Project) -> str:
    return f"results/train_adapter/{runs(project)['full'].name}/manifest.json"


def test_two_processes_train_what_one_does_and_go_on_from_the_checkpoint_of_one(again: Project) -> None:
    """Smoke from the base, full from a checkpoint; the test below trains a full run from the base."""
    full = runs(again)["full"]
    begun = again.folder / "results/train_adapter" / full.name
    shutil.copytree(full / "checkpoints/step-000003", begun / "checkpoints/step-000003")
    shutil.copy2(full / "config.json", begun)
    output = again.snakemake(target(again), "--printshellcmds")
    assert output.count("; python3 workflow/scripts/torchrun.py --nproc-per-node 2 --standalone") == 2
    assert output.count("resuming from step-000003") == 1
    same_training(again)


def test_two_processes_that_are_asked_to_stop_keep_one_checkpoint(again: Project) -> None:
    begun = plant(again, **runs(again))
    driver = again.start(target(again))
    while driver.poll() is None and not list((begun / "checkpoints").glob("step-*")):
        time.sleep(0.02)
    os.killpg(driver.pid, signal.SIGTERM)
    assert driver.wait(240) != 0
    said = (begun / "job.log").read_text()
    assert said.count("a checkpoint after step") == 1, said
    assert again.snakemake(target(again)).count("resuming from step-") == 1
    same_training(again)
