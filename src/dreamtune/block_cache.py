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

from typing import Any

import torch

from dreamtune.checkpoint_format import SHIFTED
from dreamtune.cuda_graphs import Captured
from dreamtune.model import apply_head, unwrap
from dreamtune.sampling import choose, rows_per_block, untempered_probability
from dreamtune.settings.generate import GenerateConfig

GRAPH_ROWS = 4096  # a pass of more positions keeps a GPU busy without a graph
WIDTH = 16  # canvases, and windows on the CPU, are padded to a multiple of this
Choices = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # token, confidence and probability of each position


def block_cache(model: Any, slots: int, width: int, block: int, settings: GenerateConfig, mask_id: int) -> "BlockCache":
    """Return the model's last cache if it was made for the same, else a new one: its graphs are worth keeping."""
    base, wanted = unwrap(model), (slots, width, block, settings, mask_id)
    held = getattr(base, "dreamtune_cache", None)
    if held is None or held[0] != wanted or held[1].model is not model:
        base.dreamtune_cache = None  # its memory is free before the next takes as much
        base.dreamtune_cache = held = (wanted, BlockCache(model, slots, width, block, settings, mask_id))
    cache: BlockCache = held[1]
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
        self.slots, self.block, self.device = slots, block, weight.device
        self.shift = int(base.dreamtune_family in SHIFTED)
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
        on_gpu, greedy = weight.device.type == "cuda", settings.temperature == 0
        self._choose_rows = torch.compile(choose_rows) if on_gpu and greedy else choose_rows

    def refresh(
        self, slots: torch.Tensor, ids: torch.Tensor, visible: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        """Take a full pass, store its keys and values, and return the window's hidden rows [n, W, D].

        Args:
            slots: [n], one for each row.
            ids: [n, L] the canvases.
            visible: [n, L] boolean, False at padding.
            positions: [n, w] of the window.
        """
        self.visible.index_copy_(0, slots, visible)
        everywhere = torch.arange(ids.shape[1], device=self.device).expand_as(ids)  # [n, L]
        hidden = self._forward(ids, everywhere, visible, _Refresh(self, slots))  # [n, L, D]
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
        positions: torch.Tensor,
        noise: torch.Tensor,
    ) -> torch.Tensor:
        """Return what `choose` makes of `refresh`: [3, n, block] float64; `noise` is [n, block]."""
        return self._whole(ids, slots, visible, positions, noise)

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
        positions: torch.Tensor,
        noise: torch.Tensor,
    ) -> torch.Tensor:
        return self._choose(self.refresh(slots, ids, visible, positions), noise)

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor, visible: torch.Tensor, store: Any) -> torch.Tensor:
        mask = visible[:, None, None, :].expand(-1, 1, ids.shape[1], -1)  # [n, 1, q, L]
        hidden: torch.Tensor = (
            unwrap(self.model)
            .model(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=store, use_cache=False)
            .last_hidden_state
        )
        return hidden

    def _choose(self, hidden: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        rows = hidden.flatten(0, 1)  # [n * W, D]
        uniform = torch.nn.functional.pad(noise, (0, hidden.shape[1] - self.block), value=0.5).flatten()  # [n * W]
        at_once = max(WIDTH, rows_per_block(unwrap(self.model).config.vocab_size) // WIDTH * WIDTH)
        parts = [
            self._choose_rows(apply_head(self.model, some), numbers, self.settings, self.mask_id)
            for some, numbers in zip(rows.split(at_once), uniform.split(at_once), strict=True)
        ]
        return torch.stack(
            [torch.cat(part).view(hidden.shape[:2])[:, : self.block].double() for part in zip(*parts, strict=True)]
        )  # one tensor, to be copied at once; a token's number is exact in it


def choose_rows(logits: torch.Tensor, uniform: torch.Tensor, settings: GenerateConfig, mask_id: int) -> Choices:
    """Return `choose`'s token and confidence [N] of logits [N, V], and the token's untempered probability [N].

    The probability is computed only where a threshold asks for it; else it is 0.
    """
    tokens, confidence = choose(logits, uniform, settings, mask_id)
    if settings.threshold is None:
        return tokens, confidence, torch.zeros_like(confidence)
    return tokens, confidence, untempered_probability(logits, tokens, mask_id)


class _Refresh:
    """What the layers take for a cache in a full pass: each hands in its keys and values, which are kept."""

    def __init__(self, cache: BlockCache, slots: torch.Tensor) -> None:
        self.cache, self.slots = cache, slots

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store keys and values [n, heads, L, d], and return them as they are."""
        self.cache.keys[layer_idx][self.slots] = key
        self.cache.values[layer_idx][self.slots] = value
        return key, value


class _Window:
    """What the layers take for a cache in a window's pass: they hand in the window's and are given all positions'."""

    def __init__(self, cache: BlockCache, slots: torch.Tensor | None, positions: torch.Tensor) -> None:
        self.cache, self.slots = cache, slots
        self.index = positions[:, None, :, None]  # [n, 1, w, 1]

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return all keys and values [n, heads, L, d], the window's own [n, heads, W, d] in their places."""
        return self._placed(self.cache.keys[layer_idx], key), self._placed(self.cache.values[layer_idx], value)

    def _placed(self, stored: torch.Tensor, fresh: torch.Tensor) -> torch.Tensor:
        # Without a copy where all slots take part: their windows are computed anew at each step anyhow.
        rows = stored if self.slots is None else stored[self.slots]
        fresh = fresh[:, :, : self.index.shape[2]]  # without what fills the window up
        return rows.scatter_(2, self.index.expand_as(fresh), fresh)
