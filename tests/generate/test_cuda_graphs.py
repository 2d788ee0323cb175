"""Functions that a GPU replays from graphs; and what holds for calls that are too large for one."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

import fake_graphs
from dreamtune.generate import cuda_graphs
from dreamtune.generate.cuda_graphs import Captured, _Graph

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def test_a_call_without_a_graph_finds_its_arguments_as_the_last_one_left_them() -> None:
    """Denoising steps that follow each other without a look reveal tokens on the device, in batches of any size."""
    seen: list[torch.Tensor] = []

    def step(ids: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        seen.extend([ids, counts])
        return ids

    captured = Captured(step, most=0, device=torch.device("meta"))  # another device than that of the arguments
    ids, counts = torch.zeros(2, 3), [torch.ones(2), torch.ones(2)]
    for count in counts:
        captured(ids, count)
    captured(ids.clone(), counts[1])
    assert all(tensor.device.type == "meta" for tensor in seen)
    assert seen[2] is seen[0] and seen[3] is not seen[1]
    assert seen[4] is not seen[0] and seen[5] is seen[3]


def test_only_shapes_that_come_often_are_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that begin their blocks each at its own time make passes of many shapes, most of them a few times."""
    told: list[str] = []

    def capture(self: Captured, inputs: list[torch.Tensor]) -> _Graph:
        told.append(f"capture {len(inputs[0])}")
        graph = SimpleNamespace(replay=lambda: told.append(f"replay {len(inputs[0])}"))
        return _Graph(graph, inputs, inputs[0], [None] * len(inputs))

    def direct(ids: torch.Tensor) -> torch.Tensor:
        told.append(f"direct {len(ids)}")
        return ids

    monkeypatch.setattr(Captured, "_capture", capture)
    monkeypatch.setattr(Captured, "_on_device", lambda self, arguments: list(arguments))
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *_, **__: self.clone())
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(cuda_graphs, "KEPT", 2)
    captured = Captured(direct, most=9, device=torch.device("cuda"), rare=2)
    for rows in (1, 2, 1, 10, 1, 1, 2, 2, 1, 3, 3, 3, 1, 2):
        captured(torch.zeros(rows))
    first = ["direct 1", "direct 2", "direct 1", "direct 10", "capture 1", "replay 1", "replay 1", "direct 2"]
    assert told[:8] == first, "the third call is captured, and a large one never"
    more = [
        "capture 2",
        "replay 2",
        "replay 1",
        "direct 3",
        "direct 3",
        "capture 3",
        "replay 3",
        "replay 1",
        "direct 2",
    ]
    assert told[8:] == more, "the graph of two rows was not used for longest, and left"
    told.clear()
    captured = Captured(direct, most=9, device=torch.device("cuda"))
    captured(torch.zeros(1))
    assert told == ["capture 1", "replay 1"], "at once, unless something else is asked for"


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
def test_graphs_of_ever_new_shapes_are_forgotten_with_their_pool(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch fails an assertion where a graph is captured into a pool that no graph uses any more."""
    if device == "cpu":
        fake_graphs.install(monkeypatch)
    monkeypatch.setattr(cuda_graphs, "KEPT", 3)
    factor = torch.ones((), device=device)
    captured = Captured(lambda x: (x * factor).cumsum(0), most=99, device=torch.device(device))
    held = []  # a caller may still hold what the last call returned
    for turn in (1, 2):
        for length in (3, 4, 5, 6, 4, 3):
            factor.fill_(turn + length)  # what the function reads in a replay is what it is then
            given = torch.arange(length, dtype=torch.float32, device=device)
            held = [*held[:1], captured._replay((given,))]
            assert torch.equal(held[-1], (given * factor).cumsum(0))
    assert 0 < len(captured._graphs) <= 3
