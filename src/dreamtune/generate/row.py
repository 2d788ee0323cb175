"""One answer in the making: its blocks, its schedule, its noise, and what of it is revealed.

Blocks are denoised from the left, each finished before the next begins. The steps are spread over them in proportion
to their positions, and each block has the official time schedule of its own steps. One block, the default, is the
official sampler. A `threshold` may finish a block early; the next one then begins at its own first step.
"""

from dataclasses import dataclass, field

import numpy as np
import torch

from dreamtune.noise import open_uniforms
from dreamtune.settings.generate import GenerateConfig

LAST_TIME = 1e-3
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
        passes: forward passes that the row took part in, of the whole row or of one block.
        seconds: this row's share of the time of the passes it was in.
    """

    request: Request
    tokens: list[int]
    unmasked_at: list[int]
    ended: bool
    steps: int
    passes: int
    seconds: float


@dataclass(frozen=True)
class Special:
    """The token ids that the sampler must know."""

    mask_id: int
    end_id: int


@dataclass(frozen=True)
class Block:
    """Positions [start, end) of the answer, and the step, counted over all blocks, at which each share is due."""

    start: int
    end: int
    first_step: int
    shares: np.ndarray  # [steps of the block] float32, of the block's masked positions


def reveal_shares(steps: int) -> np.ndarray:
    """Return the share 1 − s/t of the masked positions that each step reveals, [steps] float32 as in the official one.

    >>> [round(share, 4) for share in reveal_shares(2).tolist()]
    [0.4995, 0.998]
    """
    times = torch.linspace(1, LAST_TIME, steps + 1)  # [steps + 1]
    return (1 - times[1:] / times[:-1]).numpy()


def plan_blocks(settings: GenerateConfig) -> list[Block]:
    """Return the blocks from left to right; the last is shorter where the length does not divide.

    >>> [(b.start, b.end, b.first_step) for b in plan_blocks(GenerateConfig(max_new_tokens=5, block_length=2, steps=4))]
    [(0, 2, 0), (2, 4, 1), (4, 5, 3)]
    """
    total = settings.max_new_tokens
    length, steps = settings.block_length or total, settings.steps or total
    blocks = []
    for start in range(0, total, length):
        end = min(start + length, total)
        # No block is left without a step: steps ≥ blocks, so a whole one's part is at least 1, and start < total.
        first, after = steps * start // total, steps * end // total
        blocks.append(Block(start, end, first, reveal_shares(after - first)))
    return blocks


@dataclass(eq=False)
class Row:
    """What is revealed so far, and what the next step looks at."""

    index: int
    request: Request
    settings: GenerateConfig
    blocks: list[Block]
    special: Special
    slot: int = 0  # where the row's keys and values are stored
    step: int = 0
    passes: int = 0
    seconds: float = 0.0
    finished: bool = False
    begins_block: bool = True  # whether the next step is the first of its block
    canvas: np.ndarray = field(init=False)  # [prompt + max_new_tokens] int64: prompt and answer as they stand
    tokens: np.ndarray = field(init=False)  # [max_new_tokens], the answer's part of it; the mask token where hidden
    unmasked_at: np.ndarray = field(init=False)  # [max_new_tokens] int32
    candidates: np.ndarray = field(init=False)  # positions in the response that this step looks at
    count: int = field(init=False)  # how many of them it reveals
    drawn: np.ndarray | None = field(init=False, default=None)  # [candidates] bool: instead of the surest, these

    def __post_init__(self) -> None:
        masks = np.full(self.settings.max_new_tokens, self.special.mask_id, np.int64)
        self.canvas = np.concatenate([self.request.prompt, masks])
        self.tokens = self.canvas[len(self.request.prompt) :]
        self.unmasked_at = np.full(self.settings.max_new_tokens, HIDDEN, np.int32)
        self.waiting = self.blocks[:0:-1]  # the next one last
        self.block = self.blocks[0]
        self._plan_step()

    def noise(self, kind: int, positions: np.ndarray) -> np.ndarray:
        """Return a number in (0, 1) for each position, at this step."""
        request = self.request
        return open_uniforms(self.settings.seed, kind, request.example, request.sample, self.step, positions)

    def _plan_step(self) -> None:
        """Find what the next step reveals; steps that reveal nothing change nothing and need no forward pass."""
        hidden = self._hidden()
        if not len(hidden):
            self.block = self.waiting.pop()
            self.step, self.begins_block = self.block.first_step, True
            hidden = self._hidden()
        while True:
            share = self.block.shares[self.step - self.block.first_step]
            last = self.step == self.block.first_step + len(self.block.shares) - 1
            if self.settings.order == "origin":
                self._plan_draw(hidden, share, last)
            else:
                self.candidates = hidden
                # float32 as in the official sampler: a product just under a whole number must round as it does there
                self.count = len(hidden) if last else int(np.float32(len(hidden)) * share)
            if self.count:
                return
            self.step += 1

    def _plan_draw(self, hidden: np.ndarray, share: np.float32, last: bool) -> None:
        drawn = np.ones(len(hidden), bool) if last else self.noise(REVEAL, hidden) < share
        self.count = int(drawn.sum())
        if self.settings.threshold is None:
            self.candidates = hidden[drawn]
        else:  # of the others, too, some may be sure
            self.candidates, self.drawn = hidden, drawn

    def _hidden(self) -> np.ndarray:
        start, end = self.block.start, self.block.end
        return start + np.flatnonzero(self.unmasked_at[start:end] == HIDDEN)

    def reveal(self, tokens: np.ndarray, confidence: np.ndarray, probability: np.ndarray) -> None:
        """Fill in the `count` surest candidates (of equally sure ones the first) and look whether that was all.

        All three are [candidates]; with a threshold, every candidate whose probability reaches it is filled in too.
        """
        chosen = np.zeros(len(self.candidates), bool)
        chosen[np.argsort(-confidence, kind="stable")[: self.count]] = True
        chosen = chosen if self.drawn is None else self.drawn
        if self.settings.threshold is not None:
            chosen = chosen | (probability >= self.settings.threshold)
        self.tokens[self.candidates[chosen]] = tokens[chosen]
        self.unmasked_at[self.candidates[chosen]] = self.step
        self.step, self.passes, self.begins_block = self.step + 1, self.passes + 1, False
        revealed = self.unmasked_at[: self._length()] != HIDDEN
        self.finished = bool(revealed.all())
        if not self.finished:
            self._plan_step()

    def _length(self) -> int:
        """Return the number of tokens up to and including the first end token."""
        ends = np.flatnonzero(self.tokens == self.special.end_id)
        return int(ends[0]) + 1 if len(ends) else len(self.tokens)

    def answer(self) -> Answer:
        """Return what came out of a finished row."""
        length = self._length()
        tokens, unmasked_at = self.tokens[:length].tolist(), self.unmasked_at[:length].tolist()
        ended = tokens[-1] == self.special.end_id
        return Answer(self.request, tokens, unmasked_at, ended, self.step, self.passes, self.seconds)
