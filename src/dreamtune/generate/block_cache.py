"""A KV cache for block-wise decoding: a denoising step runs only a row's current block through the model.

The cache ("stored keys and values" in the settings and the documentation) holds keys and values of every position of
a row, as the last full forward pass computed them. Attention is bidirectional, so those of positions outside the
window depend on the block's tokens: they are exact right after the full pass, and stale by each token revealed since.

**Two kinds of forward pass.** `BlockCache.refresh` is the full pass of rows that begin a block, or whose keys and
values are to be exact again. `BlockCache.window` is a denoising step of one block for each row; the *window* is the
positions that it computes: the block with its neighbours (Fast-dLLM's dual cache) or all from there on (its prefix
cache), see `Row.window`. In a shifted family a window begins one position earlier, since the hidden state there scores
the next token. All tensors that `window` reads and returns have fixed shapes and stay on the device, and no branch
depends on their values: a CUDA graph can capture it.

On the CPU a window is filled up to a multiple of 16 columns, because kernels treat the last few rows of a matrix
product differently, and a row's bits would depend on the number of rows. The extra columns are computed and thrown
away; their keys and values are not stored, so nothing attends to them.
"""

import gc
from typing import Any

import torch
from torch.nn.functional import pad

from dreamtune.generate.choosing import WIDTH, choose_all
from dreamtune.generate.cuda_graphs import GRAPH_ROWS, RARE, Captured
from dreamtune.generate.layers import prepare_for_generation
from dreamtune.generate.packed_rows import forward_packed
from dreamtune.generate.stores import RefreshStore, WindowStore
from dreamtune.model.attention import packs
from dreamtune.model.facts import facts_of
from dreamtune.model.logits import unwrap
from dreamtune.settings.generate import GenerateConfig


def block_cache(model: Any, slots: int, width: int, block: int, settings: GenerateConfig, mask_id: int) -> "BlockCache":
    """Return a cache for the model: the last one, with its CUDA graphs, if it was made with the same arguments.

    Args:
        model: from `dreamtune.model.loading`, with or without an adapter.
        slots, width, block: see `BlockCache`.
        settings: settings of the sampler.
        mask_id: the mask token.
    """
    base, names = unwrap(model), {"order", "ranking", "temperature", "top_p", "top_k"}
    choice = settings.model_dump(include=names) | {"sure": settings.reveals_sure}  # what `choose_all` reads
    wanted = (slots, width, block, choice, mask_id)
    kept = prepare_for_generation(base)
    if kept.cache is None or kept.cache[0] != wanted or kept.cache[1].model is not model:
        kept.cache = None
        gc.collect()  # graphs and cache refer to each other; free their memory before as much is taken again
        kept.cache = wanted, BlockCache(model, slots, width, block, settings, mask_id)
    cache: BlockCache = kept.cache[1]
    return cache


