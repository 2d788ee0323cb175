"""Inputs damaged at random: each is accepted, or refused by one line; never a traceback.

In process, as the Snakefile and the jobs call the same functions. An exception that is no UserError would be a
traceback there, and is one here.
"""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import warm
from attacks.damages import damage_bytes, damage_file, damage_json, damage_safetensors, damage_value
from attacks.undisturbed import draw
from conftest import FIXTURES, ROOT
from dreamtune.config import parse_config
from dreamtune.config_file import read_file
from dreamtune.data.tokenizer import load_tokenizer
from dreamtune.errors import UserError
from dreamtune.inputs.model_check import check_model
from dreamtune.inputs.rows import open_rows
from dreamtune.model.loading import attach_lora, load_model
from dreamtune.settings.model import ModelConfig
from dreamtune.settings.train import LoraSettings
from dreamtune.train.checkpoint import save_adapter
from dreamtune.workflow.experiments import make_plan, plan_merge

TINY = ROOT / "resources/tiny-dream"
COLUMNS = ["question", "deepseek_thinking_trajectory", "solution"]


def outcome(call: Callable[[], object]) -> str:
    """Return "accepted", or "refused" with the line; any exception but a UserError passes through."""
    try:
        call()
    except UserError as error:
        assert "\n" not in str(error), str(error)
        return f"refused: {error}"
    return "accepted"


def judge(what: str, done: str, call: Callable[[], object], record: Any) -> None:
    """Make the call, and note whether what was damaged was accepted or refused."""
    print(done)
    record("struck", f"{what}: damaged")
    print(outcome(call))


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the small model in a working folder of its own."""
    monkeypatch.chdir(tmp_path)
    copy = tmp_path / "resources/tiny-dream"
    shutil.copytree(TINY, copy, ignore=shutil.ignore_patterns("*.py", "*.jsonl", "__pycache__"))
    return copy


def planned(path: Path) -> None:
    """Do with a configuration file what the Snakefile does."""
    config = parse_config(read_file(path))
    plan, latest = make_plan(config)
    plan_merge(plan, config, latest)


def loaded(folder: Path, quantization: str = "none") -> None:
    """Do with a model what the plan and then a job do."""
    check_model(folder)
    load_tokenizer(str(folder))
    load_model(folder, quantization=quantization, dtype="float32")


@pytest.mark.parametrize("case", range(90))
def test_a_configuration_with_another_value(case: int, model: Path, record_property: Any) -> None:
    tree, lot = yaml.safe_load((FIXTURES / "micro.yaml").read_text()), draw("value", case)
    done = "; ".join(damage_value(tree, lot) for _ in range(lot.choice([1, 1, 2])))
    Path("bad.yaml").write_text(yaml.safe_dump(tree, allow_unicode=True))
    judge("configuration value", done, lambda: planned(Path("bad.yaml")), record_property)


@pytest.mark.parametrize("case", range(40))
def test_a_configuration_whose_text_is_damaged(case: int, model: Path, record_property: Any) -> None:
    content, done = damage_bytes((FIXTURES / "micro.yaml").read_bytes(), draw("yaml", case))
    Path("bad.yaml").write_bytes(content)
    judge("YAML", done, lambda: planned(Path("bad.yaml")), record_property)


@pytest.mark.parametrize("case", range(40))
def test_a_config_json_of_a_model(case: int, model: Path, record_property: Any) -> None:
    done = damage_json(model / "config.json", draw("config.json", case))
    judge("config.json", done, lambda: loaded(model), record_property)


@pytest.mark.parametrize("case", range(40))
def test_weights(case: int, model: Path, record_property: Any) -> None:
    lot = draw("weights", case)
    done = damage_safetensors(model / "model.safetensors", lot)
    judge("safetensors", done, lambda: loaded(model, lot.choice(["none", "nf4"])), record_property)


@pytest.mark.parametrize("case", range(40))
def test_a_tokenizer(case: int, model: Path, record_property: Any) -> None:
    lot = draw("tokenizer", case)
    name = lot.choice(["tokenizer.json", "tokenizer_config.json"])
    done = f"{name}: {damage_json(model / name, lot)}"

    def use() -> None:
        check_model(model)
        load_tokenizer(str(model)).encode("1 + 1?")

    judge("tokenizer", done, use, record_property)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the small model, as a training writes it."""
    folder = tmp_path_factory.mktemp("trained") / "adapter"
    tuned = attach_lora(load_model(TINY, dtype="float32"), LoraSettings(rank=2, alpha=4), 0)
    weights = {name: w for name, w in tuned.state_dict().items() if "lora_" in name}
    save_adapter(
        {n.replace(".default", ""): w for n, w in weights.items()},
        tuned.peft_config["default"],
        folder,
        ModelConfig(path=str(TINY)),
    )
    return folder


@pytest.mark.parametrize("case", range(30))
def test_an_adapter(case: int, adapter: Path, tmp_path: Path, record_property: Any) -> None:
    copy, lot = tmp_path / "adapter", draw("adapter", case)
    shutil.copytree(adapter, copy)
    if lot.random() < 0.5:
        done = damage_json(copy / "adapter_config.json", lot)
    else:
        done = damage_safetensors(copy / "adapter_model.safetensors", lot)
    judge("adapter", done, lambda: load_model(TINY, dtype="float32", adapter=copy), record_property)


@pytest.mark.parametrize("case", range(40))
def test_rows_in_parquet(case: int, model: Path, record_property: Any) -> None:
    file = model / "rows.parquet"
    done = damage_file(file, draw("parquet", case))
    judge("parquet", done, lambda: list(open_rows([file], COLUMNS, 100).batches(COLUMNS)), record_property)


SCRIPTS = sorted(
    p.stem for p in (ROOT / "workflow/scripts").glob("[a-z]*.py") if p.stem not in ("download", "torchrun")
)
WORDS = (
    "",
    "-",
    "--",
    "--out",
    "--part",
    "0/0",
    "2/1",
    "-1/3",
    "x=",
    "=",
    "/",
    "nowhere",
    "--help=",
    "é",
    "2/3",
)


@pytest.mark.parametrize("case", range(3))
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_command_line(script: str, case: int, tmp_path: Path, record_property: Any) -> None:
    lot = draw("command line", script, case)
    arguments = [lot.choice(WORDS) for _ in range(lot.randint(1, 4))]
    path = ROOT / f"workflow/scripts/{script}.py"
    done = subprocess.run([warm.python(), str(path), *arguments], cwd=tmp_path, capture_output=True, timeout=120)
    said = (done.stdout + done.stderr).decode(errors="replace")
    record_property("struck", "command line: damaged")
    print(arguments, done.returncode, said)
    assert "Traceback" not in said
    assert done.returncode != 0 or said == "" or not said.startswith("dreamtune")
