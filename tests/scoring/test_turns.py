"""A completion that goes on to another question is graded on its own answer, and reasoning tags are cut."""

import pytest

from dreamtune.data.template import prompt_lines
from dreamtune.scoring.extraction import answer_part
from dreamtune.scoring.score import is_correct
from dreamtune.scoring.turns import first_turn, without_reasoning
from dreamtune.settings.score import ScoreConfig

MARKER = "the final answer is:"
ANSWERS = {
    "marker": "3 + 4 = 7.\nTherefore, the final answer is: 7",
    "box": "3 + 4 = 7, so $\\boxed{7}$.",
    "words": "The answer is 7.",
    "tag": "<answer>7</answer>",
    "hashes": "3 + 4 = 7\n#### 7",
    "display": "The final answer is:\n$$\n7\n$$",
    "alone": "7",
    "conclusion": "So she has 3 + 4 = 7",
    "what is left": "She has 7 apples left.",
    "one number": "3 + 4 = 7.\nTom has 7 apples.",
    "answer turn": "Q: What is 3 + 4?\nA: 7",
}
INVENTED = "What is 2 + 3?\n2 + 3 = 5\nTherefore, the final answer is: 5 \\boxed{5}"
TURNS = [
    "\n\nQuestion: ", "\nQuestion:\n", "\n\nQ: ", "\nQuestion 2: ", "\n\n**Question:** ", "\n\n### Question\n",
    "\nQuestion (easy): ",
    "\n\nProblem: ", "\nProblem 2: ", "\n\n**Problem 2**\n", "\n\n## Problem 2\n", "\nProblem #3: ",
    "\n\nExercise 4: ", "\n\nTask: ", "\n\nExample 2:\n",
    "\n\nHuman: ", "\n\nUser: ", "\nUser:", "\n<|im_start|>user\n", "<|im_end|>\n<|im_start|>user\n", "<|endoftext|>",
    "</s>", "\n[INST] ",
    "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n", "<end_of_turn>\n<start_of_turn>user\n", "<|user|>\n",
    "\n\n### Instruction:\n", "\n### Input:\n", "\n\n### Human: ", "\n---\nQuestion: ", "\n\n* Question: ",
    "\nquestion: ", "\n\nNext question: ",
    "\n\nHere is another question: ", "\n\nLet's try another problem.\n", "\n\nNow, solve the following problem.\n",
    "\n\nFollow-up question: ",
    "\n\n[Question] ", "\n\nQuestion - ", "\n\n1. Question: ", "\n\nQ.", "\n\nH: ", "\n\nExercise.\n",
    "\n\n== Question ==\n",
    "\nQ2. ", "\n\nuser\n", "\n\n<question>", "\nINSTRUCTION: ",
    "\n\nPregunta: ", "\n\nFrage: ", "\n\n问题：", "\n\nPrompt: ", "\n\n2. What is the sum of two and three?\n",
]  # fmt: skip


@pytest.mark.parametrize("turn", TURNS)
def test_an_invented_question_is_cut_off(turn: str) -> None:
    for name, answer in ANSWERS.items():
        assert is_correct(answer + turn + INVENTED, "7"), name
        assert not is_correct(answer + turn + INVENTED, "5"), name


@pytest.mark.parametrize(
    "turn", [". Question: ", ". Q: ", ".  Human: ", " User: ", " Problem 2: ", " <|im_start|>user\n", ". Exercise 3: "]
)
def test_another_turn_on_the_same_line(turn: str) -> None:
    assert is_correct("Therefore, the final answer is: 7" + turn + INVENTED, "7")


@pytest.mark.parametrize(
    "completion",
    [
        "Question: What is 3 + 4?\nAnswer: 7",
        "Q: What is 3 + 4?\nA: The answer is 7.",
        "Let us see the problem again.\nProblem: what is 3 + 4?\n3 + 4 makes\nThe final answer is: 7",
        "<|im_start|>assistant\nThe answer is 7.<|im_end|>",
        "Assistant: the answer is 7.",
        "### Response\nThe final answer is: 7",
        "User wants 3 + 4.\nThe answer is 7.",
        "The first answer is 5. Check: 3 + 4 is 7, not 5.\nThe answer is 7.",
        "<|endoftext|>7<|eot_id|>",
        "We answer in two steps.\nQuestion: is it 5?\nNo. The answer is 7.",
        "Human: what is 3+4?\nAssistant: The answer is 7",
        "P = 3 + 4 = 7\nQ = 2\nR = 5\nThe answer is 7.",
        "Given: 3 and 4.\nTask: add.\nAnswer: 7",
        "The question: Tom has 3. Question: how many with 4 more? The final answer is: 7",
    ],
)
def test_the_question_itself_may_be_repeated_first(completion: str) -> None:
    assert is_correct(completion, "7")


def test_the_templates_own_prompt_is_a_stop_text() -> None:
    stops = prompt_lines("Riddle me this >> {question}\nLet's think step by step.\n{reasoning}\nSo it is {answer}")
    assert stops == ["Riddle me this >>", "Let's think step by step."]
    text = "Let's think step by step.\nThe answer is 7.\nRiddle me this >> What is 2 + 3?\nThe answer is 5."
    assert is_correct(text, "5") and is_correct(text, "7", ScoreConfig(stop_texts=stops))
    bare = "The answer is 7.\nWhat is 2 + 3?\nLet's think  step by step.\nThe answer is 5."
    assert is_correct(bare, "7", ScoreConfig(stop_texts=stops))
    assert is_correct(bare, "5", ScoreConfig(stop_texts=stops, cut=False))
    assert prompt_lines("{question} {answer}") == [] and prompt_lines("Q\n{question}\nAnswer: {answer}") == []


def test_without_the_setting_nothing_is_cut() -> None:
    text = "The answer is 7.\n\nQuestion: What is 2 + 3?\nThe answer is 5."
    assert is_correct(text, "5", ScoreConfig(cut=False)) and is_correct(text, "7")
    assert answer_part(text, ScoreConfig(), cut=False) == text


@pytest.mark.parametrize(
    ("completion", "rest"),
    [
        ("<think>maybe 3</think> 4", " 4"),
        ("maybe 3</think> 4", " 4"),
        ("4 <think>or 3", "4 "),
        ("<think>3", ""),
        ("<THINK>3</THINK>4", "4"),
        ("<thinking>3</thinking>4<thinking>5</thinking>", "4"),
        ("<think>a <think>b</think> c</think> d", " d"),
        ("<|begin_of_thought|>3<|end_of_thought|>4", "4"),
        ("[THINK]3[/THINK]4", "4"),
        ("no tags", "no tags"),
    ],
)
def test_reasoning_is_cut(completion: str, rest: str) -> None:
    assert without_reasoning(completion) == rest


def test_reasoning_announces_nothing() -> None:
    assert is_correct("<think>maybe \\boxed{3}. The answer is 3.</think>\nThe answer is 4.", "4")
    assert is_correct("4\n<think>wait, the final answer is: 3", "4")
    assert not is_correct("<think>so the final answer is: 3", "3")


def test_only_what_follows_an_answer_is_cut() -> None:
    text = "Some words. Question: why? More words."
    assert first_turn(text, MARKER) == text
    assert first_turn("", MARKER) == "" and first_turn("\n\n", MARKER) == "\n\n"
