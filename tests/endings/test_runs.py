"""Which runs ended, by what lies in results/, and what the plan of a study is without them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from dreamtune.checks import check, verdict
from dreamtune.config import Config, parse_config
from dreamtune.endings.failures import note_failures
from dreamtune.endings.plan import plan_runs
from dreamtune.endings.runs import lines_on
from dreamtune.errors import UserError
from dreamtune.files import write_json
from dreamtune.overview.members import members_of
from dreamtune.overview.states import state_of
from dreamtune.study.ended import Ended
from dreamtune.workflow.experiments import Folders, plan_merge
from dreamtune.workflow.plan import Plan
from rows import write_model
from versions import finish

LEAST: dict[str, Any] = {"model": {"path": "model", "device": "cuda"}, "data": {"files": ["rows.parquet"]}}
STUDY: dict[str, Any] = {"experiments": {"a": {}, "b": {"train": {"learning_rate": 1e-3}}}, "seeds": 2}
GATE = verdict([check("targets_hidden", False, 7, "0", "targets were shown")])
SAID = "targets_hidden (7; expected 0)"
Planned = Callable[..., tuple[Config, Plan, dict[str, Folders], list[Ended], list[Path]]]


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planned:
    """Return a function that does with a configuration what the Snakefile does."""
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "model")
    pl.DataFrame({"question": ["q"], "reasoning": ["r"], "answer": ["1"]}).write_parquet("rows.parquet")

    def make(**keys: Any) -> tuple[Config, Plan, dict[str, Folders], list[Ended], list[Path]]:
        config = parse_config(LEAST | STUDY | keys)
        runs = plan_runs(config)
        plan_merge(runs.plan, config, runs.latest)
        return config, runs.plan, runs.latest, runs.ended, runs.stages

    return make


def end_smoke(plan: Plan, folders: Folders, gate: dict[str, Any] = GATE) -> None:
    """Finish a run's smoke version with this gate."""
    for key in ("shards", "smoke"):
        folders[key].mkdir(parents=True, exist_ok=True)
        if key == "smoke":
            write_json(folders[key] / "gate.json", gate)
        finish(folders[key], plan[folders[key].parent.name, folders[key].name])


