"""Conversations as people store them: each assistant turn becomes a document.

A document holds the messages up to and including its assistant turn, and none after it: under bidirectional attention
the turn would see them ("thanks, 42 is right").
"""

from collections.abc import Iterator
from dataclasses import dataclass

from dreamtune.chat.messages import Message, is_trained, plain, read_messages

CALLS = ("tool_calls", "function_call")  # what a turn without text may hold instead, if the template writes it


@dataclass(frozen=True)
class Turn:
    """An assistant turn with everything that was said before it: the source of one document.

    Attributes:
        messages: up to and including the assistant's; [] if the cell holds no conversation.
        question: the user's last message before it; None without one.
        answer: text of the turn.
        number: of the turn among the conversation's assistant turns, from 1.
        last: whether no further assistant turn follows.
        problem: the reason why no document can be made of it; empty if one can.
        reasoning: beginning of `answer` that truncation may cut.
        reference: what answers to the turn are graded against; empty for nothing.
    """

    messages: list[Message]
    question: str | None
    answer: str
    number: int = 1
    last: bool = True
    problem: str = ""
    reasoning: str = ""
    reference: str = ""

    @property
    def context(self) -> str:
        """What was said before the user's last message, for people to read."""
        asked = [number for number, message in enumerate(self.messages) if message["role"] == "user"]
        before = self.messages[: asked[-1]] if asked else []
        return "\n\n".join(f"{message['role']}: {message['content']}" for message in before)


def turns_of(cell: str | None, system: str | None = None) -> list[Turn]:
    """Return the assistant turns of a conversation; one with a `problem` if there is none.

    Args:
        cell: the conversation as JSON text.
        system: system prompt, where the conversation brings none.

    >>> import json
    >>> said = [{"from": "human", "value": "6 * 7?"}, {"from": "gpt", "value": "42"}, {"from": "human", "value": "Yes"}]
    >>> [(turn.question, turn.answer, len(turn.messages)) for turn in turns_of(json.dumps(said))]
    [('6 * 7?', '42', 2)]
    >>> turns_of("[]")[0].problem, turns_of('[{"role": "judge", "content": "?"}]')[0].problem
    ('empty_conversation', 'unknown_role')
    """
    messages, problem = read_messages(cell)
    if not problem:
        problem = "no_assistant_turn" if not any(map(is_trained, messages)) else ""
    if problem:
        return [Turn([], None, "", problem=problem)]
    if system is not None and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system}, *messages]
    return list(_turns(messages))


def _turns(messages: list[Message]) -> Iterator[Turn]:
    places = [place for place, message in enumerate(messages) if is_trained(message)]
    for number, place in enumerate(places, 1):
        said = [plain(message) for message in messages[: place + 1]]
        asked = [message["content"] for message in said if message["role"] == "user"]
        question, answer = asked[-1] if asked else None, said[-1]["content"]
        problem = "no_user_turn" if question is None else "" if question.strip() else "empty_question"
        if not problem and not answer.strip() and not any(said[-1].get(name) for name in CALLS):
            problem = "empty_answer"
        yield Turn(said, question, answer, number, number == len(places), problem)
