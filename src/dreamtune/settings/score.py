"""Settings of the grading of completions."""

from typing import Literal

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
    timeout_s: int = result(
        1,
        "CPU seconds for comparing an answer with its reference; a second try has ten times as many, and after that "
        "the answer has no grade and its question is left out of the comparison of base and tuned",
        ge=1,
        le=3600,
    )
