"""Keys and values of every position, so that a denoising step runs a row's block through the model and not the row.

Attention is bidirectional, so what is stored for a position outside the block belongs to the canvas of the last full
pass: exact right after it, and then as old as the block's tokens that have been revealed since.

**The seam.** `refresh` is the full pass of the rows that begin a block; `window` is one block's step. All that
`window` reads and returns has a fixed shape on the device and nothing in it depends on values, so that it can be
captured. In a shifted family a window begins one position before its block, whose row scores the block's first token.

On the CPU a window is filled up to a multiple of 16 columns: the kernels of matrix products treat the last few rows
of a product apart, and a row's numbers would depend on how many others there are. What fills it up is computed and
thrown away: it is not stored, so nothing attends to it.
"""

import gc
from typing import Any

import torch

from dreamtune.generate.choosing import WIDTH, choose_all
from dreamtune.generate.cuda_graphs import GRAPH_ROWS, Captured
from dreamtune.generate.layers import prepare_for_generation
from dreamtune.generate.packed_rows import pass_packed
from dreamtune.model.attention import packs
from dreamtune.model.facts import facts_of
from dreamtune.model.logits import unwrap
from dreamtune.settings.generate import GenerateConfig


def block_cache(model: Any, slots: int, width: int, block: int, settings: GenerateConfig, mask_id: int) -> "BlockCache":
    """Return the model's last cache if it was made for the same, else a new one: its graphs are worth keeping."""
    base, names = unwrap(model), {"order", "ranking", "temperature", "top_p", "top_k"}
    # What `choose` looks at; of the threshold, only whether there is one.
    choice = settings.model_dump(include=names) | {"threshold": settings.threshold is not None}
    wanted = (slots, width, block, choice, mask_id)
    kept = prepare_for_generation(base)
    if kept.cache is None or kept.cache[0] != wanted or kept.cache[1].model is not model:
        kept.cache = None
        gc.collect()  # it holds itself, by its graphs; its memory must be free before the next takes as much
        kept.cache = wanted, BlockCache(model, slots, width, block, settings, mask_id)
    cache: BlockCache = kept.cache[1]
    return cache


