"""Successive halving in the plan: whose versions there are, what an added point makes again, and what is refused."""

from collections.abc import Callable
from typing import Any

import pytest

from dreamtune.config import parse_config
from dreamtune.endings.runs import leave_out_ended
from dreamtune.errors import UserError
from dreamtune.files import write_json
from dreamtune.rungs.plan import HalvedGrid, in_words, plan_halving, to_come
from dreamtune.study.ended import Ended
from dreamtune.workflow.experiments import Folders, make_plan, plan_study
from dreamtune.workflow.plan import Plan
from tests.study.conftest import LEAST, Planned, by_stage, planned  # noqa: F401

RATES = [1e-5, 1e-4, 1e-3, 1e-2]
GRID: dict[str, Any] = {
    "experiments": {"qlora": {}, "full": {"train": {"warmup": 0.5}}},
    "grid": {"of": ["qlora"], "train.learning_rate": RATES},
    "seeds": 2,
}
HALVING = {"study": {"halving": {"after": [0.25, 0.5]}}}
All = Callable[..., tuple[Plan, dict[str, Folders], dict[str, HalvedGrid]]]


@pytest.fixture
def everything(planned: Planned) -> All:  # noqa: F811
    """Return a function that plans a study with its halving and its comparison."""

    def make(**keys: Any) -> tuple[Plan, dict[str, Folders], dict[str, HalvedGrid]]:
        config = parse_config(LEAST | keys)
        plan, latest = make_plan(config)
        grids = plan_halving(plan, config, latest)
        plan_study(plan, config, latest, decisions={name: grid.decisions[-1] for name, grid in grids.items()})
        return plan, latest, grids

    return make


def test_without_halving_no_version_is_another_one(everything: All) -> None:
    """A full run is the same with and without halving, so it has one version, and so has all that reads it."""
    plain, halved = everything(**GRID)[0], everything(**GRID, **HALVING)[0]
    assert {key for key in plain if key[0] != "study"} <= halved.keys()
    assert by_stage(halved.keys() - plain.keys()) == {"train_adapter": 2 * 8, "halve": 2, "study": 1}


def test_a_full_run_goes_on_from_its_last_rung_once_the_last_decision_is_made(everything: All) -> None:
    plan, latest, grids = everything(**GRID, **HALVING)
    [(name, grid)] = grids.items()
    assert name == "qlora" and len(grid.rungs) == 8 and not any(run.startswith("full") for run in grid.rungs)
    run = "qlora-lr1e-4-seed1"
    first, second = (plan["train_adapter", folder.name] for folder in grid.rungs[run])
    full = plan["train_adapter", latest[run]["full"].name]
    assert [spec["settings"].get("rung") for spec in (first, second, full)] == [{"until": 0.25}, {"until": 0.5}, None]
    assert [spec["runtime"].get("rung") for spec in (first, second, full)] == [None, {"start": 0.25}, {"start": 0.5}]
    assert first["order_only"].keys() == {"gate"}
    for spec, rung, decision in zip((second, full), grid.rungs[run], grid.decisions, strict=True):
        assert spec["order_only"]["rung"] == rung.as_posix()
        assert spec["order_only"]["decision"] == decision.as_posix()
    assert "rung" not in plan["train_adapter", latest["full"]["full"].name]["order_only"]
    methods = plan["halve", grid.decisions[0].name]["settings"]["methods"]
    assert methods["qlora-lr1e-4"] == ["qlora-lr1e-4", "qlora-lr1e-4-seed1"]


@pytest.mark.parametrize(
    ("change", "new"),
    [
        ({"grid": GRID["grid"] | {"train.learning_rate": [*RATES, 2e-3]}}, {"train_adapter": 2 * (2 + 2)}),
        ({"study": {"halving": {"after": [0.25, 0.5], "keep": 0.3}}}, {}),
        ({"study": {"halving": {"after": [0.25, 0.5, 0.75]}}}, {"train_adapter": 8, "halve": 1}),
        ({"study": {"halving": {"after": [0.5]}}}, {"halve": 1}),
    ],
    ids=["a point", "another share that goes on", "another rung", "no first rung"],
)
def test_an_edit_trains_its_own_rungs_and_none_again(everything: All, change: dict, new: dict) -> None:
    before, after = (everything(**GRID | HALVING | extra)[0] for extra in ({}, change))
    made = by_stage(after.keys() - before.keys())
    assert made.pop("study") == 1
    for stage in ("generate_answers", "score_answers", "evaluate_likelihood", "render_report"):
        assert made.pop(stage, 0) == (2 if new.get("train_adapter") == 8 and "halve" not in new else 0)
    assert made == {"halve": 2} | new
    trained = {key for key in before if key[0] == "train_adapter" and before[key]["settings"]["run"] == "full"}
    assert trained <= after.keys(), "no full run is made again"


def test_each_data_size_is_halved_by_itself(everything: All) -> None:
    grids = everything(**GRID, **HALVING, data_sizes={"of": ["qlora"], "rows": [10, "all"]})[2]
    assert {name: len(grid.methods) for name, grid in grids.items()} == {"qlora-rows10": 4, "qlora": 4}


