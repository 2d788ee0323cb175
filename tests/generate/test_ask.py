"""Questions on the terminal: answered as the workflow answers them, with options that name what they set."""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT
from dreamtune.generate.ask import add_arguments, answer_questions, ask, known_of
from dreamtune.settings.generate import GenerateConfig
from dreamtune.settings.model import ModelConfig
from tests.generate.test_answers import QUICK, TEMPLATE, adapter, answers, base, shards  # noqa: F401, fixtures

LATEST = "results/latest/one"


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(arguments)


def write_spec(folder: Path, **spec: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(spec))


@pytest.fixture
def experiment(base: ModelConfig, shards: Path, adapter: Path, tmp_path: Path) -> Path:  # noqa: F811
    """A folder whose results/ hold one experiment: 6 new tokens in blocks of 3."""
    results, latest = tmp_path / "results", tmp_path / LATEST
    shutil.copytree(shards, results / "prepare_shards/v")
    shutil.copytree(adapter, results / "train_adapter/0123456789ab/adapter")
    result, runtime = base.by_kind()
    reads = {"shards": "results/prepare_shards/v"}
    before = {"attention": "bidirectional"}  # a field that an earlier release froze and this one no longer has
    model = {"settings": {"model": result | before}, "runtime": {"model": runtime}}
    write_spec(results / "train_adapter/0123456789ab", reads=reads, **model)
    generate = GenerateConfig(**QUICK, block_length=3, prompts=["w1"]).by_kind()
    write_spec(results / "generate_answers/g", settings={"generate": generate[0]}, runtime={"generate": generate[1]})
    latest.mkdir(parents=True)
    (latest / "full").symlink_to("../../train_adapter/0123456789ab")
    links = {"full": "results/train_adapter/0123456789ab", "answers/test/greedy/tuned": "results/generate_answers/g"}
    (latest / "versions.json").write_text(json.dumps(links))
    return tmp_path


@pytest.mark.parametrize("given", [LATEST, f"{LATEST}/full/adapter"])
def test_an_experiment_answers_as_the_workflow_does(
    base: ModelConfig,  # noqa: F811
    shards: Path,  # noqa: F811
    experiment: Path,
    given: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Model, precision, template and the sampler's settings are the experiment's."""
    assert ask(parsed("--adapter", str(experiment / given), "--prompt", "w10", "--prompt", "w11")) == 0
    printed, said = capsys.readouterr()
    trained = experiment / "results/train_adapter/0123456789ab/adapter"
    frame, _ = answers(base, shards, experiment / "out", adapter=trained, block_length=3)
    first, second = frame["completion"].to_list()[:2]
    assert printed == f"question: w10\nanswer: {first}\n\nquestion: w11\nanswer: {second}\n\n"
    assert "ask: the experiment's settings: max_new_tokens 6, block_length 3, batch_size 4" in said.splitlines()


def test_an_option_replaces_one_setting_of_the_experiment(
    base: ModelConfig,  # noqa: F811
    experiment: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert ask(parsed("--adapter", str(experiment / LATEST), "--prompt", "w10", "--block-length", "null")) == 0
    expected = answer_questions(base, known_of(experiment / LATEST).weights, ["w10"], GenerateConfig(**QUICK), TEMPLATE)
    assert capsys.readouterr().out == f"question: w10\nanswer: {expected[0]}\n\n"


def test_a_training_without_an_experiment_takes_the_defaults_and_says_so(
    base: ModelConfig,  # noqa: F811
    experiment: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trained = experiment / "results/train_adapter/0123456789ab/adapter"
    assert ask(parsed("--adapter", str(trained), "--prompt", "w10", "--max-new-tokens", "5")) == 0
    expected = answer_questions(base, trained, ["w10"], GenerateConfig(max_new_tokens=5), TEMPLATE)
    printed, said = capsys.readouterr()
    assert printed == f"question: w10\nanswer: {expected[0]}\n\n"
    assert "ask: the default settings: max_new_tokens 5" in said.splitlines()


def test_blocks_asked_for_by_hand_look_as_far_ahead_as_training_did(
    base: ModelConfig,  # noqa: F811
    experiment: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = experiment / "results/train_adapter/0123456789ab"
    spec = json.loads((run / "config.json").read_text())
    spec["settings"]["train"] = {"max_tail": 2, "long_tail": 5}
    write_spec(run, **spec)
    blocks = ("--prompt", "w10", "--max-new-tokens", "9", "--block-length", "3")
    for given in (run / "adapter", experiment / LATEST):
        assert ask(parsed("--adapter", str(given), *blocks)) == 0
        assert "max_new_tokens 9, block_length 3, lookahead 2" in capsys.readouterr().err
    assert ask(parsed("--adapter", str(run / "adapter"), *blocks, "--lookahead", "0")) == 0
    assert "block_length 3, lookahead 0" in capsys.readouterr().err
    assert ask(parsed("--adapter", str(run / "adapter"), *blocks, "--lookahead", "null")) == 0
    assert "lookahead" not in capsys.readouterr().err  # as it is asked for: all of the canvas


def test_what_is_missing_is_one_line(
    base: ModelConfig,  # noqa: F811
    adapter: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def complaint(*arguments: str) -> str:
        assert ask(parsed("--prompt", "w1", *arguments)) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "--model" in complaint()
    assert "adapter_config.json" in complaint("--adapter", str(tmp_path))
    assert "--template" in complaint("--adapter", str(adapter))
    known = ("--adapter", str(adapter), "--template", "w1 {question} w2 {answer}")
    assert "temperature" in complaint(*known, "--temperature", "-1")
    assert "parsing" in complaint(*known, "--steps", "[")
    assert "order" in complaint(*known, "--order", "from the left")
    assert "does not exist" in complaint(*known, "--model", "/no/such/model")


def test_the_script_says_what_it_takes_and_answers(base: ModelConfig, adapter: Path) -> None:  # noqa: F811
    command = [sys.executable, str(ROOT / "workflow/scripts/ask.py")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    told = subprocess.run([*command, "--help"], capture_output=True, text=True, env=environment, timeout=300).stdout
    settings = ("--max-new-tokens", "--steps", "--block-length", "--refresh", "--threshold", "--order", "--ranking")
    sampling = ("--temperature", "--top-p", "--top-k", "--samples", "--seed")
    for option in ("--prompt", "--adapter", "--template", *settings, *sampling):
        assert f"\n  {option} " in told, option
    asked = ("--adapter", str(adapter), "--prompt", "w10", "--template", TEMPLATE, "--max-new-tokens", "4")
    precision = ("--quantization", "none", "--dtype", "float32")
    done = subprocess.run([*command, *asked, *precision], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("question: w10\nanswer: ")
