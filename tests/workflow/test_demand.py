"""What a job asks a batch system for: smoke's figures with a margin, more at each attempt, never beyond the bounds."""

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import ROOT
from dreamtune.errors import UserError
from dreamtune.prediction import training_tokens
from dreamtune.settings.cluster import ClusterConfig
from dreamtune.settings.train import TrainConfig
from dreamtune.workflow.demand import USUAL, check_measured, demand, full_run_s, memory_mb, minutes
from dreamtune.workflow.parts import SECTIONS
from versions import finish, freeze, specification

SMOKE = {
    **{"tokens": 1_000, "steps": 8, "seconds_per_token": 0.6, "fit_s": 700.0, "host_memory_gib": 3.0},
    **{"validation_s": 40.0, "validation": [{}, {}], "processes": 1, "ran_as": {"micro_batch_tokens": 32}},
}


@pytest.fixture
def full(tmp_path: Path) -> dict[str, Any]:
    """A full run whose smoke took 760 s, 700 of them in its loop, and whose 80 rows have 45 tokens on the mean."""
    splits = {"train": {"rows": 80, "tokens": 3_600}}
    settings, runtime = TrainConfig(max_tail=10, epochs=2).by_kind()
    return spec(cluster=ClusterConfig(margin=2.0, max_minutes=1_000, max_mem_gb=10.0)) | {
        "settings": {"train": settings},
        "runtime": {"train": runtime},
        "reads": {"shards": str(finished(tmp_path, "prepare_shards", "shards.json", {"splits": splits}))},
        "order_only": {"gate": str(finished(tmp_path, "train_adapter", "training.json", SMOKE))},
    }


def finished(root: Path, stage: str, file: str, content: dict[str, Any]) -> Path:
    folder = freeze(made := specification(stage), root)
    (folder / file).write_text(json.dumps(content))
    finish(folder, made, wall_s=760.0)
    return folder


def spec(stage: str = "train_adapter", cluster: ClusterConfig | None = None) -> dict[str, Any]:
    settings, runtime = TrainConfig().by_kind()
    return {
        **{"stage": stage, "order_only": {}, "cluster": (cluster or ClusterConfig()).model_dump()},
        **{"settings": {"train": settings}, "runtime": {"train": runtime}},
    }


def test_the_full_run_asks_for_what_smoke_measured_with_the_margin(full: dict[str, Any]) -> None:
    # 60 s to start; 2 epochs x 80 rows x (45 + 10 / 2) tokens x 0.6 s; 2 + 2 validations of 20 s
    assert minutes(full, attempt=1) == math.ceil(2 * (60 + 8_000 * 0.6 + 80) / 60 + 2)
    assert memory_mb(full, attempt=1) == (2 * 3.0 + 0.5) * 1024


def test_a_finished_job_is_not_lost_with_the_files_that_its_request_followed_from(full: dict[str, Any]) -> None:
    assert demand(full) == (memory_mb(full, attempt=1), minutes(full, attempt=1))
    shutil.rmtree(full["order_only"]["gate"])
    assert demand(full) == (None, None)


def test_validations_between_epochs_are_counted(full: dict[str, Any]) -> None:
    before = minutes(full, attempt=1)
    full["settings"]["train"]["validate_every"] = 1  # 64 steps, at smoke's 125 tokens each
    assert minutes(full, attempt=1) - before == pytest.approx(2 * (64 - 2) * 20 / 60, abs=1)


def test_a_rung_asks_for_its_share_of_the_steps(full: dict[str, Any]) -> None:
    """And all rungs together for each step once; each starts anew and validates at its end."""
    whole = full_run_s(full, gate := full["order_only"]["gate"])
    shares = [(0.0, 0.25), (0.25, 0.5), (0.5, 1.0)]
    cut = [full | {"runtime": full["runtime"] | {"rung": {"start": start, "until": until}}} for start, until in shares]
    assert full_run_s(cut[0], gate) == pytest.approx(60 + 0.25 * 8_000 * 0.6 + (1 + 0.25 * 3) * 20)
    assert sum(full_run_s(one, gate) for one in cut) == pytest.approx(whole + 2 * (60 + 20))