def test_a_run_that_an_unhalved_experiment_shares_is_not_stopped(everything: All) -> None:
    plan, latest, grids = everything(**GRID | {"experiments": {"qlora": {}, "same": {}}}, **HALVING)
    shared = GRID | {"experiments": {"qlora": {}, "same": {"train": {"learning_rate": 1e-3}}}}
    plan, latest, grids = everything(**shared, **HALVING)
    assert latest["same"]["full"] == latest["qlora-lr1e-3"]["full"]
    assert "decision" not in plan["train_adapter", latest["same"]["full"].name]["order_only"]
    assert len(grids["qlora"].methods) == 4


def test_the_number_of_points_that_go_on_is_said(everything: All) -> None:
    said = in_words(everything(**GRID, **HALVING)[2])
    assert said == "halving lets go on of the 4 points of qlora 2 after 25 %, 1 after 50 % of the steps"
    assert in_words({}) == ""


def test_it_is_off_unless_it_is_asked_for(everything: All) -> None:
    assert everything(**GRID)[2] == {}


def refused(said: str, **keys: Any) -> Any:
    return pytest.param(keys, said, id=said)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        refused(r"study\.halving\.of: there is no experiment 'qlor'; did you mean 'qlora'", of=["qlor"]),
        refused(r"study\.halving\.of: full has one point, of which none can be stopped", of=["full"]),
        refused(r"study\.halving\.after: expected rising shares", after=[0.5, 0.25]),
        refused(r"study\.halving\.after\.0: input should be less than 1", after=[1.0]),
        refused(r"study\.halving\.keep: input should be less than 1", keep=1.0),
        refused(r"study\.baseline: qlora-lr1e-4 is a point of a halved grid", baseline="qlora-lr1e-4"),
        refused(r"study\.comparisons: qlora-lr1e-4 is a point of a halved", comparisons=["full", "qlora-lr1e-4"]),
        refused(r"train\.validation_rows of qlora-lr1e-5 is 0; raise it", train={"validation_rows": 0}),
        refused(r"data\.split\.validation of qlora-lr1e-5 is 0", data=LEAST["data"] | {"split": {"validation": 0.0}}),
        refused(r"study\.halving: there is no grid with several points", grid=None),
        refused(r"differ in data, model\.attention or train\.validation_rows", grid={"data.max_tokens": [64, 128]}),
    ],
)
def test_what_cannot_be_halved_is_one_line_before_anything_runs(keys: dict[str, Any], said: str) -> None:
    halving = {"after": [0.25]} | {name: keys.pop(name) for name in ("of", "after", "keep") if name in keys}
    study = {"halving": halving} | {name: keys.pop(name) for name in ("baseline", "comparisons") if name in keys}
    with pytest.raises(UserError, match=said) as found:
        parse_config(LEAST | GRID | keys | {"study": study})
    assert "\n" not in str(found.value)


def test_a_point_that_ended_competes_no_more(everything: All) -> None:
    config = parse_config(LEAST | GRID | HALVING)
    plan, latest = make_plan(config)
    ended = [Ended(run, "gate", "targets_hidden") for run in ("qlora-lr1e-2", "qlora-lr1e-2-seed1", "qlora-lr1e-3")]
    [grid] = plan_halving(plan, config, latest, ended).values()
    assert grid.methods.keys() == {"qlora-lr1e-5", "qlora-lr1e-4", "qlora-lr1e-3"}
    assert grid.methods["qlora-lr1e-3"] == ["qlora-lr1e-3-seed1"]
    ended += [Ended(run, "gate", "") for run in config.points if run.startswith(("qlora-lr1e-4", "qlora-lr1e-3-"))]
    assert plan_halving(plan, config, latest, ended) == {}, "one point alone is not halved"


def test_what_follows_decisions_is_counted_beforehand(everything: All) -> None:
    """Of four points with two seeds two go on, for another rung, and then one, with all that a run has."""
    plan, latest, grids = everything(**GRID, **HALVING)
    later, published = to_come(plan, grids.values(), latest, known=[])
    whole = {"train_adapter": 4 + 2 + 2, "generate_answers": 2 + 1, "score_answers": 2 + 1, "evaluate_likelihood": 2}
    whole |= {"prepare_shards": 1, "audit_references": 1, "render_report": 2}
    assert by_stage((spec["stage"], spec["version"]) for spec in later) == whole and published == 2
    known = [version for stage, version in plan if stage in ("prepare_shards", "audit_references", "score_answers")]
    assert len(to_come(plan, grids.values(), latest, known)[0]) == len(later) - 5


def test_a_rung_that_failed_for_good_leaves_its_run_out_where_failures_are(everything: All) -> None:
    """Otherwise a grid would wait for ever for the rung of one point."""
    run = "qlora-lr1e-4-seed1"
    rung = everything(**GRID, **HALVING)[2]["qlora"].rungs[run][0]
    rung.mkdir(parents=True)
    write_json(rung / "failure.json", {"reason": "out of memory"})
    for failed, ended in (("leave_out", [Ended(run, "failure", "rung-25: out of memory")]), ("wait", [])):
        config = parse_config(LEAST | GRID | {"study": HALVING["study"] | {"failed": failed}})
        plan, latest = make_plan(config)
        assert leave_out_ended(plan, config, latest) == ended
        assert not [stage for stage, _ in plan if stage == "halve"], "looking left nothing in the plan"
        [grid] = plan_halving(plan, config, latest, ended).values()
        assert (run in grid.rungs) == (not ended)
