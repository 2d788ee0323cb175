"""Answers to conversations: the prompts of their turns, and the token that ends an answer."""

import json
from pathlib import Path

import polars as pl

from conversations import dialogue, make_chat_model, prepare_chats, reference_tokenizer, sums
from dreamtune.data.prepare import prepare_shards
from dreamtune.data.tokenizer import load_tokenizer
from dreamtune.generate.answers import generate_answers
from dreamtune.generate.few_shot import WorkedExamples
from dreamtune.settings.data import DataConfig
from dreamtune.settings.few_shot import FewShot
from dreamtune.settings.generate import GenerateConfig
from dreamtune.shards import read_meta, read_split


def test_turns_are_asked_with_their_prompts_and_end_with_what_fills_a_canvas(tmp_path: Path) -> None:
    """Qwen2-Instruct's end token is the turn's end, and not what training puts behind an answer."""
    ends = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    model = make_chat_model(tmp_path / "model", **ends, model_type="qwen2")
    rows, shards = tmp_path / "rows.jsonl", tmp_path / "shards"
    rows.write_text("".join(json.dumps(row) + "\n" for row in sums(30)))
    shards.mkdir()
    split = {"validation": 0.0, "test": 0.3}
    prepare_shards(DataConfig(files=[str(rows)], split=split, columns={"messages": "messages"}), model, shards)
    ids, reference = read_meta(shards)["tokenizer"], reference_tokenizer(model.path)
    names = [reference.convert_ids_to_tokens(ids[name]) for name in ("turn_end_id", "end_id")]
    assert names == ["<|im_end|>", "<|endoftext|>"]
    sampled = {"temperature": 9.0, "samples": 20, "prompts": ["What is 2 + 2?"], "max_prompts": 2}
    settings = GenerateConfig(max_new_tokens=32, steps=4, batch_size=64, **sampled)
    generate_answers(settings, model, shards, None, None, tmp_path)
    answers = pl.read_parquet(tmp_path / "answers.parquet")
    asked = {row["example_id"]: row["prompt_tokens"] for row in list(read_split(shards, "test"))[:2]}
    assert dict(answers.filter(pl.col("example_id") >= 0).select("example_id", "prompt_tokens").iter_rows()) == asked
    whole = reference.apply_chat_template([{"role": "user", "content": "What is 2 + 2?"}], add_generation_prompt=True)
    assert set(answers.filter(pl.col("example_id") < 0)["prompt_tokens"]) == {len(whole["input_ids"])}
    ended = answers.filter("ended")
    assert ended.height and {row["tokens"][-1] for row in ended.iter_rows(named=True)} == {ids["end_id"]}
    assert any(ids["turn_end_id"] in row["tokens"] for row in answers.iter_rows(named=True)), "it ends no answer"


def test_worked_examples_are_earlier_turns_of_the_chat_template(tmp_path: Path) -> None:
    rows = [{"q": f"{n} + 1?", "a": f"It is {n + 1}."} for n in range(9)]
    settings = {
        "columns": {"question": "q", "reasoning": None, "answer": "a"},
        "template": "Solve: {question}\n{answer}",
        "chat": {"system": "Be brief."},
    }
    out, _ = prepare_chats(tmp_path, rows, **settings)
    folder = str(tmp_path / "chatml")
    worked = WorkedExamples(FewShot(shots=2), out, read_meta(out), load_tokenizer(folder), seed=0)
    tokens, shots = worked.before(7, "40 + 2?", [])
    said = [text for shot in shots for text in (f"Solve: {rows[shot]['q']}", rows[shot]["a"])]
    messages = [{"role": "system", "content": "Be brief."}, *dialogue(*said, "Solve: 40 + 2?")]
    assert tokens == reference_tokenizer(folder).apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert worked.describe([tokens])["form"] == "earlier turns" and len(set(shots)) == 2
