"""CUDA graphs of a function of tensors.

A forward pass over few positions is so short that the GPU waits for the CPU to launch each kernel. A captured graph
launches all of them at once.
"""

from collections.abc import Callable
from typing import Any

import torch

GRAPH_ROWS = 4096  # a forward pass over more positions keeps a GPU busy without a graph
KEPT = 8  # graphs held at a time
WARM_UP = 3  # calls before the capture, during which kernels are chosen and compiled


class Captured:
    """A function that is replayed on a GPU from a CUDA graph, one graph for each combination of argument shapes.

    The graph is captured at the first call with those shapes. The function must launch the same kernels whatever
    values its arguments hold, and read nothing back to the CPU. The next call overwrites the tensor that a call
    returned. On the CPU, and where the first argument has more than `most` elements, the function is called directly:
    such a forward pass keeps the GPU busy by itself, and a graph would hold its memory.
    """

    def __init__(self, function: Callable[..., torch.Tensor], most: int) -> None:
        self._function, self._most = function, most
        self._graphs: dict[tuple[torch.Size, ...], tuple[torch.cuda.CUDAGraph, list[torch.Tensor], torch.Tensor]] = {}
        self._pool: Any = None

    def __call__(self, *arguments: torch.Tensor) -> torch.Tensor:
        if arguments[0].device.type != "cuda" or arguments[0].numel() > self._most:
            return self._function(*arguments)
        with torch.cuda.device(arguments[0].device):
            return self._replay(arguments)

    def _replay(self, arguments: tuple[torch.Tensor, ...]) -> torch.Tensor:
        shapes = tuple(argument.shape for argument in arguments)
        if shapes not in self._graphs:
            if len(self._graphs) == KEPT:
                self._graphs.clear()  # each holds its output
            self._graphs[shapes] = self._capture([argument.clone() for argument in arguments])
        graph, inputs, output = self._graphs[shapes]
        for held, given in zip(inputs, arguments, strict=True):
            held.copy_(given)
        graph.replay()
        return output

    def _capture(self, inputs: list[torch.Tensor]) -> tuple[torch.cuda.CUDAGraph, list[torch.Tensor], torch.Tensor]:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                self._function(*inputs)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            output = self._function(*inputs)
        self._pool = self._pool or graph.pool()
        return graph, inputs, output
