"""The reference sampler of masked diffusion: a canvas of mask tokens is revealed over a number of steps.

Follows the official Dream sampler (Dream-org, generation_utils.py): time runs along linspace(1, 0.001, steps + 1), and
going from t to s reveals int(masked · (1 − s/t)) positions, at the last step all. It differs on purpose in that the
count is each row's own (the official one takes the batch's mean), the mask token is never chosen, and a row is
finished as soon as everything before its first end token stands: finished rows leave the batch and waiting ones enter.

**What is guaranteed.** A row's tokens are a function of its logits, the settings and its own counters. Its canvas is
padded to a width that depends on nothing but its own length, and only rows of one width share a batch; so on the CPU
its logits, and with them its tokens, are equal to the bit alone and in any batch. A GPU picks other kernels for other
batch sizes: there logits agree to rounding, and a choice between two that are nearly equal can turn over.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from dreamtune.checks import Check, check
from dreamtune.counter_noise import uniforms
from dreamtune.errors import UserError
from dreamtune.model import apply_head, hidden_states, unwrap
from dreamtune.sampling import choose, rows_per_block
from dreamtune.settings.generate import GenerateConfig

LAST_TIME = 1e-3
WIDTH = 16  # canvases are padded to a multiple of this
TOKEN, REVEAL = 0, 1  # what a random number is for
HIDDEN = -1  # in `unmasked_at`: not revealed


@dataclass(frozen=True)
class Request:
    """One answer to make. `example` and `sample` key its noise."""

    prompt: list[int]
    example: int
    sample: int = 0


@dataclass(frozen=True)
class Answer:
    """What came out: `tokens` up to and including the first end token, if there is one.

    Attributes:
        unmasked_at: the step, from 0, at which each of `tokens` was revealed.
        ended: whether the last token is the end token.
        steps: denoising steps until the row was finished, those that revealed nothing included.
        seconds: this row's share of the time of the passes it was in.
    """

    request: Request
    tokens: list[int]
    unmasked_at: list[int]
    ended: bool
    steps: int
    seconds: float


def generate(model: Any, prompts: list[list[int]], settings: GenerateConfig) -> list[list[int]]:
    """Return the new tokens of each prompt, in prompt order, up to and including the first end token.

    The noise of a prompt is keyed by its tokens and by how often the same prompt stood before it in the list.

    Args:
        model: from `dreamtune.model`, with or without an adapter.
        prompts: token ids; the beginning token, where the model has one, stands in them.
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
    for index, answer in denoise(model, requests, settings):
        answers[index] = answer.tokens
    return answers


