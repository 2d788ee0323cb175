"""What the plan of conversations takes from a configuration: columns, the chat template's file, what decides."""

from pathlib import Path
from typing import Any

import pytest

from conversations import CHATML, LLAMA3, make_chat_model, sums, write_rows
from dreamtune.config import parse_config
from dreamtune.errors import UserError
from dreamtune.workflow.containers import named_paths
from dreamtune.workflow.experiments import make_plan
from dreamtune.workflow.plan import Plan


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with conversations, as JSON lines and as parquet, and a model."""
    monkeypatch.chdir(tmp_path)
    make_chat_model(tmp_path / "model")
    for name in ("rows.jsonl", "rows.parquet"):
        write_rows(tmp_path / name, sums(3))
    return tmp_path


def planned(file: str = "rows.jsonl", data: dict[str, Any] | None = None, **sections: Any) -> Plan:
    config = {
        "model": {"path": "model", "quantization": "none"},
        "data": {"files": [file], "columns": {"messages": "messages"}} | (data or {}),
    }
    plan, _ = make_plan(parse_config(config | sections))
    return plan


def one(plan: Plan, stage: str) -> tuple[str, dict[str, Any]]:
    [(version, spec)] = [(version, spec) for (name, version), spec in plan.items() if name == stage]
    return version, spec["settings"]


@pytest.mark.parametrize("file", ["rows.jsonl", "rows.parquet"])
@pytest.mark.parametrize(
    ("answer", "graded", "primary"), [(None, None, "nll"), ("boxed", "", "accuracy"), ("final", "final", "accuracy")]
)
def test_what_is_graded_decides_what_the_verdict_rests_on(
    file: str, answer: str | None, graded: str | None, primary: str
) -> None:
    plan = planned(file, score={"answer": answer})
    assert one(plan, "prepare_shards")[1]["graded"] == graded
    assert one(plan, "render_report")[1]["comparison"]["primary"] == primary


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"evaluate": {"primary": "accuracy"}}, "conversations have no answers to grade; name a column"),
        ({"evaluate": {"few_shot": 2}}, "evaluate.few_shot makes worked examples of rows"),
        ({"score": {"answer": "finale"}}, "has no column 'finale' (did you mean 'final'?)"),
        ({"data": {"columns": {"messages": "messages", "answer": "final"}}}, "columns.answer names another column"),
        ({"data": {"template": "{question}{answer}"}}, "leave out data.template"),
        ({"data": {"chat_template": "missing.jinja"}}, "no file matches missing.jinja"),
        ({"data": {"columns": {"messages": "message"}}}, "has no column 'message' (did you mean 'messages'?)"),
        (
            {"data": {"columns": {"question": "final", "reasoning": None, "answer": "final"},
                      "template": "{question}{answer}"}, "score": {"answer": "final"}},
            "score.answer is for conversations",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_one_line(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        planned(**sections)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_content_of_the_chat_template_belongs_to_the_version_and_its_path_does_not(folder: Path) -> None:
    def version(file: str, template: str) -> str:
        (folder / file).write_text(template)
        return one(planned(data={"chat_template": file}), "prepare_shards")[0]

    first = version("a.jinja", CHATML)
    assert version("b.jinja", CHATML) == first != version("b.jinja", LLAMA3)
    own = one(planned(), "prepare_shards")[0]
    (folder / "model" / "chat_template.jinja").write_text(LLAMA3)
    assert one(planned(), "prepare_shards")[0] != own


def test_containers_see_the_chat_template(folder: Path) -> None:
    (folder / "a.jinja").write_text(CHATML)
    assert Path("a.jinja") in set(named_paths(planned(data={"chat_template": "a.jinja"}).values()))
