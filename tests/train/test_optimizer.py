"""The learning rate's course, and the optimiser's first step."""

import pytest
import torch

from dreamtune.train.optimizer import learning_rate, make_optimizer
from tiny import settings


def test_learning_rate_by_hand() -> None:
    linear = settings(learning_rate=1.0, warmup=0.3, schedule="linear")
    rates = [learning_rate(step, 10, linear) for step in range(1, 11)]
    assert rates == pytest.approx([1 / 4, 2 / 4, 3 / 4, 1, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7])
    constant = settings(learning_rate=1.0, warmup=0.0, schedule="constant")
    assert [learning_rate(step, 3, constant) for step in (1, 2, 3)] == [1, 1, 1]
    cosine = settings(learning_rate=1.0, warmup=0.0, schedule="cosine")
    assert [learning_rate(step, 4, cosine) for step in (1, 3)] == pytest.approx([1, 0.5])


@pytest.mark.parametrize("total", [1, 2, 8])
@pytest.mark.parametrize("warmup", [0.0, 0.03, 1.0])
def test_no_step_is_wasted(total: int, warmup: float) -> None:
    for schedule in ("cosine", "linear", "constant"):
        rates = [learning_rate(s, total, settings(warmup=warmup, schedule=schedule)) for s in range(1, total + 1)]
        assert all(0 < rate <= 1e-2 for rate in rates)


def test_adamw_is_pytorchs() -> None:
    parameter = torch.nn.Parameter(torch.ones(1))
    optimizer = make_optimizer([parameter], settings(learning_rate=0.1), torch.device("cpu"))
    parameter.grad = torch.ones(1)
    optimizer.step()
    assert parameter.item() == pytest.approx(0.9, abs=1e-5)  # the first step of Adam is the learning rate
