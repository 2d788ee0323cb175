"""CUDA graphs of a function of tensors.

A forward pass over few positions is so short that the GPU waits for the CPU to launch each kernel. A captured graph
launches all of them at once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

GRAPH_ROWS = 4096  # a forward pass over more positions keeps a GPU busy without a graph
KEPT = 32  # graphs held at a time: of a whole row there is one for each width, see `canvases`
WARM_UP = 3  # calls before the capture, during which kernels are chosen and compiled


class Captured:
    """A function that is replayed on a GPU from a CUDA graph, one graph for each combination of argument shapes.

    The graph is captured at the first call with those shapes. The function must launch the same kernels whatever
    values its arguments hold, and read nothing back to the CPU. The next call overwrites the tensor that a call
    returned. On the CPU, and where the first argument has more than `most` elements, the function is called directly:
    such a forward pass keeps the GPU busy by itself, and a graph would hold its memory.

    Arguments may lie on the CPU: they are copied straight to where the graph reads them. One that is the same tensor as
    in the last call is not copied again, with a graph or without: the function finds it as that call left it, and a
    caller must not change a tensor in place between calls.

    Args:
        function: see above.
        most: elements of the first argument up to which there is a graph.
        device: of the function's arguments.
    """

    def __init__(self, function: Callable[..., torch.Tensor], most: int, device: torch.device) -> None:
        self._function, self._most, self._device = function, most, device
        self._graphs: dict[tuple[torch.Size, ...], _Graph] = {}
        self._pool: Any = None
        self._moved: list[tuple[torch.Tensor, torch.Tensor]] = []  # of the last direct call: as given, on the device

    def __call__(self, *arguments: torch.Tensor) -> torch.Tensor:
        if self._device.type != "cuda" or arguments[0].numel() > self._most:
            return self._function(*self._on_device(arguments))
        with torch.cuda.device(self._device):
            return self._replay(arguments)

    def _on_device(self, arguments: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
        known = {id(given): moved for given, moved in self._moved}
        self._moved = [
            (given, known[id(given)] if id(given) in known else given.to(self._device)) for given in arguments
        ]
        return [moved for _, moved in self._moved]

    def _replay(self, arguments: tuple[torch.Tensor, ...]) -> torch.Tensor:
        shapes = tuple(argument.shape for argument in arguments)
        if shapes not in self._graphs:
            if len(self._graphs) == KEPT:
                self._graphs.clear()  # each holds its output
                self._pool = None  # a pool that no graph uses any more takes no others: torch fails an assertion
            self._graphs[shapes] = self._capture([argument.to(self._device, copy=True) for argument in arguments])
        graph = self._graphs[shapes]
        for i, given in enumerate(arguments):
            if graph.given[i] is not given:
                graph.inputs[i].copy_(given, non_blocking=True)
                graph.given[i] = given
        graph.graph.replay()
        return graph.output

    def _capture(self, inputs: list[torch.Tensor]) -> "_Graph":
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
        return _Graph(graph, inputs, output, [None] * len(inputs))


@dataclass
class _Graph:
    """A captured graph.

    Attributes:
        inputs: the tensors that it reads.
        output: the tensor that it writes.
        given: what the inputs hold, as the caller gave it.
    """

    graph: torch.cuda.CUDAGraph
    inputs: list[torch.Tensor]
    output: torch.Tensor
    given: list[torch.Tensor | None]
