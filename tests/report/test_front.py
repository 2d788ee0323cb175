"""The report's first screen: the recipe, counts that agree everywhere, and what the detectable change is."""

import re
from pathlib import Path
from typing import Any

import pytest

from dreamtune.overview.others import experiments_of
from dreamtune.overview.page import render as render_index
from dreamtune.report.explorer import shares
from dreamtune.report.front import passed_words, tiles
from dreamtune.report.recipe import MASKS, find_recipe, recipe_rows
from dreamtune.settings.train import TrainConfig
from report_fixture import write_reads
from report_page import Page, render

pytest_plugins = "report_page"  # its fixture
KNOWN = (
    "model parameters quantization data rows test_rows objective masks finetuning rank variant products learning_rate "
    "schedule epochs steps global_batch device processes processor host training_s total_s"
)
UNKNOWN: dict[str, Any] = dict.fromkeys(KNOWN.split()) | {"data": [], "masks": {}}


def test_the_recipe_stands_in_the_header_and_in_the_summary(made: Any) -> None:
    html, summary, _ = made
    assert recipe_rows(summary["recipe"]) == [
        ("Model", "resources/tiny, 980,000 parameters"),
        ("Data", "data/sums.parquet: 500 rows trained on, 100 held out for the test"),
        ("Objective", "masked diffusion, losses weighted by 1/t"),
        ("Method", "QLoRA: an adapter on 4-bit weights, rank 16"),
        ("Learning rate", "2e-5, cosine"),
        ("Steps", "375 of 8 rows, 3 epochs"),
        ("Hardware", "CPU: a processor"),
        ("Time", "training 12 s, all stages 2 min 30 s"),
    ]
    header = Page(html.split("</header>")[0]).text
    assert all(name in header and words in header for name, words in recipe_rows(summary["recipe"]))


def test_a_recipe_names_the_kind_of_adapter() -> None:
    dora = UNKNOWN | {"rank": 4, "variant": "dora", "quantization": "nf4"}
    assert recipe_rows(dora) == [("Method", "QDoRA: an adapter on 4-bit weights, rank 4")]
    assert recipe_rows(UNKNOWN | {"rank": 4, "variant": "rslora"}) == [("Method", "rsLoRA: an adapter, rank 4")]
    quantised = {"rank": 4, "quantization": "nf4"}
    for variant, name in {"lora": "QLoRA", "rslora": "rsLoRA", "dora": "QDoRA"}.items():
        said = f"{name}: an adapter on 4-bit weights, rank 4"
        assert recipe_rows(UNKNOWN | quantised | {"variant": variant}) == [("Method", said)]


def test_a_recipe_names_full_fine_tuning_several_gpus_and_files_of_the_hub() -> None:
    files = ["hf://datasets/simplescaling/s1K-1.1@0123/data/train.parquet", "b.parquet", "c.parquet"]
    recipe = UNKNOWN | {"model": "Dream-org/Dream-v0-Base-7B", "parameters": 7_615_616_512, "data": files}
    recipe |= {"finetuning": "full", "device": "cuda", "processes": 4, "processor": "NVIDIA H100 80GB HBM3"}
    assert recipe_rows(recipe) == [
        ("Model", "Dream-org/Dream-v0-Base-7B, 7.6 billion parameters"),
        ("Data", "simplescaling/s1K-1.1 and 2 other files"),
        ("Method", "full fine-tuning"),
        ("Hardware", "4 × GPU: NVIDIA H100 80GB HBM3"),
    ]
    assert recipe_rows(UNKNOWN) == []
    fp8 = UNKNOWN | {"finetuning": "lora", "rank": 8, "products": "fp8"}
    assert recipe_rows(fp8) == [("Method", "LoRA: an adapter, rank 8, frozen weights multiplied in FP8")]


