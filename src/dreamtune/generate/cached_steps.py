"""Denoising steps from cached keys and values: which rows run as a whole, which in their windows, and what that is."""

import numpy as np
import torch

from dreamtune.generate.block_cache import BlockCache
from dreamtune.generate.canvases import GPU_WIDTH, by_width, canvases, grouped, stop_unless_finite
from dreamtune.generate.row import TOKEN, Row, Special
from dreamtune.model.attention import row_boundaries

Windows = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]  # see `_windows`
MOST_AHEAD = 16  # denoising steps on a GPU between two looks at what they revealed: a row may be finished meanwhile


@torch.inference_mode()
def cached_step(cache: BlockCache, rows: list[Row], special: Special) -> None:
    """Take one denoising step for every row: a full pass for rows that refresh, their windows for the others.

    The windows run first. On a GPU the windows of all slots run, so that every step has the same shape. What this
    writes into slots that are empty or about to be refreshed is overwritten by their next full pass.
    """
    begin, within = ([row for row in rows if row.refreshes == whole] for whole in (True, False))
    for length, some in _by_window(cache, within):
        everywhere = takes_all_slots(cache)
        at = {row.slot if everywhere else i: row for i, row in enumerate(some)}
        windows = _windows(cache, at, cache.slots if everywhere else len(some), length)
        if everywhere and (steps := steps_ahead(cache, some)) > 1:
            _run_ahead(cache, at, windows, steps)
            continue
        slots = None if everywhere else torch.tensor([row.slot for row in some])
        ids, positions, scored, noise = windows
        _reveal(at, cache.choose_in_window(slots, ids, positions, scored, noise))
    for width, some in by_width(begin, cache.device, cache.width):
        at = dict(enumerate(some))
        _reveal(at, _refresh(cache, at, width, special))


def _refresh(cache: BlockCache, at: dict[int, Row], width: int, special: Special) -> torch.Tensor:
    """Run rows as a whole, and return what `BlockCache.refresh_and_choose` does; `at` numbers the rows."""
    rows = list(at.values())
    canvas, visible = canvases(rows, width, special)
    scored = np.array([_scored(cache, row) for row in rows])
    return cache.refresh_and_choose(
        torch.tensor([row.slot for row in rows]),
        torch.from_numpy(canvas),
        torch.from_numpy(visible.astype(bool)),
        torch.from_numpy(row_boundaries(visible)),
        torch.from_numpy(scored),
        _block_noise(cache, at, len(rows)),
    )


def takes_all_slots(cache: BlockCache) -> bool:
    """Return whether a pass computes the windows of all slots: on a GPU, so that every step has the same shape."""
    return cache.device.type != "cpu"


def steps_ahead(cache: BlockCache, rows: list[Row]) -> int:
    """Return how many denoising steps can be taken without waiting for what they reveal.

    The GPU can then take them one after the other by itself. It must be known beforehand how many positions each
    reveals, and that all stay in their blocks.
    """
    settings = rows[0].settings
    known = settings.temperature == 0 and settings.order != "origin" and not settings.reveals_sure
    plain = settings.neighbours == 0 and settings.cache == "dual" and settings.refresh_steps is None
    whole = all(row.block.end - row.block.start == cache.block for row in rows)
    return min(min(len(row.counts_ahead()) for row in rows), MOST_AHEAD) if known and plain and whole else 1


def _run_ahead(cache: BlockCache, at: dict[int, Row], windows: Windows, steps: int) -> None:
    """Take some denoising steps of all slots on the GPU, then let the rows reveal the same tokens, step by step.

    A row that is finished before leaves the steps that it does not need.
    """
    counts = np.zeros((steps, cache.slots), np.int64)
    for slot, row in at.items():
        counts[:, slot] = row.counts_ahead()[:steps]
    ids, positions, scored, noise = windows
    chosen = [
        cache.reveal_in_windows(ids, positions, scored, noise, torch.from_numpy(count)).clone() for count in counts
    ]
    for step in torch.stack(chosen).cpu():
        _reveal({slot: row for slot, row in at.items() if not row.finished}, step)


def _by_window(cache: BlockCache, rows: list[Row]) -> list[tuple[int, list[Row]]]:
    """Return the rows that share a pass over their windows, with the length of these: on a GPU all of them."""
    lengths = [len(row.window) + cache.shift for row in rows]
    if not takes_all_slots(cache) or not rows:
        return grouped(rows, lengths)
    settings = rows[0].settings
    usual = cache.block + 2 * settings.neighbours + cache.shift
    longest = usual if settings.cache == "dual" else -(-max(lengths) // GPU_WIDTH) * GPU_WIDTH
    return [(min(longest, cache.width), rows)]


def _windows(cache: BlockCache, at: dict[int, Row], count: int, length: int) -> Windows:
    """Return token ids and positions [count, length], scored columns and noise [count, block], of the rows' windows.

    `at` maps a place among the `count` windows to its row; windows at other places hold token 0 at position 0.
    """
    ids = np.zeros((count, length), np.int64)
    positions, scored = np.zeros_like(ids), np.zeros((count, cache.block), np.int64)
    for i, row in at.items():
        start = max(0, row.window.start - cache.shift)
        positions[i] = np.minimum(start + np.arange(length), row.window.stop - 1)
        ids[i] = row.canvas[positions[i]]
        scored[i] = _scored(cache, row) - start
    tokens, places, columns = (torch.from_numpy(array) for array in (ids, positions, scored))
    return tokens, places, columns, _block_noise(cache, at, count)


def _scored(cache: BlockCache, row: Row) -> np.ndarray:
    """Return the positions [block] whose hidden states score the row's block; a short block repeats its last."""
    places = np.minimum(np.arange(row.block.start, row.block.start + cache.block), row.block.end - 1)
    scored: np.ndarray = len(row.request.prompt) - cache.shift + places
    return scored


def _block_noise(cache: BlockCache, at: dict[int, Row], count: int) -> torch.Tensor:
    """Return the noise [count, block] of the rows' blocks; `at` as in `_windows`."""
    if cache.settings.temperature == 0:
        return cache.no_noise if count == cache.slots else cache.no_noise[:count]
    noise = np.full((count, cache.block), 0.5)
    for i, row in at.items():
        places = np.arange(row.block.start, row.block.end)
        noise[i, : len(places)] = row.noise(TOKEN, places)
    return torch.from_numpy(noise)


def _reveal(at: dict[int, Row], chosen: torch.Tensor) -> None:
    """Hand each row its tokens, confidences and probabilities of `chosen` [3, count, block]; see `_windows`."""
    tokens, confidence, probability = chosen.cpu().numpy()  # [count, block] each
    for i, row in at.items():
        columns = row.candidates - row.block.start
        stop_unless_finite(confidence[i, columns])
        row.reveal(tokens[i, columns].astype(np.int64), confidence[i, columns], probability[i, columns])