def test_processes_share_steps_and_validations_and_each_has_its_own_memory(full: dict[str, Any]) -> None:
    """A window of 125 tokens is 4 passes of 32, which two processes take in 2 turns, as three do, and eight in 1."""

    full["cluster"]["max_mem_gb"] = 20.0

    def asked(gpus: int, nodes: int) -> int:
        full["runtime"]["train"] |= {"gpus": gpus, "nodes": nodes}
        return minutes(full, attempt=1)

    assert asked(2, 1) == math.ceil(2 * (60 + 8_000 * 0.6 / 2 + 80 / 2) / 60 + 2)
    assert memory_mb(full, attempt=1) == (2 * 2 * 3.0 + 0.5) * 1024
    assert asked(1, 3) == math.ceil(2 * (60 + 8_000 * 0.6 / 2 + 80 / 3) / 60 + 2)
    assert memory_mb(full, attempt=1) == (2 * 3.0 + 0.5) * 1024, "each node has one of them"
    assert asked(4, 2) == math.ceil(2 * (60 + 8_000 * 0.6 / 4 + 80 / 8) / 60 + 2)


def test_fewer_processes_than_smoke_had_take_longer(full: dict[str, Any], tmp_path: Path) -> None:
    finished(tmp_path, "train_adapter", "training.json", SMOKE | {"processes": 2})
    assert minutes(full, attempt=1) == math.ceil(2 * (60 + 8_000 * 0.6 * 2 + 80 * 2) / 60 + 2)


def test_another_attempt_asks_for_more_and_never_for_more_than_the_bounds(full: dict[str, Any]) -> None:
    asked = [(minutes(full, attempt), memory_mb(full, attempt)) for attempt in (1, 2, 3, 9)]
    assert asked[1][0] == pytest.approx(2 * asked[0][0], abs=1)
    assert asked[2][0] == pytest.approx(3 * asked[0][0], abs=2)
    assert [memory for _, memory in asked] == [6_656, 10_240, 10_240, 10_240]
    assert asked[3][0] == 1_000


def test_before_smoke_is_finished_snakemake_is_told_which_input_is_missing(full: dict[str, Any]) -> None:
    full["order_only"]["gate"] = "results/train_adapter/0123456789ab"
    for ask in (minutes, memory_mb):
        with pytest.raises(FileNotFoundError) as error:
            ask(full, 1)
        assert error.value.filename == "results/train_adapter/0123456789ab/manifest.json"


@pytest.mark.parametrize("file", ["train_adapter/*/training.json", "train_adapter/*/manifest.json", "*/*/shards.json"])
def test_a_file_that_was_changed_since_is_named(full: dict[str, Any], tmp_path: Path, file: str) -> None:
    [path] = (tmp_path / "results").glob(file)
    path.write_text("{}")
    with pytest.raises(UserError, match=path.name):
        check_measured([full])


def test_smoke_asks_for_its_processes_and_with_all_weights_for_what_it_may(full: dict[str, Any]) -> None:
    full["order_only"] = {}
    full["cluster"]["max_mem_gb"] = 200.0
    full["runtime"]["train"]["gpus"] = 4
    assert memory_mb(full, 1) == 4 * USUAL["train_adapter"][1] * 1024
    full["settings"]["train"]["finetuning"] = "full"
    assert memory_mb(full, 1) == 200 * 1024


@pytest.mark.parametrize("stage", USUAL)
def test_other_stages_ask_for_the_usual_within_the_bounds(stage: str) -> None:
    assert (minutes(spec(stage), 1), memory_mb(spec(stage), 1)) == (USUAL[stage][0], 1024 * USUAL[stage][1])
    small = spec(stage, ClusterConfig(max_minutes=3, max_mem_gb=0.5))
    assert (minutes(small, 1), memory_mb(small, 1)) == (3, 512)


def test_every_rule_that_asks_has_its_usual_demand() -> None:
    rules = "".join(path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk"))
    assert set(re.findall(r"^rule (\w+):[^\n]*\n    input:\n        unpack", rules, re.MULTILINE)) == set(USUAL)
    assert set(re.findall(r'\*\*demand\("(\w+)"\)', rules)) == set(USUAL)


def test_tokens_of_short_and_complementary_runs() -> None:
    def tokens(**settings: Any) -> float:
        return training_tokens(TrainConfig(max_tail=0, epochs=3, **settings), rows=20, mean_tokens=10.0)

    assert tokens() == 3 * 20 * 10
    assert tokens(rows=5) == 3 * 5 * 10
    assert tokens(max_steps=2) == 2 * 8 * 10
    assert tokens(complementary=True) == 2 * 3 * 20 * 10
    assert tokens(complementary=True, objective="copy") == 3 * 20 * 10


def test_the_profile_names_rules_that_there_are() -> None:
    profile = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())
    parts = {f"{stage}_part" for stage in SECTIONS}
    assert set(profile["set-resources"]) | {"prepare_shards"} == set(USUAL) | parts
    assert set(profile["groups"]) < set(USUAL)
    light = [rule for rule, asked in profile["set-resources"].items() if asked.get("one_at_a_time")]
    assert set(light) == set(profile["groups"]), "what shares a job runs one after the other, in the memory of one"
