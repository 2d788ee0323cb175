"""The template's three parts: joined they are the template, and only the answer's part introduces the answer."""

import pytest

from dreamtune.data.template import render_answer, render_prompt, render_reasoning, render_segments, split_template
from dreamtune.settings.data import DataConfig

NOTEBOOK = DataConfig(files=["x"]).template
BARE = "Q: {question}\nA: {answer}!"


def test_parts_of_the_notebooks_template() -> None:
    prompt, reasoning, answer = split_template(NOTEBOOK)
    assert prompt == "Question: {question}\n\nLet's think step by step.\n"
    assert reasoning == "{reasoning}"
    assert answer == "\n\nTherefore, the final answer is: {answer}"


def test_without_reasoning_the_prompt_ends_before_the_answer() -> None:
    assert split_template(BARE) == ("Q: {question}\nA: ", "", "{answer}!")
    assert render_reasoning(BARE, "never shown") == ""


@pytest.mark.parametrize("template", [NOTEBOOK, BARE])
def test_parts_join_to_the_filled_template(template: str) -> None:
    parts = render_prompt(template, "1+1?") + render_reasoning(template, "because") + render_answer(template, "2")
    assert parts == template.format(question="1+1?", reasoning="because", answer="2")


def test_braces_and_placeholders_in_a_row_are_left_alone() -> None:
    assert render_prompt(BARE, "what is {answer} in \\frac{1}{2}?") == "Q: what is {answer} in \\frac{1}{2}?\nA: "
    assert render_answer(BARE, "{question}") == "{question}!"


@pytest.mark.parametrize("template", [NOTEBOOK, BARE])
def test_rows_are_rendered_alike_alone_and_together(template: str) -> None:
    questions, reasonings, answers = ["a", "{reasoning}"], ["b", ""], ["c", "{question}"]
    together = render_segments(template, questions, reasonings, answers)
    assert together == [
        *(render_prompt(template, text) for text in questions),
        *(render_reasoning(template, text) for text in reasonings),
        *(render_answer(template, text) for text in answers),
    ]
