"""The training data: which files, which columns, the template, the split and the longest example."""

import difflib
from typing import Any, Literal

from pydantic import field_validator, model_validator

from dreamtune.settings.base import LONG, MANY, NAME, PARTS, SEED, Float, Section, UserPath, result, runtime
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


class DataSource(Section):
    """One of several sources of training data: its files and columns, and which and how many of its rows train."""

    name: str | None = result(
        None, "name in counts and reports; null takes source_1, source_2, … in the order of the list"
    )
    files: list[UserPath] = runtime(..., "files or globs, as in data.files", min_length=1)
    columns: Columns = result(Columns, "names of the columns, as in data.columns")
    weight: Float = result(
        1.0,
        "how often a training row is shown in an epoch: 2 repeats each under masks of its own, 0.5 draws half of them "
        "by data.split.seed, 2.5 does both; held-out rows count once whatever the weight",
        gt=0.0,
        le=1_000.0,
    )
    rows: int | None = result(
        None, "most rows taken, the first that `where` keeps; before splits and weight", ge=1, le=MANY
    )
    where: str | None = result(
        None,
        "an SQL expression over the columns, as polars reads it, true for the rows that are taken: lang = 'en' AND "
        "length(question) < 500. Cells of CSV and JSON lines are text: CAST(score AS DOUBLE) > 0.5",
    )

    @field_validator("name")
    @classmethod
    def can_be_shown(cls, name: str | None) -> str | None:
        if name is not None and not (name.strip() and name.isprintable() and len(name) <= NAME):
            raise ValueError(f"expected 1 to {NAME} printable characters, since it stands in counts and reports")
        return name


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
        list,
        "files or globs (parquet, CSV, JSON lines), or hf://datasets/OWNER/NAME@REVISION/PATH, 40-digit revision",
    )
    columns: Columns = result(Columns, "names of the columns")
    sources: list[DataSource] | None = result(
        None, "several sources with columns and weights of their own, in place of data.files and data.columns"
    )
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
    def files_or_sources(self) -> "DataConfig":
        if self.sources is None:
            if not self.files:
                raise ValueError("no data are named; give data.files, or data.sources with files each")
            return self
        if self.files or self.columns != Columns():
            given = "files" if self.files else "columns"
            raise ValueError(f"data.{given} and data.sources are both given; name files and columns in each source")
        names = [source.name for source in self.named_sources]
        if not names:
            raise ValueError("data.sources is empty; name at least one source, or give data.files")
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two sources are named {twice[0]}; give each its own name")
        return self

    @model_validator(mode="after")
    def columns_fit_the_template(self) -> "DataConfig":
        for data in self.of_each():
            columns, given = data.columns, sorted(data.columns.model_fields_set & {"question", "reasoning", "answer"})
            if not columns.messages and ("{reasoning}" in data.layout.template) != (columns.reasoning is not None):
                raise ValueError(
                    "the template's {reasoning} and columns.reasoning go together: give both, or leave out the "
                    "placeholder and set the column to null"
                )
            if columns.messages and given and getattr(columns, given[0]) != getattr(Columns(), given[0]):
                raise ValueError(
                    f"columns.messages holds whole conversations, and columns.{given[0]} names another column; give "
                    "one of them (score.answer names a column to grade against)"
                )
        return self

    @model_validator(mode="after")
    def templates_are_used(self) -> "DataConfig":
        conversations = [bool(data.columns.messages) for data in self.of_each()]
        if all(conversations) and self.template != type(self).model_fields["template"].default:
            raise ValueError("columns.messages is rendered by the chat template; leave out data.template")
        if self.chat_template and self.turns is None:
            raise ValueError("chat_template needs conversations: name columns.messages, or set data.chat to {}")
        return self

    @model_validator(mode="after")
    def sources_agree(self) -> "DataConfig":
        each = self.of_each()
        if len({data.layout.template for data in each if not data.columns.messages}) > 1:
            raise ValueError(
                "data.template shows the answer's column in one source and not in another; write {question}, "
                "{reasoning} and {answer} in it, and name each source's columns"
            )
        if len({data.columns.cluster is None for data in each}) > 1:
            raise ValueError("columns.cluster is named in one source and not in another; name it in all, or in none")
        return self

    def by_kind(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the result fields and the runtime fields; the paths of `sources` are among the latter alone.

        The runtime fields have the sources as a whole, and replace those of the result fields when both are put
        together again.
        """
        results, runtimes = super().by_kind()
        if self.sources is not None:
            runtimes |= {"sources": [source.model_dump(mode="json") for source in self.named_sources]}
            results |= {"sources": [source.by_kind()[0] for source in self.named_sources]}
        return results, runtimes

    @property
    def named_sources(self) -> list[DataSource]:
        """The sources, each with its name; [] where `files` are given."""
        return [
            source.model_copy(update={"name": source.name or f"source_{number}"})
            for number, source in enumerate(self.sources or [], 1)
        ]

    def of_each(self) -> list["DataConfig"]:
        """Return the settings of each source as if it were the only one; [these settings] where `files` are given."""
        if self.sources is None:
            return [self]
        alone = {"sources": None, "chat": self.turns}
        return [self.model_copy(update={"files": s.files, "columns": s.columns, **alone}) for s in self.sources]

    @property
    def conversations(self) -> bool:
        """Whether there are whole conversations among the data."""
        return any(columns.messages for columns in self._columns_of_each())

    @property
    def cluster(self) -> str | None:
        """Name of the column of clusters, of the first source where there are several; None without one."""
        return self._columns_of_each()[0].cluster

    def _columns_of_each(self) -> list[Columns]:
        return [self.columns] if self.sources is None else [source.columns for source in self.sources]

    @property
    def turns(self) -> Chat | None:
        """Settings of the chat template; None if rows are rendered by `template` alone."""
        return self.chat if self.chat is not None or not self.conversations else Chat()

    @property
    def layout(self) -> Layout:
        """The template with {question}, {reasoning} and {answer}, and the columns that fill them.

        Of several sources the columns are those of the first that holds no conversations, if there is one.
        """
        each = self._columns_of_each()
        columns = next((columns for columns in each if not columns.messages), each[0])
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


def columns_of(data: DataConfig, graded: str | None) -> tuple[list[str], list[str]]:
    """Return the columns that are read from the files of one source, each once, and those that may hold lists.

    Args:
        data: settings of one source, see `DataConfig.of_each`.
        graded: of conversations, the column that answers to a last turn are graded against; "" or None without one.
    """
    messages = [data.columns.messages] if data.columns.messages else []
    columns = [*data.columns_read, *data.columns_asked, *([graded] if graded and messages else [])]
    return list(dict.fromkeys(columns)), messages
