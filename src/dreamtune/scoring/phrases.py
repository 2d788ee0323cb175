"""Phrases that announce an answer: "the answer is", "the correct option is", "D is correct", "42 is the answer"."""

import re
from collections.abc import Iterator, Sequence

MARKUP = r"(?:[*_\t ]|`(?!``)){0,8}"
ADVERB = (
    r"(?:\s{1,3}|,\s?)(?:therefore|thus|then|hence|simply|just|clearly|indeed|now|actually|in fact|finally|of course"
    r"|again|definitely|certainly)\b,?"
)
IS = (
    r"(?:(?:is|are|was|were)(?=n['’]t\b)|(?:is|are|was|were|be|becomes|equals|comes out to(?: be)?|comes to"
    r"|turns out to be|works out to(?: be)?"
    r"|(?:should|must|would|will|has to|can only) be)\b)"
)
VERB = (
    rf"(?:(?:{ADVERB})?\s{{1,3}}{IS}(?:{ADVERB})?(?: (?:given by|equal to|as follows))?|\s{{0,3}}(?:=>|->|[:：=→⇒]))"
    rf"{MARKUP}[:：]?{MARKUP}"
)
OF = r"(?:\s{0,3}\([^()\n]{0,40}\)|,? (?:to|for|of|in|as|that|here|from|we)\b[^.:=\n]{0,80}?)?"
LETTERS = r"\(?[A-J]\)?(?:(?:\s?(?:,|&|and|or)\s?){1,2}\(?[A-J]\)?){0,8}"
GOOD = r"(?:correct|right|best|appropriate|accurate|suitable)"
CHOICE = r"(?:answer|option|choice|alternative|selection|response|statement|letter|pick|one)"
FOREIGN = ("réponse", "respuesta", "resposta", "risposta", "antwort", "lösung", "ответ", "odpowiedź", "답", "정답")
ASIAN = ("答案", "答え", "答", "正解")


class Phrase:
    """A phrase that announces an answer.

    Args:
        words: texts of which one stands in the phrase: where none does, nothing is searched.
        pattern: matches the phrase, in several lines.
        lower: whether the pattern reads the text in lower case.
    """

    def __init__(self, words: Sequence[str], pattern: str, lower: bool = True) -> None:
        self.words, self.lower = words, lower
        self.pattern = re.compile(pattern, re.MULTILINE)

    def matches(self, text: str, lowered: str) -> Iterator[re.Match[str]]:
        """Yield the matches in a text, which is given as it is and in lower case."""
        if any(word in lowered for word in self.words):
            yield from self.pattern.finditer(lowered if self.lower else text)


# What follows one of these is the answer.
BEFORE_ANSWER = (
    # "The answer is", "Final answer:", "the answer to the question is therefore", "Ans.:". The letters come first,
    # because a pattern that begins with them is searched fast.
    Phrase(["ans"], rf"ans(?<!\wans)(?:(?:wer)?s?\b\.?{MARKUP}{OF}{MARKUP}{VERB}|\.(?=\s*\S))"),
    Phrase(
        FOREIGN,
        rf"(?:{'|'.join(FOREIGN)}){MARKUP}(?:finale?|correcte?|correcta)?{MARKUP}(?:\s(?:est|es|é|è|ist|lautet|to|은|는)\b|\s?[:：=—])",
    ),
    Phrase(ASIAN, rf"(?:{'|'.join(ASIAN)})\s?(?:应该|應該)?(?:是|为|為|は|[:：=]){MARKUP}[:：]?"),
    # "### Final answer" on a line of its own.
    Phrase(
        ["answer"],
        r"^(?:#{1,6}[\t ]{0,3}|\*{2}|__|[\t ]{0,4}(?=final))\**(?:the )?(?:final |correct )?answer[^\w\n]{0,6}$",
    ),
    # "A: 7", which is no option as in "A: 7" over "B: 8".
    Phrase(["a:"], r"^(?:[*_]{0,3})a[*_]{0,3}:[*_\t ]{0,8}(?=[^\n]{1,30}$)(?![^\n]*\n\s{0,3}b\s?[:.)])"),
    Phrase(["####"], r"####[\t ]{0,4}(?=[-+$€£¥₹\\({.]{0,3}\s?\d)(?!\d{1,2}[.)]\s+[a-z])"),
    # "The correct option is Paris", "my choice: B".
    Phrase(GOOD[3:-1].split("|"), rf"\b{GOOD}\s{{1,3}}(?:answer\s)?{CHOICE}s?{MARKUP}{VERB}"),
    Phrase(
        ["option", "choice", "selection", "pick"],
        rf"\b(?i:option|choice|selection|pick){MARKUP}(?:\s(?:is|must be|should be)\b|:){MARKUP}"
        rf"(?=(?i:option |choice )?{LETTERS}(?:\W|$))",
        lower=False,
    ),
)
# These hold the answer: "D is correct", "I would choose D", "so, option D."
AROUND_ANSWER = (
    Phrase(
        GOOD[3:-1].split("|"),
        rf"(?<![\w(])(?P<letters>{LETTERS})\)?\s(?:is|are|must be|would be|should be)\s"
        r"(?:therefore |thus |clearly |indeed |both |all )?"
        rf"(?:the\s)?(?:only |most |single )?{GOOD}\b(?!ly)(?!\s(?:if|only|when)\b)",
        lower=False,
    ),
    Phrase(
        ["choos", "chose", "pick", "select", "go with", "going with", "opt for"],
        r"\b(?i:choose|choosing|chose|pick|picking|select|selecting|go with|going with|opt for)\s"
        r"(?i:(?:option|choice|answer|letter)s?\s)?"
        r"(?P<letters>\([A-J]\)|[A-HJ](?:(?:\s?(?:,|&|and)\s?){1,2}[A-J])*)(?=[.,;:!)*\s]{0,4}(?:$|[.,;:!]|because|since|as\b|for\b|\())",
        lower=False,
    ),
    Phrase(["option", "choice"], rf"\b(?i:option|choice)s?\s(?P<letters>{LETTERS})(?=[.!*\t ]{{0,4}}$)", lower=False),
)
# What stands before it is the answer: "42 is the answer."
AFTER_ANSWER = Phrase(
    ["the ", "my ", "our "],
    rf"\s(?:is|are|was|must be|would be)(?:{ADVERB})?\s(?:the|my|our)\s(?:(?:final|correct|right|best|only)\s){{0,2}}"
    r"(?:answer|solution|option|choice|result)\b(?!\s?(?:is|are|to which|:|=))",
)
