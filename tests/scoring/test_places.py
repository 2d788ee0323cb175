"""Where an answer stands: the last announcement of any kind, over several lines, in words or by a letter."""

import pytest

from dreamtune.scoring.extraction import answer_part, extract
from dreamtune.scoring.score import is_correct
from dreamtune.settings.score import ScoreConfig

SCORE = ScoreConfig()

LAST = [  # every text announces 3 first and 7 last
    r"\boxed{3} is wrong. Therefore, the final answer is: 7",
    r"The final answer is: 3. No, wait: $\boxed{7}$",
    r"\boxed{3}, but <answer>7</answer>",
    r"<answer>3</answer> Let me check. \boxed{7}",
    r"\boxed{3}. On second thought the answer is 7.",
    "The answer is 3. Let me check. The answer is 7.",
    "Answer: 3\n\nCorrection. Answer: 7",
    "#### 3\nThe answer is: 7",
    "The final answer is: 3\n#### 7",
    r"\boxed{3}" + "\n\n**Final Answer**\n\n7",
    r"I first got \boxed{3}. So 7 is the answer.",
    r"the final answer is: \boxed{3}. Sorry, the final answer is: \boxed{7}",
    "<answer>3</answer> no, <answer>7</answer>",
    r"\boxed{3} \boxed 7",
    r"The answer is 3, I thought; but the correct answer is \boxed{7",
    "<think>\nThe final answer is: 3\n</think>\n\n7",
    "If x = 3 the answer is 3, but here x = 7, so the answer is 7",
    "The answer is not 3 but 7",
    "The answer is not 3, it is 7.",
    "\\boxed{3}\n\nFinal Answer: The final answer is $7$. I hope it is correct.",
]
NOT_ANNOUNCED = [  # words after "answer is" that announce nothing
    r"\boxed{7}. This answer is correct.",
    r"\boxed{7}. The answer is in dollars.",
    "The answer is 7. Hence the answer is not 6.",
    "The answer is 7. The answer is reasonable.",
    r"The answer is \boxed{7}. The answer is boxed above.",
    "The answer is 7. A wrong answer is 3.",
    r"<answer>7</answer> I hope this answer is right.",
    r"\boxed{7} and put it in \boxed{}",
    r"First I write \boxed{answer}, so \boxed{7}",
    r"\boxed{7} (I first thought the answer was different)",
]
LINES = [  # 7 over several lines, after what announces it
    "$$\n7\n$$", "\\[\n7\n\\]", "\n\\[7\\]", "\n\n$$7$$", "\\begin{align*}\n7\n\\end{align*}",
    "\n\\begin{align}\nx &= 3 + 4 \\\\\n&= 7\n\\end{align}",
    "\\begin{equation}\n7\n\\end{equation}", "```\n7\n```", "\n```latex\n7\n```", "\n\n**7**", "\n$7$", "\n\\(7\\)",
    "$$7", "\n\\[\n\\boxed{7}\n\\]",
    "\\begin{gather*}\n7\n\\end{gather*}", "\n\n`7`", "\n$$\nx = 7\n$$\nas we wanted.",
    "```python\n7\n```", "\n$$\n\\begin{array}{l}\n7\n\\end{array}\n$$", "x =\n7", "$\n7\n$", "\\(\n7\n\\)", "…7",
    "\n\\[\n\\begin{aligned}\nx &= 7\n\\end{aligned}\n\\]", "\n> 7",
]  # fmt: skip
ANNOUNCING = [
    "Therefore, the final answer is: ",
    "The answer is:",
    "Answer:",
    "**Answer:**",
    "So the answer is ",
    "## Final answer\n",
    "Final Answer\n",
]
LETTERS = [
    "The correct option is D", "The correct option is (D).", "D is the answer", "D is correct.",
    "(D) is the correct option.", "Option D is correct.",
    "I would choose D.", "I choose option D because it is larger.", "So I pick (D).", "The best choice is D",
    "So the correct choice is: D",
    "The right answer choice is D.", "Thus the answer is option D.", "Therefore, option D.",
    "The correct alternative is D.", "My choice: D",
    "The most appropriate answer is D.", "I'd go with D.", "The answer must be D.", "The correct response is **D**.",
    "Answer: D) Paris",
    "A is wrong. B is too small. Hence D is the right answer.", "The answer is D: Paris", "The correct letter is D",
    "Correct answer: D", "D) Paris",
    "The answer is (D), not (C).", "Both look right, but D is the best option.", "Choice (D) is the correct answer.",
    "The final answer is D", "It must be D.", "So D.", "**D.** Paris", "It's D", "D, because it is larger.",
    "option (d) is correct", "The answer is D (42).", "The answer is definitely D.", "Therefore, statement D is true.",
]  # fmt: skip
POSTPOSED = [
    "7 is the answer",
    "So 7 is the answer.",
    "Thus, 7 is the final answer.",
    "Therefore $7$ is our answer",
    "We see that, hence 7 is the correct answer.",
]
OTHER_LANGUAGES = [
    "答案：7。",
    "答案是7",
    "La réponse est 7.",
    "La respuesta es 7.",
    "Die Antwort lautet 7.",
    "Die Antwort ist 7.",
    "La risposta è 7.",
    "Ответ: 7",
]
SHORTENED = [
    ("The answer is 5, not 6", "5"), ("The answer is 5 rather than 6", "5"), ("The answer is 5 and not 6.", "5"),
    ("the answer is 5 (not 6)", "5"),
    ("the final answer is: 5 apples, which is 2 more than 3", "5"), ("the final answer is: 5 (since 2+3=5)", "5"),
    ("Answer: 5 because 2+3=5", "5"),
    ("The answer is Paris, not London", "Paris"), ("The answer is 5; not 6", "5"),
    ("the final answer is: 5 - not 6", "5"), ("the answer is 5 not 6", "5"),
    ("the final answer is: 5, so he wins", "5"), ("The answer is 5, because 2 and 3 make 5", "5"),
    ("the final answer is: 5. Then 6 follows", "5"),
]  # fmt: skip
NUMBERS = [
    ("There are 10 apples and 5 pears", "5", False), ("between 5 and 6", "6", False), ("from 3 to 5", "5", False),
    ("It is 5 or 6", "6", False),
    ("She has 12 cats and 3 dogs.", "3", False), ("So there are 5 apples left.", "5", True),
    ("Adding up, the total is 42", "42", True),
    ("He had 10 apples and ate 5.", "5", True), ("So x = 5.", "5", True), ("So x = \\frac{3}{4}.", "0.75", True),
    ("It is 3/4.", "0.75", True),
    ("In total $1,234.50.", "1234.5", True), ("That makes 5%", "5", True), ("She needs 2 + 3 = 5 eggs.", "5", True),
    ("so 1 1/2 hours", "1.5", True),
    ("It takes 2 hours and 30 minutes", "30", False), ("5 cm", "5 m", False), ("5 cm", "0.05 m", True),
    ("about 3 \\times 10^5 in all", "300000", True),
]  # fmt: skip
LISTS = [
    (r"\boxed{5},\boxed{6}", "5,6"), (r"\boxed{5} and \boxed{6}", "5 and 6"),
    (r"$\boxed{5}$, $\boxed{6}$ and $\boxed{7}$", "5, 6, 7"),
    (r"$x=\boxed{5}$", "5"), (r"\boxed{5} or \boxed{6}", "{5,6}"), (r"\boxed{5}\text{ and }\boxed{6}", "6, 5"),
    (r"\boxed{5}; \boxed{6}", "5, 6"),
]  # fmt: skip
UNCLOSED = [
    r"$\boxed{5",
    r"\boxed{5",
    r"so \boxed{5 apples",
    r"\boxed{5}{",
    r"\boxed{\boxed{5}",
    r"\fbox{5}",
    r"\framebox{5}",
    r"\boxed{\,5\,}",
    r"\boxed 5",
    r"\boxed{5>",
]