class BlockCache:
    """Room for `slots` rows of `width` positions of one model, of which blocks of `block` positions are denoised.

    Attributes:
        window_length: w, the columns of a window: the block's, and one before it in a shifted family.
        shift: 1 in a shifted family, else 0.
    """

    def __init__(self, model: Any, slots: int, width: int, block: int, settings: GenerateConfig, mask_id: int) -> None:
        base = unwrap(model)
        config, weight = base.config, base.model.embed_tokens.weight
        heads = config.num_key_value_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.model, self.settings, self.mask_id = model, settings, mask_id
        self.slots, self.block, self.device, self.packs = slots, block, weight.device, packs(base)
        self.shift = int(facts_of(config).shifted)
        self.window_length = block + self.shift
        exact = -(-self.window_length // WIDTH) * WIDTH if weight.device.type == "cpu" else self.window_length
        self._columns = torch.arange(exact, device=weight.device).clamp(max=self.window_length - 1)  # [W] of the window
        empty = {"dtype": weight.dtype, "device": weight.device}
        layers = range(config.num_hidden_layers)
        self.keys = [torch.zeros(slots, heads, width, size, **empty) for _ in layers]
        self.values = [torch.zeros(slots, heads, width, size, **empty) for _ in layers]
        # An empty slot that is computed along must see something: softmax over nothing is no number.
        self.visible = torch.ones(slots, width, dtype=torch.bool, device=weight.device)
        self._window = Captured(self._all_windows, GRAPH_ROWS)
        self._whole = Captured(self._all_rows, GRAPH_ROWS)
        prepare_for_generation(base)

    def refresh(
        self,
        slots: torch.Tensor,
        ids: torch.Tensor,
        visible: torch.Tensor,
        boundaries: torch.Tensor,
        positions: torch.Tensor,
    ) -> torch.Tensor:
        """Take a full pass, store its keys and values, and return the window's hidden rows [n, W, D].

        Args:
            slots: [n], one for each row.
            ids: [n, L] the canvases.
            visible: [n, L] boolean, False at padding.
            boundaries: `attention.row_boundaries` of it, for a model that packs.
            positions: [n, w] of the window.
        """
        self.visible.index_copy_(0, slots, visible)
        if self.packs:
            hidden = pass_packed(unwrap(self.model), ids, boundaries, stored=_Refresh(self, slots))  # [n, L, D]
        else:
            everywhere = torch.arange(ids.shape[1], device=self.device).expand_as(ids)  # [n, L]
            hidden = self._forward(ids, everywhere, visible, _Refresh(self, slots))
        index = positions[:, self._columns, None].expand(-1, -1, hidden.shape[-1])  # [n, W, D]
        return hidden.gather(1, index)

    def window(self, slots: torch.Tensor | None, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Run the window alone, against fresh keys of its own and stored ones elsewhere; return [n, W, D].

        Column j scores the block's position j in either family; the columns from `block` on are of no use.

        Args:
            slots: [n]; None for all of them, in order.
            ids: [n, w] the window's tokens.
            positions: [n, w]; a window that reaches over its block's end repeats the last position, and its token.
        """
        visible = self.visible if slots is None else self.visible[slots]  # [n, L]
        columns = self._columns
        return self._forward(ids[:, columns], positions[:, columns], visible, _Window(self, slots, positions))

    def refresh_choices(
        self,
        slots: torch.Tensor,
        ids: torch.Tensor,
        visible: torch.Tensor,
        boundaries: torch.Tensor,
        positions: torch.Tensor,
        noise: torch.Tensor,
    ) -> torch.Tensor:
        """Return what `choose` makes of `refresh`: [3, n, block] float64; `noise` is [n, block]."""
        return self._whole(ids, slots, visible, boundaries, positions, noise)

    def window_choices(
        self, slots: torch.Tensor | None, ids: torch.Tensor, positions: torch.Tensor, noise: torch.Tensor
    ) -> torch.Tensor:
        """Return what `choose` makes of `window`: [3, n, block] float64; `noise` is [n, block]."""
        if slots is None:
            return self._window(ids, positions, noise)
        return self._choose(self.window(slots, ids, positions), noise)

    def _all_windows(self, ids: torch.Tensor, positions: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return self._choose(self.window(None, ids, positions), noise)

    def _all_rows(
        self,
        ids: torch.Tensor,
        slots: torch.Tensor,
        visible: torch.Tensor,
        boundaries: torch.Tensor,
        positions: torch.Tensor,
        noise: torch.Tensor,
    ) -> torch.Tensor:
        return self._choose(self.refresh(slots, ids, visible, boundaries, positions), noise)

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor, visible: torch.Tensor, store: Any) -> torch.Tensor:
        # Added to the scores, as the kernels want it: made once here, not by each layer.
        empty = self.keys[0].new_zeros(())
        mask = empty.masked_fill(~visible, -torch.inf)[:, None, None, :].expand(-1, 1, ids.shape[1], -1)  # [n, 1, q, L]
        hidden: torch.Tensor = (
            unwrap(self.model)
            .model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, stored=store)
            .last_hidden_state
        )
        return hidden

    def _choose(self, hidden: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        rows = hidden[:, : self.block].flatten(0, 1)
        chosen = choose_all(self.model, rows, noise.flatten(), self.settings, self.mask_id)
        return chosen.view(3, -1, self.block)


class _Refresh:
    """What a full pass does with keys and values: each layer's are kept."""

    def __init__(self, cache: BlockCache, slots: torch.Tensor) -> None:
        self._cache, self._slots = cache, slots

    def of_layer(self, number: int) -> "_Kept":
        """Return the part of one layer."""
        return _Kept(self._cache.keys[number], self._cache.values[number], self._slots)


class _Kept:
    """Keys and values of a full pass are stored in the rows' slots and returned as they are.

    They are [n, heads, L, d]; where the rows passed as one, [1, heads, n * L, d].
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, slots: torch.Tensor) -> None:
        self.keys, self.values, self.slots = keys, values, slots

    def update(self, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `attention.Stored`."""
        self.keys.index_copy_(0, self.slots, self._by_row(key))
        self.values.index_copy_(0, self.slots, self._by_row(value))
        return key, value

    def _by_row(self, part: torch.Tensor) -> torch.Tensor:
        return part.transpose(0, 1).reshape(part.shape[1], -1, *self.keys.shape[2:]).transpose(0, 1)


class _Window:
    """What a window's pass does with keys and values: a layer hands in the window's and is given all positions'."""

    def __init__(self, cache: BlockCache, slots: torch.Tensor | None, positions: torch.Tensor) -> None:
        self._cache, self._slots, self._positions = cache, slots, positions

    def of_layer(self, number: int) -> "_Placed":
        """Return the part of one layer: a copy, but where all slots take part, whose windows are fresh each time."""
        keys, values = self._cache.keys[number], self._cache.values[number]
        if self._slots is not None:
            keys, values = keys[self._slots], values[self._slots]
        return _Placed(keys, values, self._positions)


class _Placed:
    """The window's keys and values, [n, heads, W, d], stand in their places among the stored, [n, heads, L, d]."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, index: torch.Tensor) -> None:
        self.keys, self.values, self.index = keys, values, index  # index: [n, w]

    def update(self, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `attention.Stored`."""
        return self._place(self.keys, key), self._place(self.values, value)

    def _place(self, stored: torch.Tensor, fresh: torch.Tensor) -> torch.Tensor:
        # A window that reaches over its block's end repeats the last position. Its copies are computed in other places
        # of the products, and may differ in their last bit: which of them was written last would be left to chance.
        columns = (self.index - self.index[:, :1])[:, None, :, None]  # [n, 1, w, 1], where each position stands first
        fresh = fresh.gather(2, columns.expand(-1, fresh.shape[1], -1, fresh.shape[3]))
        rows = torch.arange(len(stored), device=stored.device)[:, None]  # [n, 1]
        stored[rows, :, self.index] = fresh.transpose(1, 2)
        return stored
