"""What YAML would silently read as something else is refused with its lines."""

from pathlib import Path

import pytest

from conftest import ROOT
from dreamtune.config import load_config
from dreamtune.config_file import read_file
from dreamtune.errors import UserError

LEAST = "model: {path: x}\ndata: {files: [rows.parquet]}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train:\n  epochs: 1\nscore: {}\ntrain:\n  rows: 8\n", "train is given twice, in line 3 and in line 6"),
        ("train:\n  epochs: 1\n  epochs: 2\n", "train.epochs is given twice, in line 4 and in line 5"),
        ("train: {lora: {rank: 4, 'rank': 8}}\n", "train.lora.rank is given twice, in line 3 and in line 3"),
        ("experiments:\n  a: {}\n  a: {}\n", "experiments.a is given twice, in line 4 and in line 5"),
        (
            "evaluate:\n  benchmarks:\n  - name: a\n    name: b\n",
            "evaluate.benchmarks.0.name is given twice, in line 5",
        ),
        ("train:\n  rows: 010\n", "train.rows is 010 in line 4, which YAML reads as an octal number, 8"),
        ("train: {betas: [0.9, 1:30]}\n", "train.betas.1 is 1:30 in line 3, which YAML reads as a number to base 60"),
        ("train: [\n", "this is not YAML"),
        ("a: \t b\n\tc: d\n", "this is not YAML"),
        ("report: {title: 2026-13-45}\n", "a number or date in it cannot be read"),
    ],
)
def test_what_yaml_would_take_otherwise_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(LEAST + text)
    with pytest.raises(UserError) as error:
        load_config(path)
    assert str(error.value).startswith(f"{path}: ") and message in str(error.value)
    assert "\n" not in str(error.value)


def test_quoted_texts_aliases_and_merges_are_read_as_they_are_meant(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(LEAST + 'report: {title: "010"}\nx: &x {a: 0, b: 0.5}\ny: {<<: *x, b: 1}\nz: [*x, *x]\n')
    read = read_file(path)
    assert read["report"] == {"title": "010"} and read["y"] == {"a": 0, "b": 1} and read["z"] == [read["x"]] * 2


@pytest.mark.parametrize("name", ["missing.yaml", "folder", "latin.yaml"])
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "latin.yaml").write_bytes("title: Übung".encode("latin-1"))
    with pytest.raises(UserError, match=rf"^{tmp_path / name}: [^\n]+$"):
        read_file(tmp_path / name)


@pytest.mark.parametrize("path", sorted((ROOT / "config").rglob("*.yaml")), ids=lambda path: path.name)
def test_what_is_shipped_has_nothing_of_the_kind(path: Path) -> None:
    assert read_file(path)