def right(completion: str, reference: str) -> bool:
    """Whether the completion is graded right, with what was compared in the failure's message."""
    found = extract(answer_part(completion, SCORE), SCORE.extractors, SCORE.marker)
    print(repr(completion), found)
    return is_correct(completion, reference)


@pytest.mark.parametrize("completion", [*LAST, *NOT_ANNOUNCED, *POSTPOSED, *OTHER_LANGUAGES])
def test_the_last_announcement_counts(completion: str) -> None:
    assert right(completion, "7")
    assert not right(completion, "3")


@pytest.mark.parametrize("shown", LINES)
def test_a_displayed_answer(shown: str) -> None:
    assert all(right(words + shown, "7") for words in ANNOUNCING)


def test_a_matrix_over_lines() -> None:
    matrix = "\\begin{pmatrix}\n1 & 2 \\\\\n3 & 4\n\\end{pmatrix}"
    for around in ("{}", "\n{}", "$$\n{}\n$$", "A = {}.", "\\[\nA = {}\n\\]\nSo it is."):
        assert right("The final answer is: " + around.replace("{}", matrix), "\\begin{bmatrix}1&2\\\\3&4\\end{bmatrix}")


@pytest.mark.parametrize("completion", LETTERS)
def test_a_letter_is_chosen(completion: str) -> None:
    assert right(completion, "D")
    assert not right(completion, "A") and not right(completion, "B") and not right(completion, "C")


def test_letters_that_are_not_chosen() -> None:
    for text in (
        "Option D is incorrect.",
        "D is not the answer.",
        "A dog is what we choose A point for.",
        "Choices: A) 5 B) 6 C) 7 D) 8",
    ):
        assert not right(text, "D")


def test_several_letters_and_words_are_chosen() -> None:
    assert right("Both B and C are correct.", "B, C") and right("The correct options are A, C and D.", "ACD")
    assert right("The correct option is Paris.", "Paris") and right("So Paris is the answer.", "Paris")


@pytest.mark.parametrize(("completion", "reference"), [*SHORTENED, *LISTS])
def test_what_explains_an_answer_is_no_part_of_it(completion: str, reference: str) -> None:
    assert right(completion, reference)


@pytest.mark.parametrize("completion", UNCLOSED)
def test_boxes_of_all_kinds(completion: str) -> None:
    assert right(completion, "5") and not right(completion, "6")


@pytest.mark.parametrize(("completion", "reference", "correct"), NUMBERS)
def test_the_last_number_where_nothing_is_announced(completion: str, reference: str, correct: bool) -> None:
    assert right(completion, reference) is correct


def test_a_denied_answer_is_none() -> None:
    for text in (
        "The answer is not 5",
        "The answer isn't 5",
        "The answer is 5 or 6",
        "The answer is between 5 and 6",
        "The answer is less than 5",
    ):
        assert not right(text, "5")
