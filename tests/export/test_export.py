"""What is written for each tracker: its own client's calls, recorded by stand-ins; TensorBoard's events, read back."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dreamtune.errors import UserError
from dreamtune.export.export import TRACKERS, export
from dreamtune.export.record import read_records
from tests.export import stand_ins
from tests.export.published import END, LOG, publish_run, publish_study
from tests.overview.studies import LATEST, Studies

OUT = Path("out")


def exported(to: str, *names: str) -> list[str]:
    return list(export(read_records(LATEST, names), to, OUT, "mine"))


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The stores of a stand-in, by URI."""
    monkeypatch.setitem(sys.modules, "mlflow", stand_ins.mlflow())
    return stand_ins.Client.stores


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setitem(sys.modules, "wandb", module := stand_ins.wandb())
    return module


def test_mlflow_gets_parameters_metrics_with_steps_and_times_and_tags(
    summary: dict[str, Any], mlflow: dict[str, Any]
) -> None:
    publish_run("demo", summary)
    [record] = read_records(LATEST, [])
    exported("mlflow")
    [(uri, store)] = mlflow.items()
    assert uri == f"sqlite:///{OUT.absolute()}/mlflow.db"
    [run] = store["mine"].values()
    assert run.params["train.learning_rate"] == "0.0001" and run.params["model.quantization"] == "nf4"
    assert run.params["recipe.data"] == json.dumps(record.settings["recipe.data"])
    assert run.metrics["loss"] == [(5, 2.0, round(1000 * (END - 4))), (10, 1.0, round(1000 * END))]
    gain = summary["accuracy"]["gain"]
    for ending, name in (("", "value"), ("_low", "low"), ("_high", "high")):
        assert run.metrics[f"final/gain{ending}"] == [(0, gain[name], round(1000 * END))]
    assert run.tags["verdict"] == "improved" and run.tags["method"] == "demo"
    assert run.tags["mlflow.note.content"] == summary["sentence"] and run.tags["report"].endswith("report.html")
    assert run.artifacts == ["summary.json"] and run.info.status == "FINISHED"
    assert (run.info.start_time, run.info.end_time) == (round(1000 * (END - 60)), round(1000 * END))


