"""Settings of few-shot prompts: worked training examples before a question."""

from dreamtune.settings.base import LONG, Section, result


class FewShot(Section):
    """How many worked training examples stand before each question, and which ones may be drawn."""

    shots: int = result(..., "worked training examples before each question", ge=1, le=1_000)
    example_tokens: int | None = result(
        None,
        "draw only training rows of at most this many tokens, beginning and end token aside; null draws any",
        ge=1,
        le=LONG,
    )
    context: int | None = result(
        None, "limit of examples, question and answer together, in tokens; null takes the model's own", ge=1, le=LONG
    )
