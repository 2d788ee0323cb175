"""Functions that a GPU replays from graphs; and what holds for calls that are too large for one."""

import torch

from dreamtune.generate.cuda_graphs import Captured


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
