"""How a forward pass writes keys and values into a KV cache, and reads them: all of a row, or those of a window."""

from typing import Protocol

import torch


class StoredKeys(Protocol):
    """A KV cache: `keys` and `values` hold for each layer [slots, heads, L, head size]."""

    keys: list[torch.Tensor]
    values: list[torch.Tensor]


class RefreshStore:
    """The cache during a full pass: each layer stores the keys and values of its rows."""

    def __init__(self, cache: "StoredKeys", slots: torch.Tensor) -> None:
        self._cache, self._slots = cache, slots

    def of_layer(self, number: int) -> "_RefreshLayer":
        """Return the keys and values of one layer."""
        return _RefreshLayer(self._cache.keys[number], self._cache.values[number], self._slots)


class _RefreshLayer:
    """One layer of the cache during a full pass.

    The pass hands in keys and values of [n, heads, l, d] or, with packed rows, [1, heads, n * l, d]. They are stored in
    the rows' slots, and attended to as they are.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, slots: torch.Tensor) -> None:
        self.keys, self.values, self.slots = keys, values, slots

    def update(self, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `attention.Stored`."""
        self._store(self.keys, key)
        self._store(self.values, value)
        return key, value

    def _store(self, stored: torch.Tensor, fresh: torch.Tensor) -> None:
        """Write the first l positions of the rows' slots; those beyond are hidden."""
        rows, heads, size = len(self.slots), fresh.shape[1], fresh.shape[3]
        by_row = fresh.transpose(0, 1).reshape(heads, rows, -1, size).transpose(0, 1)  # [n, heads, l, d]
        stored[:, :, : by_row.shape[2]].index_copy_(0, self.slots, by_row)


class WindowStore:
    """The cache during a window's pass: each layer hands in the window's keys and values, and attends to all."""

    def __init__(self, cache: "StoredKeys", slots: torch.Tensor | None, positions: torch.Tensor) -> None:
        self._cache, self._slots, self._positions = cache, slots, positions

    def of_layer(self, number: int) -> "_WindowLayer":
        """Return the keys and values of one layer, as a copy for the given slots.

        Where all slots take part there is no copy: the window is written into the cache, and again at each step.
        """
        keys, values = self._cache.keys[number], self._cache.values[number]
        if self._slots is not None:
            keys, values = keys[self._slots], values[self._slots]
        return _WindowLayer(keys, values, self._positions)


class _WindowLayer:
    """One layer of the cache during a window's pass.

    The window's keys and values, [n, heads, W, d], replace the stored ones, [n, heads, L, d], at their positions.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, index: torch.Tensor) -> None:
        self.keys, self.values, self.index = keys, values, index  # index: [n, w]

    def update(self, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `attention.Stored`."""
        return self._place(self.keys, key), self._place(self.values, value)

    def _place(self, stored: torch.Tensor, fresh: torch.Tensor) -> torch.Tensor:
        # The last block may be shorter than the window, whose last position is then repeated. Copies can differ in
        # their last bit, so the first is written for all: otherwise the result would depend on write order.
        columns = (self.index - self.index[:, :1])[:, None, :, None]  # [n, 1, w, 1], the first column of each position
        fresh = fresh.gather(2, columns.expand(-1, fresh.shape[1], -1, fresh.shape[3]))
        rows = torch.arange(len(stored), device=stored.device)[:, None]  # [n, 1]
        stored[rows, :, self.index] = fresh.transpose(1, 2)
        return stored
