"""The schemas of a study's files are those that lie in docs/, and what the stages write is what they say."""

import json
from typing import Any

import jsonschema
import pytest

from conftest import ROOT
from dreamtune.formats.study import STUDY
from dreamtune.formats.study_schema import ComparisonRow, study_schemas
from tests.overview.studies import LATEST, SHARES, Studies
from tests.overview.studies import STUDY as FOLDER

SCHEMAS = study_schemas()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A study of two grids, data sizes, seeds and a baseline, as its stage and the driver write it."""
    folder = tmp_path_factory.mktemp("schema")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Studies(folder / "kinds", SHARES[:2]).make(
            experiments={"a": {}, "b": {"train": {"warmup": 0.5}}},
            grid={"of": ["a"], "train.lora.rank": [4, 16], "train.learning_rate": [1e-5, 1e-4]},
            data_sizes={"of": ["b"], "rows": [125, 250, "all"]},
            seeds=2,
            study={"baseline": "b", "equivalence_points": 3, "choose": "test"},
        )
        return {
            "study": json.loads((FOLDER / "study.json").read_text()),
            "members": json.loads((LATEST / "members.json").read_text()),
        }


def test_the_schemas_in_docs_are_current() -> None:
    for name, schema in SCHEMAS.items():
        jsonschema.Draft202012Validator.check_schema(schema)
        assert json.loads((ROOT / f"docs/{name}.schema.json").read_text()) == schema, "run `make schema`"


def test_a_comparison_has_the_columns_of_the_table() -> None:
    assert list(ComparisonRow.model_fields) == STUDY.names()


@pytest.mark.parametrize("name", ["study", "members"])
def test_what_is_written_is_what_the_schema_says(files: dict[str, Any], name: str) -> None:
    jsonschema.validate(files[name], SCHEMAS[name])


def test_every_part_of_study_json_was_there_to_be_validated(files: dict[str, Any]) -> None:
    study = files["study"]
    assert study["choice"] and study["curves"] and study["margin"] and study["baseline"] == "b"
    assert any(grid["effects"] for grid in study["grids"]) and any(grid["interactions"] for grid in study["grids"])
    assert any(curve["per_doubling"] for curve in study["curves"].values())


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [
        ("study", ("comparisons", 0, "word"), "better"),
        ("study", ("comparisons", 0, "p"), 1.5),
        ("study", ("unknown",), 1),
        ("members", ("runs", 0, "seed"), "zero"),
        ("members", ("format",), 2),
    ],
)
def test_anything_else_is_refused(files: dict[str, Any], name: str, place: tuple[Any, ...], value: Any) -> None:
    content = json.loads(json.dumps(files[name]))
    *sections, last = place
    held = content
    for section in sections:
        held = held[section]
    held[last] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, SCHEMAS[name])