class BlockCache:
    """Keys and values of `slots` rows of `width` positions, which are denoised in blocks of `block` positions.

    In the shapes below, n is the number of rows in a forward pass, L the width, l ≤ L that of the pass, D the model's
    hidden size, w the length of a window, and W that length filled up (w on a GPU).

    Attributes:
        keys, values: for each layer [slots, heads, L, head size].
        visible: [slots, L] boolean, False at padding.
        shift: 1 in a shifted family, else 0: hidden row i − shift scores token i.
        no_noise: [slots, block] float64, the noise of greedy decoding, which nothing reads.
    """

    def __init__(self, model: Any, slots: int, width: int, block: int, settings: GenerateConfig, mask_id: int) -> None:
        base = unwrap(model)
        config, weight = base.config, base.model.embed_tokens.weight
        heads = config.num_key_value_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.model, self.settings, self.mask_id = model, settings, mask_id
        self.slots, self.block, self.device, self.packs = slots, block, weight.device, packs(base)
        self.width, self.shift = width, int(facts_of(config).shifted)
        empty = {"dtype": weight.dtype, "device": weight.device}
        layers = range(config.num_hidden_layers)
        self.keys = [torch.zeros(slots, heads, width, size, **empty) for _ in layers]
        self.values = [torch.zeros(slots, heads, width, size, **empty) for _ in layers]
        # The windows of empty slots are computed too, and a softmax over no visible position would be NaN.
        self.visible = torch.ones(slots, width, dtype=torch.bool, device=weight.device)
        self.no_noise = torch.full((slots, block), 0.5, dtype=torch.float64, device=weight.device)
        self._captured_window = Captured(self._choose_in_all_windows, GRAPH_ROWS, self.device)
        self._captured_reveal = Captured(self._choose_and_reveal, GRAPH_ROWS, self.device)
        self._captured_refresh = Captured(self._refresh_and_choose, GRAPH_ROWS, self.device, rare=RARE)
        prepare_for_generation(base)

    def refresh(
        self,
        slots: torch.Tensor,
        ids: torch.Tensor,
        visible: torch.Tensor,
        boundaries: torch.Tensor,
        scored: torch.Tensor,
    ) -> torch.Tensor:
        """Run rows through the model as a whole, store their keys and values, and return the block's hidden states.

        Args:
            slots: [n], the slot of each row.
            ids: [n, l] token ids of the canvases; what lies beyond l is hidden from the row.
            visible: [n, l] boolean, False at padding.
            boundaries: `attention.row_boundaries` of `visible`, used by a model that packs.
            scored: [n, block], the positions whose hidden states score the block's tokens.

        Returns:
            hidden states [n, block, D].
        """
        self.visible.index_copy_(0, slots, pad(visible, (0, self.width - visible.shape[1])))
        if self.packs:
            hidden = forward_packed(unwrap(self.model), ids, boundaries, stored=RefreshStore(self, slots))  # [n, l, D]
        else:
            everywhere = torch.arange(ids.shape[1], device=self.device).expand_as(ids)  # [n, l]
            hidden = self._forward(ids, everywhere, visible, RefreshStore(self, slots))
        return _rows_at(hidden, scored)

    def window(
        self, slots: torch.Tensor | None, ids: torch.Tensor, positions: torch.Tensor, scored: torch.Tensor
    ) -> torch.Tensor:
        """Run the windows alone: they attend to their own, fresh keys and to the stored ones of all other positions.

        Args:
            slots: [n], the slot of each window; None for all slots, in order.
            ids: [n, w] token ids.
            positions: [n, w], one behind the other; a window longer than its row needs repeats the last position.
            scored: [n, block], the columns of the window whose hidden states score the block's tokens.

        Returns:
            hidden states [n, block, D].
        """
        visible = self.visible if slots is None else self.visible[slots]  # [n, L]
        columns = self._columns(ids.shape[1])
        store = WindowStore(self, slots, positions)
        return _rows_at(self._forward(ids[:, columns], positions[:, columns], visible, store), scored)

    def _columns(self, length: int) -> torch.Tensor:
        """Return the columns [W] of a window to compute: all of them, on a CPU then the last one again as filling."""
        exact = -(-length // WIDTH) * WIDTH if self.device.type == "cpu" else length
        return torch.arange(exact, device=self.device).clamp(max=length - 1)

    def refresh_and_choose(
        self,
        slots: torch.Tensor,
        ids: torch.Tensor,
        visible: torch.Tensor,
        boundaries: torch.Tensor,
        scored: torch.Tensor,
        noise: torch.Tensor,
    ) -> torch.Tensor:
        """Refresh, and return token, confidence and probability of each block position: [3, n, block] float64.

        Args: those of `refresh`, and `noise`, [n, block] float64 inside (0, 1).
        """
        return self._captured_refresh(ids, slots, visible, boundaries, scored, noise)

    def choose_in_window(
        self,
        slots: torch.Tensor | None,
        ids: torch.Tensor,
        positions: torch.Tensor,
        scored: torch.Tensor,
        noise: torch.Tensor,
    ) -> torch.Tensor:
        """Run `window`, and return token, confidence and probability of each block position: [3, n, block] float64.

        Args: those of `window`, and `noise`, [n, block] float64 inside (0, 1).
        """
        if slots is None:
            return self._captured_window(ids, positions, scored, noise)
        return self._choose(self.window(slots, ids, positions, scored), noise)

    def reveal_in_windows(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        scored: torch.Tensor,
        noise: torch.Tensor,
        counts: torch.Tensor,
    ) -> torch.Tensor:
        """Do as `choose_in_window` for all slots, and write into `ids` what `Row.reveal` would reveal.

        Called again with the same `ids`, it takes the next denoising step; nothing has to come back from the GPU first.

        Args: those of `choose_in_window`; on a GPU `ids` stays as it is and a copy there changes. `counts`, [slots], is
            how many of each block's masked positions to reveal.
        """
        return self._captured_reveal(ids, positions, scored, noise, counts)

    def _choose_and_reveal(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        scored: torch.Tensor,
        noise: torch.Tensor,
        counts: torch.Tensor,
    ) -> torch.Tensor:
        chosen = self._choose(self.window(None, ids, positions, scored), noise)
        places = scored + self.shift  # [slots, block], the columns of the block's own tokens
        tokens = ids.gather(1, places)
        masked = tokens == self.mask_id
        surest = chosen[1].masked_fill(~masked, -torch.inf).argsort(dim=1, descending=True, stable=True)
        revealed = (surest.argsort(dim=1) < counts[:, None]) & masked
        ids.scatter_(1, places, torch.where(revealed, chosen[0].long(), tokens))
        return chosen

    def _choose_in_all_windows(
        self, ids: torch.Tensor, positions: torch.Tensor, scored: torch.Tensor, noise: torch.Tensor
    ) -> torch.Tensor:
        return self._choose(self.window(None, ids, positions, scored), noise)

    def _refresh_and_choose(
        self,
        ids: torch.Tensor,
        slots: torch.Tensor,
        visible: torch.Tensor,
        boundaries: torch.Tensor,
        scored: torch.Tensor,
        noise: torch.Tensor,
    ) -> torch.Tensor:
        return self._choose(self.refresh(slots, ids, visible, boundaries, scored), noise)

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor, visible: torch.Tensor, store: Any) -> torch.Tensor:
        """Return the hidden states [n, q, D] of tokens [n, q] at `positions`; `store` gives keys and values."""
        # 0 or −inf, to be added to the attention scores: made once here and not by each layer.
        empty = self.keys[0].new_zeros(())
        mask = empty.masked_fill(~visible, -torch.inf)[:, None, None, :].expand(-1, 1, ids.shape[1], -1)  # [n, 1, q, L]
        hidden: torch.Tensor = (
            unwrap(self.model)
            .model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, stored=store)
            .last_hidden_state
        )
        return hidden

    def _choose(self, hidden: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Return `choose_all` of the blocks' hidden states [n, block, D]: [3, n, block] float64."""
        chosen = choose_all(self.model, hidden.flatten(0, 1), noise.flatten(), self.settings, self.mask_id)
        return chosen.view(3, -1, self.block)


def _rows_at(hidden: torch.Tensor, scored: torch.Tensor) -> torch.Tensor:
    """Return the hidden states [n, block, D] at the columns `scored`, [n, block], of hidden states [n, q, D]."""
    return hidden.gather(1, scored[:, :, None].expand(-1, -1, hidden.shape[-1]))
