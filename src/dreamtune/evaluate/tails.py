"""Held-out examples with the tails that training appends to a response, by the functions that make its documents."""

from dataclasses import replace

from dreamtune.evaluate.examples import Example
from dreamtune.settings.train import TrainConfig
from dreamtune.train.documents import make_document, tail_length, with_padding

HELD_OUT = -1  # in the place of an epoch, in the key of a tail's length: no training step has it


def with_tail(example: Example, end_id: int, train: TrainConfig, seed: int) -> Example:
    """Return the example with a tail as training appends it, drawn by (seed, example).

    An answer that was cut, and so lacks its end token, gets no tail.

    >>> example = Example(example_id=2, tokens=(5, 6, 9), prompt=1)
    >>> with_tail(example, end_id=9, train=TrainConfig(max_tail=4), seed=0).tokens
    (5, 6, 9, 9, 9)
    """
    if example.tokens[-1] != end_id:
        return example
    key = (seed, HELD_OUT, example.example_id)
    tail = tail_length(*key, train.max_tail, train.long_tail, train.long_tail_share)
    row = {"example_id": example.example_id, "input_ids": example.tokens, "prompt_tokens": example.prompt}
    document = make_document(row | {"complete": True}, tail, end_id, len(example.tokens) + tail)
    tokens = with_padding(document, train.padding_tokens).tokens.tolist()
    return replace(example, tokens=tuple(tokens), tail=tail)
