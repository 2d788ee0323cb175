"""Documents cut short for the canaries: the same shape, and masked at the same rates by the same function."""

import numpy as np
import pytest

from dreamtune.canaries.leaks import shape_of
from dreamtune.canaries.short import SHORT, short_lengths, shortened
from dreamtune.objective.diffusion import Document, Noise, Noised, corrupt
from dreamtune.objective.packing import collate


def noised(number: int, length: int, prompt: int = 100, tail: int = 3, rate: float = 0.5) -> Noised:
    return corrupt(Document(number, np.arange(length), prompt, tail), Noise("elbo", rate, 0, 0, mask_id=10**6))


@pytest.mark.parametrize(
    "lengths", [[2048, 2048], [2048, 2100, 90], [2000], [4096, 4096, 4096, 300], [700, 300, 256, 255, 254]]
)
def test_the_shape_stays(lengths: list[int]) -> None:
    batch = collate([noised(number, length) for number, length in enumerate(lengths)], multiple=64)
    small = shortened(batch)
    cut = short_lengths(lengths)
    assert [len(document.input_ids) for document in small.noised] == cut and max(cut) <= SHORT
    assert shape_of(collate(small.noised, multiple=64)) == shape_of(batch)
    assert np.array_equal(np.argsort(lengths), np.argsort(cut))


def test_the_end_of_the_prompt_and_the_beginning_of_the_response_are_left() -> None:
    [document] = shortened(collate([noised(0, 2048, prompt=500, tail=3)])).noised
    tokens = document.document.tokens
    assert len(tokens) == SHORT and tokens[0] == 500 - SHORT // 2 and (np.diff(tokens) == 1).all()
    assert document.document.prompt_tokens == SHORT // 2 and document.document.tail_tokens == 0
    assert document.supervised[SHORT // 2 :].any() and not document.supervised[: SHORT // 2].any()
    [whole] = shortened(collate([noised(0, 2048, prompt=2000, tail=40)])).noised  # the response is shorter than half
    assert whole.document.prompt_tokens == SHORT - 48 and whole.document.tail_tokens == 40


def test_short_documents_and_those_with_nothing_left_to_judge_stay_as_they_are() -> None:
    late = (noised(number, 2048, rate=0.002) for number in range(50))
    few = next(d for d in late if d.supervised.any() and not d.supervised[: 100 + SHORT].any())
    for batch in (collate([noised(0, 200)]), collate([few])):
        assert shortened(batch) is batch
