"""The learning rate's course, and the optimiser's first step."""

import pytest
import torch

from dreamtune.train.optimizer import learning_rate, make_optimizer, skips_unless_finite
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


@pytest.mark.parametrize("numbers", [[1.0, 2.0], [float("nan"), 2.0], [1.0, float("inf")]])
def test_a_step_queued_before_its_numbers_are_read_skips_itself(numbers: list[float]) -> None:
    """The same bits as a plain step where they are finite; weights and state as before where they are not."""
    queued, plain = (torch.nn.Parameter(torch.linspace(-1, 1, 7)) for _ in range(2))
    optimizers = [make_optimizer([weight], settings(), torch.device("cpu")) for weight in (queued, plain)]
    for step in range(3):
        for weight in (queued, plain):
            weight.grad = torch.sin(torch.arange(7.0) + step)
        assert skips_unless_finite(optimizers[0], torch.tensor([1.0, 2.0] if step < 2 else numbers))
        optimizers[0].step()
        if step < 2 or numbers == [1.0, 2.0]:
            optimizers[1].step()
    assert torch.equal(queued, plain)
    states = [optimizer.state_dict()["state"][0] for optimizer in optimizers]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])


def test_other_optimisers_wait_for_the_numbers() -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    assert not skips_unless_finite(torch.optim.SGD([weight], 0.1), torch.ones(2))
