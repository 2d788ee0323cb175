"""How a completion is graded."""

from typing import Literal

from dreamtune.settings.base import Section, result

Extractor = Literal["final_answer", "boxed", "answer_tag", "announced", "bare", "last_number"]


class ScoreConfig(Section):
    """How a completion is graded."""

    extractors: list[Extractor] = result(
        lambda: ["boxed", "answer_tag", "final_answer", "announced", "bare", "last_number"],
        "how the answer is found in a completion, tried in this order",
        min_length=1,
    )
    marker: str = result("the final answer is:", "the text that announces the answer, for final_answer")
    timeout_s: int = result(
        1,
        "CPU seconds for comparing an answer with its reference; a second try has ten times as many, and after that "
        "the answer has no grade and its question is left out of the comparison of base and tuned",
        ge=1,
    )
