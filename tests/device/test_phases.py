"""The seconds of a job by phase: nested phases are not counted twice, and the sum is the time since its start."""

import time

import psutil
import pytest
import torch

from dreamtune.device import phases
from dreamtune.device.compiler import set_compiler


class Clock:
    """A clock that goes on only when a test says so."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    monkeypatch.setattr(phases, "process_s", lambda: 7.0)
    phases.begin()
    return clock


def test_inner_phases_are_not_counted_in_outer_ones(clock: Clock) -> None:
    clock.now += 1
    with phases.phase("loading"):
        clock.now += 2
        with phases.phase("compiling"):
            clock.now += 4
        clock.now += 8
    clock.now += 16
    assert phases.seconds() == {"imports": 7.0, "work": 17.0, "loading": 10.0, "compiling": 4.0}


def test_a_phase_ends_with_an_exception(clock: Clock) -> None:
    @phases.phase("loading")
    def fails() -> None:
        clock.now += 2
        raise ValueError

    for _ in range(2):
        with pytest.raises(ValueError):
            fails()
    clock.now += 1
    assert phases.seconds() == {"imports": 7.0, "loading": 4.0, "work": 1.0}


def test_the_age_of_a_process() -> None:
    assert phases.process_s() == pytest.approx(time.time() - psutil.Process().create_time(), abs=2)


def test_the_compiler_is_a_phase(clock: Clock) -> None:
    """Also where a backward pass is compiled on a thread of autograd."""
    set_compiler()
    set_compiler()  # registers nothing twice

    def slow(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        clock.now += 3
        return graph

    torch.compile(lambda x: x + 1, backend=slow)(torch.ones(2))
    assert phases.seconds() == {"imports": 7.0, "work": 0.0, "compiling": 3.0}
