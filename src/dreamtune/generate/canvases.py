"""Canvases of rows that share a forward pass: their tokens, what the model sees of them, and how wide the pass is."""

from collections.abc import Sequence

import numpy as np
import torch

from dreamtune.generate.choosing import WIDTH
from dreamtune.generate.row import Row, Special

GPU_WIDTH = 64  # on a GPU the widths of passes are multiples of it, so that few graphs are captured


class NotFiniteError(ArithmeticError):
    """A score is NaN or infinite."""


def stop_unless_finite(confidence: np.ndarray) -> None:
    """Raise `NotFiniteError` if a confidence is NaN or infinite, as it is where a position's logits are."""
    if not np.isfinite(confidence).all():
        raise NotFiniteError


def shared_widths(lengths: Sequence[int], device: torch.device) -> dict[int, list[int]]:
    """Return the widths of caches and passes, in ascending order, each with the indices of the rows that share it.

    On a CPU a row's width follows from its length alone, so that its bits do not depend on its neighbours. On a GPU
    they do in any case, and rows share a width whose lengths have the same power of two above them, shorter ones
    first: twelve prompts of twelve lengths are one or two batches there.

    Args:
        lengths: of the rows, in tokens.
        device: that computes them.
    """
    found: dict[int, list[int]] = {}
    for index in sorted(range(len(lengths)), key=lambda number: lengths[number]):
        width = -(-lengths[index] // WIDTH) * WIDTH
        found.setdefault(width if device.type == "cpu" else (width - 1).bit_length(), []).append(index)
    if device.type == "cpu":
        return {width: sorted(some) for width, some in found.items()}
    return {-(-lengths[some[-1]] // GPU_WIDTH) * GPU_WIDTH: some for some in found.values()}


def canvases(rows: list[Row], width: int, special: Special) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows' canvases, padded to `width`, and 1 where the model sees them, both [B, L] int64."""
    # No position attends to what is hidden, so any token will do there.
    ids = np.full((len(rows), width), special.end_id, np.int64)
    visible = np.zeros((len(rows), width), np.int64)
    for i, row in enumerate(rows):
        ids[i, : row.shown], visible[i, : row.shown] = row.canvas[: row.shown], 1
    return ids, visible


def by_width(rows: list[Row], device: torch.device, most: int) -> list[tuple[int, list[Row]]]:
    """Return the rows that share a full pass, with its width: no more than `most`, and enough for what they see.

    On a CPU a row's width follows from what it sees alone, so that its bits do not depend on its neighbours. On a GPU
    all rows share one pass, and widths are few, so that few graphs are captured.
    """
    step = WIDTH if device.type == "cpu" else GPU_WIDTH
    widths = [min(-(-row.shown // step) * step, most) for row in rows]
    if device.type == "cpu" or not rows:
        return grouped(rows, widths)
    return [(max(widths), rows)]


def grouped(rows: list[Row], keys: list[int]) -> list[tuple[int, list[Row]]]:
    """Return the keys in ascending order, each with its rows."""
    return [(key, [row for row, own in zip(rows, keys, strict=True) if own == key]) for key in sorted(set(keys))]
