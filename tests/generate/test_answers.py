"""Answers: what is asked, what is written, and the same by hand on a terminal."""

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from conftest import FIXTURES
from dreamtune.data.shard_writer import ShardWriter
from dreamtune.data.tokenizer import load_tokenizer
from dreamtune.errors import UserError
from dreamtune.formats.shards import SHARD
from dreamtune.generate.answers import generate_answers
from dreamtune.generate.sampler import generate
from dreamtune.model.loading import attach_lora, load_model
from dreamtune.settings.benchmark import Benchmark
from dreamtune.settings.few_shot import FewShot
from dreamtune.settings.generate import GenerateConfig
from dreamtune.settings.lora import LoraSettings
from dreamtune.settings.model import ModelConfig

DREAM = FIXTURES / "dream_tiny"
TEMPLATE = "w1 {question} w2 {answer}"
QUICK: dict[str, Any] = {"max_new_tokens": 6, "batch_size": 4}
BEGIN = 502


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    """The tiny Dream with a tokenizer whose word wN is token N."""
    folder = tmp_path_factory.mktemp("base") / "dream"
    shutil.copytree(DREAM, folder)
    backend = tokenizers.Tokenizer(models.WordLevel({f"w{i}": i for i in range(500)} | {"?": 503}, "?"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    special = {"<mask>": 500, "<end>": 501, "<begin>": 502}
    serialised = json.loads(backend.to_str())
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    serialised["added_tokens"] = [{"id": i, "content": token} | flags for token, i in special.items()]
    serialised["model"]["vocab"] |= special
    (folder / "tokenizer.json").write_text(json.dumps(serialised))
    names = {"mask_token": "<mask>", "eos_token": "<end>", "bos_token": "<begin>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return ModelConfig(path=str(folder), quantization="nf4", dtype="float32", device="cpu")


def make_shards(folder: Path, base: ModelConfig, test_rows: int = 5) -> Path:
    folder.mkdir(parents=True)
    prompts = [[BEGIN, 1, 10 + i, 2] for i in range(test_rows)]
    rows = [
        {
            "example_id": 40 + i,
            "cluster": 40 + i % 3,  # two templates of two questions, and one of its own
            "input_ids": [*prompt, 7, 501],
            "prompt_tokens": len(prompt),
            "complete": True,
            "question": f"w{10 + i}",
            "answer": "w7",
        }
        for i, prompt in enumerate(prompts)
    ]
    splits: dict[str, object] = {}
    for name, content in (("train", rows), ("validation", []), ("test", rows)):
        writer = ShardWriter(folder, name, 100)
        if content:
            writer.write(pa.Table.from_pylist(content, SHARD))
        splits[name] = writer.close()
    ids = load_tokenizer(base.path).describe()
    meta = {"template": TEMPLATE, "beginning_token": True, "max_tokens": 64, "tokenizer": ids, "splits": splits}
    (folder / "shards.json").write_text(json.dumps(meta))
    return folder


@pytest.fixture(scope="module")
def shards(base: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards") / "v", base)


@pytest.fixture(scope="module")
def adapter(base: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter") / "adapter"
    model = attach_lora(load_model(base.path, dtype="float32"), LoraSettings(target_modules=["all-linear"]), 0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.3)
    model.save_pretrained(folder)
    return folder


def answers(base: ModelConfig, shards: Path, out: Path, **options: Any) -> tuple[pl.DataFrame, dict[str, Any]]:
    out.mkdir(parents=True)
    benchmark, adapter = options.pop("benchmark", None), options.pop("adapter", None)
    few, split = options.pop("few_shot", None), options.pop("split", "test")
    settings = GenerateConfig(**(QUICK | options))
    counts = generate_answers(settings, base, shards, benchmark, adapter, out, few_shot=few, split=split)
    json.dumps(counts)
    return pl.read_parquet(out / "answers.parquet"), counts


def test_answers_of_the_validation_split(base: ModelConfig, shards: Path, tmp_path: Path) -> None:
    """A study may choose on it; the test rows are then not asked."""
    held_out = tmp_path / "shards"
    shutil.copytree(shards, held_out)
    meta = json.loads((held_out / "shards.json").read_text())
    meta["splits"] |= {"validation": meta["splits"]["test"], "test": meta["splits"]["validation"]}
    (held_out / "shards.json").write_text(json.dumps(meta))
    frame, counts = answers(base, held_out, tmp_path / "out", split="validation")
    assert frame["example_id"].to_list() == [40, 41, 42, 43, 44] and counts["questions"] == 5


def test_answers_of_the_test_split(base: ModelConfig, shards: Path, tmp_path: Path) -> None:
    frame, counts = answers(base, shards, tmp_path / "out")
    assert frame["cluster"].to_list() == [40, 41, 42, 40, 41]
    assert frame["example_id"].to_list() == [40, 41, 42, 43, 44] and frame["answer"].unique().to_list() == ["w7"]
    assert counts["questions"] == counts["rows"] == 5 and counts["dropped"] == {}
    model = load_model(base.path, quantization="nf4", dtype="float32")
    expected = generate(model, [[BEGIN, 1, 10 + i, 2] for i in range(5)], GenerateConfig(**QUICK))
    assert frame["tokens"].to_list() == expected
    for row in frame.iter_rows(named=True):
        assert row["prompt_tokens"] == 4 and len(row["unmasked_at"]) == len(row["tokens"])
        assert row["ended"] == (row["tokens"][-1] == 501) and max(row["unmasked_at"]) < row["steps"] <= 6
        words = [f"w{t}" if t < 500 else "?" for t in row["tokens"] if t < 500 or t == 503]
        assert row["completion"].split() == words
    times = pl.read_parquet(tmp_path / "out" / "timings.parquet")
    summary = json.loads((tmp_path / "out" / "generation.json").read_text())
    assert times["seconds"].min() > 0 and times.height == 5
    assert summary["tokens"] == frame["tokens"].list.len().sum() and summary["settings"]["order"] == "entropy"
    assert "batch_size" not in summary["settings"], "a runtime setting"


def test_answers_are_the_same_to_the_byte(base: ModelConfig, shards: Path, tmp_path: Path) -> None:
    for name, size in (("a", 1), ("b", 3)):
        answers(base, shards, tmp_path / name, batch_size=size, temperature=0.8, samples=2)
    assert (tmp_path / "a/answers.parquet").read_bytes() == (tmp_path / "b/answers.parquet").read_bytes()


def test_samples_own_prompts_and_max_prompts(base: ModelConfig, shards: Path, tmp_path: Path) -> None:
    frame, counts = answers(
        base, shards, tmp_path / "out", samples=2, temperature=1.0, max_prompts=2, prompts=["w10", "w99 w98"]
    )
    assert frame["example_id"].to_list() == [40, 40, 41, 41, -1, -1, -2, -2]
    assert frame["sample"].to_list() == [0, 1] * 4 and counts["questions"] == 4
    own = frame.filter(pl.col("example_id") < 0)
    assert own["cluster"].equals(own["example_id"]) and frame["cluster"].null_count() == 0
    assert own["answer"].null_count() == 4 and own["prompt_tokens"].to_list() == [4, 4, 5, 5]
    assert own["question"].to_list() == ["w10", "w10", "w99 w98", "w99 w98"]
    first, second = frame.filter(pl.col("example_id") == 40)["tokens"].to_list()
    assert first != second


def test_own_prompt_has_the_tokens_of_the_shards(base: ModelConfig, shards: Path, tmp_path: Path) -> None:
    """The question of the first test row, typed in, gives the answer of the first test row."""
    frame, _ = answers(base, shards, tmp_path / "out", prompts=["w10"])
    assert frame["tokens"][0].to_list() == frame["tokens"][-1].to_list()


def test_a_benchmark_is_answered_alone(base: ModelConfig, shards: Path, tmp_path: Path) -> None:
    asked = ["w10", None, "w12", "  ", "w14", " W10", "w15 <end>", "<mask> w15"]
    table = {"problem": asked, "solution": [7, 8, None, 9, 10, 11, 12, 13]}
    pl.DataFrame(table).write_parquet(tmp_path / "b.parquet")
    benchmark = Benchmark(name="b", files=[str(tmp_path / "*.parquet")], question="problem", answer="solution")
    frame, counts = answers(base, shards, tmp_path / "out", benchmark=benchmark, prompts=["w3"])
    assert frame["example_id"].to_list() == [0, 4] and frame["answer"].to_list() == ["7", "10"]
    dropped = {"no_question": 2, "no_answer": 1, "repeated_question": 1, "special_token_in_text": 2}
    assert counts["dropped"] == dropped
    test, _ = answers(base, shards, tmp_path / "test")
    assert frame["tokens"][0].to_list() == test["tokens"][0].to_list(), "same question, same prompt"
    frame, _ = answers(base, shards, tmp_path / "one", benchmark=benchmark, max_prompts=1)
    assert frame["example_id"].to_list() == [0]
    with pytest.raises(UserError, match="problem"):
        wrong = benchmark.model_copy(update={"question": "Problem"})
        answers(base, shards, tmp_path / "wrong", benchmark=wrong)


def test_a_benchmarks_clusters_are_its_templates(base: ModelConfig, shards: Path, tmp_path: Path) -> None:
    """A question is known by the row in which its template is asked first; a row that is not asked is no first."""
    story = "{} has {} pens and finds {}. How many pens now?"
    asked = [
        story.format("Nora", 7, 3),
        "Why?",
        None,
        story.format("Tom", 8, 25),
        "Why not?",
        story.format("Eva", 1, 2),
    ]
    pl.DataFrame({"question": asked, "answer": ["1"] * 6}).write_parquet(tmp_path / "b.parquet")
    benchmark = Benchmark(name="b", files=[str(tmp_path / "b.parquet")])
    frame, _ = answers(base, shards, tmp_path / "out", benchmark=benchmark, samples=2, temperature=1.0)
    first = frame.filter(pl.col("sample") == 0)
    assert dict(first.select("example_id", "cluster").rows()) == {0: 0, 1: 1, 3: 0, 4: 4, 5: 0}


def test_the_adapter_takes_part(base: ModelConfig, shards: Path, adapter: Path, tmp_path: Path) -> None:
    plain, _ = answers(base, shards, tmp_path / "base")
    tuned, _ = answers(base, shards, tmp_path / "tuned", adapter=adapter)
    model = load_model(base.path, quantization="nf4", dtype="float32", adapter=adapter)
    prompts = [[BEGIN, 1, 10 + i, 2] for i in range(5)]
    assert tuned["tokens"].to_list() == generate(model, prompts, GenerateConfig(**QUICK)) != plain["tokens"].to_list()


def test_nothing_to_answer_is_an_empty_table(base: ModelConfig, tmp_path: Path) -> None:
    empty = make_shards(tmp_path / "empty", base, test_rows=0)
    frame, counts = answers(base, empty, tmp_path / "out")
    assert frame.height == 0 and frame.schema["tokens"] == pl.List(pl.Int32) and counts["rows"] == 0


def test_worked_examples_stand_before_each_question(base: ModelConfig, shards: Path, tmp_path: Path) -> None:
    """The rows of train and test are the same here, so each of the five questions has the four others to draw from."""
    frame, _ = answers(base, shards, tmp_path / "out", few_shot=FewShot(shots=2))
    shots = frame["shots"].to_list()
    assert all(len({row, *drawn}) == 3 for row, drawn in zip(frame["example_id"], shots, strict=True))
    worked = {40 + i: [1, 10 + i, 2, 7] for i in range(5)}
    prompts = [[BEGIN, *worked[a], *worked[b], 1, 10 + i, 2] for i, (a, b) in enumerate(shots)]
    model = load_model(base.path, quantization="nf4", dtype="float32")
    assert frame["tokens"].to_list() == generate(model, prompts, GenerateConfig(**QUICK))
    assert frame["prompt_tokens"].to_list() == [12] * 5
    stated = json.loads((tmp_path / "out/generation.json").read_text())["few_shot"]
    assert stated == {
        "shots": 2,
        "rows": 5,
        "form": "plain text",
        "between": "\n\n",
        "between_tokens": 0,
        "longest_prompt": 12,
    }
    plain, _ = answers(base, shards, tmp_path / "plain")
    assert plain["shots"].to_list() == [[]] * 5
    assert json.loads((tmp_path / "plain/generation.json").read_text())["few_shot"] is None


def test_examples_that_do_not_fit_stop_before_the_model_is_loaded(
    base: ModelConfig, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Path] = []
    monkeypatch.setattr("dreamtune.generate.answers.load_to_generate", lambda *args: loaded.append(tmp_path))
    context = json.loads((Path(base.path) / "config.json").read_text())["max_position_embeddings"]
    with pytest.raises(UserError, match=rf"5 of 5 questions do not fit behind 2 .* the model's context of {context}"):
        answers(base, shards, tmp_path / "out", few_shot=FewShot(shots=2), max_new_tokens=context - 11)
    assert not loaded
