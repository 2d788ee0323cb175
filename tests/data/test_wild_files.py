"""Made-up files in the formats that people have: each trains, with transformers' own tokens, or is refused in one line.

The reference is `apply_chat_template` of transformers' tokenizer, on messages that are written down here once more.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conversations import (
    CONFIRMED,
    TEMPLATES,
    dialogue,
    prepare_chats,
    reference_tokenizer,
    write_chat_tokenizer,
    write_rows,
)
from dreamtune.data.prepare import prepare_shards
from dreamtune.errors import UserError
from dreamtune.settings.data import DataConfig
from dreamtune.settings.model import ModelConfig
from dreamtune.settings.train import TrainConfig
from dreamtune.shards import read_meta, read_split
from dreamtune.train.windows import TrainingWindows

Messages = list[dict[str, Any]]
USER, REPLY = {"role": "user", "content": "What is 6 times 7?"}, {"role": "assistant", "content": "It is 42."}
PAIR: Messages = [USER, REPLY]
SYSTEM = {"role": "system", "content": "Count the eggs — 數一數。"}
CALL = {"type": "function", "function": {"name": "times", "arguments": {"a": 6, "b": 7}}}
TOOLS: Messages = [
    USER,
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "42", "name": "times"},
    REPLY,
]
SHAREGPT = [{"from": "human", "value": USER["content"]}, {"from": "gpt", "value": REPLY["content"]}]
ALPACA = [
    {"instruction": "Add the numbers.", "input": "4, 2", "output": "6"},
    {"instruction": "Say hello.", "input": "", "output": "Hello!"},
]


MESSAGES = {"columns": {"messages": "messages"}}
CONVERSATIONS = {"columns": {"messages": "conversations"}}
OF_ALPACA = {
    "columns": {"question": "{instruction}\n{input}", "reasoning": None, "answer": "output"},
    "template": "{question}\n{answer}",
    "chat": {},
}
OF_TWO = {
    "columns": {"question": "prompt", "reasoning": None, "answer": "completion"},
    "template": "{question}{answer}",
    "chat": {},
}
TWO = [{"prompt": USER["content"], "completion": REPLY["content"]}]
# name -> (file, rows, settings, the messages of each document)
WILD: dict[str, tuple[str, list[dict[str, Any]], dict[str, Any], list[Messages]]] = {
    "messages in parquet": ("r.parquet", [{"messages": PAIR}], MESSAGES, [PAIR]),
    "messages in JSON lines": ("r.jsonl", [{"messages": PAIR}], MESSAGES, [PAIR]),
    "messages as JSON text": ("r.csv", [{"messages": json.dumps(PAIR)}], MESSAGES, [PAIR]),
    "ShareGPT": ("r.jsonl", [{"conversations": SHAREGPT}], CONVERSATIONS, [PAIR]),
    "ShareGPT in parquet, begun by gpt": (
        "r.parquet",
        [{"conversations": [{"from": "gpt", "value": "Hello!"}, *SHAREGPT]}],
        CONVERSATIONS,
        [[{"role": "assistant", "content": "Hello!"}, *PAIR]],
    ),
    "Alpaca": (
        "r.jsonl",
        ALPACA,
        OF_ALPACA,
        [dialogue("Add the numbers.\n4, 2", "6"), dialogue("Say hello.", "Hello!")],
    ),
    "two columns": ("r.parquet", TWO, OF_TWO, [PAIR]),
    "two columns of CSV, system prompt": (
        "r.csv",
        TWO,
        OF_TWO | {"chat": {"system": SYSTEM["content"]}},
        [[SYSTEM, *PAIR]],
    ),
    "several turns": ("r.jsonl", [{"messages": CONFIRMED}], MESSAGES, [CONFIRMED[:2], CONFIRMED]),
    "several turns, own system prompt": (
        "r.parquet",
        [{"messages": [SYSTEM, *CONFIRMED]}],
        MESSAGES | {"chat": {"system": "Be brief."}},
        [[SYSTEM, *CONFIRMED[:2]], [SYSTEM, *CONFIRMED]],
    ),
    "system prompt of the settings": (
        "r.jsonl",
        [{"messages": PAIR}],
        MESSAGES | {"chat": {"system": "Be brief."}},
        [[{"role": "system", "content": "Be brief."}, *PAIR]],
    ),
    "tool turns": ("r.jsonl", [{"messages": TOOLS}], MESSAGES, [TOOLS[:2], TOOLS]),
    "an empty assistant turn": (
        "r.jsonl",
        [{"messages": [USER, {"role": "assistant", "content": ""}, *dialogue("Well?", "It is 42.")]}],
        MESSAGES,
        [[USER, {"role": "assistant", "content": ""}, *dialogue("Well?", "It is 42.")]],
    ),
    "parts of text": (
        "r.jsonl",
        [{"messages": [USER, REPLY | {"content": [{"type": "text", "text": "It is 42."}]}]}],
        MESSAGES,
        [PAIR],
    ),
}


def documents(folder: Path, name: str, kind: str = "chatml") -> tuple[Path, list[dict[str, Any]], list[Messages]]:
    file, rows, settings, expected = WILD[name]
    out = folder / "out"
    out.mkdir()
    nothing_held_out = {"validation": 0.0, "test": 0.0}
    data = DataConfig(files=[str(write_rows(folder / file, rows))], split=nothing_held_out, **settings)
    prepare_shards(data, ModelConfig(path=write_chat_tokenizer(folder / "model", kind)), out)
    return out, list(read_split(out, "train")), expected


@pytest.mark.parametrize("kind", TEMPLATES)
@pytest.mark.parametrize("name", WILD)
def test_tokens_are_those_of_apply_chat_template(tmp_path: Path, name: str, kind: str) -> None:
    if kind == "llama3" and name == "tool turns":
        pytest.skip("that template knows no tool calls")
    out, rows, expected = documents(tmp_path, name, kind)
    reference, ids = reference_tokenizer(str(tmp_path / "model")), read_meta(out)["tokenizer"]
    assert len(rows) == len(expected)
    for row, messages in zip(rows, expected, strict=True):
        prompt = reference.apply_chat_template(messages[:-1], add_generation_prompt=True)["input_ids"]
        whole = reference.apply_chat_template(messages)["input_ids"]
        upto = len(whole) - whole[::-1].index(ids["turn_end_id"])
        assert row["input_ids"] == [*whole[:upto], ids["end_id"]]
        assert row["input_ids"][: row["prompt_tokens"]] == prompt
        beginning = row["input_ids"].count(ids["beginning_id"])
        assert beginning == (1 if kind == "llama3" else 0), "a second beginning token, or one that nobody wrote"


@pytest.mark.parametrize("name", WILD)
def test_loss_falls_on_assistant_tokens_alone(tmp_path: Path, name: str) -> None:
    out, rows, expected = documents(tmp_path, name)
    train = TrainConfig(global_batch=len(rows), max_tail=3, epochs=30)
    windows = TrainingWindows(read_split(out, "train"), read_meta(out), train)
    reference, seen = reference_tokenizer(str(tmp_path / "model")), dict[int, set[int]]()
    for step in range(1, windows.total + 1):
        for noised in windows.noised(step):
            places = np.flatnonzero(noised.supervised)
            seen.setdefault(noised.document.example_id, set()).update(places.tolist())
    for row, messages in zip(rows, expected, strict=True):
        tokens, places = row["input_ids"], sorted(seen[row["example_id"]])
        said = reference.decode([tokens[place] for place in places if place < len(tokens)])
        assert said.endswith("<|im_end|><|endoftext|>") and "<|im_start|>" not in said
        assert messages[-1]["content"] in said and said.count("<|im_end|>") == 1


REFUSED: dict[str, tuple[str, list[dict[str, Any]], dict[str, Any], str]] = {
    "a list of messages named as question": (
        "r.parquet",
        [{"messages": PAIR, "answer": "42"}],
        {"columns": {"question": "messages", "reasoning": None}, "template": "{question}{answer}"},
        "a column of whole conversations is named by data.columns.messages",
    ),
    "an unknown role": (
        "r.jsonl",
        [{"messages": [USER, {"role": "judge", "content": "?"}]}],
        MESSAGES,
        "unknown_role 1",
    ),
    "pictures": (
        "r.jsonl",
        [{"messages": [USER | {"content": [{"type": "image", "image": "cat.png"}]}, REPLY]}],
        MESSAGES,
        "content_not_text 1",
    ),
    "no conversation": ("r.csv", [{"messages": "6 * 7 = 42"}], MESSAGES, "not_a_conversation 1"),
    "a missing column": (
        "r.jsonl",
        [{"message": PAIR}],
        MESSAGES,
        "has no column 'messages' (did you mean 'message'?)",
    ),
    "only user turns": ("r.jsonl", [{"messages": [USER]}], MESSAGES, "no_assistant_turn 1"),
    "a misspelt placeholder": (
        "r.jsonl",
        ALPACA,
        {
            "columns": {"reasoning": None, "answer": "output"},
            "template": "{instruction}\n{inputs}\n{output}",
        },
        "has no column 'inputs' (did you mean 'input'?)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trained_on_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    file, rows, settings, message = REFUSED[name]
    with pytest.raises(UserError) as error:
        data = DataConfig(files=[str(write_rows(tmp_path / file, rows))], **settings)
        prepare_shards(data, ModelConfig(path=write_chat_tokenizer(tmp_path / "model")), tmp_path)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_one_json_array_says_how_to_make_lines_of_it(tmp_path: Path) -> None:
    file = tmp_path / "alpaca.json"
    file.write_text(json.dumps(ALPACA))
    with pytest.raises(UserError, match=r"one JSON array; write one object a line: jq"):
        prepare_shards(
            DataConfig(files=[str(file)], **OF_ALPACA), ModelConfig(path=write_chat_tokenizer(tmp_path / "m")), tmp_path
        )


def test_templates_over_any_columns_need_no_chat_template(tmp_path: Path) -> None:
    """Alpaca's own prompt, its placeholders named like its columns."""
    out, _ = prepare_chats(
        tmp_path,
        ALPACA,
        columns={"reasoning": None, "answer": "output"},
        template="### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n{output}",
    )
    meta, rows = read_meta(out), list(read_split(out, "train"))
    text = reference_tokenizer(str(tmp_path / "chatml")).decode(rows[0]["input_ids"][1:])
    assert text == ("### Instruction:\nAdd the numbers.\n\n### Input:\n4, 2\n\n### Response:\n6<|endoftext|>")
    assert (rows[0]["question"], rows[0]["answer"]) == ("Add the numbers.\n\n### Input:\n4, 2", "6")
    assert meta["template"] == "### Instruction:\n{question}\n\n### Response:\n{answer}" and "chat" not in meta
