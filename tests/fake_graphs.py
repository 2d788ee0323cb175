"""CUDA graphs without a GPU: a capture records each operation with its tensors, and a replay runs them again in place.

As with real graphs, Python does not run in a replay, numbers that Python had in the capture stay what they were, and
tensors keep their addresses; random numbers come from torch's generator as it is seeded before the replay.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dreamtune.model import attention

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique")  # what a capture forbids
pools: dict[Any, int] = {}  # graphs that use a pool; torch fails an assertion where the last one has left


class Tape(TorchDispatchMode):
    """Records the operations of a capture."""

    def __init__(self, calls: list[Callable[[], None]]) -> None:
        super().__init__()
        self.calls, self.before = calls, dict[int, tuple[Tensor, Tensor]]()
        self.seed = torch.get_rng_state()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, given = func._schema.name.removeprefix("aten::"), kwargs or {}
        if name in WAITS:
            raise RuntimeError(f"{name} waits for the GPU within a capture")
        self._keep(func, args, given)
        out = func(*args, **given)
        aliases = [returned.alias_info for returned in func._schema.returns]
        writes = any(argument.alias_info and argument.alias_info.is_write for argument in func._schema.arguments)
        held = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        if writes:
            self.calls.append(lambda: func(*args, **given))
        elif held and not any(aliases) and not name.startswith(("empty", "new_empty")):

            def again() -> None:
                found = [leaf for leaf in tree_leaves(func(*args, **given)) if isinstance(leaf, Tensor)]
                for to, what in zip(held, found, strict=True):
                    to.copy_(what)

            self.calls.append(again)
        return out

    def _keep(self, func: Any, args: Any, given: Any) -> None:
        """Copy what an operation is about to write to: within a real capture nothing is computed."""
        for number, argument in enumerate(func._schema.arguments):
            value = args[number] if number < len(args) else given.get(argument.name)
            for leaf in tree_leaves(value) if argument.alias_info and argument.alias_info.is_write else ():
                whole = torch.empty(0, dtype=torch.uint8).set_(leaf.untyped_storage())
                if whole.data_ptr() not in self.before:
                    self.before[whole.data_ptr()] = whole, whole.clone()

    def undo(self) -> None:
        for whole, content in self.before.values():
            whole.copy_(content)
        torch.set_rng_state(self.seed)


class FakeGraph:
    """A graph of the operations that were captured."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []
        self.handle: Any = None

    def replay(self) -> None:
        with torch.no_grad():
            for call in self.calls:
                call()

    def pool(self) -> Any:
        return self.handle

    def __del__(self) -> None:
        if self.handle in pools:
            pools[self.handle] -= 1


@contextmanager
def capture(graph: FakeGraph, pool: Any = None, stream: Any = None, **_: Any) -> Iterator[None]:
    pool = object() if pool is None else pool
    assert pools.get(pool, 1) > 0, "no graph uses this pool any more"
    pools[pool] = pools.get(pool, 0) + 1
    graph.handle = pool
    before, FakeStream.current = FakeStream.current, stream
    with Tape(graph.calls) as tape:
        try:
            yield
        except torch.OutOfMemoryError:  # torch fails to end the capture, and stays on its stream
            raise RuntimeError("operation failed due to a previous error during capture")  # noqa: B904, as torch does
    FakeStream.current = before
    tape.undo()


class FakeStream:
    current: Any = None

    def __init__(self, device: Any = None) -> None: ...

    def wait_stream(self, other: Any) -> None: ...


def set_stream(stream: Any) -> None:
    FakeStream.current = stream


def ended(*_: Any) -> None:
    raise RuntimeError("endAllocatePool: not currently recording to mempool_id")


def fake_varlen(
    q: Tensor, k: Tensor, v: Tensor, starts: Tensor, k_starts: Tensor, *_: Any, window_size: Any = (-1, -1)
) -> Tensor:
    """FlashAttention's kernel for packed documents, [T, heads, d], which reads the boundaries on the device."""
    mine, theirs = (
        torch.searchsorted(cu, torch.arange(len(rows), dtype=torch.int32), right=True)
        for cu, rows in ((starts, q), (k_starts, k))
    )
    seen = mine[:, None] == theirs[None, :]
    if window_size[1] >= 0:
        seen = seen & (torch.arange(len(k))[None, :] <= torch.arange(len(q))[:, None] + window_size[1])
    scores = torch.einsum("qhd,khd->hqk", q, k) * q.shape[-1] ** -0.5
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1).nan_to_num()
    return torch.einsum("hqk,khd->qhd", weights, v)


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the fakes in the place of torch's CUDA graphs, and attention by a mask in that of FlashAttention's."""
    pools.clear()
    FakeStream.current = FakeStream()
    handles = iter(range(1, 1000))
    fakes: dict[str, Any] = {
        "Stream": FakeStream,
        "current_stream": lambda: FakeStream.current,
        "set_stream": set_stream,
        "default_generators": {None: torch.default_generator},
        "stream": lambda _: nullcontext(),
        "device": lambda _: nullcontext(),
        "CUDAGraph": FakeGraph,
        "graph": capture,
        "graph_pool_handle": lambda: (0, next(handles)),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", ended, raising=False)
    monkeypatch.setattr(attention, "varlen_attn", fake_varlen)
    monkeypatch.setattr(attention, "FLASH_TYPES", (*attention.FLASH_TYPES, torch.float32))
