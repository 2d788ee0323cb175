"""The state of one answer while it is denoised: its blocks, their schedule, the noise, and the revealed tokens.

An answer is denoised block by block from the left; a block is finished before the next begins. The denoising steps are
shared out among the blocks in proportion to their lengths, and within a block the reveals follow the official time
schedule for that number of steps. With one block, the default, this is the official sampler. A `threshold` can finish
a block before its last step; the next block then begins at its first step all the same.

The model sees no further than `lookahead` masks beyond the current block: how much room an answer seems to have then
follows from where it stands, and `max_new_tokens` is only the limit at which an answer that has not ended is cut.
"""

from dataclasses import dataclass, field

import numpy as np
import torch

from dreamtune.generate.sure import sure_tokens
from dreamtune.noise import open_uniforms
from dreamtune.settings.generate import GenerateConfig

LAST_TIME = 1e-3
TOKEN, REVEAL = 0, 1  # key of a random number: it draws a token, or whether a position is revealed
HIDDEN = -1  # in `unmasked_at`: still masked


@dataclass(frozen=True)
class Request:
    """An answer that is to be generated.

    Attributes:
        prompt: token ids, beginning token included.
        example, sample: keys of the noise; two requests that share both, and a seed, draw the same numbers.
    """

    prompt: list[int]
    example: int
    sample: int = 0


