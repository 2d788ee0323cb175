"""The sampler of masked diffusion models: the mask tokens of a canvas are revealed over a number of denoising steps.

A *canvas* is a prompt followed by `max_new_tokens` mask tokens. The model sees those up to `lookahead` beyond the
current block (`Row.shown`); the others are hidden from it like padding. The sampler follows the official one of
Dream (Dream-org, generation_utils.py): time runs along linspace(1, 0.001, steps + 1), and the step from t to s reveals
int(masked · (1 − s/t)) positions, the last step all. It differs on purpose in three points: the number of masked
positions is counted for each row (the official sampler takes the mean over the batch), the mask token is never chosen,
and a row is finished as soon as everything up to its first end token is revealed. A finished row leaves the batch, and
a waiting one enters. With `refresh: block` a row passes through the model as a whole only when it begins a block
(`block_cache.py`).

**What is guaranteed.** A row's tokens are a function of its logits, the settings and the keys of its request. A canvas
on a CPU is padded to a width that follows from its length alone, and only rows of one width share a batch. In float32
on an Intel CPU, where MKL runs in strict mode (`loading.py`), a row therefore has the same logits, to the bit, alone
and in any batch, and hence the same tokens. Other libraries, bfloat16 and GPUs pick other kernels for other batch
sizes: there logits agree up to rounding, and a choice between two nearly equal tokens can turn over; so there rows of
many lengths share a batch (`shared_widths`). Another machine rounds differently.
"""

import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from dreamtune.checks import Check, check
from dreamtune.errors import UserError
from dreamtune.generate.block_cache import block_cache
from dreamtune.generate.cached_steps import cached_step
from dreamtune.generate.canvases import NotFiniteError, by_width, canvases, shared_widths, stop_unless_finite
from dreamtune.generate.choosing import choose_all
from dreamtune.generate.cuda_graphs import GRAPH_ROWS, Captured
from dreamtune.generate.layers import prepare_for_generation
from dreamtune.generate.left_to_right import write_on
from dreamtune.generate.packed_rows import packed_rows
from dreamtune.generate.row import TOKEN, Answer, Request, Row, Special, plan_blocks, reveal_shares
from dreamtune.model.attention import packs, row_boundaries
from dreamtune.model.facts import loaded_as_causal
from dreamtune.model.logits import apply_head, hidden_states, unwrap
from dreamtune.model.nonfinite import first_nonfinite
from dreamtune.noise import INCREMENT
from dreamtune.settings.generate import GenerateConfig

__all__ = ["Answer", "Request", "denoise", "generate", "no_mask_left", "reveal_shares"]


def generate(model: Any, prompts: list[list[int]], settings: GenerateConfig) -> list[list[int]]:
    """Return the new tokens for each prompt, in prompt order, up to and including the first end token.

    The noise is keyed by the prompt's tokens and by the number of equal prompts before it in the list, so that equal
    prompts get different samples.

    Args:
        model: from `dreamtune.model.loading`, with or without an adapter.
        prompts: token ids, including the beginning token where the model has one.
        settings: `samples`, `max_prompts` and `prompts` are not used here.

    Raises:
        UserError: an empty prompt, or a model without a mask or end token.
    """
    seen: dict[tuple[int, ...], int] = {}
    requests = []
    for prompt in prompts:
        repeat = seen[tuple(prompt)] = seen.get(tuple(prompt), -1) + 1
        requests.append(Request(prompt, _fingerprint(prompt), repeat))
    answers: list[list[int]] = [[] for _ in prompts]
    write = write_on if loaded_as_causal(unwrap(model).config) else denoise
    for index, answer in write(model, requests, settings):
        answers[index] = answer.tokens
    return answers


def denoise(model: Any, requests: Sequence[Request], settings: GenerateConfig) -> Iterator[tuple[int, Answer]]:
    """Yield (index of the request, its answer) as answers are finished; up to `settings.batch_size` run together.

    The model is put into evaluation mode.

    Args:
        model: from `dreamtune.model.loading`, with or without an adapter.
        requests: prompts, with the keys of their noise.
        settings: `samples`, `max_prompts` and `prompts` are not used here.

    Raises:
        UserError: an empty prompt, a model without a mask or end token, or scores that are NaN or infinite.
    """
    special, blocks = _check(model, requests), plan_blocks(settings)
    model.eval()
    lengths = [len(request.prompt) + settings.max_new_tokens for request in requests]
    for width, indices in shared_widths(lengths, next(model.parameters()).device).items():
        waiting, active = indices[::-1], list[Row]()
        slots = min(settings.batch_size, len(indices))
        free, cache = list(range(slots))[::-1], None
        if settings.refresh == "block":
            cache = block_cache(model, slots, width, blocks[0].end, settings, special.mask_id)
        while waiting or active:
            while waiting and free:
                index = waiting.pop()
                active.append(Row(index, requests[index], settings, blocks, special, free.pop()))
            start = time.perf_counter()
            try:
                if cache is None:
                    _step(model, active, width, settings, special)
                else:
                    cached_step(cache, active, special)
            except NotFiniteError:
                where = _where_not_finite(model, active, width, special)
                raise UserError(f"the model's scores are not finite, so no token can be chosen: {where}") from None
            for row in active:
                row.seconds += (time.perf_counter() - start) / len(active)
            yield from ((row.index, row.answer()) for row in active if row.finished)
            free += [row.slot for row in active if row.finished]
            active = [row for row in active if not row.finished]


