"""The stage `study` is planned where a configuration is a study, and made again when what it compares changes.

What an edit of the code makes again: test_place.py.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from dreamtune.config import parse_config
from dreamtune.errors import UserError
from dreamtune.files import write_json
from dreamtune.workflow.experiments import make_plan, plan_study
from dreamtune.workflow.plan import Plan
from rows import write_model
from versions import finish

LEAST: dict[str, Any] = {"model": {"path": "model", "device": "cuda"}, "data": {"files": ["rows.parquet"]}}
SEEDS = {"experiments": {"qlora": {}, "full": {"train": {"learning_rate": 1e-3}}}, "seeds": 2}
Planned = Callable[..., tuple[list[Path], Plan]]


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planned:
    """Return a function that plans a configuration; it returns the study's folders, and the plan."""
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "model")
    pl.DataFrame({"question": ["q"], "reasoning": ["r"], "answer": ["1"]}).write_parquet("rows.parquet")

    def make(**keys: Any) -> tuple[list[Path], Plan]:
        config = parse_config(LEAST | keys)
        plan, latest = make_plan(config)
        return plan_study(plan, config, latest), plan

    return make


def test_a_single_experiment_is_no_study(planned: Planned) -> None:
    assert planned()[0] == []
    assert planned(experiments={"a": {}, "b": {}}, study={"max_points": 7})[0] == []
    assert planned(study={"equivalence_points": 2.0})[0]


def test_it_reads_what_each_run_answered_and_nothing_that_only_prints(planned: Planned) -> None:
    [folder], plan = planned(**SEEDS)
    spec = plan["study", folder.name]
    assert {name.split("/")[0] for name in spec["reads"]} == {"qlora", "qlora-seed1", "full", "full-seed1"}
    assert {name.partition("/")[2] for name in spec["reads"]} == {
        "smoke",
        "full",
        "likelihood",
        "answers/test/greedy/base",
        "answers/test/greedy/tuned",
        "scores/test/greedy/base",
        "scores/test/greedy/tuned",
    }
    assert [point["seed"] for point in spec["settings"]["points"]] == [0, 1, 0, 1]


@pytest.mark.parametrize(
    "change",
    [
        {"seeds": 3},
        {"study": {"baseline": "full"}},
        {"study": {"comparisons": ["qlora"]}},
        {"study": {"equivalence_points": 2.0}},
        {"evaluate": {"alpha": 0.01}},
        {"generate": {"temperature": 0.5}},
    ],
)
def test_another_point_family_or_rule_makes_the_study_again(planned: Planned, change: dict[str, Any]) -> None:
    before, plan = planned(**SEEDS)
    after, changed = planned(**SEEDS | change)
    assert before != after
    reports = {key for key in plan if key[0] == "render_report"}
    assert reports <= changed.keys() or not change.keys() <= {"seeds", "study"}, "reports keep their raw p"


def test_a_report_s_setting_and_the_limit_of_points_leave_it_alone(planned: Planned) -> None:
    before, _ = planned(**SEEDS)
    assert planned(**SEEDS, report={"examples": 3}, study={"max_points": 9})[0] == before


def test_choosing_on_validation_answers_them_with_each_tuned_model(planned: Planned) -> None:
    [study], plan = planned(**SEEDS)
    [again, confirm], more = planned(**SEEDS, study={"choose": "validation"})
    assert again != study and confirm.parent.name == "confirm"
    new = [more[key] for key in more.keys() - plan.keys()]
    assert sorted(spec["stage"] for spec in new) == [
        "confirm",
        *["generate_answers"] * 4,
        *["score_answers"] * 4,
        "study",
    ]
    assert all(spec["settings"]["split"] == "validation" for spec in new if spec["stage"] == "generate_answers")
    read = more["confirm", confirm.name]["reads"].keys() - more["study", again.name]["reads"].keys()
    assert read == {f"{n}/scores/validation/greedy/tuned" for n in ("qlora", "qlora-seed1", "full", "full-seed1")}


def test_validation_answers_are_published_so_that_prune_keeps_them(planned: Planned) -> None:
    config = parse_config(LEAST | SEEDS | {"study": {"choose": "validation"}})
    plan, latest = make_plan(config)
    confirm = plan_study(plan, config, latest)[1]
    published = {folder.as_posix() for folders in latest.values() for folder in folders.values()}
    assert set(plan["confirm", confirm.name]["reads"].values()) <= published


def test_runs_must_be_compared_by_one_rule(planned: Planned) -> None:
    experiments = {"a": {}, "b": {"evaluate": {"primary": "nll"}}}
    with pytest.raises(UserError, match=r"a and b differ in evaluate.primary"):
        planned(experiments=experiments, study={"baseline": "a"})
    assert planned(experiments=experiments, study={"baseline": "a", "primary": "accuracy"})[0]


@pytest.mark.parametrize(
    ("stage", "file", "content", "said"),
    [
        ("prepare_shards", "shards.json", {"splits": {"validation": {"rows": 199}}}, "there are 199"),
        ("prepare_shards", "shards.json", {"splits": {"validation": {"rows": 200}}}, None),
        ("audit_references", "references.json", {"validation": {"rows": 300, "gradable": 34}}, "34 can be"),
    ],
)
def test_too_few_validation_questions_to_choose_by_are_refused_as_soon_as_they_are_known(
    planned: Planned, stage: str, file: str, content: dict, said: str | None
) -> None:
    chosen = SEEDS | {"study": {"choose": "validation"}}
    _, plan = planned(**chosen)
    [version] = [version for name, version in plan if name == stage]
    assert plan["audit_references", plan.unfinished("audit_references")[0]]["fewest_validation"] == 200
    folder = Path("results") / stage / version
    folder.mkdir(parents=True)
    write_json(folder / file, content)
    finish(folder, plan[stage, version])
    assert planned(**SEEDS)[0], "without choosing on validation, no matter"
    if said is None:
        assert planned(**chosen)[0]
        return
    with pytest.raises(UserError, match=f"at least 200 validation questions that can be graded, and {said}; raise"):
        planned(**chosen)


def test_a_limit_of_prompts_is_one_of_validation_questions_too(planned: Planned) -> None:
    with pytest.raises(UserError, match=r"200 validation questions, and generate\.max_prompts is 12; raise it"):
        planned(**SEEDS, study={"choose": "validation"}, generate={"max_prompts": 12})
    assert planned(**SEEDS, study={"choose": "validation"}, generate={"max_prompts": 200})[0]


@pytest.mark.parametrize(
    ("study", "said"),
    [
        ({"choose": "validation", "primary": "nll"}, "study.choose: validation chooses by answers"),
        ({"comparisons": ["qlor"]}, "study.comparisons: there is no method 'qlor'; did you mean 'qlora'"),
        ({"primary": "nll", "equivalence_points": 2.0}, "study.equivalence_points: points are of accuracy"),
    ],
)
def test_what_cannot_be_compared_is_said_before_anything_runs(planned: Planned, study: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        planned(**SEEDS, study=study)
