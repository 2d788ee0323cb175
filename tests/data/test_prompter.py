"""Prompts of generation: rendered by the template that rendered the training rows."""

from pathlib import Path
from typing import Any

import pytest

from conversations import TEMPLATES, dialogue, prepare_chats, reference_tokenizer
from dreamtune.data.prompter import Prompter
from dreamtune.data.tokenizer import load_tokenizer
from dreamtune.shards import read_meta, read_split

ROWS = {
    "columns": {"question": "question", "reasoning": None, "answer": "answer"},
    "template": "Solve: {question}\n{answer}",
}


@pytest.mark.parametrize("kind", TEMPLATES)
@pytest.mark.parametrize(("settings", "asked"), [({}, "6 * 7?"), (ROWS, "Solve: 6 * 7?")])
@pytest.mark.parametrize("system", [None, "Be brief."])
def test_a_question_has_the_prompt_that_its_row_has_in_training(
    tmp_path: Path, kind: str, settings: dict[str, Any], asked: str, system: str | None
) -> None:
    row = {"messages": dialogue("6 * 7?", "42"), "question": "6 * 7?", "answer": "42"}
    out, _ = prepare_chats(tmp_path, [row], kind, chat={"system": system}, **settings)
    folder = str(tmp_path / kind)
    [prompt] = Prompter.of(load_tokenizer(folder), read_meta(out))(["6 * 7?"])
    [trained] = read_split(out, "train")
    assert prompt == trained["input_ids"][: trained["prompt_tokens"]]
    messages = [{"role": "system", "content": system}] * (system is not None) + dialogue(asked)
    reference = reference_tokenizer(folder).apply_chat_template(messages, add_generation_prompt=True)
    assert prompt == reference["input_ids"]
