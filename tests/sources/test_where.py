"""The condition of a source: rows it keeps, and everything that is no condition on one row, refused in one line."""

import json
from pathlib import Path

import polars as pl
import pytest

from dreamtune.errors import UserError
from dreamtune.sources.where import Where

ROWS = {
    "lang": ["en", "de", None, "en"],
    "score": [0.9, 0.8, 0.7, None],
    "steps": [1, 2, 3, 4],
    "checked": [True, False, True, None],
    "text": ["one", "two words", "", "x"],
}


@pytest.mark.parametrize(
    ("condition", "kept"),
    [
        ("lang = 'en'", [0, 3]),
        ("score > 0.75", [0, 1]),
        ("steps BETWEEN 2 AND 3", [1, 2]),
        ("checked", [0, 2]),
        ("NOT checked", [1]),
        ("lang IN ('de', 'fr') OR length(text) < 2", [1, 2, 3]),
        ("lang IS NULL", [2]),
        ("text LIKE '%word%'", [1]),
        ("strpos(text, 'word') > 0", [1]),
        ("CASE WHEN steps = 1 THEN false ELSE true END", [1, 2, 3]),
        ("coalesce(score, 1.0) >= 0.9 AND lower(lang) = 'en'", [0, 3]),
    ],
)
def test_rows_for_which_the_condition_is_true(tmp_path: Path, condition: str, kept: list[int]) -> None:
    pl.DataFrame(ROWS).write_parquet(tmp_path / "rows.parquet")
    assert Where(condition).rows_of(tmp_path / "rows.parquet").nonzero()[0].tolist() == kept


def test_cells_of_json_lines_are_text(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"score": score}) + "\n" for score in (0.2, 0.9)))
    assert Where("CAST(score AS DOUBLE) > 0.5").rows_of(file).tolist() == [False, True]
    with pytest.raises(UserError, match="for numbers write CAST"):
        Where("score > 0.5").check(file)


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("score > AVG(score)", "Agg does not look at one row alone"),
        ("RANK() OVER (ORDER BY score) < 3", "does not look at one row alone"),
        ("COUNT(*) > 1", "does not look at one row alone"),
        ("COLUMNS('^s') > 1", "Selector does not look"),
        ("1 = 1", "names no column"),
        ("score >", "expected an SQL expression"),
        ("score > 1; DROP TABLE x", "'TABLE'"),
        ("score > 1; x", "found unexpected token"),
        ("__import__('os').system('true')", "expected an SQL expression"),
        ("stamp < now()", "reads the clock"),
        ("random() < 0.5", "unsupported function"),
    ],
)
def test_what_is_no_condition_on_one_row_is_refused(condition: str, said: str) -> None:
    with pytest.raises(UserError, match=r"data\.sources, where") as error:
        Where(condition)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_no_file_is_opened_to_read_a_condition(tmp_path: Path) -> None:
    """polars opens the files of a subquery while it reads the text, before anybody could look at the tree."""
    (tmp_path / "secret.csv").write_text("b\n1\n")
    hidden = f"lang IN (sElect b FROM read_csv('{tmp_path}/secret.csv'))"
    with pytest.raises(UserError, match="reads other data"):
        Where(hidden)


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("langs = 'en'", "no column 'langs' (did you mean 'lang'?)"),
        ("lang", "it gives String, and not true or false"),
        ("lang > 1", "cannot compare string with numeric type"),
        ("CAST(lang AS DOUBLE) > 1", "conversion from `str` to `f64` failed"),
    ],
)
def test_a_condition_that_does_not_fit_the_cells_is_refused(tmp_path: Path, condition: str, said: str) -> None:
    pl.DataFrame(ROWS).write_parquet(tmp_path / "rows.parquet")
    with pytest.raises(UserError) as error:
        Where(condition).rows_of(tmp_path / "rows.parquet")
    assert said in str(error.value) and "\n" not in str(error.value)
