"""Settings of the grading of completions."""

from typing import Literal, get_args

from dreamtune.settings.base import Section, result

Extractor = Literal["final_answer", "boxed", "answer_tag", "announced", "bare", "last_number"]


class ScoreConfig(Section):
    """Settings of the grading of completions against reference answers."""

    extractors: list[Extractor] = result(
        lambda: ["boxed", "answer_tag", "final_answer", "announced", "bare", "last_number"],
        "ways of finding the answer in a completion: of boxed, answer_tag, final_answer and announced, the one that "
        "finds something last in the text decides; if none does, bare and last_number are tried in this order",
        min_length=1,
    )
    marker: str = result("the final answer is:", "text after which the extractor final_answer expects the answer")
    cut: bool = result(
        True,
        "whether a completion is cut where another question or turn begins (Question:, User:, <|im_start|> and "
        "stop_texts), once its answer has begun; scores.json counts the answers that the cut grades otherwise",
    )
    stop_texts: list[str] | None = result(
        None, "texts with which another question begins, besides the usual ones; null takes those of data.template"
    )
    answer: str | None = result(
        None,
        "conversations (columns.messages) only: what answers to a conversation's last turn are graded against: a "
        "column, or one of the extractors, applied to that turn; null grades none, and likelihood alone decides",
        min_length=1,
    )
    timeout_s: int = result(
        1,
        "CPU seconds for comparing an answer with its reference; a second try has ten times as many, and after that "
        "the answer has no grade and its question is left out of the comparison of base and tuned",
        ge=1,
        le=3600,
    )

    @property
    def answer_extractor(self) -> str | None:
        """The extractor that `answer` names; None if it names a column or nothing."""
        return self.answer if self.answer in get_args(Extractor) else None

    @property
    def answer_column(self) -> str | None:
        """The column that `answer` names; None if it names an extractor or nothing."""
        return None if self.answer in get_args(Extractor) else self.answer
