r"""The part of a completion that answers the question: without reasoning tags, and up to where another turn begins.

A base model rarely stops: after its answer it invents a next question and answers that, too. What it invents is cut off
where the template's own prompt or another turn begins, but only once an answer has begun, so that a completion may
repeat its own question first. All in time linear in the text.
"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from dreamtune.scoring.announcements import announces
from dreamtune.scoring.characters import in_lower_case

THINKING = r"think|thinking|thought|thoughts|scratchpad|inner_monologue"
TAG = re.compile(
    rf"(?P<open><(?:{THINKING})>|\[(?:{THINKING})\]|◁think▷|<\|begin_of_thought\|>|<\|channel\|>analysis(?:<\|message\|>)?)"
    rf"|(?P<close></(?:{THINKING})>|\[/(?:{THINKING})\]|◁/think▷|<\|end_of_thought\|>|<\|channel\|>final(?:<\|message\|>)?)",
    re.IGNORECASE,
)
# Blanks, special tokens and the name of the model's own turn, with which a completion may begin.
START = re.compile(r"(?:\s|<\|[^<>|]{1,40}\|>|</?s>|<bos>|(?:assistant|system)\b:?)*")

BEFORE = r"(?<![^\s\d.!?)\]}$*\"'’”>|;。#_~-])"  # what may stand right before the name of a turn
COLON = r"[*_]{0,3}\s{0,3}[:：](?!=)"
QUESTIONS = (
    *(
        "Question",
        "Problem",
        "Exercise",
        "Query",
        "Task",
        "Puzzle",
        "Riddle",
        "Prompt",
        "Instruction",
        "Ques",
        "Prob",
        "Q",
    ),
    *("Pregunta", "Problema", "Frage", "Aufgabe", "Domanda", "Problème", "Exercice", "Pergunta", "Вопрос", "Задача"),
    *("问题", "問題", "题目", "質問", "질문"),
)
OTHERS = (
    *("Example", "Input", "Student", "Teacher", "Customer", "System", "Assistant", "AI", "Bot", "Passage", "Context"),
    *("Response", "H"),
)
NAMES = "|".join(sorted(QUESTIONS, key=len, reverse=True))
KIND = r"(?:(?:Next|New|Another|Follow-?up|Sample|Practice|Bonus|Similar|Additional|Example|Second|Third)\s{1,3})?"
NUMBER = r"(?:\s{0,3}[#№]?\s?\d{1,4}|\s(?:one|two|three|four|five|[A-Z]))?"
LEADING = r"^[\t ]{0,8}[#>*_~=\[(-]{0,8}[\t ]{0,4}(?:\d{1,3}[.)][\t ]{1,3})?[*_]{0,3}"
# After the name at a line's beginning: "Question:", "Question - ", "[Question]", "== Question ==", "Exercise." alone.
ENDING = rf"(?:{COLON}|\]|(?<=[^\W\d]{{2}})[\t ]{{0,3}}(?:[-–—][\t ]|==)|\.[\t ]*$|(?<=^q)\.)"


class Turn:
    """A way in which a turn begins.

    Args:
        words: texts of which one stands in each such beginning: where none does, nothing is searched.
        pattern: matches the beginning, in several lines.
        lower: whether the pattern reads the text in lower case.
        hard: whether it ends the answer whatever stands before, such as an end token or a turn of the user.
    """

    def __init__(self, words: Sequence[str], pattern: str, lower: bool = False, hard: bool = False) -> None:
        self.words, self.lower, self.hard = words, lower, hard
        self.pattern = re.compile(pattern, re.MULTILINE)

    def starts(self, text: str, lowered: str, first: int) -> Iterator[int]:
        """Yield the places after `first` where such a turn begins."""
        searched = lowered if self.lower else text
        if any(word in searched for word in self.words):
            yield from (match.start() for match in self.pattern.finditer(searched, first + 1))


TURNS = (
    Turn(
        ["<|", "<｜"],
        r"<\|(?:endoftext|im_end|eot_id|eom_id|end_of_text|end|eos|end▁of▁sentence|user|human|prompter)\|>|<｜end▁of▁sentence｜>"
        r"|<\|im_start\|>\s{0,3}(?:user|human)|<\|start_header_id\|>\s{0,3}user",
        hard=True,
    ),
    Turn(
        ["</s>", "<eos>", "[EOS]", "_of_turn>", "[INST]"],
        r"</s>|<eos>|\[EOS\]|<end_of_turn>|<start_of_turn>\s{0,3}user|\[INST\]",
        hard=True,
    ),
    Turn(["human", "user"], rf"{BEFORE}(?:human|user)\s?\d{{0,3}}{COLON}", lower=True, hard=True),
    Turn(["# "], r"^#{1,6}\s{1,3}(?:Instruction|Input|Human|User)s?\b", hard=True),
    Turn(QUESTIONS, rf"{BEFORE}{KIND}(?:{NAMES})s?{NUMBER}(?:\s?\([^()\n]{{1,40}}\))?{COLON}"),
    Turn(QUESTIONS, rf"{BEFORE}(?:{NAMES})\s?[#№]?\s?\d{{1,4}}\s?(?:[.)]\s|[*_]{{0,3}}\s?$)"),
    Turn(
        [name.lower() for name in QUESTIONS],
        rf"{LEADING}{KIND.lower()}(?:{NAMES.lower()})s?{NUMBER.lower()}{ENDING}",
        lower=True,
    ),
    Turn(["user", "human"], r"^(?:user|human)[\t ]*$", lower=True),  # of a chat template without its special tokens
    Turn(["#"], rf"^#{{1,6}}\s{{0,3}}{KIND}(?:{NAMES}|Example|Response)s?\b"),
    Turn(OTHERS, rf"{BEFORE}(?:{'|'.join(OTHERS)})s?{NUMBER}{COLON}(?=\s|$)"),
    Turn(
        ["<|im_start|>", "<|start_header_id|>", "<|assistant|>", "<|system|>"],
        r"<\|(?:im_start|start_header_id|assistant|system)\|>",
    ),
    Turn(["<start_of_turn>", "<<SYS>>", "<question>", "<problem>"], r"<start_of_turn>|<<SYS>>|<(?:question|problem)>"),
    Turn(
        ["question", "problem", "exercise", "example"],
        r"^\W{0,4}(?:here(?:'s| is| are)|let(?:'s| us| me)|now|next)\b[^.\n:]{0,40}"
        r"\b(?:another|next|new|similar|following)\b[^.\n:]{0,20}"
        r"\b(?:questions?|problems?|exercises?|examples?)\b",
        lower=True,
    ),
    Turn(
        ["?"],
        r"^[\t ]{0,4}\(?\d{1,3}[.)]\s{1,3}(?:What|How|Find|Calculate|Compute|Solve|Evaluate|Which|If|A|An|The|In)\b"
        r"[^\n?]{4,300}\?[\t ]*$",
    ),
)
MARKUP_LEFT = re.compile(r"(?:^|(?<=\s))[#>*_~|\-–—=]{1,80}\s*$")
# A line that concludes without the word "answer": "So she has 5 left.", "2 + 3 = 5", "The total is 5 dollars."
CONCLUSION = re.compile(
    r"^\W*(?:so|thus|therefore|hence|in total|altogether|total)\b[^\n]*\d|=[^=\n]*\d[^=\n]{0,40}$"
    r"|^(?=.*\b(?:left|total|altogether|in all|remain(?:s|ing)?|needs?|more|costs?|result|value)\b)"
    r"\D*\d[\d.,/]*\D*$",
    re.IGNORECASE,
)
CALCULATED = re.compile(r"=\s{0,3}\\?[$€£]?\s?-?\d")
ONLY_NUMBER = re.compile(r"\W*\d[\d.,/]*\W*")
ONE_NUMBER = re.compile(r"[^\d?]*\d[\d.,/]*[^\d?]*")
MAX_ANSWER_LINE = 60  # characters of a line that may be an answer and nothing else


def without_reasoning(completion: str) -> str:
    """Return the completion without `<think>…</think>`; unclosed it reaches to the end, unopened from the beginning.

    >>> without_reasoning("<think>3?</think> 4"), without_reasoning("3? </think> 4"), without_reasoning("4 <think>3?")
    (' 4', ' 4', '4 ')
    """
    kept: list[str] = []
    end, thinking = 0, False
    for tag in TAG.finditer(completion):
        if tag["open"] and not thinking:
            kept.append(completion[end : tag.start()])
        elif tag["close"] and not thinking:
            kept.clear()
        thinking, end = tag["open"] is not None, tag.end()
    return "".join(kept) if thinking else "".join(kept) + completion[end:]


def first_turn(text: str, marker: str, stops: Sequence[str] = ()) -> str:
    r"""Return the text up to where another turn begins, once an answer has begun.

    Args:
        text: a completion without its reasoning.
        marker: the text that announces an answer.
        stops: texts with which another prompt begins, such as the lines of the template's prompt.

    >>> first_turn("The answer is 7.\n\nQuestion: What is 2 + 3? The answer is 5.", "the final answer is:")
    'The answer is 7.'
    >>> first_turn("Question: What is 3 + 4?\nAnswer: 7", "the final answer is:")
    'Question: What is 3 + 4?\nAnswer: 7'
    """
    lowered = in_lower_case(text)
    first = START.match(text).end()  # type: ignore[union-attr]  # it matches the empty text, too
    begun = announces(text, lowered, marker)
    end = len(text)
    for turn in (*TURNS, *(_literally(stop) for stop in stops)):
        for start in turn.starts(text, lowered, first):
            if start >= end:
                break
            if turn.hard or start > begun or _concludes(text, first, start):
                end = start
                break
    return MARKUP_LEFT.sub("", text[:end]).rstrip() if end < len(text) else text


@lru_cache(maxsize=64)
def _literally(stop: str) -> Turn:
    begins = r"(?<!\w)" if stop[:1].isalnum() else ""
    return Turn([stop.split()[0]], begins + r"\s{1,8}".join(map(re.escape, stop.split())))


def _concludes(text: str, first: int, end: int) -> bool:
    """Whether the line before `end` concludes: by its words, by the one number in it, or because it is all there is."""
    before = text[max(first, end - 400) : end]
    said = before.rstrip(" \t\r\n-–—=_*#")
    line = said.rpartition("\n")[2].strip()
    if ONLY_NUMBER.fullmatch(line) or (CALCULATED.search(said) and ONE_NUMBER.fullmatch(line)):
        return True
    if not line or "\n" not in before[len(said) :]:
        return False
    alone = end - first <= MAX_ANSWER_LINE and "\n" not in said and len(line.split()) <= 4
    return (alone and not re.search("[?:]", line)) or CONCLUSION.search(line) is not None
