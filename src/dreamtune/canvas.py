"""Whether training has shown the canvases that generation will show. Torch-free: the Snakefile calls it too.

A *canvas* is the masked positions behind a prompt. Training shows an answer on canvases that end where the answer does,
or up to `longest_tail` tokens behind it; with `cut_share` also on canvases that end before the answer does. Generation
shows the blocks so far and `lookahead` positions more, whatever the answer's length will be. Where the two differ, a
model answers on a canvas that it does not know: docs/canvas.md has measurements.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Canvas:
    """The settings that decide which canvases training and generation show, in tokens."""

    longest_tail: int  # most tokens behind an answer's end token in training
    cuts: bool  # whether training also shows the beginning of an answer as if it were all
    max_new_tokens: int
    block_length: int | None  # None: one block
    lookahead: int | None  # None: all of the canvas

    @classmethod
    def of(cls, train: Mapping[str, Any], generate: Mapping[str, Any]) -> "Canvas":
        """Return the canvases of two sections of the configuration, `train` and `generate`, as plain values.

        A causal model sees no canvas. Its answers have a limit all the same, which is all that is left to warn of.
        """
        limit = generate["max_new_tokens"]
        if train.get("objective") == "causal":
            return cls(limit, True, limit, None, None)
        long = train.get("long_tail", 0) if train.get("long_tail_share") else 0
        return cls(
            longest_tail=max(train["max_tail"], long),
            cuts=bool(train.get("cut_share")),
            max_new_tokens=limit,
            block_length=generate.get("block_length"),
            lookahead=generate.get("lookahead"),
        )

    @property
    def first(self) -> int:
        """Positions that the model sees in an answer's first block."""
        block, ahead = self.block_length or self.max_new_tokens, self.lookahead
        return self.max_new_tokens if ahead is None else min(block + ahead, self.max_new_tokens)

    @property
    def behind(self) -> int:
        """Most positions that can follow an answer's end, the limit aside: the rest of its block and the lookahead."""
        rest = (self.block_length or self.max_new_tokens) - 1
        return rest + (self.max_new_tokens if self.lookahead is None else self.lookahead)


def canvas_warnings(responses: Mapping[str, float], canvas: Canvas) -> list[str]:
    """Return a sentence for each way in which generation's canvases differ from those of training; [] where all fit.

    The shortest and longest 5 % of the responses are left out, except in the question whether the limit suffices.

    Args:
        responses: `response_tokens` of the training split in audit.json: p05, p95 and max; {} without rows.
        canvas: what both show.

    Responses of 21 to 32 tokens, tails of up to 8, and a canvas of 48 as a whole:

    >>> canvas_warnings({"p05": 24.0, "p95": 32.0, "max": 32}, Canvas(8, False, 48, None, None))
    ["up to 24 masked positions stand behind an answer's end in generation, and at most 8 tokens in training: lower \
generate.lookahead and generate.block_length, or raise train.max_tail or train.long_tail"]
    """
    if not responses:
        return []
    limit, found = canvas.max_new_tokens, []
    if responses["max"] > limit:
        found.append(
            f"training responses are longer than max_new_tokens = {limit} (the longest has {responses['max']:.0f} "
            "tokens): answers may be cut; raise generate.max_new_tokens"
        )
    behind = min(canvas.behind, limit - int(responses["p05"]))
    if behind > canvas.longest_tail:
        found.append(
            f"up to {behind} masked positions stand behind an answer's end in generation, and at most "
            f"{canvas.longest_tail} tokens in training: lower generate.lookahead and generate.block_length, or raise "
            "train.max_tail or train.long_tail"
        )
    if canvas.first < responses["p95"] and not canvas.cuts:
        found.append(
            f"generation begins with a canvas of {canvas.first} positions, training responses have up to "
            f"{responses['p95']:.0f} (95th percentile), and training shows no canvas that ends before its answer does: "
            "raise generate.lookahead, or set train.cut_share"
        )
    return found


def compare_canvases(canvases: Mapping[str, Canvas], responses: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """Return each canvas as plain values with its "warnings", by name; arguments as for `canvas_warnings`."""
    return {
        name: asdict(canvas) | {"warnings": canvas_warnings(responses, canvas)} for name, canvas in canvases.items()
    }
