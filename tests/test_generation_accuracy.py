"""benchmarks/generation_accuracy.py at tiny scale, and the problems it asks."""

import itertools
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from conftest import ROOT
from dreamtune.scoring import is_correct
from dreamtune.settings.data import Split
from dreamtune.text import normalise
from dreamtune.tokenizer import load_tokenizer

sys.path.append(str(ROOT / "benchmarks"))
import long_problems

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


def test_rows_are_a_function_of_the_seed_and_no_question_comes_twice(tmp_path: Path) -> None:
    split = Split(validation=0.01, test=0.2)
    one, two, other = (
        pq.read_table(long_problems.write_rows(tmp_path / f"{i}.parquet", split, 120, 30, seed))
        for i, seed in enumerate((3, 3, 4))
    )
    assert one.equals(two) and not one.equals(other)
    questions = [normalise(question) for question in one["question"].to_pylist()]
    assert len(set(questions)) == len(questions) == 150


def test_whole_benchmark_at_tiny_scale(tmp_path: Path) -> None:
    small = ["--questions", "6", "--rows", "24", "--steps", "2", "--rank", "4", "--settings", "two, cached, 0.9"]
    command = [sys.executable, str(SCRIPT), "--work", str(tmp_path), *small, "--check", "--setting", "two, cached, 0.9"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "4000 are needed" in done.stderr  # six questions show nothing
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    settings = {line["setting"]: line for line in lines if line["what"] == "setting"}
    assert list(settings) == ["exact", "exact, blocks", "two, cached, 0.9"]
    assert all(line["questions"] == 6 for line in settings.values())
    assert settings["two, cached, 0.9"]["passes"] <= 48 < settings["exact"]["passes"] <= 96
    assert "| two, cached, 0.9 |" in done.stdout
