"""What is called runtime changes no byte of a result: every such setting that can be changed on a CPU, one by one.

Those that decide in which order numbers are added, and so may change last digits, say so in their description.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from dreamtune import config  # noqa: F401, defines the last sections
from dreamtune.data.prepare import prepare_shards
from dreamtune.evaluate import likelihood
from dreamtune.evaluate.likelihood import evaluate_likelihood
from dreamtune.generate.answers import generate_answers
from dreamtune.part import Part
from dreamtune.settings.base import ROUNDS, Section
from dreamtune.settings.data import DataConfig
from dreamtune.settings.generate import GenerateConfig
from dreamtune.settings.likelihood import LikelihoodConfig
from dreamtune.settings.model import ModelConfig
from dreamtune.train.train import train_adapter
from rows import TEMPLATE, write_tokenizer
from tests.evaluate.test_likelihood import END, Example, examples, tuned_model, write_shards
from tests.generate.test_answers import adapter, base, shards  # noqa: F401, fixtures
from tests.test_config import sections
from tiny import make_model, make_shards, settings

# Other values than the default of each runtime setting, by section.
CHANGES: dict[str, dict[str, list[Any]]] = {
    "DataConfig": {"batch_rows": [1, 7], "scatter": [3]},
    "GenerateConfig": {"batch_size": [1, 3], "scatter": [2]},
    "LikelihoodConfig": {"scatter": [3]},
    "ModelConfig": {"device": ["auto"]},
    "TrainConfig": {
        "memory_gib": [1.0],
        "log_every": [3],
        "checkpoint_minutes": [1e-6],
        "checkpoint_steps": [2],
        "keep_checkpoints": [1],
        "tensorboard": [True],
        "on_failed_gate": ["continue"],
    },
}
# Settings that are not changed here, and why.
NAMED_BY_CONTENT = "the files' content is hashed into the version in its place"
ELSEWHERE = {
    **dict.fromkeys(
        (
            *("ModelConfig.path", "ModelConfig.revision", "DataConfig.files", "DataConfig.chat_template"),
            *("DataSource.files", "Benchmark.files"),
        ),
        NAMED_BY_CONTENT,
    ),
    "ModelConfig.cache": "tests/model/test_nf4_cache.py compares models, and a function knows no cache",
    **dict.fromkeys((f"ClusterConfig.{n}" for n in ("max_minutes", "max_mem_gb", "margin")), "a job does not read it"),
    "StudyConfig.max_points": "it refuses a configuration, and no job reads it",
    "StudyConfig.failed": "it decides which runs are planned, and no job reads it",
    **dict.fromkeys(("RunOverrides.log_every", "SmokeOverrides.log_every"), "it is TrainConfig.log_every of a run"),
}
Contents = dict[str, bytes]


def contents(folder: Path, *patterns: str) -> Contents:
    files = [path for pattern in patterns for path in folder.glob(pattern) if path.is_file()]
    assert files
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def in_parts(count: int, folder: Path, make: Callable[..., Any]) -> Path:
    """Make the whole in one piece, or in parts that are then gathered; return its folder."""
    parts = [folder / str(number) for number in range(1, count + 1)] if count > 1 else []
    for number, part in enumerate(parts, 1):
        part.mkdir(parents=True)
        make(part, Part(number, count), ())
    whole = folder / "whole"
    whole.mkdir(parents=True)
    make(whole, None, parts)
    return whole


Make = Callable[..., Contents]


@pytest.fixture(scope="module")
def prepares(tmp_path_factory: pytest.TempPathFactory) -> Make:
    shared = tmp_path_factory.mktemp("rows")
    numbers = [4 + n % 90 for n in range(60)]
    texts = {
        "question": [f"w{n} w{n + 1} w{n + 2}" for n in numbers],
        "reasoning": [f"w{n} " * (n % 7) for n in numbers],
    }
    pl.DataFrame(texts | {"answer": [f"w{n}" for n in numbers]}).write_parquet(shared / "rows.parquet")
    model = ModelConfig(path=write_tokenizer(shared / "model"))
    usual = {"files": [str(shared / "rows.parquet")], "template": TEMPLATE, "rows_per_shard": 25, "ngram": 2}

    def make(folder: Path, **changes: Any) -> Contents:
        section = DataConfig(split={"validation": 0.2, "test": 0.2}, **usual, **changes)
        whole = in_parts(
            section.scatter, folder, lambda *where: prepare_shards(section, model, where[0], (), *where[1:])
        )
        return contents(whole, "**/*")

    return make


@pytest.fixture(scope="module")
def answers(base: ModelConfig, shards: Path, adapter: Path) -> Make:  # noqa: F811
    def make(folder: Path, **changes: Any) -> Contents:
        section = GenerateConfig(max_new_tokens=6, temperature=0.7, samples=2, **changes)
        run = lambda *where: generate_answers(section, base, shards, None, adapter, *where)  # noqa: E731
        return contents(in_parts(section.scatter, folder, run), "answers.parquet")

    return make


@pytest.fixture(scope="module")
def measures(tmp_path_factory: pytest.TempPathFactory) -> Make:
    shared = tmp_path_factory.mktemp("heldout")
    (shared / "training.json").write_text(json.dumps({"rows": 20}))
    test = examples(20)
    train = [Example(1000 + e.example_id, (*e.tokens[::-1][1:], END), e.prompt) for e in test]
    heldout = write_shards(shared / "shards", {"train": train, "validation": [], "test": test})

    def make(folder: Path, **changes: Any) -> Contents:
        section, model = LikelihoodConfig(draws=4, batch_tokens=50, **changes), ModelConfig(path="tiny")
        run = lambda *where: evaluate_likelihood(section, model, heldout, shared / "adapter", *where)  # noqa: E731
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(likelihood, "load", lambda *_: tuned_model())
            return contents(in_parts(section.scatter, folder, run), "likelihood*")

    return make


@pytest.fixture(scope="module")
def trains(tmp_path_factory: pytest.TempPathFactory) -> Make:
    shared = tmp_path_factory.mktemp("training")
    model, rows = make_model(shared / "model"), make_shards(shared / "shards")

    def make(folder: Path, device: str = "cpu", **changes: Any) -> Contents:
        (out := folder / "out").mkdir(parents=True)
        section = settings(**{"max_steps": 6, "epochs": 1, "log_every": 2} | changes)
        train_adapter(section, model.model_copy(update={"device": device}), rows, out, folder / "work", None)
        trained = json.loads((out / "training.json").read_text())
        said = {name: trained[name] for name in ("steps", "tokens", "validation", "first_loss", "last_loss")}
        return contents(out, "adapter/*.safetensors") | {"training": json.dumps(said).encode()}

    return make


def runtime_fields() -> dict[str, str]:
    """Return the description of each runtime setting, by section and name, in the section that declares it."""
    found = {}
    for kind in sections(Section):
        for name in kind.__annotations__.keys() & kind.model_fields.keys():
            field = kind.model_fields[name]
            if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("kind") == "runtime":
                found[f"{kind.__name__}.{name}"] = str(field.description)
    return found


def test_every_runtime_setting_is_changed_here_or_says_why_not() -> None:
    changed = {f"{section}.{name}" for section, fields in CHANGES.items() for name in fields}
    rounds = {name for name, description in runtime_fields().items() if description.endswith(ROUNDS)}
    assert not changed & ELSEWHERE.keys() and not changed & rounds
    assert changed | ELSEWHERE.keys() | rounds == runtime_fields().keys()


@pytest.fixture(scope="module")
def make(prepares: Make, answers: Make, measures: Make, trains: Make) -> dict[str, Make]:
    both = {"ModelConfig": trains, "TrainConfig": trains}
    return {"DataConfig": prepares, "GenerateConfig": answers, "LikelihoodConfig": measures} | both


@pytest.fixture(scope="module")
def usual(make: dict[str, Make], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Contents]:
    """What the settings give as they are."""
    return {name: function(tmp_path_factory.mktemp("usual") / name) for name, function in make.items()}


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        (section, name, value)
        for section, fields in CHANGES.items()
        for name, values in fields.items()
        for value in values
    ],
)
def test_a_runtime_setting_changes_no_byte(
    make: dict[str, Make], usual: dict[str, Contents], tmp_path: Path, section: str, name: str, value: Any
) -> None:
    made = make[section](tmp_path / "changed", **{name: value})
    assert made.keys() == usual[section].keys()
    assert [file for file in made if made[file] != usual[section][file]] == []
