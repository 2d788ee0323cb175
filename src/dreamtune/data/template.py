"""The template of one example, cut into the three parts that are tokenised apart.

Prompt, reasoning and answer each get their own tokens, so that a prompt has the same tokens when it is generated from
as when it was trained on, and so that cutting the reasoning never changes a token of the answer.
"""

import functools

QUESTION, REASONING, ANSWER = "{question}", "{reasoning}", "{answer}"


@functools.cache
def split_template(template: str) -> tuple[str, str, str]:
    """Return (prompt part, reasoning part, answer part); joined they are the template.

    The prompt part ends before {reasoning}, or before {answer} if there is no reasoning. The reasoning part is the
    bare placeholder or empty: what introduces the answer belongs to the answer, which survives when reasoning is cut.
    """
    before_answer, answer = template.split(ANSWER)
    if REASONING not in before_answer:
        return before_answer, "", ANSWER + answer
    prompt, introduction = before_answer.split(REASONING)
    return prompt, REASONING, introduction + ANSWER + answer


def has_reasoning(template: str) -> bool:
    """Say whether the template shows the reasoning."""
    return bool(split_template(template)[1])


def render_prompt(template: str, question: str) -> str:
    """Return the text the model is given: everything before its response."""
    return split_template(template)[0].replace(QUESTION, question)


def render_reasoning(template: str, reasoning: str) -> str:
    """Return the text of the reasoning, empty if the template shows none."""
    return split_template(template)[1].replace(REASONING, reasoning)


def render_answer(template: str, answer: str) -> str:
    """Return the answer with the words that introduce it; the end token is not text and follows as a token."""
    return split_template(template)[2].replace(ANSWER, answer)


def render_parts(template: str, questions: list[str], reasonings: list[str], answers: list[str]) -> list[str]:
    """Return the prompts of all rows, then all reasonings, then all answers: what the three functions above return."""
    prompt, reasoning, answer = split_template(template)
    texts = _filled(prompt, QUESTION, questions)
    texts += _filled(reasoning, REASONING, reasonings) if reasoning else [""] * len(reasonings)
    return texts + _filled(answer, ANSWER, answers)


def _filled(part: str, placeholder: str, values: list[str]) -> list[str]:
    before, after = part.split(placeholder)
    return [before + value + after for value in values]
