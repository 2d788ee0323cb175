"""Placeholders: a braced word in a template stands for the text of a column, `{question}` for that of the question."""

import re
from typing import NamedTuple

BRACED_WORD = re.compile(r"\{\s*[^\W\d]\w*\s*\}")


class Layout(NamedTuple):
    """A template over any columns, with its columns sorted into question, reasoning and answer.

    Attributes:
        template: text with {question}, at most one {reasoning}, and {answer}.
        question: name of a column; or a text over several, such as "{instruction}\\n{input}".
        reasoning, answer: names of columns; the reasoning's is None if the template shows none.
    """

    template: str
    question: str
    reasoning: str | None
    answer: str


def names_in(text: str) -> list[str]:
    """Return the names in a text's placeholders, each once.

    >>> names_in("{instruction}\\n{input}")
    ['instruction', 'input']
    """
    return list(dict.fromkeys(word.strip("{} ") for word in BRACED_WORD.findall(text)))


def columns_of_question(question: str) -> list[str]:
    """Return the columns whose text makes the question: those of its placeholders, or the one that it names."""
    return names_in(question) or [question]


def lay_out(template: str, question: str, reasoning: str | None, answer: str) -> Layout:
    """Sort a template's placeholders into question, reasoning and answer.

    In a template without {question} each placeholder is a column's name. What stands from the first to the last of
    those before reasoning and answer is the question:

    >>> laid = lay_out("Task: {instruction}\\n{input}\\nResponse: {output}", "question", None, "output")
    >>> laid.template, laid.question, laid.answer
    ('Task: {question}\\nResponse: {answer}', '{instruction}\\n{input}', 'output')

    Args:
        template: the setting data.template.
        question, reasoning, answer: those of data.columns.

    Raises:
        ValueError: the template shows no answer, or no question before it.
    """
    if "{question}" in template:
        return Layout(template, question, reasoning, answer)
    named = {answer: "{answer}", "answer": "{answer}"}
    named |= {name: "{reasoning}" for name in (reasoning, "reasoning") if name is not None}
    found = [(word, word.group().strip("{} ")) for word in BRACED_WORD.finditer(template)]
    kinds = [named.get(name, "{question}") for _, name in found]
    if kinds.count("{answer}") != 1:
        raise ValueError(
            "the template must contain {answer} exactly once, or the name of the column that columns.answer names "
            f"({{{answer}}})"
        )
    asked = kinds.count("{question}")
    if (
        not asked
        or kinds[:asked] != ["{question}"] * asked
        or kinds[asked:]
        not in (
            ["{answer}"],
            ["{reasoning}", "{answer}"],
        )
    ):
        raise ValueError("the template needs {question} or columns' names, then at most one {reasoning}, then {answer}")
    start, end = found[0][0].start(), found[asked - 1][0].end()
    rest = "".join(
        template[before.end() : word.start()] + kind
        for (before, _), (word, _), kind in zip(found[asked - 1 :], found[asked:], kinds[asked:], strict=False)
    )
    whole = template[:start] + "{question}" + rest + template[found[-1][0].end() :]
    return Layout(whole, template[start:end], reasoning, answer)
