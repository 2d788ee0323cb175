"""The page of a study: its pictures, what they leave out, answers side by side, and its size."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from dreamtune.errors import UserError
from dreamtune.files import read_json
from dreamtune.overview.curves import size_pictures, thin
from dreamtune.overview.figures import forest
from dreamtune.overview.page import write_page
from dreamtune.overview.side_by_side import MOST_QUESTIONS, compare_answers, write_pair
from report_fixture import HOSTILE
from tests.overview.studies import LATEST, STUDY, Studies

SIZES = {"experiments": {"qlora": {}}, "seeds": 2, "data_sizes": [60, 125, 250, "all"]}
GRID = {"train.lora.rank": [4, 8, 16], "train.learning_rate": [1e-4, 1e-3]}


def page() -> str:
    write_page(LATEST, {})
    return (LATEST / "index.html").read_text()


def visible(html: str) -> str:
    return re.sub(r"<(style|script)>.*?</\1>", "", html, flags=re.DOTALL)


def test_nothing_is_loaded_and_pictures_need_no_script(studies: Studies) -> None:
    studies.make(experiments={"a": {}, "b": {}}, seeds=3, study={"baseline": "a"})
    html = page()
    assert html.count("<svg ") == 2 * html.count('<figure class="picture"') > 0
    assert not re.findall(r'(?:src|xlink:href|url\()="?https?:', html) and "default-src &#39;none&#39;" in html
    assert "sha256-" in html and "unsafe-eval" not in html
    assert "font-weight: 600; }" in html and "--good" in html
    alike = re.search(r"\.(good|yes|word)[^{}]*\{[^}]*var\(--accent\)", html)
    assert not alike, "the colour of links says nothing else"


def test_a_study_that_was_not_compared_shows_single_adapters(studies: Studies) -> None:
    studies.make(compared=False, experiments={"a": {}, "b": {}}, seeds=3)
    html = page()
    assert "The comparison of methods has not run yet." in html and "a-seed1 (1 seed), exploratory" in html
    assert "What may be said</h2>" not in html


def test_what_was_not_tested_is_not_drawn() -> None:
    row = {"role": "confirmatory", "about": "adapters", "seeds": 1, "gain": 0.0, "p": None, "p_adjusted": None}
    row |= dict.fromkeys(("low", "high", "simultaneous_low", "simultaneous_high"))
    invalid = row | {"method": "copy", "word": "not tested"}
    fine = row | {"method": "qlora", "word": "no evidence of change", "p": 1.0, "low": 0.0, "high": 0.0}
    assert forest("gains", "Gains", [invalid], "accuracy") is None
    picture = forest("gains", "Gains", [fine, invalid], "accuracy")
    assert picture and "1 not tested" in picture.left_out and "copy" not in picture.wide
    assert ">+1.0<" in picture.wide, "the axis reaches a point, not rounding errors"


def test_learning_curves_say_the_trend_and_twice_the_data_only_if_the_study_does(studies: Studies) -> None:
    kinds = {f"qlora{size}": place for place, size in enumerate(("-rows60", "-rows125", "-rows250", ""), 1)}
    kinds |= {f"{name}-seed1": place for name, place in kinds.items()}
    studies.make(kinds, **SIZES)
    content = read_json(STUDY / "study.json")
    [picture] = size_pictures(content)
    curve = content["curves"]["qlora"]
    assert "Each doubling of the data changes it by +" in picture.caption
    assert ("Twice the largest size would be expected" in picture.caption) == (curve["next_doubling"] is not None)
    curve |= {"next_doubling": None, "refusal": "nothing is foretold from 2 sizes"}
    [picture] = size_pictures(content)
    assert "Of twice the data nothing is foretold from 2 sizes" in picture.caption and "expected" not in picture.caption


def test_the_grid_says_what_each_setting_does(studies: Studies) -> None:
    rates = {"1e-4": 0, "1e-3": 1}
    ranks = {rank: place for place, rank in enumerate((4, 8, 16))}
    kinds = {f"main-rank{rank}-lr{rate}": ranks[rank] + rates[rate] for rank in ranks for rate in rates}
    studies.make(kinds, grid=GRID)
    html = page()
    assert "What the grid says about each setting" in html and "train.lora.rank: 16 in place of 4" in html
    assert "interactions are not tested: 0 runs are left over" in html and "Exploratory" in html
    [grid] = read_json(STUDY / "study.json")["grids"]
    rate = grid["effects"][-1]
    assert rate["setting"] == "train.learning_rate" and rate["change"]["value"] == pytest.approx(0.08, abs=0.01)


def test_a_study_of_the_likelihood_speaks_of_nats(studies: Studies) -> None:
    keys = {"grid": {"of": ["c"]} | GRID, "data_sizes": {"of": ["a"], "rows": [10, 20, "all"]}}
    studies.make(experiments={"a": {}, "b": {}, "c": {}}, seeds=2, study={"baseline": "b", "primary": "nll"}, **keys)
    html = visible(page())
    assert "Sorted by NLL" in html and "nats per token by which the NLL falls" in html
    assert "NLL, nats per token (lower is better)" in html and "The best one." not in html
    assert "a: by the size of the data" in html and "c: mean effect of each setting" in html


def test_losses_are_thinned_and_only_some_methods_are_drawn(studies: Studies) -> None:
    assert len(thin([{"step": i, "loss": 1.0} for i in range(1000)], "loss")) <= 60
    assert thin([{"step": 1, "loss": None}, {"loss": 2.0}], "loss") == []
    studies.make(compared=False, grid=GRID, seeds=2, experiments={"a": {}, "b": {}})
    assert "3 further methods are left out: their own reports have the curves." in page()


def test_answers_stand_side_by_side_where_exactly_one_is_right(studies: Studies) -> None:
    study = studies.make({"a": 0, "b": 6}, experiments={"a": {}, "b": {}}, seeds=2, compared=False)
    pair = compare_answers(study.runs[0], study.runs[2])
    counts = {"only the first": 0, "only the second": 44, "both right": 30, "both wrong": 26, "not graded": 0}
    assert pair.counts == counts and pair.differ == 44
    assert len(pair.examples) == min(MOST_QUESTIONS, pair.differ)
    assert all(example["base"]["correct"] != example["tuned"]["correct"] for example in pair.examples)
    assert all(example["base"]["replay"] and example["tuned"]["replay"] for example in pair.examples)
    html = page()
    assert 'href="side-by-side.html#' in html and "they differ on" in html
    beside = (LATEST / "side-by-side.html").read_text()
    assert 'class="replay"' in beside and HOSTILE not in beside and "unsafe-eval" not in beside


def test_any_two_runs_can_be_asked_for(studies: Studies) -> None:
    studies.make({"a": 0, "b": 6}, experiments={"a": {}, "b": {}}, seeds=2, compared=False)
    path = write_pair(LATEST, "a-seed1", "b", 100)
    assert path.name == "a-seed1--b.html" and "are shown." in path.read_text()
    with pytest.raises(UserError, match="there is no run 'c' in the study"):
        write_pair(LATEST, "a", "c", 1)
    with pytest.raises(UserError, match="holds no study"):
        write_pair(Path("elsewhere"), "a", "b", 1)


def test_runs_on_other_questions_are_not_put_beside_each_other(studies: Studies) -> None:
    study = studies.make(compared=False, experiments={"a": {}, "b": {}}, seeds=2)
    first, second = study.runs[0], study.runs[2]
    key = "scores/test/greedy/tuned"
    Path("other").mkdir()
    scores = pl.read_parquet(f"{second.folders[key]}/scores.parquet")
    scores.with_columns(reference=pl.lit("7")).write_parquet("other/scores.parquet")
    other = replace(second, folders=second.folders | {key: "other"})
    assert compare_answers(first, other).refusal == "they were not measured on the same questions"
    none = replace(second, folders={name: path for name, path in second.folders.items() if name != key})
    assert "no graded answers" in compare_answers(first, none).refusal


def test_other_experiments_keep_their_list_beside_a_study(studies: Studies) -> None:
    study = studies.make(compared=False, experiments={"a": {}, "b": {}}, seeds=2)
    for name in ("a", "lone"):
        (LATEST / name).mkdir()
        shutil.copy(Path(study.runs[0].folders["report"]) / "summary.json", LATEST / name)
    html = visible(page())
    assert "Other experiments</h2>" in html and 'href="lone/report.html">lone</a>' in html
    assert 'href="a/report.html">a</a></th>\n' not in html.split("Other experiments</h2>")[1]
    (LATEST / "members.json").unlink()
    html = visible(page())
    assert "2 experiments" in html and "Runs</h2>" not in html


def test_a_large_study_is_bounded_and_says_what_it_leaves_out(studies: Studies) -> None:
    rates = [i * 1e-5 for i in range(1, 21)]
    grid = {"train.lora.rank": list(range(1, 11)), "train.learning_rate": rates}
    study = studies.make(compared=False, grid=grid, study={"max_points": 1000})
    html = page()
    assert len(study.runs) == 200 and len(html) < 10_000_000 / 5, "1,000 runs stay below 10 MB"
    assert html.count('<th scope="row" data-s=') == 200, "all runs stand in the table"
    assert "170 further comparisons" in html and "191 further methods are left out" in html
    assert (LATEST / "side-by-side.html").stat().st_size < 8_000_000
