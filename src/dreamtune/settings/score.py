"""Settings of the grading of completions."""

from typing import Literal

from dreamtune.settings.base import Section, result

Extractor = Literal["final_answer", "boxed", "answer_tag", "announced", "bare", "last_number"]


class ScoreConfig(Section):
    """Settings of the grading of completions against reference answers."""

    extractors: list[Extractor] = result(
        lambda: ["boxed", "answer_tag", "final_answer", "announced", "bare", "last_number"],
        "ways of finding the answer in a completion, tried in this order until one finds something",
        min_length=1,
    )
    marker: str = result("the final answer is:", "text after which the extractor final_answer expects the answer")
    timeout_s: int = result(
        1,
        "CPU seconds for comparing an answer with its reference; a second try has ten times as many, and after that "
        "the answer has no grade and its question is left out of the comparison of base and tuned",
        ge=1,
    )
