"""benchmarks/generation_accuracy.py at tiny scale, and the problems it asks."""

import itertools
import json
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

import warm
from conftest import ROOT
from dreamtune.contamination.questions import normalise
from dreamtune.data.tokenizer import load_tokenizer
from dreamtune.scoring.score import is_correct
from dreamtune.settings.data import Split

sys.path.append(str(ROOT / "benchmarks"))
import accuracy_table
import generation_accuracy
import long_problems
import long_sums

SCRIPT = ROOT / "benchmarks/generation_accuracy.py"


@pytest.fixture(scope="module")
def stories() -> list[long_problems.Story]:
    rng = random.Random(7)
    return [long_problems.sample_story(rng) for _ in range(300)]


def value_asked_for(question: str) -> int:
    """Work out a question from its own words."""
    (_, start), *told = re.findall(r"(\w+) (\d+)", question)
    return int(start) + sum(int(number) if verb in long_problems.GAINS else -int(number) for verb, number in told)


def test_answers_are_right_by_the_words_of_the_question(stories: list[long_problems.Story]) -> None:
    for story in stories:
        assert value_asked_for(story.question) == story.answer, story.question
        assert len(story.steps) == 5
        assert all(one.result == two.left for one, two in itertools.pairwise(story.steps))
        assert is_correct(story.response, str(story.answer))


def test_answers_span_three_blocks_and_every_word_is_known(stories: list[long_problems.Story]) -> None:
    tokenizer = load_tokenizer(str(ROOT / "resources/tiny-dream"))
    responses = tokenizer.encode_batch([story.response for story in stories])
    prompts = tokenizer.encode_batch([f"Question: {story.question}\n" for story in stories])
    unknown = tokenizer.encode_batch(["walrus"])[0][0]
    assert all(64 < len(response) < 96 for response in responses)  # with an end token at most 96
    assert max(map(len, prompts)) < 128
    assert all(unknown not in ids for ids in (*responses, *prompts))


def test_sums_are_those_of_the_question_and_fill_three_blocks_with_their_end_token() -> None:
    rng = random.Random(7)
    problems = [long_sums.sample_sums(rng) for _ in range(300)]
    tokenizer = load_tokenizer(str(ROOT / "resources/tiny-dream"))
    unknown = tokenizer.encode_batch(["walrus"])[0][0]
    for problem in problems:
        asked = re.findall(r"(\d+) ([+-]) (\d)", problem.question)
        results = [int(left) + int(right) * (1 if sign == "+" else -1) for left, sign, right in asked]
        assert problem.answer == f"({', '.join(map(str, results))})" and len(results) == 10
        assert is_correct(problem.response, problem.answer)
    for problem in problems[:5]:  # SymPy takes its time
        *first, last = problem.answer.strip("()").split(", ")
        for wrong in ([*first, str(9 - int(last))], [last, *first]):  # a wrong result, and the right ones in disorder
            assert not is_correct(problem.response, f"({', '.join(wrong)})")
    texts = [text for problem in problems for text in (problem.response, f"Question: {problem.question}")]
    tokens = tokenizer.encode_batch(texts)
    assert {len(ids) for ids in tokens[::2]} == {95}
    assert max(map(len, tokens[1::2])) < 128
    assert all(unknown not in ids for ids in tokens)


@pytest.mark.parametrize("problems", list(generation_accuracy.PROBLEMS))
def test_rows_are_a_function_of_the_seed_and_no_question_comes_twice(tmp_path: Path, problems: str) -> None:
    sample = generation_accuracy.PROBLEMS[problems][0]
    split = Split(validation=0.01, test=0.2)
    one, two, other = (
        pq.read_table(long_problems.write_rows(tmp_path / f"{i}.parquet", sample, split, 120, 30, seed))
        for i, seed in enumerate((3, 3, 4))
    )
    assert one.equals(two) and not one.equals(other)
    questions = [normalise(question) for question in one["question"].to_pylist()]
    assert len(set(questions)) == len(questions) == 150


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({}, None),
        ({"low": -0.011}, "starts at -0.011"),
        ({"n": 3999}, "3999 questions"),
        ({"tokens_per_pass": 1.99}, "1.99 tokens per pass"),
        ({"setting": "another"}, "name it in --settings"),
    ],
)
def test_check_wants_enough_questions_speed_and_an_interval_above_a_loss_of_one_point(
    change: dict[str, Any], fault: str | None
) -> None:
    values = {"setting": "two, cached", "tokens_per_pass": 2.0, "low": -0.009, "n": 4000} | change
    line = values | {"against": {"value": 0.0, "low": values["low"], "high": 0.001, "n": values["n"]}}
    faults = accuracy_table.check([line], "two, cached")
    assert not faults if fault is None else len(faults) == 1 and fault in faults[0]


def test_answers_the_other_cuts_short_count_as_its_losses_and_short_exact_ones_not_at_all() -> None:
    def scores(tokens: list[int], correct: list[bool]) -> pl.DataFrame:
        ids = list(range(len(tokens)))
        return pl.DataFrame(
            {
                "example_id": ids,
                "cluster": ids,
                "sample": [0] * len(ids),
                "tokens": tokens,
                "correct": correct,
                "gradable": True,
            }
        )

    exact, other = scores([96, 96, 96, 64], [True] * 4), scores([96, 96, 20, 96], [True, True, False, True])
    gain = accuracy_table.paired(exact, other)
    assert gain["n"] == 3 and gain["left_out"] == 1
    assert gain["value"] == pytest.approx(-1 / 3)


def run_script(*options: str) -> tuple[subprocess.CompletedProcess[str], list[dict[str, Any]]]:
    """Run the benchmark; return how it ended and the lines it reported."""
    done = subprocess.run([warm.python(), str(SCRIPT), *options], capture_output=True, text=True, timeout=300)
    return done, [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.mark.slow
def test_whole_benchmark_at_tiny_scale(tmp_path: Path) -> None:
    small = [
        "--questions",
        "6",
        "--held-out",
        "8",
        "--rows",
        "24",
        "--steps",
        "2",
        "--rank",
        "4",
        "--settings",
        "two, cached",
    ]
    done, lines = run_script("--work", str(tmp_path / "here"), *small, "--check")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "4000 are needed" in done.stderr  # six questions show nothing
    settings = {line["setting"]: line for line in lines if line["what"] == "setting"}
    assert list(settings) == ["exact", "two, cached"]
    assert all(line["questions"] == 6 for line in settings.values())
    assert settings["two, cached"]["passes"] <= 48 < settings["exact"]["passes"] <= 96
    assert settings["two, cached"]["tokens_per_step"] == 2
    assert "| two, cached |" in done.stdout

    adapter = next(line["adapter"] for line in lines if line["what"] == "trained")
    elsewhere, again = run_script("--work", str(tmp_path / "elsewhere"), *small, "--adapter", adapter)
    assert elsewhere.returncode == 0, elsewhere.stdout + elsewhere.stderr
    for one, two in zip(lines[1:], again, strict=True):
        assert one | {"seconds": 0} == two | {"seconds": 0}
