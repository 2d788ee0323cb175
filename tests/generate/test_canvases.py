"""Which rows share a batch, and how wide it is."""

import torch

from dreamtune.generate.canvases import shared_widths

LENGTHS = [300, 500, 310, 900, 304, 513]


def test_a_cpu_pads_a_row_by_its_own_length_alone() -> None:
    assert shared_widths(LENGTHS, torch.device("cpu")) == {304: [0, 4], 320: [2], 512: [1], 528: [5], 912: [3]}


def test_on_a_gpu_rows_of_many_lengths_share_a_batch() -> None:
    """Six lengths are two batches, and none is twice as wide as its shortest row needs."""
    assert shared_widths(LENGTHS, torch.device("cuda")) == {512: [0, 4, 2, 1], 960: [5, 3]}
