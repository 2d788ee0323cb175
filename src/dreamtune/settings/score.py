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
    timeout_s: int = result(1, "seconds after which a comparison is given up and counted as wrong", ge=1)