def no_mask_left(answers: Sequence[Answer], mask_id: int) -> Check:
    """Return a hard canary: no token of an answer may be the mask token, be it chosen or never revealed."""
    left = sum(answer.tokens.count(mask_id) for answer in answers)
    total = sum(len(answer.tokens) for answer in answers)
    fault = "the sampler left mask tokens in the answers"
    return check("no_mask_left", left == 0, left, f"0 of {total} answer tokens is the mask token", fault)


@torch.inference_mode()
def _where_not_finite(model: Any, rows: list[Row], width: int, special: Special) -> str:
    """Return in words where NaN or infinity first appears in a pass over the rows' canvases, without a cache."""
    ids, visible = (torch.from_numpy(array).to(unwrap(model).device) for array in canvases(rows, width, special))

    def forward() -> None:
        hidden = hidden_states(model, ids, None if bool(visible.all()) else visible)  # [B, L, D]
        for row, states in zip(rows, hidden, strict=True):
            apply_head(model, states[len(row.request.prompt) + torch.from_numpy(row.candidates).to(states.device)])

    return first_nonfinite(model, forward)


def _step(model: Any, rows: list[Row], width: int, settings: GenerateConfig, special: Special) -> None:
    """Take one denoising step for every row, with the head at the candidate positions only."""
    for narrower, some in by_width(rows, next(model.parameters()).device, width):
        _full_step(model, some, narrower, settings, special)


@torch.inference_mode()
def _full_step(model: Any, rows: list[Row], width: int, settings: GenerateConfig, special: Special) -> None:
    """Take one denoising step for rows that share a forward pass of `width` positions."""
    device = next(model.parameters()).device
    ids, visible = canvases(rows, width, special)
    hidden = _full_pass(model, torch.from_numpy(ids).to(device), visible)  # [B, L, D]

    positions = np.concatenate(
        [i * width + len(row.request.prompt) + row.candidates for i, row in enumerate(rows)]
    )  # [N] of the flat [B * L]
    picked = hidden.flatten(0, 1)[torch.from_numpy(positions).to(device)]  # [N, D]
    greedy = settings.temperature == 0
    noise = np.zeros(len(positions)) if greedy else np.concatenate([row.noise(TOKEN, row.candidates) for row in rows])
    chosen = choose_all(model, picked, torch.from_numpy(noise).to(device), settings, special.mask_id)
    tokens, confidence, probability = chosen.cpu().numpy()  # [N] each
    stop_unless_finite(confidence)
    start = 0
    for row in rows:
        mine = slice(start, start + len(row.candidates))
        row.reveal(tokens[mine].astype(np.int64), confidence[mine], probability[mine])
        start = mine.stop


def _full_pass(model: Any, ids: torch.Tensor, visible: np.ndarray) -> torch.Tensor:
    """Return the hidden states [B, L, D] of canvases [B, L]; row i scores token i.

    `visible` [B, L] is 0 at padding. On a GPU small batches run as a CUDA graph, which is kept with the model.
    """
    if ids.device.type == "cpu":
        return hidden_states(model, ids, None if visible.all() else torch.from_numpy(visible))
    base = unwrap(model)
    kept = prepare_for_generation(base)
    if kept.full_pass is None or kept.full_pass[0] is not model:  # an adapter was put on, or taken off: other weights
        run = partial(packed_rows if packs(base) else _masked_rows, model)
        kept.full_pass = model, Captured(run, GRAPH_ROWS, ids.device)
    seen = row_boundaries(visible) if packs(base) else visible.astype(bool)
    hidden: torch.Tensor = kept.full_pass[1](ids, torch.from_numpy(seen))
    return hidden


def _masked_rows(model: Any, ids: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """Return the hidden states of a forward pass in which a mask hides the padding."""
    return hidden_states(model, ids, visible[:, None, None, :].expand(-1, 1, ids.shape[1], -1))


def _check(model: Any, requests: Sequence[Request]) -> Special:
    """Return the model's special tokens; raise UserError if model or requests cannot be used."""
    config = unwrap(model).config
    for name in ("mask_token_id", "eos_token_id"):
        if getattr(config, name, None) is None:
            raise UserError(f"the model names no {name}; set it in its config.json")
    if config.is_causal:
        raise UserError("the model attends causally, so it cannot fill in masks; `write_on` decodes it")
    for number, request in enumerate(requests):
        if not request.prompt:
            raise UserError(f"prompt {number} is empty and has no beginning token, so nothing scores its first token")
    return Special(config.mask_token_id, config.eos_token_id)


def _fingerprint(prompt: Sequence[int]) -> int:
    """Return a 64-bit hash of a prompt's tokens."""
    bits = np.zeros(1, np.uint64)
    for token in prompt:
        bits = (bits + np.uint64(token + 1)) * INCREMENT
        bits = bits ^ (bits >> np.uint64(29))
    return int(bits[0])
