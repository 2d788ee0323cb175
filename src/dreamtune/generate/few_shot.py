"""Few-shot prompts: k worked training examples before the question (Brown et al. 2020, arXiv 2005.14165).

A base model that never saw the template's format fails a question that it could solve. With worked examples before the
question it sees the format; `evaluate.few_shot` compares the tuned model with these answers, too.

Each question has examples of its own, drawn from the training split by seed and example id alone: all k with different
questions, none with the question that is asked (a benchmark's may stand in the training split). An example has the
tokens of its training row, without beginning and end token. Only rows whose answer was not cut are drawn. Under
`data.chat` the examples are earlier turns, rendered with the question by the chat template.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from dreamtune.contamination.questions import question_hash
from dreamtune.data.prompter import Prompter
from dreamtune.data.template import ANSWER, QUESTION, split_template
from dreamtune.data.tokenizer import Tokenizer
from dreamtune.errors import UserError
from dreamtune.noise import uniforms
from dreamtune.settings.few_shot import FewShot
from dreamtune.shards import read_split

SEPARATOR = "\n\n"  # as in EleutherAI's lm-evaluation-harness (fewshot_delimiter)


class WorkedExamples:
    """Draws the worked examples of a question and puts them before its prompt.

    Args:
        few_shot: number of examples and their limit.
        shards: output of prepare_shards.
        meta: content of its shards.json.
        tokenizer: the model's.
        seed: of the draw.

    Raises:
        UserError: too few training rows for so many examples.
    """

    def __init__(self, few_shot: FewShot, shards: Path, meta: dict[str, Any], tokenizer: Tokenizer, seed: int) -> None:
        self.few_shot, self.seed = few_shot, seed
        self.split = read_split(shards, "train")
        self.begins = int(meta["beginning_token"])
        self.tokenizer, self.prompter = tokenizer, Prompter.of(tokenizer, meta)
        in_turns = self.prompter.chat is not None
        self.between = "" if in_turns else text_between(meta["template"], _special_texts(tokenizer))
        self.joint = [tokenizer.end_id] if self.between is None else tokenizer.encode(self.between)
        table, limit = self.split.table, few_shot.example_tokens
        tokens = pc.list_value_length(table["input_ids"]).to_numpy() - self.begins - 1  # without the end token
        usable = table["complete"].to_numpy() & (tokens <= (tokens.max() if limit is None else limit))
        rows = np.flatnonzero(usable)  # of the split
        texts = table["question"].take(rows).to_pylist()
        hashes, first = np.unique(np.array([question_hash(text) for text in texts], np.uint64), return_index=True)
        self.rows, self.hashes = rows[first], hashes  # [distinct questions]
        if len(rows) == 0 or len(self.rows) <= few_shot.shots:
            limited = "" if limit is None else f" of at most {limit} tokens"
            remedy = "" if limit is None else ", or raise evaluate.few_shot_example_tokens"
            raise UserError(
                f"evaluate.few_shot = {few_shot.shots} needs {few_shot.shots + 1} complete training rows{limited} with "
                f"different questions, and there are {len(self.rows)}; lower it{remedy}"
            )

    def before(self, example_id: int, question: str, prompt: list[int]) -> tuple[list[int], list[int]]:
        """Return the tokens of examples and question, and the example ids of the examples in their order.

        Args:
            example_id: of the question that is asked; with the seed it decides which examples are drawn.
            question: its text.
            prompt: its prompt, beginning token included.
        """
        rows = self.split[[int(self.rows[place]) for place in self._drawn(example_id, question)]]
        if self.prompter.chat is not None:
            documents = zip(rows["input_ids"], rows["prompt_tokens"], strict=True)
            replies = [self.tokenizer.decode(tokens[start:]) for tokens, start in documents]
            turns = list(zip(rows["question"], replies, strict=True))
            return self.prompter.behind(turns, question), rows["example_id"]
        tokens = prompt[: self.begins]
        for ids in rows["input_ids"]:
            tokens = tokens + ids[self.begins : -1] + self.joint
        return tokens + prompt[self.begins :], rows["example_id"]

    def _drawn(self, example_id: int, question: str) -> list[int]:
        """Return the places of the examples in `rows`, all different."""
        asked, places = question_hash(question), dict[int, None]()
        for draw in count():
            place = int(uniforms((self.seed, example_id), np.array([draw]))[0] * len(self.rows))
            if self.hashes[place] != asked:
                places[place] = None
            if len(places) == self.few_shot.shots:
                break
        return list(places)

    def describe(self, prompts: Iterable[list[int]]) -> dict[str, Any]:
        """Return the entry `few_shot` of generation.json; `prompts` have their examples."""
        return {
            "shots": self.few_shot.shots,
            "rows": len(self.rows),
            "form": "plain text" if self.between == SEPARATOR else "earlier turns",
            "between": self.between,
            "between_tokens": len(self.joint),
            "longest_prompt": max(map(len, prompts), default=0),
        }


def text_between(template: str, special: Iterable[str]) -> str | None:
    """Return the text between a worked example and what follows it; None stands for the end token.

    A template that writes special tokens of its tokenizer is a chat template. Its examples become earlier turns, each
    closed as the template closes a turn: by its own text after the answer, or like the question's turn, or, where it
    closes none, by the end token, as in training. In other templates an empty line stands between the examples.

    Args:
        template: text with {question}, {answer} and perhaps {reasoning}.
        special: the tokenizer's special tokens, as text.

    >>> chat = ["<|im_start|>", "<|im_end|>"]
    >>> text_between("Question: {question}\\nAnswer: {answer}", chat)
    '\\n\\n'
    >>> turns = "<|im_start|>user\\n{question}<|im_end|>\\n<|im_start|>assistant\\n{answer}"
    >>> text_between(turns, chat), text_between(turns + "<|im_end|>", chat)
    ('<|im_end|>\\n', '\\n')
    >>> text_between("[INST] {question} [/INST]{answer}", ["[INST]", "[/INST]"]) is None
    True
    """
    names = sorted(special, key=len, reverse=True)
    marks = re.compile("|".join(map(re.escape, names)) or r"(?!)")
    if not marks.search(template):
        return SEPARATOR
    prompt, _, answer = split_template(template)
    behind_question, behind_answer = prompt.split(QUESTION)[1], answer.split(ANSWER)[1]
    found = list(marks.finditer(behind_question))
    # The first of two tokens behind the question closes its turn; a single one opens the answer's.
    closing, gap = None, ""
    if len(found) > 1:
        closing, gap = found[0].group(), behind_question[found[0].end() : found[1].start()]
    if closed := list(marks.finditer(behind_answer)):
        return gap if closed[-1].end() == len(behind_answer) else ""
    return None if closing is None else closing + gap


def check_fit(prompts: Iterable[list[int]], max_new_tokens: int, context: int | None, few_shot: FewShot) -> None:
    """Check that each prompt and its answer fit into the model's context.

    Args:
        prompts: tokens of examples and question.
        max_new_tokens: limit of an answer.
        context: positions that the model was made for; None if it does not say.
        few_shot: may set a lower limit.

    Raises:
        UserError: some do not fit.
    """
    limits = {"the model's context": context, "evaluate.few_shot_context": few_shot.context}
    known = {name: limit for name, limit in limits.items() if limit is not None}
    lengths = [len(prompt) for prompt in prompts]
    if not known or not lengths:
        return
    name = min(known, key=lambda each: known[each])
    over = sum(length + max_new_tokens > known[name] for length in lengths)
    if over:
        raise UserError(
            f"{over} of {len(lengths)} questions do not fit behind {few_shot.shots} worked examples: the longest "
            f"prompt has {max(lengths)} tokens, which with generate.max_new_tokens = {max_new_tokens} are more than "
            f"{name} of {known[name]}; lower evaluate.few_shot, evaluate.few_shot_example_tokens or "
            "generate.max_new_tokens"
        )


def _special_texts(tokenizer: Tokenizer) -> Iterator[str]:
    return (token.content for token in tokenizer.backend.get_added_tokens_decoder().values() if token.special)