@dataclass(frozen=True)
class Answer:
    """A generated answer.

    Attributes:
        request: the request that it answers.
        tokens: the new tokens, up to and including the first end token, if there is one.
        unmasked_at: the denoising step, from 0, at which each of `tokens` was revealed.
        ended: whether the last token is the end token.
        steps: denoising steps until the row was finished, those that revealed nothing included.
        passes: forward passes that the row took part in, each over the whole row or over one block.
        seconds: the time of these forward passes, divided among the rows that took part.
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
    """The ids of the mask token and of the end token."""

    mask_id: int
    end_id: int


@dataclass(frozen=True)
class Block:
    """A stretch of the answer that is denoised by itself.

    Attributes:
        start, end: its positions are start, …, end − 1, counted from the end of the prompt.
        first_step: the number of its first denoising step, counted over all blocks.
        shares: [steps of the block] float32, see `reveal_shares`.
    """

    start: int
    end: int
    first_step: int
    shares: np.ndarray


def reveal_shares(steps: int) -> np.ndarray:
    """Return the share of the still masked positions that each denoising step reveals, [steps] float32.

    Time runs from 1 to 0.001 in equal steps; a step from t to s reveals the share 1 − s/t. Computed in float32 like
    the official Dream sampler (Dream-org, generation_utils.py).

    Two steps go from 1 to 0.5005 to 0.001:

    >>> [round(share, 4) for share in reveal_shares(2).tolist()]
    [0.4995, 0.998]
    """
    times = torch.linspace(1, LAST_TIME, steps + 1)  # [steps + 1]
    return (1 - times[1:] / times[:-1]).numpy()


def plan_blocks(settings: GenerateConfig) -> list[Block]:
    """Return the blocks of an answer from left to right, with their shares of the denoising steps.

    `settings.block_length` and `settings.steps` default to one block, and to one step per new token. The last block
    is shorter where the length does not divide. Five tokens in blocks of two, with four steps for all of them:

    >>> [(b.start, b.end, b.first_step) for b in plan_blocks(GenerateConfig(max_new_tokens=5, block_length=2, steps=4))]
    [(0, 2, 0), (2, 4, 1), (4, 5, 3)]
    """
    total = settings.max_new_tokens
    length, steps = settings.block_length or total, settings.steps or total
    blocks = []
    for start in range(0, total, length):
        end = min(start + length, total)
        # Every block has a step: steps ≥ blocks, so a whole block has at least one, and the last begins before total.
        first, after = steps * start // total, steps * end // total
        blocks.append(Block(start, end, first, reveal_shares(after - first)))
    return blocks


@dataclass(eq=False)
class Row:
    """An answer that is being denoised: the tokens revealed so far, and the plan of its next step.

    The sampler scores the positions `candidates`, then calls `reveal`, which plans the next step, until `finished`.
    """

    index: int  # of the request
    request: Request
    settings: GenerateConfig
    blocks: list[Block]
    special: Special
    slot: int = 0  # place of the row's keys and values in the KV cache
    step: int = 0
    passes: int = 0
    seconds: float = 0.0
    finished: bool = False
    refreshes: bool = True  # whether the next forward pass runs the row as a whole, where keys and values are cached
    cached_passes: int = 0  # forward passes since the row last ran as a whole, that one included
    canvas: np.ndarray = field(init=False)  # [prompt + max_new_tokens] int64: prompt and answer as they stand
    tokens: np.ndarray = field(init=False)  # [max_new_tokens], the answer in the canvas (a view)
    unmasked_at: np.ndarray = field(init=False)  # [max_new_tokens] int32, the step of each reveal, or HIDDEN
    candidates: np.ndarray = field(init=False)  # masked positions of the answer that the next step scores
    count: int = field(init=False)  # how many of them it reveals
    drawn: np.ndarray | None = field(init=False, default=None)  # [candidates] bool: reveal these, not the surest

    def __post_init__(self) -> None:
        masks = np.full(self.settings.max_new_tokens, self.special.mask_id, np.int64)
        self.canvas = np.concatenate([self.request.prompt, masks])
        self.tokens = self.canvas[len(self.request.prompt) :]
        self.unmasked_at = np.full(self.settings.max_new_tokens, HIDDEN, np.int32)
        self.waiting = self.blocks[:0:-1]  # the next one last
        self.block = self.blocks[0]
        self._plan_step()

    @property
    def shown(self) -> int:
        """Number of positions that the model sees: the prompt, the answer's blocks so far, and the lookahead.

        A prompt of 3 tokens, in the first of three blocks of 4, with a lookahead of 5:

        >>> settings = GenerateConfig(max_new_tokens=12, block_length=4, lookahead=5)
        >>> Row(0, Request([1, 2, 3], 0), settings, plan_blocks(settings), Special(mask_id=9, end_id=8)).shown
        12
        """
        limit, lookahead = self.settings.max_new_tokens, self.settings.lookahead
        return len(self.request.prompt) + (limit if lookahead is None else min(self.block.end + lookahead, limit))

    @property
    def window(self) -> range:
        """Positions that a pass over the block computes, the other keys and values being cached.

        They are the block with its neighbours or, with `cache: prefix`, all from there on that the model sees.

        >>> settings = GenerateConfig(max_new_tokens=12, block_length=4, refresh="block", neighbours=1)
        >>> Row(0, Request([1, 2, 3], 0), settings, plan_blocks(settings), Special(mask_id=9, end_id=8)).window
        range(2, 8)
        """
        first, beside = len(self.request.prompt), self.settings.neighbours
        end = self.shown if self.settings.cache == "prefix" else min(first + self.block.end + beside, self.shown)
        return range(max(0, first + self.block.start - beside), end)

    def noise(self, kind: int, positions: np.ndarray) -> np.ndarray:
        """Return float64 random numbers in (0, 1), one for each of `positions`; `kind` is TOKEN or REVEAL.

        They are a function of seed, kind, request, step and position alone.
        """
        request = self.request
        return open_uniforms(self.settings.seed, kind, request.example, request.sample, self.step, positions)

    def _plan_step(self) -> None:
        """Plan the next step that reveals something; a step that reveals nothing needs no forward pass."""
        hidden = self._hidden()
        if not len(hidden):
            self.block = self.waiting.pop()
            self.step, self.refreshes = self.block.first_step, True
            hidden = self._hidden()
        while True:
            if self.settings.order == "origin":
                self._plan_draw(hidden)
            else:
                self.candidates, self.count = hidden, self._count(len(hidden), self.step)
            if self.count:
                return
            self.step += 1

    def _count(self, hidden: int, step: int) -> int:
        """Return how many of the hidden positions a step of the block reveals, at the last step all."""
        share, last = self._share(step)
        # In float32 like the official sampler: a product just below a whole number must round the same way.
        return hidden if last else int(np.float32(hidden) * share)

    def _share(self, step: int) -> tuple[np.float32, bool]:
        """Return the share of the hidden positions that a step reveals, and whether it is the block's last step."""
        number = step - self.block.first_step
        return self.block.shares[number], number == len(self.block.shares) - 1

    def counts_ahead(self) -> list[int]:
        """Return how many positions each coming pass of the block reveals, where none is revealed for being sure.

        >>> settings = GenerateConfig(max_new_tokens=6, block_length=6, steps=4)
        >>> Row(0, Request([1, 2, 3], 0), settings, plan_blocks(settings), Special(mask_id=9, end_id=8)).counts_ahead()
        [1, 1, 1, 3]
        """
        counts, hidden, step = [self.count], len(self.candidates) - self.count, self.step + 1
        while hidden:
            count = self._count(hidden, step)
            counts += [count] if count else []
            hidden, step = hidden - count, step + 1
        return counts

    def _plan_draw(self, hidden: np.ndarray) -> None:
        """Draw which hidden positions to reveal: each with the step's share as probability, at the last step all."""
        share, last = self._share(self.step)
        drawn = np.ones(len(hidden), bool) if last else self.noise(REVEAL, hidden) < share
        self.count = int(drawn.sum())
        if self.settings.reveals_sure:  # the others may still be sure
            self.candidates, self.drawn = hidden, drawn
        else:
            self.candidates = hidden[drawn]

    def _hidden(self) -> np.ndarray:
        """Return the positions of the current block that are still masked."""
        start, end = self.block.start, self.block.end
        return start + np.flatnonzero(self.unmasked_at[start:end] == HIDDEN)

    def reveal(self, tokens: np.ndarray, confidence: np.ndarray, probability: np.ndarray) -> None:
        """Reveal the `count` candidates of highest confidence, the leftmost of equal ones, and plan the next step.

        With order `origin` the candidates drawn beforehand are revealed instead. All that are sure (`sure_tokens`) are
        revealed too. With `refresh_unsure` a cached pass may reveal nothing: the step is then planned once more, as a
        whole.

        Args:
            tokens: [candidates] int64, the token chosen for each.
            confidence: [candidates], see `choosing.choose`.
            probability: [candidates], the untempered probability of each token.
        """
        due = np.zeros(len(self.candidates), bool)
        due[np.argsort(-confidence, kind="stable")[: self.count]] = True
        due = due if self.drawn is None else self.drawn
        revealed = self.block.end - self.block.start - len(self._hidden())
        sure = sure_tokens(probability, revealed, self.settings)
        self.passes, self.cached_passes = self.passes + 1, 1 if self.refreshes else self.cached_passes + 1
        if self.settings.refresh_unsure and not self.refreshes and not sure[due].all():
            self.refreshes = True
            return
        self.refreshes = self.cached_passes == self.settings.refresh_steps
        self._write(tokens, due | sure)

    def _write(self, tokens: np.ndarray, chosen: np.ndarray) -> None:
        """Reveal the chosen candidates, and plan the next step."""
        self.tokens[self.candidates[chosen]] = tokens[chosen]
        self.unmasked_at[self.candidates[chosen]] = self.step
        self.step += 1
        self.finished = bool((self.unmasked_at[: self._length()] != HIDDEN).all())
        if not self.finished:
            self._plan_step()

    def _length(self) -> int:
        """Return the number of tokens up to and including the first end token."""
        ends = np.flatnonzero(self.tokens == self.special.end_id)
        return int(ends[0]) + 1 if len(ends) else len(self.tokens)

    def answer(self) -> Answer:
        """Return the answer of a finished row."""
        length = self._length()
        tokens, unmasked_at = self.tokens[:length].tolist(), self.unmasked_at[:length].tolist()
        ended = tokens[-1] == self.special.end_id
        return Answer(self.request, tokens, unmasked_at, ended, self.step, self.passes, self.seconds)
