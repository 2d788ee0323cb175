"""The template of an example, cut into three segments: prompt, reasoning and answer.

Each segment is tokenised by itself, so that a prompt has the same tokens in generation as in training, and so that
cutting the reasoning never changes a token of the answer.
"""

import functools
import re

QUESTION, REASONING, ANSWER = "{question}", "{reasoning}", "{answer}"


@functools.cache
def split_template(template: str) -> tuple[str, str, str]:
    """Return the template's segments (prompt, reasoning, answer); joined they are the template.

    The prompt ends before {reasoning}, or before {answer} if there is no reasoning. The reasoning is the bare
    placeholder or empty. Words that introduce the answer belong to the answer, which survives when reasoning is cut.

    >>> split_template("Q: {question}\\n\\n{reasoning}\\n\\nAnswer: {answer}")
    ('Q: {question}\\n\\n', '{reasoning}', '\\n\\nAnswer: {answer}')
    """
    before_answer, answer = template.split(ANSWER)
    if REASONING not in before_answer:
        return before_answer, "", ANSWER + answer
    prompt, introduction = before_answer.split(REASONING)
    return prompt, REASONING, introduction + ANSWER + answer


def prompt_lines(template: str) -> list[str]:
    """Return the lines of the prompt around the question: where a model writes one again, it begins another prompt.

    Lines after the question count from three words on, because shorter ones ("Answer:") also introduce answers.

    >>> prompt_lines("Question: {question}\\nLet's think step by step.\\n{reasoning}\\nAnswer: {answer}")
    ['Question:', "Let's think step by step."]
    """
    before, after = split_template(template)[0].split(QUESTION)
    lines = before.splitlines() + [line for line in after.splitlines() if len(line.split()) >= 3 or "<|" in line]
    return [line.strip() for line in lines if len(re.findall(r"\w", line)) >= 2]


def has_reasoning(template: str) -> bool:
    """Return whether the template shows the reasoning."""
    return bool(split_template(template)[1])


def render_prompt(template: str, question: str) -> str:
    """Return the prompt, the text before the model's response."""
    return split_template(template)[0].replace(QUESTION, question)


def render_reasoning(template: str, reasoning: str) -> str:
    """Return the text of the reasoning, empty if the template shows none."""
    return split_template(template)[1].replace(REASONING, reasoning)


def render_answer(template: str, answer: str) -> str:
    """Return the answer with the template's words that introduce it, without the end token, which is not text."""
    return split_template(template)[2].replace(ANSWER, answer)


def render_segments(template: str, questions: list[str], reasonings: list[str], answers: list[str]) -> list[str]:
    """Return the rendered segments of many rows: all prompts, then all reasonings, then all answers.

    Equal to `render_prompt`, `render_reasoning` and `render_answer` of each row, but faster.
    """
    prompt, reasoning, answer = split_template(template)
    texts = _filled(prompt, QUESTION, questions)
    texts += _filled(reasoning, REASONING, reasonings) if reasoning else [""] * len(reasonings)
    return texts + _filled(answer, ANSWER, answers)


def _filled(segment: str, placeholder: str, values: list[str]) -> list[str]:
    """Return the segment's text once for each value, with the value in the place of the placeholder."""
    before, after = segment.split(placeholder)
    return [before + value + after for value in values]
