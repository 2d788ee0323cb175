"""Training by several processes, through the rule and its launcher: the result of one, and one line where it fails."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import load_file

from conftest import ROOT
from dreamtune.errors import UserError
from dreamtune.train.run import check_gpus
from dreamtune.workflow import containers
from project import MICRO, Project
from versions import edit_output

ONCE = "  learning_rate: 1e-3"  # a line of `train` in the config, for further keys to stand beside


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the project in which smoke and full were trained by one process, dropout off; kept in `one/`."""
    project = Project(tmp_path_factory.mktemp("processes"))
    prepare(project)
    train(project)
    (project.folder / "results/train_adapter").rename(project.folder / "one")
    return project


def prepare(project: Project) -> None:
    """Let processes differ in nothing but rounding, and have something to share."""
    project.edit(MICRO, "lora: {rank: 4,", "lora: {dropout: 0.0, rank: 4,")
    project.edit(MICRO, ONCE, f"{ONCE}\n  checkpoint_steps: 1\n  keep_checkpoints: 9")
    project.edit(MICRO, "micro_batch_tokens: 512", "micro_batch_tokens: 64")  # several micro-batches for each process
    project.edit(MICRO, "full: {rows: 16, epochs: 1", "full: {rows: 20, epochs: 2")


def train(project: Project, *arguments: str, fails: bool = False) -> str:
    """Run smoke and full, and nothing that follows."""
    if not (project.folder / "results/train_adapter").exists():
        project.snakemake("--until", "prepare_shards", *arguments)  # writes what every version is planned with
    planned = (project.folder / "results/train_adapter").glob("*/config.json")
    [full] = [path for path in planned if json.loads(path.read_text())["settings"]["run"] == "full"]
    target = full.with_name("manifest.json").relative_to(project.folder)
    return project.snakemake(str(target), "--printshellcmds", *arguments, fails=fails)


@pytest.fixture
def again(project: Project) -> Project:
    """The same without the trainings, and with the config as it was afterwards."""
    config = (project.folder / MICRO).read_text()
    shutil.rmtree(project.folder / "results/train_adapter", ignore_errors=True)
    yield project
    (project.folder / MICRO).write_text(config)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]


def same_training(project: Project) -> None:
    """Compare what stands in results/ with what one process made."""
    folders = sorted((project.folder / "one").iterdir())
    assert len(folders) == 2
    for one in folders:
        two = project.folder / "results/train_adapter" / one.name
        for mine, theirs in zip(lines(two), lines(one), strict=True):
            for name in ("loss", "elbo", "grad_norm", "validation_nll"):
                assert mine.get(name) == pytest.approx(theirs.get(name), abs=1e-5), (name, mine)
        weights, expected = (load_file(path / "adapter/adapter_model.safetensors") for path in (two, one))
        assert weights.keys() == expected.keys()
        for name, value in expected.items():
            assert weights[name] == pytest.approx(value, abs=2e-5), name
        log = (two / "job.log").read_text()
        assert log.count(f"train {lines(one)[-1]['step']}/") == 1, "only the first process reports its progress"
        assert "Warning" not in log and "Traceback" not in log
        assert not list(two.glob(".out-*"))


@pytest.mark.slow
def test_two_processes_train_what_one_does_and_go_on_from_the_checkpoint_of_one(again: Project) -> None:
    """Smoke from the base, full from a checkpoint; on two nodes, below, full begins with the base."""
    again.edit(MICRO, ONCE, f"{ONCE}\n  gpus: 2")
    _, full = runs(again)
    begun = again.folder / "results/train_adapter" / full.name
    shutil.copytree(full / "checkpoints/step-000003", begun / "checkpoints/step-000003")
    shutil.copy2(full / "config.json", begun)
    output = train(again)
    assert output.count("; python3 workflow/scripts/torchrun.py --nproc-per-node 2 --standalone") == 2
    assert output.count("resuming from step-000003") == 1
    same_training(again)
    made = (again.folder / "results/train_adapter").glob("*/training.json")
    assert [json.loads(path.read_text())["processes"] for path in made] == [2, 2]


def runs(project: Project) -> tuple[Path, Path]:
    """Return what one process made of smoke and full."""
    found = {json.loads((path / "config.json").read_text())["settings"]["run"]: path for path in _versions(project)}
    return found["smoke"], found["full"]


def _versions(project: Project) -> list[Path]:
    return list((project.folder / "one").iterdir())


def plant(project: Project, smoke: Path, full: Path) -> Path:
    """Put the finished smoke and a full that is only planned into results/; return the folder of full."""
    trainings = project.folder / "results/train_adapter"
    shutil.copytree(smoke, trainings / smoke.name)
    (trainings / full.name).mkdir()
    shutil.copy2(full / "config.json", trainings / full.name)
    return trainings / full.name


