"""The answers of a causal model: token by token from left to right, with transformers' own cache of keys and values.

Prompts are padded on the left to a width that follows from their own length alone, and only prompts of one width share
a batch. The padding is hidden, and positions count from the first token of the prompt. A row that has written an end
token leaves the batch, and the cache with it. Under a chat template the turn's end is one, too: behind it an untuned
model would write the next turn.

**What is guaranteed.** A row's tokens are a function of its logits, the settings and the keys of its request; the noise
of a token depends on seed, request and place alone. In float32 on an Intel CPU a row has the same logits alone and in
any batch, hence the same tokens; bfloat16 and GPUs round by the size of a batch, as with the sampler of diffusion
models (`sampler`).
"""

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from dreamtune.errors import UserError
from dreamtune.generate.canvases import shared_widths
from dreamtune.generate.choosing import next_tokens
from dreamtune.generate.row import TOKEN, Answer, Request
from dreamtune.model.logits import apply_head, unwrap
from dreamtune.model.nonfinite import first_nonfinite
from dreamtune.noise import open_uniforms
from dreamtune.settings.generate import GenerateConfig


@dataclass
class Written:
    """An answer that is being written: its noise, and its tokens so far."""

    index: int  # of the request
    request: Request
    noise: np.ndarray  # [max_new_tokens] float64 inside (0, 1)
    tokens: list[int] = field(default_factory=list)
    seconds: float = 0.0

    def answer(self, ends: Collection[int]) -> Answer:
        """Return the answer: each of its tokens took one forward pass. One of the tokens `ends` ends it."""
        count = len(self.tokens)
        ended = self.tokens[-1] in ends
        return Answer(self.request, self.tokens, list(range(count)), ended, count, count, self.seconds)


def write_on(model: Any, requests: Sequence[Request], settings: GenerateConfig) -> Iterator[tuple[int, Answer]]:
    """Yield (index of the request, its answer) as batches are finished; up to `settings.batch_size` run together.

    The model is put into evaluation mode.

    Args:
        model: a causal model from `dreamtune.model.loading`, with or without an adapter.
        requests: prompts, with the keys of their noise.
        settings: `max_new_tokens`, `temperature`, `top_p`, `top_k`, `seed` and `batch_size` are used here.

    Raises:
        UserError: a bidirectional model, an empty prompt, a model without an end token, or scores that are NaN or
            infinite.
    """
    config = unwrap(model).config
    if not config.is_causal:
        raise UserError(
            "the model attends both ways and cannot write from left to right; set model.attention to causal"
        )
    if config.eos_token_id is None:
        raise UserError("the model names no eos_token_id; set it in its config.json")
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    waiting = []
    for index, request in enumerate(requests):
        if not request.prompt:
            raise UserError(f"prompt {index} is empty and has no beginning token, so nothing scores its first token")
        places = np.arange(settings.max_new_tokens)
        noise = open_uniforms(settings.seed, TOKEN, request.example, request.sample, places)
        waiting.append(Written(index, request, noise))
    model.eval()
    widths = shared_widths([len(request.prompt) for request in requests], next(model.parameters()).device)
    for width, indices in widths.items():
        rows = [waiting[index] for index in indices]
        for first in range(0, len(rows), settings.batch_size):
            batch = rows[first : first + settings.batch_size]
            write_batch(model, batch, width, settings, ends)
            yield from ((row.index, row.answer(ends)) for row in batch)


@torch.inference_mode()
def write_batch(model: Any, rows: Sequence[Written], width: int, settings: GenerateConfig, ends: Sequence[int]) -> None:
    """Write the answers of some rows, whose prompts are padded to `width` tokens, into their `tokens`."""
    base = unwrap(model)
    ids, visible = (torch.from_numpy(array).to(base.device) for array in padded_prompts(rows, width, ends[0]))
    cache, places = DynamicCache(config=base.config), (visible.long().cumsum(dim=1) - 1).clamp_min(0)  # [B, W]
    # Each query sees itself, padding too, which would else see nothing at all: softmax over nothing is NaN.
    own = torch.eye(width, dtype=torch.bool, device=base.device)
    mask = (visible[:, None] & torch.ones_like(own).tril() | own)[:, None]  # [B, 1, W, W]
    active, place = list(rows), 0
    while True:
        started = time.perf_counter()
        forward = partial(
            base.model,
            input_ids=ids,
            attention_mask=mask,
            position_ids=places,
            past_key_values=cache,
            use_cache=True,
        )
        logits = apply_head(base, forward().last_hidden_state[:, -1])  # [B, V]
        noise = torch.tensor([row.noise[place] for row in active], dtype=torch.float64, device=base.device)
        tokens = next_tokens(logits, noise, settings)  # [B]
        found = torch.stack([tokens, logits.isfinite().all(dim=-1).long()]).cpu()  # waits for the GPU once
        if not bool(found[1].all()):
            where = first_nonfinite(model, partial(forward, past_key_values=None, use_cache=False))
            raise UserError(f"the model's scores are not finite, so no token can be chosen: {where}")
        spent = (time.perf_counter() - started) / len(active)
        for row, token in zip(active, found[0].tolist(), strict=True):
            row.tokens.append(token)
            row.seconds += spent
        place += 1
        going = [number for number, row in enumerate(active) if row.tokens[-1] not in ends]
        if not going or place == settings.max_new_tokens:
            return
        if len(going) < len(active):
            active, kept = [active[number] for number in going], torch.tensor(going, device=base.device)
            cache.batch_select_indices(kept)
            tokens, visible, places = tokens[kept], visible[kept], places[kept]
        ids, places = tokens[:, None], places[:, -1:] + 1
        visible = torch.cat([visible, visible.new_ones(len(active), 1)], dim=1)
        mask = visible[:, None, None]  # [B, 1, 1, W + place]


def padded_prompts(rows: Sequence[Written], width: int, padding: int) -> tuple[np.ndarray, np.ndarray]:
    """Return prompts that are padded on the left, [B, W] int64, and where their tokens stand, [B, W] bool."""
    ids, visible = np.full((len(rows), width), padding, np.int64), np.zeros((len(rows), width), bool)
    for number, row in enumerate(rows):
        first = width - len(row.request.prompt)
        ids[number, first:], visible[number, first:] = row.request.prompt, True
    return ids, visible
