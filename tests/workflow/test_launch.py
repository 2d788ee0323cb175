"""How a training is started, on how many GPUs, and the sentence that a person reads while a job runs."""

from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT
from dreamtune.errors import UserError
from dreamtune.workflow import launch

SCRIPTS = "workflow/scripts"


def training(processes: int = 1, nodes: int = 1, device: str = "auto") -> dict[str, Any]:
    return {
        "stage": "train_adapter",
        "version": "0123456789ab",
        "settings": {"run": "full"},
        "reads": {},
        "runtime": {"train": {"gpus": processes, "nodes": nodes}, "model": {"device": device}},
    }


def stage(name: str, device: str = "cuda", **more: Any) -> dict[str, Any]:
    return training(device=device) | {"stage": name, "settings": {}} | more


def test_one_process_is_plain_python() -> None:
    assert launch.training_command(training(), SCRIPTS) == "python3"


def test_several_processes_are_torchruns() -> None:
    command = launch.training_command(training(processes=4), SCRIPTS)
    assert command == "python3 workflow/scripts/torchrun.py --nproc-per-node 4 --standalone"


def test_scripts_are_named_where_the_workflow_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert launch.scripts() == SCRIPTS
    monkeypatch.chdir(tmp_path)
    assert launch.scripts() == f"{ROOT}/{SCRIPTS}"
    monkeypatch.setattr(launch, "ROOT", tmp_path / "my clone")
    assert launch.scripts() == f"'{tmp_path}/my clone/workflow/scripts'"
    command = launch.training_command(training(processes=4), launch.scripts())
    assert command.startswith(f"python3 '{tmp_path}/my clone/workflow/scripts'/torchrun.py ")


def test_several_nodes_start_one_torchrun_each_inside_of_the_image() -> None:
    command = launch.training_command(training(processes=2, nodes=3), SCRIPTS, "apptainer exec --nv x.sif ")
    srun, inside = command.split("apptainer exec --nv x.sif ")
    assert srun.startswith("srun --nodes 3 --ntasks 3 --ntasks-per-node 1 ")
    assert inside.startswith("python3 workflow/scripts/torchrun.py --nproc-per-node 2 --nnodes 3 --rdzv-backend c10d ")
    port = int(inside.rpartition("$(hostname):")[2])
    assert 20_000 <= port < 32_000
    assert port != int(
        launch.training_command(training(2, 3) | {"version": "ba9876543210"}, SCRIPTS).rpartition(":")[2]
    )


@pytest.mark.parametrize(
    ("spec", "gathers", "expected"),
    [
        (training(), False, 1),
        (training(processes=4, nodes=2), False, 8),
        (training(processes=4, device="cpu"), False, 0),
        (stage("generate_answers"), False, 1),
        (stage("generate_answers"), True, 0),
        (stage("generate_answers", device="cpu"), False, 0),
        (stage("prepare_shards"), False, 0),
    ],
)
def test_gpus_of_a_job(spec: dict[str, Any], gathers: bool, expected: int) -> None:
    assert launch.gpus(spec, gathers) == expected


def test_a_training_with_more_gpus_than_the_run_offers_is_refused() -> None:
    with pytest.raises(UserError, match=r"takes 4 GPUs .* offers gpu=2; call with --resources gpu=4"):
        launch.check_gpus([training(), training(processes=2, nodes=2)], offered=2)
    launch.check_gpus([training(processes=2, nodes=2)], offered=4)
    launch.check_gpus([training(processes=8)], offered=None)
    launch.check_gpus([training()], offered=0)  # a run that counts no GPU still has the CPU


def test_most_nodes() -> None:
    assert launch.most_nodes([stage("generate_answers"), training(nodes=1), training(nodes=3)]) == 3
    assert launch.most_nodes([]) == 1


def test_the_sentence_names_experiments_stage_and_what_is_asked() -> None:
    tuned = stage("generate_answers", reads={"adapter": "x"}, settings={"benchmark": {"name": "math500"}})
    assert launch.message(tuned, ["one"]) == (
        "one: answer math500 with the tuned model (generate_answers/0123456789ab)"
    )
    assert launch.message(training(), list("abcd")) == "a, b and 2 more: train, full run (train_adapter/0123456789ab)"
    assert launch.message(stage("score_answers")) == "grade the answers (score_answers/0123456789ab)"
