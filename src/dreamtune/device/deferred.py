"""Import bitsandbytes without torch's compiler, whose import costs a second, also in jobs that compile nothing.

bitsandbytes decorates some functions with `torch.compile` while it is imported, for devices that have no kernels of
their own; a CPU and a CUDA device have them. Here each of these functions is compiled at its first call.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any

import torch


def compile_at_first_call(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Return what `torch.compile` would return, a function or a decorator; import the compiler at its first call."""
    if function is None:
        return lambda decorated: compile_at_first_call(decorated, **options)

    @cache
    def compiled() -> Callable[..., Any]:
        return torch.compile(function, **options)

    return wraps(function)(lambda *given, **named: compiled()(*given, **named))


@contextmanager
def _deferred() -> Iterator[None]:
    original = torch.compile
    torch.compile = compile_at_first_call  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = original


with _deferred():
    import bitsandbytes as bitsandbytes