def denoise(model: Any, requests: Sequence[Request], settings: GenerateConfig) -> Iterator[tuple[int, Answer]]:
    """Yield (index of the request, its answer) as rows finish, with `settings.batch_size` of them under way.

    Raises what `generate` raises. The model is put into evaluation mode.
    """
    special = _check(model, requests)
    schedule = reveal_shares(settings.steps or settings.max_new_tokens)
    model.eval()
    widths: dict[int, list[int]] = {}
    for index, request in enumerate(requests):
        length = len(request.prompt) + settings.max_new_tokens
        widths.setdefault(-(-length // WIDTH) * WIDTH, []).append(index)
    for width, indices in sorted(widths.items()):
        waiting, active = indices[::-1], list[_Row]()
        while waiting or active:
            while waiting and len(active) < settings.batch_size:
                index = waiting.pop()
                active.append(_Row(index, requests[index], settings, schedule, special))
            start = time.perf_counter()
            _step(model, active, width, settings, special)
            for row in active:
                row.seconds += (time.perf_counter() - start) / len(active)
            yield from ((row.index, row.answer()) for row in active if row.finished)
            active = [row for row in active if not row.finished]


def no_mask_left(answers: Sequence[Answer], mask_id: int) -> Check:
    """Hard canary: what a sampler chose, and whatever it left hidden, must not be the mask token."""
    left = sum(answer.tokens.count(mask_id) for answer in answers)
    total = sum(len(answer.tokens) for answer in answers)
    fault = "the sampler left mask tokens in the answers"
    return check("no_mask_left", left == 0, left, f"0 of {total} answer tokens is the mask token", fault)


def reveal_shares(steps: int) -> np.ndarray:
    """Return the share 1 − s/t of the masked positions that each step reveals, [steps] float32 as in the official one.

    >>> reveal_shares(2).round(3).tolist()
    [0.4995, 0.998]
    """
    times = torch.linspace(1, LAST_TIME, steps + 1)  # [steps + 1]
    return (1 - times[1:] / times[:-1]).numpy()


@dataclass(frozen=True)
class _Special:
    mask_id: int
    end_id: int


@dataclass(eq=False)
class _Row:
    """One answer in the making, and what its next step looks at."""

    index: int
    request: Request
    settings: GenerateConfig
    schedule: np.ndarray  # [steps] float32, the share of the masked positions that each step reveals
    special: _Special
    step: int = 0
    seconds: float = 0.0
    finished: bool = False
    tokens: np.ndarray = field(init=False)  # [max_new_tokens] int64, the mask token where hidden
    unmasked_at: np.ndarray = field(init=False)  # [max_new_tokens] int32
    candidates: np.ndarray = field(init=False)  # positions in the response that this step looks at
    count: int = field(init=False)  # how many of them it reveals

    def __post_init__(self) -> None:
        self.tokens = np.full(self.settings.max_new_tokens, self.special.mask_id, np.int64)
        self.unmasked_at = np.full(self.settings.max_new_tokens, HIDDEN, np.int32)
        self._plan_step()

    def noise(self, kind: int, positions: np.ndarray) -> np.ndarray:
        """Return a number in (0, 1) for each position, at this step."""
        request = self.request
        return uniforms(self.settings.seed, kind, request.example, request.sample, self.step, positions)

    def _plan_step(self) -> None:
        """Find what the next step reveals; steps that reveal nothing change nothing and need no forward pass."""
        hidden = np.flatnonzero(self.unmasked_at == HIDDEN)
        while True:
            last = self.step == len(self.schedule) - 1
            if self.settings.order == "origin":
                share = self.schedule[self.step]
                self.candidates = hidden if last else hidden[self.noise(REVEAL, hidden) < share]
                self.count = len(self.candidates)
            else:
                self.candidates = hidden
                # float32 as in the official sampler: a product just under a whole number must round as it does there
                self.count = len(hidden) if last else int(np.float32(len(hidden)) * self.schedule[self.step])
            if self.count:
                return
            self.step += 1

    def reveal(self, tokens: np.ndarray, confidence: np.ndarray) -> None:
        """Fill in the `count` surest candidates (of equally sure ones the first) and look whether that was all."""
        surest = np.argsort(-confidence, kind="stable")[: self.count]
        chosen = self.candidates[surest]
        self.tokens[chosen] = tokens[surest]
        self.unmasked_at[chosen] = self.step
        self.step += 1
        revealed = self.unmasked_at[: self._length()] != HIDDEN
        self.finished = bool(revealed.all())
        if not self.finished:
            self._plan_step()

    def _length(self) -> int:
        """Return the number of tokens up to and including the first end token."""
        ends = np.flatnonzero(self.tokens == self.special.end_id)
        return int(ends[0]) + 1 if len(ends) else len(self.tokens)

    def answer(self) -> Answer:
        length = self._length()
        tokens = self.tokens[:length].tolist()
        ended = tokens[-1] == self.special.end_id
        return Answer(self.request, tokens, self.unmasked_at[:length].tolist(), ended, self.step, self.seconds)


@torch.inference_mode()
def _step(model: Any, rows: list[_Row], width: int, settings: GenerateConfig, special: _Special) -> None:
    """Take one denoising step of every row: one forward pass, the head on the candidate positions only."""
    device = next(model.parameters()).device
    ids = np.full((len(rows), width), special.end_id, np.int64)  # [B, L]; what stands in the padding is hidden
    visible = np.zeros((len(rows), width), np.int64)
    for i, row in enumerate(rows):
        canvas = np.concatenate([row.request.prompt, row.tokens])
        ids[i, : len(canvas)], visible[i, : len(canvas)] = canvas, 1
    seen = None if visible.all() else torch.from_numpy(visible).to(device)
    hidden = hidden_states(model, torch.from_numpy(ids).to(device), seen)  # [B, L, D]

    positions = np.concatenate(
        [i * width + len(row.request.prompt) + row.candidates for i, row in enumerate(rows)]
    )  # [N] of the flat [B * L]
    picked = hidden.flatten(0, 1)[torch.from_numpy(positions).to(device)]  # [N, D]
    greedy = settings.temperature == 0
    noise = np.zeros(len(positions)) if greedy else np.concatenate([row.noise(TOKEN, row.candidates) for row in rows])
    tokens, confidence = _choose_all(model, picked, torch.from_numpy(noise).to(device), settings, special.mask_id)
    start = 0
    for row in rows:
        end = start + len(row.candidates)
        row.reveal(tokens[start:end], confidence[start:end])
        start = end


def _choose_all(
    model: Any, picked: torch.Tensor, noise: torch.Tensor, settings: GenerateConfig, mask_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return token and confidence [N] of hidden rows [N, D], in blocks that bound the memory of the logits."""
    block = rows_per_block(unwrap(model).config.vocab_size)
    tokens, confidence = zip(
        *(
            choose(apply_head(model, rows), uniform, settings, mask_id)
            for rows, uniform in zip(picked.split(block), noise.split(block), strict=True)
        ),
        strict=True,
    )
    return torch.cat(tokens).cpu().numpy(), torch.cat(confidence).cpu().numpy()


def _check(model: Any, requests: Sequence[Request]) -> _Special:
    config = unwrap(model).config
    for name in ("mask_token_id", "eos_token_id"):
        if getattr(config, name, None) is None:
            raise UserError(f"the model names no {name}; set it in its config.json")
    if config.is_causal:
        raise UserError("the model attends causally, so it cannot fill in masks; set model.attention to bidirectional")
    for number, request in enumerate(requests):
        if not request.prompt:
            raise UserError(f"prompt {number} is empty and has no beginning token, so nothing scores its first token")
    return _Special(config.mask_token_id, config.eos_token_id)


def _fingerprint(prompt: Sequence[int]) -> int:
    """Return 64 bits that name a prompt by its tokens."""
    bits = np.zeros(1, np.uint64)
    for token in prompt:
        bits = (bits + np.uint64(token + 1)) * np.uint64(0x9E3779B97F4A7C15)
        bits = bits ^ (bits >> np.uint64(29))
    return int(bits[0])
