"""The training data: which files, which columns, the template, the split and the longest example."""

import difflib
from typing import Literal

from pydantic import field_validator, model_validator

from dreamtune.settings.base import LONG, MANY, PARTS, SEED, Float, Section, UserPath, result, runtime
from dreamtune.settings.chat import Chat
from dreamtune.settings.placeholders import BRACED_WORD, Layout, columns_of_question, lay_out

PLACEHOLDERS = ("{question}", "{reasoning}", "{answer}")


class Columns(Section):
    """Names of the columns whose text fills the template."""

    question: str = result(
        "question",
        "column that holds the question; or a text over several columns, such as '{instruction}\\n{input}', of which "
        "white space at its ends is left out",
    )
    reasoning: str | None = result(
        "reasoning", "column that holds the worked reasoning; null if the template has no {reasoning}"
    )
    answer: str = result("answer", "column that holds the reference answer")
    cluster: str | None = result(
        None,
        "column whose equal values mark questions that are alike, such as the template they were made from; null looks "
        "for questions that differ in names and numbers only",
    )
    messages: str | None = result(
        None,
        "column that holds whole conversations, in place of question, reasoning and answer: a list of {role, content} "
        "or of {from, value}, or such a list as JSON text; each assistant turn becomes a document",
    )


class Split(Section):
    """Shares of the rows held out, chosen by a hash of the normalised question: duplicates are never split apart."""

    validation: Float = result(0.02, "share of the rows (0 to 1) used for validation during training", ge=0.0, lt=1.0)
    test: Float = result(0.1, "share of the rows (0 to 1) held out for the final evaluation", ge=0.0, lt=1.0)
    seed: int = result(0, "seed of the hash that assigns a question to a split", **SEED)

    @model_validator(mode="after")
    def leaves_training_rows(self) -> "Split":
        if self.validation + self.test >= 1:
            raise ValueError(f"validation {self.validation} + test {self.test} leave no training rows; lower one")
        return self


