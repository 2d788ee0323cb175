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
from versions import finish, freeze, specification

LATEST = "results/latest/one"


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(arguments)


@pytest.fixture
def experiment(base: ModelConfig, shards: Path, adapter: Path, tmp_path: Path) -> Path:  # noqa: F811
    """A folder whose results/ hold one experiment: 6 new tokens in blocks of 3."""
    latest = tmp_path / LATEST
    made = finished(specification("prepare_shards"), tmp_path, {"": shards})
    result, runtime = base.by_kind()
    before = {"attention": "bidirectional"}  # a field that an earlier release froze and this one no longer has
    model = {"settings": {"model": result | before}, "runtime": {"model": runtime}}
    reads = {"shards": made.relative_to(tmp_path)}
    full = finished(specification("train_adapter", reads, **model), tmp_path, {"adapter": adapter})
    generate = GenerateConfig(**QUICK, block_length=3, prompts=["w1"]).by_kind()
    sampler = {"settings": {"generate": generate[0]}, "runtime": {"generate": generate[1]}}
    headline = finished(specification("generate_answers", **sampler), tmp_path, {})
    latest.mkdir(parents=True)
    publish_training(latest, full)
    links = {"full": full, "answers/test/greedy/tuned": headline}
    (latest / "versions.json").write_text(json.dumps({k: str(v.relative_to(tmp_path)) for k, v in links.items()}))
    return tmp_path


def finished(spec: dict[str, Any], root: Path, copied: dict[str, Path]) -> Path:
    """Make a finished version below `root` of folders that are copied into it; return its folder."""
    folder = freeze(spec, root)
    for name, source in copied.items():
        shutil.copytree(source, folder / name, dirs_exist_ok=True)
    finish(folder, spec)
    return folder


def publish_training(latest: Path, full: Path) -> None:
    (latest / "full").unlink(missing_ok=True)
    (latest / "full").symlink_to(f"../../train_adapter/{full.name}")


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
    trained = experiment / LATEST / "full/adapter"
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
    trained = (experiment / LATEST / "full/adapter").resolve()
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
    before = (experiment / LATEST / "full").resolve()
    spec = json.loads((before / "config.json").read_text())
    settings = spec["settings"] | {"train": {"max_tail": 2, "long_tail": 5}}
    reads = {name: Path(folder) for name, folder in spec["reads"].items()}
    tailed = specification("train_adapter", reads, settings=settings, runtime=spec["runtime"])
    run = finished(tailed, experiment, {"adapter": before / "adapter"})
    publish_training(experiment / LATEST, run)
    blocks = ("--prompt", "w10", "--max-new-tokens", "9", "--block-length", "3")
    for given in (run / "adapter", experiment / LATEST):
        assert ask(parsed("--adapter", str(given), *blocks)) == 0
        assert "max_new_tokens 9, block_length 3, lookahead 2" in capsys.readouterr().err
    assert ask(parsed("--adapter", str(run / "adapter"), *blocks, "--lookahead", "0")) == 0
    assert "block_length 3, lookahead 0" in capsys.readouterr().err
    assert ask(parsed("--adapter", str(run / "adapter"), *blocks, "--lookahead", "null")) == 0
    assert "lookahead" not in capsys.readouterr().err  # as it is asked for: all of the canvas


@pytest.mark.parametrize(
    "damaged",
    [
        "full/adapter/adapter_model.safetensors",
        "full/adapter/adapter_config.json",
        "full/manifest.json",
        "full/adapter/more.bin",
        "full/model/config.json",
        "versions.json",
        "../../generate_answers/*/manifest.json",
        "../../prepare_shards/*/shards.json",
    ],
)
def test_a_damaged_file_is_named_and_nothing_is_answered(
    experiment: Path, damaged: str, capsys: pytest.CaptureFixture[str]
) -> None:
    [path] = list((experiment / LATEST).glob(damaged)) or [experiment / LATEST / damaged]
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"{" + (path.read_bytes() if path.exists() else b""))
    assert ask(parsed("--adapter", str(experiment / LATEST), "--prompt", "w10")) == 1
    printed, said = capsys.readouterr()
    assert printed == "" and said.count("\n") == 1 and said.startswith("ask: ")
    assert path.name in said or path.parent.name in said


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


@pytest.mark.slow
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
