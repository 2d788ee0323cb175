"""The losses of several sources add up to the loss of the window."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dreamtune.objective.diffusion import Document, Noise, corrupt
from dreamtune.objective.loss import source_sums
from dreamtune.objective.packing import collate
from dreamtune.shards import limited, sources_of
from dreamtune.train.log import History

NOISE = Noise("elbo", rate=1.0, seed=0, epoch=0, mask_id=9)


def noised(example_id: int, length: int, source: int | None) -> object:
    document = Document(example_id, np.arange(length), 1, 0)
    return corrupt(replace(document, source=source), NOISE)


def test_the_sums_of_sources_are_the_sum_of_the_batch() -> None:
    batch = collate([noised(n, 4 + n, n % 3) for n in range(5)])  # type: ignore[misc]
    losses = torch.arange(1.0, len(batch.positions) + 1)
    sums = source_sums(losses, batch, 3)
    by_hand = [0.0, 0.0, 0.0]
    for loss, weight, document in zip(losses, batch.weights, batch.places()[0], strict=True):
        by_hand[document % 3] += float(loss * weight)
    assert [float(each) for each in sums] == pytest.approx(by_hand)
    assert float(sum(sums)) == pytest.approx(float((losses * batch.weights).sum()))


def test_without_sources_there_is_nothing_to_sum() -> None:
    batch = collate([noised(0, 5, None), noised(1, 5, None)])  # type: ignore[misc]
    assert batch.sources is None and source_sums(torch.ones(8), batch, 0) == []
    assert [float(each) for each in source_sums(torch.ones(8), batch, 2)] == [0.0, 0.0]  # the rehearsal's documents


def test_the_log_has_the_loss_of_each_source() -> None:
    history = History()
    step = {"loss": 1.0, "nll": 1.0, "nll_tokens": 4, "grad_norm": 1.0, "gradients": {}, "tokens": 9, "wall_s": 1.0}
    for number, (a, b) in enumerate([([8.0, 4], [0.0, 0]), ([2.0, 4], [3.0, 1])], 1):
        history.add_step(step=number, warm=True, by_source={"a": a, "b": b}, **step)  # type: ignore[arg-type]
    line = history.line(1.0, 1e-3, 0.0)
    assert (line["loss/a"], line["loss/b"]) == (10 / 8, 3.0)
    first, second = history.summary()["sources"]
    assert first == {"name": "a", "first_loss": 2.0, "last_loss": 0.5, "loss_tokens": 8}
    assert second == {"name": "b", "first_loss": None, "last_loss": 3.0, "loss_tokens": 1}
    assert History(**history.to_state()).summary() == history.summary()
    assert "sources" not in History().summary()


def test_a_limit_takes_rows_from_every_source() -> None:
    """Sources lie one behind the other: the first rows would be those of the first source alone."""
    meta = {"sources": [{"first_id": 0}, {"first_id": 50}, {"first_id": 80}]}
    taken = limited(meta, rows=100, limit=10)
    assert set(sources_of(meta, taken).tolist()) == {0, 1, 2} and len(set(taken.tolist())) == 10
    assert all(limited(meta, rows, None).tolist() == list(range(rows)) for rows in range(1, 200))
    assert limited({}, rows=100, limit=10).tolist() == list(range(10))
