"""Functions that a GPU replays from graphs; and what holds for calls that are too large for one."""

import pytest
import torch

import fake_graphs
from dreamtune.generate import cuda_graphs
from dreamtune.generate.cuda_graphs import Captured

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
