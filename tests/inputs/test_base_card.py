"""The licence that a base model's files state, and which of them name the report's version."""

from pathlib import Path

import polars as pl
import pytest

from dreamtune.config import parse_config
from dreamtune.inputs.base_card import base_licence
from dreamtune.inputs.hub import hub_sources
from dreamtune.inputs.identity import FileDigests, identify
from dreamtune.workflow.experiments import make_plan
from rows import write_model

REVISION = "0123456789" * 4


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, {}),
        ({"README.md": "---\nlicense: apache-2.0\ntags: [x]\n---\n# A model"}, {"license": "apache-2.0"}),
        ({"README.md": "# no front matter\nlicense: mit"}, {}),
        ({"README.md": "---\nlicense: [mit]\n---\n", "config.json": '{"license": "mit"}'}, {"license": "mit"}),
        ({"README.md": "---\n- a list\n---\n", "config.json": "[1]"}, {}),
        ({"README.md": "---\nlicense: {\n---\n"}, {}),
        (
            {"README.md": "---\nlicense: other\nlicense_name: theirs\nlicense_link: LICENSE\n---\n"},
            {"license": "other", "license_name": "theirs", "license_link": "LICENSE"},
        ),
    ],
)
def test_a_licence_is_read_where_it_is_stated(files: dict[str, str], expected: dict[str, str], tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert base_licence(str(tmp_path), None) == expected


def test_the_card_of_a_model_of_the_hub_is_read_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert base_licence("owner/model", REVISION) == {}
    folder = tmp_path / "models--owner--model/snapshots" / REVISION
    folder.mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    assert base_licence("owner/model", REVISION) == {"license": "mit"}


def test_a_report_needs_no_download_of_the_model_for_its_card(tmp_path: Path) -> None:
    runtime = {"model": {"path": "owner/model", "revision": REVISION}}
    found = identify(["card"], runtime, FileDigests(tmp_path / "digests"))
    assert found == {"card": {"hub": f"owner/model@{REVISION}"}} and hub_sources(found) == []


def test_another_licence_of_the_base_makes_the_report_anew_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "model")
    pl.DataFrame({"question": ["q"], "reasoning": [""], "answer": ["1"]}).write_parquet("rows.parquet")
    config = parse_config({"model": {"path": "model"}, "data": {"files": ["rows.parquet"]}})
    before, _ = make_plan(config)
    (tmp_path / "model/README.md").write_text("---\nlicense: mit\n---\n")
    after, _ = make_plan(config)
    assert {stage for stage, _ in before.keys() ^ after.keys()} == {"render_report"}