def fail(folder: Path, log: str) -> None:
    """Let the job of a version fail for good with these last words."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.log").write_text(log)
    note_failures([(folder.parent.name, folder.name)])


def test_a_failed_gate_takes_what_only_its_run_needs_out_of_the_plan(planned: Planned) -> None:
    _, before, latest, ended, [study] = planned()
    assert ended == []
    end_smoke(before, latest["b-seed1"])
    config, plan, latest, ended, [again] = planned()
    assert ended == [Ended("b-seed1", "gate", SAID)] and again != study
    assert latest["b-seed1"].keys() == {"shards", "smoke"}, "what is finished of it stays"
    gone = {stage for stage, _ in before.keys() - plan.keys() - {("study", study.name)}}
    assert gone == {
        *("train_adapter", "evaluate_likelihood", "generate_answers", "score_answers"),
        *("render_report", "merge_adapter"),
    }
    assert len(before) - len(plan) == 6 and not any(
        key.startswith("b-seed1/") for key in plan["study", again.name]["reads"]
    )
    assert plan["study", again.name]["settings"]["ended"] == [ended[0].as_json()]
    assert [point["seed"] for point in plan["study", again.name]["settings"]["points"]] == [0, 1, 0, 1]
    member = members_of(config, latest, [again], ended).runs[3]
    assert "report" not in member.folders and state_of(member, {}).stand == "ended"
    assert state_of(member, {}).reason == f"its smoke run failed its gate: {SAID}"


def test_another_reason_makes_the_study_again(planned: Planned) -> None:
    _, plan, latest, _, _ = planned()
    end_smoke(plan, latest["b"])
    [first] = planned()[-1]
    (latest["b"]["smoke"] / "manifest.json").unlink()
    end_smoke(plan, latest["b"], verdict([check("loss_finite", False, 1, "0", "…")]))
    assert [first] != planned()[-1]


@pytest.mark.parametrize(
    "keys",
    [
        {"experiments": {"a": {}, "b": {"train": {"learning_rate": 1e-3, "on_failed_gate": "continue"}}}},
        {"experiments": {"b": {"train": {"learning_rate": 1e-3}}}, "seeds": 1},
        {"experiments": {"a": {}, "b": {"train": {"learning_rate": 2e-3}}}},
    ],
)
def test_it_goes_on_where_asked_and_outside_of_studies_and_with_other_settings(planned: Planned, keys: Any) -> None:
    _, plan, latest, _, _ = planned()
    end_smoke(plan, latest["b"])
    *_, latest, ended, _ = planned(**keys)
    assert ended == [] and all("report" in folders for folders in latest.values())


def test_a_run_with_a_report_has_not_ended(planned: Planned) -> None:
    _, plan, latest, _, _ = planned()
    end_smoke(plan, latest["a"])
    report = latest["a"]["report"]
    report.mkdir(parents=True)
    (report / "manifest.json").write_text("{}")
    assert planned()[3] == []


def test_a_damaged_gate_is_one_line(planned: Planned) -> None:
    _, plan, latest, _, _ = planned()
    end_smoke(plan, latest["a"])
    (latest["a"]["smoke"] / "gate.json").write_text("{}")
    with pytest.raises(UserError, match=r"gate.json of version train_adapter/\w+ has 2 bytes instead of"):
        planned()


def test_all_gates_failed_is_one_line(planned: Planned) -> None:
    _, plan, latest, _, _ = planned()
    for folders in latest.values():
        end_smoke(plan, folders)
    with pytest.raises(UserError, match="no run of the study is left, 4 of 4 ended without a report; a: its smoke"):
        planned()


LEAVE = {"study": {"failed": "leave_out"}}
NAN = "train_adapter: step 3: the loss is nan\n"


def test_a_failed_run_is_waited_for_or_left_out(planned: Planned) -> None:
    config, _, latest, _, [study] = planned()
    fail(latest["a"]["full"], NAN)
    assert planned()[3:] == ([], [study]), "the next call tries it again"
    runs = plan_runs(config)
    assert runs.ended == [] and runs.waits() == "4 of 4 runs, first for a (full: step 3: the loss is nan)"
    *_, ended, [without] = planned(**LEAVE)
    assert ended == [Ended("a", "failure", "full: step 3: the loss is nan")] and without != study
    runs.freeze()
    assert planned(**LEAVE)[3] == [], "a call that tried it again forgets that it failed"


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("step 1\n", "it was killed without a word (out of memory, or its node was lost?)"),
        ("Traceback (most recent call last):\n  …\nKeyError: 'x'\n", "KeyError: 'x'"),
        ("train_adapter: stopped by SIGTERM; a checkpoint after step 2 of 4 is kept\n", None),
    ],
)
def test_a_killed_job_failed_and_a_stopped_one_did_not(planned: Planned, log: str, said: str | None) -> None:
    *_, latest, _, _ = planned()
    fail(latest["a"]["full"], log)
    *_, ended, _ = planned(**LEAVE)
    assert [one.reason for one in ended] == ([f"full: {said}"] if said else [])


def test_a_finished_version_is_not_noted_as_failed(planned: Planned) -> None:
    _, plan, latest, _, _ = planned()
    end_smoke(plan, latest["a"], verdict([]))
    fail(latest["a"]["smoke"], NAN)
    assert not (latest["a"]["smoke"] / "failure.json").exists()


def test_the_lines_name_some_of_the_runs_and_what_to_do() -> None:
    assert list(lines_on([], 9)) == []
    many = [Ended(f"a-seed{n}", "gate" if n else "failure", "why") for n in range(7)]
    said = list(lines_on(many, 9))
    assert said[0] == "7 of 9 runs of the study ended without a report, and count as no evidence:"
    assert said[1] == "  a-seed0: it failed: why" and said[6] == "  and 2 more, see results/latest/index.html"
    assert "on_failed_gate: continue" in said[7] and "study.failed: wait" in said[7] and len(said) == 8


def test_a_run_that_never_began_is_waited_for(planned: Planned) -> None:
    config, plan, latest, _, _ = planned()
    end_smoke(plan, latest["b"])
    assert plan_runs(config).waits() == "3 of 4 runs, first for a (waits for references)"
    assert json.loads((latest["b"]["smoke"] / "gate.json").read_text())["passed"] is False
