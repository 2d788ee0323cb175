"""CUDA graphs of whole micro-batches: forward pass, loss and backward pass are launched by one call.

A micro-batch of a small model takes a GPU less time than the CPU needs to launch its thousands of kernels one by one.
A captured graph launches them all at once, but always for the same shapes. So micro-batches are padded to few shapes
(`BatchShape.of`), which changes neither loss nor gradient: padding tokens are documents by themselves, to which no
other attends, and padded targets have the weight 0. Gradients are added in place, and each replay draws new dropout
from torch's generator, which is seeded before it.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dreamtune.objective.packing import GPU_MULTIPLE, Batch

KEPT = 32  # graphs held at a time; the one that was not used for longest leaves
# Sizes between a power of two and the next: tokens are padded by at most 9 %, 4 % on average, supervised tokens by at
# most a half, a fifth on average, for which the head alone computes more: by its operations below a hundredth of a
# small model's step (not measured). A new shape costs as much as ten steps, so that finer sizes lose more than they
# save in runs of up to 5,000 steps.
TOKEN_SIZES, TARGET_SIZES = 10, 2
DOCUMENTS = 8  # their number is padded to a multiple; empty documents cost nothing

Step = Callable[[Batch, Tensor], Tensor]  # (micro-batch, loss tokens of its window) to its sums


class BatchShape(NamedTuple):
    """The sizes on which a graph depends, and the width of its attention."""

    tokens: int  # T of the packed row
    documents: int  # padding included
    targets: int  # N, supervised tokens
    right_context: int | None = None  # of the attention, see `objective.annealing`

    @classmethod
    def of(cls, batch: Batch, longest: int) -> "BatchShape":
        """Return the shape to which a micro-batch is padded.

        Args:
            batch: with at least one supervised token.
            longest: most tokens of a document; padding is cut into documents of at most this length.
        """
        length, documents = len(batch.input_ids), len(batch.boundaries) - 1
        tokens = padded(length, TOKEN_SIZES)
        documents += math.ceil((tokens - length) / longest)
        targets = min(padded(len(batch.positions), TARGET_SIZES), tokens)
        return cls(tokens, math.ceil(documents / DOCUMENTS) * DOCUMENTS, targets, batch.right_context)


def padded(count: int, sizes: int) -> int:
    """Return the next larger of the sizes, of which there are about `sizes` from a power of two to the next.

    All are multiples of GPU_MULTIPLE, 64.

    >>> [padded(count, sizes=10) for count in (1, 1000, 4097, 5700, 8192)]
    [64, 1024, 4480, 6016, 8192]
    """
    if count <= GPU_MULTIPLE:
        return GPU_MULTIPLE
    below = 2 ** (count.bit_length() - 1)
    step = max(1, below // sizes // GPU_MULTIPLE) * GPU_MULTIPLE
    return min(below + math.ceil((count - below) / step) * step, 2 * below)


class Padded:
    """The tensors of one shape, at fixed addresses, into which micro-batches are copied.

    Args:
        shape: of the tensors.
        longest: most tokens of a document.
        device: of the tensors.
    """

    def __init__(self, shape: BatchShape, longest: int, device: torch.device) -> None:
        def zeros(size: int, kind: torch.dtype) -> Tensor:
            return torch.zeros(size, dtype=kind, device=device)

        self.shape = shape
        self.batch = Batch(
            noised=(),
            starts=(),
            input_ids=zeros(shape.tokens, torch.int64),
            position_ids=zeros(shape.tokens, torch.int64),
            boundaries=zeros(shape.documents + 1, torch.int32),
            max_length=longest,
            positions=zeros(shape.targets, torch.int64),
            targets=zeros(shape.targets, torch.int64),
            weights=zeros(shape.targets, torch.float32),
            elbo_weights=zeros(shape.targets, torch.float32),
            sources=zeros(shape.targets, torch.int64),
            right_context=shape.right_context,
        )
        self.loss_tokens = torch.ones((), device=device)
        # Padded targets read rows that differ: gradients of one row would be added one after the other.
        self._spread = torch.arange(shape.targets, device=device) % shape.tokens
        self._ends = longest * torch.arange(1, shape.documents + 1, dtype=torch.int32, device=device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.sums: Tensor | None = None  # that the graph writes
        self.met = False  # whether a micro-batch of this shape has run, so that all its kernels are compiled

    def fill(self, batch: Batch, loss_tokens: int) -> None:
        """Copy a micro-batch of this shape or smaller into the tensors, without waiting for the GPU."""
        to, length, targets = self.batch, len(batch.input_ids), len(batch.positions)
        names = ["input_ids", "position_ids", "positions", "targets", "weights", "elbo_weights"]
        names += ["sources"] if batch.sources is not None else []  # those of padding have the weight 0
        for kind in (torch.int64, torch.float32):  # one call for all tensors of a type
            pairs = [(getattr(to, name), getattr(batch, name)) for name in names]
            pairs = [(held, given) for held, given in pairs if held.dtype == kind]
            torch._foreach_copy_([held[: len(given)] for held, given in pairs], [given for _, given in pairs])
            torch._foreach_zero_([held[len(given) :] for held, given in pairs])
        to.positions[targets:].copy_(self._spread[targets:])
        known = len(batch.boundaries)
        to.boundaries[:known].copy_(batch.boundaries)
        ends = (self._ends[: len(to.boundaries) - known] + length).clamp_max(self.shape.tokens)
        to.boundaries[known:].copy_(ends)
        self.loss_tokens.fill_(float(loss_tokens))


@dataclass
class Graphs:
    """Runs micro-batches: the first of a shape as it is, which compiles its kernels, later ones by replaying a graph.

    Args:
        step: runs a micro-batch forward and backward and adds to the gradients; it must launch the same kernels
            whatever the tensors hold, and read nothing back to the CPU.
        weights: the trained weights; their gradients are allocated once and stay where they are.
        longest: most tokens of a document.
        device: a GPU.
    """

    step: Step
    weights: Sequence[nn.Parameter]
    longest: int
    device: torch.device

    def __post_init__(self) -> None:
        self._padded: dict[BatchShape, Padded] = {}
        self._stream, self._pool = torch.cuda.Stream(self.device), (0, 0)  # chosen with the first graph
        self._gradients = gradients_in_place(self.weights)

    def __call__(self, batch: Batch, loss_tokens: int) -> Tensor:
        """Run a micro-batch; return its sums, which the next call overwrites.

        Raises:
            torch.OutOfMemoryError: the micro-batch, or its graph, does not fit; the gradients are incomplete.
        """
        kept = all(weight.grad is held for weight, held in zip(self.weights, self._gradients, strict=True))
        assert kept, "a gradient was replaced, and the graphs add to the old one; clear gradients with `zero_`"
        shape = BatchShape.of(batch, self.longest)
        slot = self._padded.pop(shape, None) or Padded(shape, self.longest, self.device)
        self._padded[shape] = slot  # now the last in order
        if len(self._padded) > KEPT:
            del self._padded[next(iter(self._padded))]
        slot.fill(batch, loss_tokens)
        if not slot.met:
            slot.met = True
            return self._as_it_is(slot)
        if slot.graph is None:
            self._capture(slot)
        assert slot.graph is not None and slot.sums is not None
        slot.graph.replay()
        return slot.sums

    def _as_it_is(self, slot: Padded) -> Tensor:
        """Run the step on the stream on which it will be captured, so that its libraries have their memory there."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            sums = self._added(slot)
        current.wait_stream(self._stream)
        return sums

    def _added(self, slot: Padded) -> Tensor:
        """Run the step, and add its gradients to the held ones: all in a few kernels, not one for each weight."""
        try:
            for weight in self.weights:
                weight.grad = None
            sums = self.step(slot.batch, slot.loss_tokens)
            found = [(held, weight.grad) for held, weight in zip(self._gradients, self.weights, strict=True)]
            to, what = zip(*((held, grad) for held, grad in found if grad is not None), strict=True)
            torch._foreach_add_(to, what)
            return sums
        finally:
            for weight, held in zip(self.weights, self._gradients, strict=True):
                weight.grad = held

    def _capture(self, slot: Padded) -> None:
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        if not any(each.graph for each in self._padded.values()):
            self._pool = torch.cuda.graph_pool_handle()  # a pool whose graphs have all left takes no others
        options: dict[str, Any] = {"pool": self._pool, "stream": self._stream, "capture_error_mode": "thread_local"}
        try:  # thread_local: other threads, which copy the next window and watch NCCL, may call CUDA meanwhile
            with torch.cuda.graph(graph, **options):
                slot.sums = self._added(slot)
        except RuntimeError as error:  # the end of a capture that broke off hides why it did
            self._leave(current)
            cause = error.__context__
            raise cause if isinstance(cause, torch.OutOfMemoryError) else error from None
        slot.graph = graph

    def _leave(self, stream: torch.cuda.Stream) -> None:
        """Undo what a capture leaves behind where torch fails to end it.

        It would stay on the capture's stream, beside which the next window is copied without order; its allocator would
        no longer free what is cached; and its generator would refuse dropout outside of a capture.

        Args:
            stream: the current one before the capture.
        """
        torch.cuda.set_stream(stream)
        with suppress(RuntimeError):  # torch has ended it
            torch._C._cuda_endAllocateToPool(self.device.index, self._pool)
        generator = torch.cuda.default_generators[self.device.index]
        with suppress(RuntimeError):
            generator.graphsafe_set_state(generator.clone_state())


def gradients_in_place(weights: Sequence[nn.Parameter]) -> list[Tensor]:
    """Give each weight that has no gradient one of zeros; return all gradients."""
    for weight in weights:
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
    return [weight.grad for weight in weights if weight.grad is not None]
