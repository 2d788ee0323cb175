"""Files are replaced whole, and every JSON file is strict, UTF-8 and in one style."""

import json
import math
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dreamtune.files import finite, json_bytes, read_json, replace_with, usual_mode, write_json


def test_a_file_is_replaced_at_the_end_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "index.html"
    path.write_text("old")
    with replace_with(path) as private:
        private.write_text("new")
        assert path.read_text() == "old" and private.parent == tmp_path and private.name.startswith(".")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_a_writer_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "index.html"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replace_with(path) as private:
        private.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "versions.json"
    with replace_with(path) as first, replace_with(path) as second:
        first.write_text("1")
        second.write_text("2")
    assert path.read_text() == "1" and list(tmp_path.iterdir()) == [path]


def test_a_link_is_replaced_and_what_it_names_is_not(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    link = tmp_path / "link"
    link.symlink_to("a")
    with replace_with(link) as private:
        private.symlink_to("b")
    assert link.readlink() == Path("b") and (tmp_path / "a").read_text() == "a"


def test_json_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    value = {"text": '× "⟨⟩" \n 你好', "file": b"\xff.parquet".decode("utf-8", "surrogateescape"), "n": [1, 0.5, None]}
    write_json(path, value)
    assert read_json(path) == value == json.loads(path.read_text(encoding="utf-8"))
    assert "你好" in path.read_text(encoding="utf-8") and path.read_bytes().endswith(b"}\n")


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_json_cannot_hold_is_refused_before_anything_is_written(tmp_path: Path, number: float) -> None:
    path = tmp_path / "value.json"
    write_json(path, 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"loss": [number]})
    assert read_json(path) == 1 and list(tmp_path.iterdir()) == [path]
    assert json_bytes(finite({"loss": (number, 1.5)})) == json_bytes({"loss": [None, 1.5]})


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_a_librarys_file_has_the_mode_of_any_file(tmp_path: Path, mask: int) -> None:
    """safetensors gives its own to its owner alone."""
    before = os.umask(mask)
    try:
        with usual_mode(tmp_path / "model.safetensors") as path:
            save_file({"weight": torch.ones(2)}, path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask and load_file(path)["weight"].sum() == 2