@pytest.mark.slow
def test_two_nodes_train_what_one_process_does(again: Project, tmp_path: Path) -> None:
    """With stand-ins: srun starts its command twice on this machine, as it does once on each node, outside of the
    image, which has no srun; apptainer notes that it was called, and runs what it is given.
    """
    (tmp_path / "srun").write_text("""#!/bin/bash
        [[ "$1 $2 $3 $4" == "--nodes 2 --ntasks 2" ]] || exit 9
        while [[ $1 != apptainer ]]; do shift; done
        "$@" & "$@" && wait $!
    """)
    (tmp_path / "apptainer").write_text(f"""#!/bin/bash
        [[ $1 == *version ]] && echo apptainer version 1.4.5 && exit
        echo "$@" >> {tmp_path}/calls
        while [[ $1 != *.sif ]]; do shift; done
        shift; exec "$@"
    """)
    for command in ("srun", "apptainer"):
        (tmp_path / command).chmod(0o755)
    image = again.folder / containers.image()
    image.parent.mkdir(exist_ok=True)
    image.touch()
    again.edit(MICRO, ONCE, f"{ONCE}\n  nodes: 2")
    smoke, full = runs(again)
    plant(again, smoke, full)
    path = again.environment["PATH"]
    again.environment["PATH"] = f"{tmp_path}:{path}"
    show = '"echo mpi={resources.mpi} nodes={resources.nodes}; trap :'  # Snakemake prints a job's message instead
    again.edit("workflow/rules/train.smk", '"trap :', show)
    output = train(again, "--sdm", "apptainer", "--apptainer-args=--nv")
    again.edit("workflow/rules/train.smk", show, '"trap :')
    again.environment["PATH"] = path
    assert "mpi=srun nodes=2\n" in output
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len(calls) == 2 and all(call.startswith(f"exec --nv {containers.image()} python3 ") for call in calls)
    same_training(again)


@pytest.mark.slow
def test_two_processes_that_are_asked_to_stop_keep_one_checkpoint(again: Project) -> None:
    """The launcher, whose processes have sessions of their own, passes the signal on, and waits for the checkpoint.

    SIGTERM is shown with full fine-tuning (test_full_finetuning_workflow.py).
    """
    number = signal.SIGUSR1
    again.edit(MICRO, ONCE, f"{ONCE}\n  gpus: 2")
    smoke, full = runs(again)
    begun = plant(again, smoke, full)
    driver = again.start(str((begun / "manifest.json").relative_to(again.folder)))
    while driver.poll() is None and not list((begun / "checkpoints").glob("step-*")):
        time.sleep(0.02)
    os.killpg(driver.pid, number)
    assert driver.wait(240) != 0
    end = time.monotonic() + 240
    while not (begun / "job.log").read_text().splitlines()[-1].startswith("train_adapter: "):
        assert time.monotonic() < end  # under SIGUSR1 Snakemake itself ends at once, before its job
        time.sleep(0.05)
    said = re.findall(
        rf"stopped by {number.name}; a checkpoint after step (\d) of 6 is kept", (begun / "job.log").read_text()
    )
    assert len(said) == 1 and list((begun / "checkpoints").glob(f"step-*{said[0]}"))
    assert train(again).count(f"resuming from step-00000{said[0]}") == 1
    same_training(again)


@pytest.mark.slow
def test_a_users_mistake_is_one_line_from_all_processes(again: Project) -> None:
    again.edit(MICRO, ONCE, f"{ONCE}\n  gpus: 2")
    smoke, full = runs(again)
    begun = plant(again, smoke, full)
    edit_output(begun.parent / smoke.name, "gate.json", passed=False)
    train(again, fails=True)
    [line] = (begun / "job.log").read_text().splitlines()
    assert line.startswith("train_adapter: the smoke run failed its gate")
    assert sorted(path.name for path in begun.iterdir()) == ["config.json", "job.log"]


@pytest.mark.slow
def test_more_gpus_than_the_run_offers_are_one_line_before_any_job(tmp_path: Path) -> None:
    """Snakemake would give the job the one GPU of the default profile, and it would take two."""
    project = Project(tmp_path)
    project.edit(MICRO, ONCE, f"{ONCE}\n  gpus: 2")
    project.edit(MICRO, "device: cpu", "device: cuda")
    if torch.cuda.is_available():  # else it would be of no use, and cost a real process for each job
        project.environment["CUDA_VISIBLE_DEVICES"] = ""
    output = project.snakemake("--quiet", "all", fails=True)
    warning, line = [line for line in output.splitlines() if line.startswith("dreamtune: ")]
    assert warning.startswith("dreamtune: warning: model.device is cuda, and this machine has no GPU")
    assert line == (
        "dreamtune: a training takes 2 GPUs (train.gpus is 2, train.nodes 1) and this run offers gpu=1; "
        "call with --resources gpu=2, or lower train.gpus"
    )
    assert "Traceback" not in output and not (project.folder / "results/prepare_shards").exists()
    project.snakemake("--until", "prepare_shards")  # where no training runs, none is in the way
    project.edit("workflow/rules/train.smk", '"trap :', '"echo gpu={resources.gpu}; trap :')
    project.edit("src/dreamtune/workflow/start.py", "return not hidden and any(", "return True or any(")
    output = project.snakemake("--resources", "gpu=2", "--until", "train_adapter", fails=True)
    assert "gpu=2\n" in output and "train_adapter: model.device is cuda and torch sees no GPU" in output


def test_fewer_gpus_than_processes_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert check_gpus("cpu") == "cpu"
    with pytest.raises(UserError, match=r"train\.gpus is 2 and torch sees 1 GPU"):
        check_gpus("cuda")


@pytest.mark.parametrize(
    ("does", "says", "status"),
    [
        ("sys.exit(3)", "child: process 1 ended with exit status 3", 1),
        ("os.kill(os.getpid(), 9)", "child: process 1 ended with signal 9", 1),
        ("os.kill(os.getppid(), 15)", "", 128 + signal.SIGTERM),
    ],
)
def test_how_processes_end(tmp_path: Path, does: str, says: str, status: int) -> None:
    """The others, which would wait for ever, are ended too."""
    (tmp_path / "child.py").write_text(f"import os, sys, time\nif os.environ['RANK'] == '1': {does}\ntime.sleep(600)")
    launcher = [sys.executable, str(ROOT / "workflow/scripts/torchrun.py"), "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*launcher, "child.py"], cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.stderr.strip() == says and done.returncode == status