class DataConfig(Section):
    """Settings of the training data. A version depends on the files' contents, not on their paths."""

    files: list[UserPath] = runtime(
        ...,
        "files or globs (parquet, CSV, JSON lines), or hf://datasets/OWNER/NAME@REVISION/PATH, 40-digit revision",
    )
    columns: Columns = result(Columns, "names of the columns")
    template: str = result(
        "Question: {question}\n\nLet's think step by step.\n{reasoning}\n\nTherefore, the final answer is: {answer}",
        "text of one example: the text before {reasoning} (before {answer}, if there is no reasoning) is the prompt, "
        "the rest is the response; an end token follows the response. Without {question}, each placeholder is the name "
        "of a column",
    )
    chat: Chat | None = result(
        None,
        "render by a chat template: conversations (columns.messages, which implies {}), or rows, of which the "
        "template's prompt then is the user's turn and its response the assistant's; null for data.template alone",
    )
    chat_template: UserPath | None = runtime(
        None, "file with a Jinja chat template; null takes the tokenizer's own. Its content belongs to the version"
    )
    beginning_token: bool = result(
        True, "whether the tokenizer's beginning-of-sequence token, if it has one, stands before the prompt"
    )
    split: Split = result(Split, "which rows are held out for validation and test")
    max_tokens: int = result(
        2048, "length limit of an example in tokens: prompt, response and one end token together", ge=8, le=LONG
    )
    too_long: Literal["shorten_reasoning", "drop", "truncate"] = result(
        "shorten_reasoning",
        "what happens to an example over max_tokens: shorten_reasoning cuts its reasoning and keeps its answer, drop "
        "leaves it out, truncate cuts its end",
    )
    shorten_from: Literal["end", "start"] = result("end", "which end of the reasoning shorten_reasoning cuts")
    duplicates: Literal["keep", "drop"] = result(
        "keep",
        "what happens to a further row with the same question; the test split holds each question once in either case",
    )
    contaminated: Literal["keep", "drop"] = result(
        "keep",
        "what happens to a training row that nearly repeats a held-out question, or shares an n-gram with one in "
        "question, answer or reasoning; and to one that overlaps a question of evaluate.benchmarks in these ways",
    )
    gives_away: Literal["keep", "drop"] = result(
        "drop",
        "what happens to a training row whose question ends in its answer or holds its reasoning; in the test split "
        "such questions stay, and the report leaves them out of a second reading",
    )
    ngram: int = result(13, "length in words of the n-grams of the contamination audit", ge=2, le=1000)
    rows_per_shard: int = result(100_000, "most rows in one Arrow file", ge=1, le=MANY)
    batch_rows: int = runtime(2_000, "rows tokenised at a time; fewer need less memory", ge=1, le=MANY)
    scatter: int = runtime(1, "number of jobs that tokenise the rows side by side, each a part of them", ge=1, le=PARTS)

    @field_validator("template")
    @classmethod
    def has_placeholders(cls, template: str) -> str:
        words = BRACED_WORD.findall(template)
        if "{question}" not in template and any(word not in PLACEHOLDERS for word in words):
            return template  # over any columns: `layout` checks it, and the files' columns are checked before a job
        for word in words:
            if word not in PLACEHOLDERS:
                near = difflib.get_close_matches(word, PLACEHOLDERS, n=1, cutoff=0.6)
                hint = f"did you mean {near[0]}?" if near else "leave out the braces, or put it into columns.question"
                raise ValueError(f"the template has {word}, and knows only {', '.join(PLACEHOLDERS)}; {hint}")
        for name in ("{question}", "{answer}"):
            if template.count(name) != 1:
                raise ValueError(f"the template must contain {name} exactly once")
        order = [template.index(p) for p in PLACEHOLDERS if p in template]
        if template.count("{reasoning}") > 1 or order != sorted(order):
            raise ValueError("the template needs {question}, then at most one {reasoning}, then {answer}")
        return template

    @model_validator(mode="after")
    def reasoning_has_a_column(self) -> "DataConfig":
        if not self.columns.messages and ("{reasoning}" in self.layout.template) != (
            self.columns.reasoning is not None
        ):
            raise ValueError(
                "the template's {reasoning} and columns.reasoning go together: give both, or leave out the "
                "placeholder and set the column to null"
            )
        return self

    @model_validator(mode="after")
    def conversations_stand_alone(self) -> "DataConfig":
        columns, given = self.columns, sorted(self.columns.model_fields_set & {"question", "reasoning", "answer"})
        if columns.messages and given and getattr(columns, given[0]) != getattr(Columns(), given[0]):
            raise ValueError(
                f"columns.messages holds whole conversations, and columns.{given[0]} names another column; give one of "
                "them (score.answer names a column to grade against)"
            )
        if columns.messages and self.template != type(self).model_fields["template"].default:
            raise ValueError("columns.messages is rendered by the chat template; leave out data.template")
        if self.chat_template and self.turns is None:
            raise ValueError("chat_template needs conversations: name columns.messages, or set data.chat to {}")
        return self

    @property
    def turns(self) -> Chat | None:
        """Settings of the chat template; None if rows are rendered by `template` alone."""
        return self.chat if self.chat is not None or not self.columns.messages else Chat()

    @property
    def layout(self) -> Layout:
        """The template with {question}, {reasoning} and {answer}, and the columns that fill them."""
        columns = self.columns
        return lay_out(self.template, columns.question, columns.reasoning, columns.answer)

    @property
    def columns_read(self) -> list[str]:
        """Names of the columns whose text makes documents, each once."""
        if self.columns.messages:
            return [self.columns.messages]
        laid = self.layout
        names = [*columns_of_question(laid.question), laid.reasoning, laid.answer]
        return list(dict.fromkeys(name for name in names if name is not None))

    @property
    def columns_asked(self) -> list[str]:
        """Names of the columns that tell documents' questions and clusters, each once."""
        asked = [self.columns.messages] if self.columns.messages else columns_of_question(self.layout.question)
        return list(dict.fromkeys([*asked, *([self.columns.cluster] if self.columns.cluster else [])]))