RANDOM = {"mask_counts": "random"}
MASKED = "masked diffusion, "
BY_COUNT = MASKED + "exactly k of L tokens, "


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, BY_COUNT + "losses weighted by L/k"),
        (RANDOM, MASKED + "losses weighted by 1/t"),
        ({"objective": "uniform"}, BY_COUNT + "losses unweighted"),
        (RANDOM | {"objective": "cart"}, MASKED + "losses weighted by visible neighbours (CART)"),
        ({"complementary": True}, BY_COUNT + "complementary pairs, losses weighted by L/k"),
        (RANDOM | {"complementary": True, "pairs": "mirror"}, MASKED + "mirrored pairs, losses weighted by 1/t"),
        ({"pairs": "mirror"}, BY_COUNT + "losses weighted by L/k"),
        ({"rate_density": [1, 2]}, BY_COUNT + "mask rates by a density, losses divided by it, losses weighted by L/k"),
        (RANDOM | {"rate_range": [0.1, 1.0]}, MASKED + "mask rates from 0.1 to 1 alone, losses weighted by 1/t"),
        (RANDOM | {"mask_block": 32}, MASKED + "tokens in blocks of 32, losses weighted by 1/t"),
        ({"tail_masks": "together"}, BY_COUNT + "end tokens masked together, losses weighted by L/k"),
        ({"cut_share": 0.25}, BY_COUNT + "losses weighted by L/k, 25.0\u00a0% of the responses cut"),
        (
            {"attention_annealing": 0.3},
            BY_COUNT + "losses weighted by L/k, attention annealed over the first 30.0\u00a0% of the steps",
        ),
        ({"objective": "copy", "complementary": True}, "copy: nothing is masked, so the input holds the answer"),
        ({"objective": "causal"}, "autoregressive: cross entropy of the next token"),
    ],
)
def test_the_recipe_says_what_the_settings_train(settings: dict[str, Any], words: str) -> None:
    train = TrainConfig(**settings).model_dump(mode="json")
    rows = dict(recipe_rows(find_recipe({"full": {"train": train}}, {}, {}, {}, {})))
    assert rows["Objective"] == words


def test_every_setting_of_the_masks_enters_the_recipe() -> None:
    """Whoever adds one decides what the recipe says of it."""
    spread = {"rate_draws"}  # which rates stand beside each other, not what is trained
    names = {
        name for name in TrainConfig.model_fields if name.startswith(("mask", "rate", "tail_masks", "cut", "pair"))
    }
    assert names | {"complementary", "attention_annealing"} == set(MASKS) | spread


@pytest.mark.parametrize("leak", [False, True])
def test_the_counts_of_canaries_agree_wherever_they_stand(tmp_path: Path, leak: bool) -> None:
    html, summary, _ = render(write_reads(tmp_path / "reads", questions=12, leak=leak), tmp_path / "one")
    hard, soft = ("2 of 4 passed" if leak else "4 of 4 passed"), "3 of 3 passed"
    assert [passed_words(summary["canaries"], kind) for kind in (True, False)] == [hard, soft]
    text = Page(html).text
    assert set(re.findall(r"\d+ of \d+ passed", text)) == {hard, soft}
    assert text.count(hard) == text.count(soft) == 2, "in the tile and above the table"
    assert ("2 of 4 hard canaries failed" in summary["detail"]) == leak
    rows = re.findall(r'<td class="state">(\w+)</td>.*?<td>(hard|soft)</td>', html)
    assert rows.count(("passed", "hard")) == int(hard[0]) and rows.count(("passed", "soft")) == 3
    assert set(re.findall(r"\d+ of \d+ passed", render_index(None, experiments_of(tmp_path, {})))) == {hard, soft}


def test_canaries_without_enough_data_are_said_apart() -> None:
    checks = [{"hard": True, "passed": passed} for passed in (True, None, None)]
    assert passed_words(checks, hard=True) == "1 of 1 passed, 2 not judged"
    assert passed_words(checks, hard=False) == "not run"


def test_the_detectable_change_is_explained_where_it_stands(made: Any) -> None:
    tile = tiles(made[1])[-1]
    assert tile["label"] == "Detectable change" and tile["value"].endswith(" points")
    assert tile["note"] == (
        "with these 100 questions, a true change of this size would be found 4 times in 5, a smaller one less often"
    )
    nothing = made[1] | {"minimum_detectable_effect": {"primary": None}}
    assert tiles(nothing)[-1]["value"] == "–" and "not enough data" in tiles(nothing)[-1]["note"]


@pytest.mark.parametrize(
    ("totals", "count", "places"),
    [
        ({"won": 310, "lost": 0, "right": 0, "wrong": 30}, 60, {"won": 55, "lost": 0, "right": 0, "wrong": 5}),
        ({"won": 300, "lost": 1, "right": 9, "wrong": 30}, 60, {"won": 52, "lost": 1, "right": 2, "wrong": 5}),
        ({"won": 3, "lost": 1, "right": 0, "wrong": 2}, 60, {"won": 3, "lost": 1, "right": 0, "wrong": 2}),
        ({"won": 9, "lost": 1, "right": 5, "wrong": 2}, 2, {"won": 1, "lost": 0, "right": 1, "wrong": 0}),
        ({"won": 0, "lost": 0}, 60, {"won": 0, "lost": 0}),
        ({"won": 9, "lost": 9}, 0, {"won": 0, "lost": 0}),
    ],
)
def test_answers_are_drawn_in_proportion(totals: dict[str, int], count: int, places: dict[str, int]) -> None:
    assert shares(totals, count) == places


def test_what_is_shown_of_what_there_is_stands_above_the_answers(made: Any) -> None:
    said = (
        "test · greedy: 60 of 100, drawn in proportion to the outcomes: tuned right, base wrong 37 of 62; both right 7"
    )
    assert said in Page(made[0]).text