def test_mlflow_takes_many_metrics_and_odd_names(
    summary: dict[str, Any], mlflow: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = [{"step": step, "loss": 1.0, "loss/web, 2024": 2.0, "wall_s": 1.0} for step in range(1500)]
    monkeypatch.setattr("tests.export.published.LOG", log)
    publish_run("demo", summary)
    exported("mlflow")
    [run] = next(iter(mlflow.values()))["mine"].values()
    assert len(run.metrics["loss"]) == len(run.metrics["loss/web_ 2024"]) == 1500


def test_a_folder_that_mlflow_cannot_address_is_one_line(summary: dict[str, Any], mlflow: dict[str, Any]) -> None:
    publish_run("demo", summary)
    with pytest.raises(UserError, match="give --out a path without a question mark"):
        list(export(read_records(LATEST, []), "mlflow", Path("what?"), "mine"))
    assert not mlflow


def test_wandb_gets_settings_rows_by_step_summary_group_and_verdict(summary: dict[str, Any], wandb: Any) -> None:
    publish_run("demo", summary, seed=3)
    [record] = read_records(LATEST, [])
    exported("wandb")
    [run] = wandb.runs
    given = run.given
    assert (given["project"], given["id"], given["name"], given["group"]) == ("mine", record.id, "demo", "demo")
    assert given["config"]["train"]["lora"]["rank"] == 16 and given["config"]["dreamtune"]["seed"] == "3"
    assert given["tags"] == ["improved"] and given["notes"] == summary["sentence"]
    assert run.rows[5] == {"epoch": 0.5, "loss": 2.0, "lr": 1e-3, "_timestamp": END - 4}
    assert run.rows[10]["loss"] == 1.0 and run.rows[10]["validation_nll"] == 1.25, "one row of both lines of a step"
    assert run.summary == record.figures and run.attached == ["summary.json"]
    settings = vars(given["settings"])
    assert settings["host"] == "" and settings["x_disable_meta"] and not settings["x_save_requirements"]


@pytest.mark.parametrize("to", ["mlflow", "wandb"])
def test_seeds_are_grouped_and_the_study_has_its_tables(
    studies: Studies, mlflow: dict[str, Any], wandb: Any, to: str
) -> None:
    publish_study(studies, experiments={"a": {}, "b": {"train": {"warmup": 0.5}}}, seeds=2)
    assert len(exported(to)) == 5
    if to == "wandb":
        groups = {run.given["name"]: (run.given["group"], run.given["job_type"], run.attached) for run in wandb.runs}
    else:
        runs = next(iter(mlflow.values()))["mine"].values()
        groups = {run.name: (run.tags.get("method", "study"), run.tags["kind"], run.artifacts) for run in runs}
    assert groups["a"][:2] == groups["a-seed1"][:2] == ("a", "run") and groups["b-seed1"][0] == "b"
    assert groups["study"] == ("study", "study", ["members.json", "study.json", "study.csv", "study.parquet"])


@pytest.mark.parametrize("to", sorted(TRACKERS))
def test_a_second_export_adds_what_is_new_and_doubles_nothing(
    summary: dict[str, Any], mlflow: dict[str, Any], wandb: Any, to: str
) -> None:
    def runs() -> int:
        made = [run for store in mlflow.values() for run in store["mine"]] if to == "mlflow" else wandb.runs
        return len(made) if to != "tensorboard" else len(list(OUT.glob("mine/*")))

    publish_run("one", summary)
    [line] = exported(to)
    assert "figures, improved" in line and runs() == 1
    publish_run("two", summary)
    first, second = exported(to)
    assert first == f"{line.partition(':')[0]}: is there already, and stays as it is"
    assert second.startswith("two-") and runs() == 2
    publish_run("one", summary, seed=5)
    exported(to, "one")
    assert runs() == 3, "other settings are another version, which stands beside the first"


def test_what_a_killed_export_left_is_written_again(
    summary: dict[str, Any], mlflow: dict[str, Any], wandb: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_run("demo", summary)
    with monkeypatch.context() as patch:
        patch.setattr(stand_ins.Run, "fails", True)
        patch.setattr(stand_ins.Client, "set_terminated", lambda *_: 1 / 0)
        with pytest.raises(OSError, match="No space left"):
            exported("wandb")
        with pytest.raises(ZeroDivisionError):
            exported("mlflow")
    for to in ("wandb", "mlflow"):
        [line] = exported(to)
        assert "figures, improved" in line
    assert [folder.name for folder in OUT.glob("wandb/*")] == [wandb.runs[-1].folder.name]
    [run] = next(iter(mlflow.values()))["mine"].values()
    assert run.info.status == "FINISHED"


def test_tensorboard_gets_curves_with_times_figures_and_texts(summary: dict[str, Any]) -> None:
    publish_run("demo", summary)
    [record] = read_records(LATEST, [])
    exported("tensorboard")
    events = EventAccumulator(str(OUT / "mine" / record.id))
    events.Reload()
    assert [(e.step, e.value, e.wall_time) for e in events.Scalars("loss")] == [(5, 2.0, END - 4), (10, 1.0, END)]
    [gain] = events.Scalars("final/gain")
    assert gain.value == pytest.approx(summary["accuracy"]["gain"]["value"]) and gain.step == LOG[-1]["step"]
    [verdict] = events.Tensors("verdict/text_summary")
    assert verdict.tensor_proto.string_val == [b"improved"]
    assert not list(OUT.glob("mine/.*")), "the private folder got its name"


@pytest.mark.parametrize(
    ("to", "said"), [("mlflow", "pip install mlflow-skinny sqlalchemy alembic$"), ("wandb", "pip install wandb$")]
)
def test_a_missing_client_is_one_line_that_says_what_to_install(
    summary: dict[str, Any], monkeypatch: pytest.MonkeyPatch, to: str, said: str
) -> None:
    publish_run("demo", summary)

    class Without:
        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            if name == to:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    for name in [name for name in sys.modules if name.partition(".")[0] == to]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Without, *sys.meta_path])
    with pytest.raises(UserError, match=f"--to {to} needs the package {to}; install the client: {said}"):
        exported(to)
