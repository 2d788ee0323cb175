"""Settings of generation with the denoising sampler of Dream and LLaDA; the main setting is greedy by default."""

import math
from typing import Literal

from pydantic import model_validator

from dreamtune.settings.base import LONG, MANY, NAME, PARTS, SEED, Float, Section, result, runtime


class Decoding(Section):
    """How masked positions are shown to the model, and in which order and how many at a time they are revealed."""

    max_new_tokens: int = result(
        512,
        "limit of an answer, in tokens; how many masked positions the model sees at a time, block_length and lookahead "
        "decide",
        ge=1,
        le=LONG,
    )
    steps: int | None = result(None, "denoising steps per answer; null takes one step per new token", ge=1, le=LONG)
    block_length: int | None = result(
        None,
        "positions per block; blocks are finished one after the other, from the left; null makes one block",
        ge=1,
        le=LONG,
    )
    lookahead: int | None = result(
        None,
        "most masked positions that the model sees beyond the current block; null shows as many as training showed end "
        "tokens behind an answer (the workflow works that out), or, where nothing is known of a training or there is "
        "only one block, all up to max_new_tokens",
        ge=0,
        le=LONG,
    )
    refresh: Literal["step", "block"] = result(
        "step",
        "when prompt and answer are run through the model as a whole: at every denoising step (exact), or only when a "
        "block begins (faster: its further steps compute the block alone and reuse the cached rest)",
    )
    refresh_steps: int | None = result(
        None,
        "with refresh block: run the whole through the model at every so many passes of a block, too; null does not",
        ge=1,
        le=LONG,
    )
    refresh_unsure: bool = result(
        False,
        "with refresh block and a threshold or factor: reveal from cached keys and values only tokens that are sure; "
        "where a token that is due is not, the step is done again with the whole",
    )
    cache: Literal["dual", "prefix"] = result(
        "dual",
        "with refresh block, the positions whose cached keys and values are reused: those before and after the block "
        "(dual), or only those before it (prefix), so that everything from the block on is computed",
    )
    neighbours: int = result(
        0,
        "with refresh block: positions before the block, the latest decided, and with cache dual as many behind it, "
        "that are computed along with it instead of reused",
        ge=0,
        le=LONG,
    )
    threshold: Float | None = result(
        None,
        "probability, before temperature, from which a step reveals a position in addition to its fixed share; null "
        "reveals only the share",
        gt=0.0,
        le=1.0,
    )
    threshold_fall: Float = result(
        0.0,
        "how far the threshold falls as the block becomes certain: to threshold · (1 − threshold_fall · certainty), "
        "where certainty is the mean over the block of each token's probability, 1 for those that are revealed",
        ge=0.0,
        lt=1.0,
    )
    factor: Float | None = result(
        None,
        "in place of a threshold (Fast-dLLM): reveal the n likeliest positions, for the largest n with (n + 1) · (1 − "
        "probability of the n-th) below this; null reveals only the fixed share",
        gt=0.0,
        le=1000.0,
    )
    order: Literal["origin", "maskgit_plus", "topk_margin", "entropy"] = result(
        "entropy",
        "which masked positions a step reveals: random ones (origin), or those with the highest probability of their "
        "token (maskgit_plus), the largest margin between the two likeliest tokens (topk_margin), the lowest entropy",
    )
    ranking: Literal["untempered", "official"] = result(
        "untempered",
        "whether positions are ranked by the model's own distribution (untempered) or, as in the official sampler, by "
        "the one after temperature, top_p and top_k",
    )
    products: Literal["bf16", "nf4", "fp8"] = result(
        "bf16",
        "number type from which the layers' weights are multiplied in generation: that of the model; the 4-bit numbers "
        "of model.quantization nf4, unpacked within the product; or 8-bit floating point with a scale for each output. "
        "Fewer bits are read faster; the adapter stays beside them in model.dtype",
    )

    @property
    def reveals_sure(self) -> bool:
        """Whether a step also reveals tokens because they are sure."""
        return self.threshold is not None or self.factor is not None


DENOISING = frozenset(Decoding.model_fields) - {"max_new_tokens"}  # settings without a use in a causal model


class GenerateConfig(Decoding):
    """Settings of the denoising sampler; base and tuned model answer with the same ones."""

    temperature: Float = result(0.0, "softmax temperature; 0 takes the likeliest token (greedy)", ge=0.0, le=100.0)
    top_p: Float | None = result(
        None, "sample among the likeliest tokens whose probabilities add up to this; null among all", gt=0.0, le=1.0
    )
    top_k: int | None = result(None, "sample among this many of the likeliest tokens; null among all", ge=1, le=LONG)
    samples: int = result(1, "answers per question", ge=1, le=10_000)
    seed: int = result(0, "seed of the sampling noise, and of the draw of worked examples (evaluate.few_shot)", **SEED)
    max_prompts: int | None = result(
        None, "answer only this many questions, the first ones; null answers all", ge=1, le=MANY
    )
    prompts: list[str] = result(list, "your own questions, answered in addition to the test split and never graded")
    batch_size: int = runtime(16, "sequences denoised together; an answer does not depend on it", ge=1, le=100_000)
    scatter: int = runtime(
        1, "number of jobs that answer the questions side by side, each a part of them", ge=1, le=PARTS
    )

    @model_validator(mode="after")
    def every_block_has_a_step(self) -> "GenerateConfig":
        blocks = -(-self.max_new_tokens // (self.block_length or self.max_new_tokens))
        if self.steps is not None and self.steps < blocks:
            raise ValueError(
                f"steps is {self.steps}, but {self.max_new_tokens} new tokens in blocks of {self.block_length} are "
                f"{blocks} blocks of at least one step each: raise steps or block_length"
            )
        return self

    @model_validator(mode="after")
    def every_setting_has_a_use(self) -> "GenerateConfig":
        if self.threshold is not None and self.factor is not None:
            raise ValueError("threshold and factor both say which tokens are sure: set one of them to null")
        if self.threshold_fall and self.threshold is None:
            raise ValueError("threshold_fall lowers a threshold, and threshold is null: set one")
        if self.refresh_unsure and not self.reveals_sure:
            raise ValueError("refresh_unsure needs to know which tokens are sure: set threshold or factor")
        plain = {"refresh_steps": None, "refresh_unsure": False, "cache": "dual", "neighbours": 0}
        unused = [name for name, value in plain.items() if getattr(self, name) != value]
        if self.refresh == "step" and unused:
            raise ValueError(f"{unused[0]} is about cached keys and values, of which refresh step has none: use block")
        return self


class Sampling(Section):
    """A second generation setting; the fields that it does not have are those of `generate`."""

    temperature: Float = result(0.7, "softmax temperature", gt=0.0, le=100.0)
    top_p: Float | None = result(
        0.9, "sample among the likeliest tokens whose probabilities add up to this; null among all", gt=0.0, le=1.0
    )
    top_k: int | None = result(None, "sample among this many of the likeliest tokens; null among all", ge=1, le=LONG)
    samples: int = result(1, "answers per question", ge=1, le=10_000)

    def applied_to(self, generate: GenerateConfig) -> GenerateConfig:
        """Return a copy of `generate` in which this setting's fields replace those of the same name."""
        return generate.model_copy(update=self.model_dump())


class Decoder(Decoding):
    """A named generation setting; the fields that it leaves out, and those that it does not have, are `generate`'s."""

    name: str = result(
        ..., "name of the setting in reports and folders", pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=NAME
    )

    def applied_to(self, generate: GenerateConfig) -> GenerateConfig:
        """Return `generate` with the fields that the configuration gives here, and without the user's own prompts.

        Raises:
            ValidationError: the fields do not fit together.
        """
        given = {field: getattr(self, field) for field in self.model_fields_set - {"name"}}
        return GenerateConfig.model_validate(generate.model_dump() | given | {"prompts": []})


def as_trained(generate: GenerateConfig, max_tail: int) -> GenerateConfig:
    """Return `generate` with the lookahead of a training, where it is left open and there are several blocks.

    Args:
        generate: settings of the sampler.
        max_tail: most tokens behind an answer's end token in training, rare long tails left out.

    >>> as_trained(GenerateConfig(max_new_tokens=64, block_length=16), max_tail=8).lookahead
    8
    >>> as_trained(GenerateConfig(max_new_tokens=64), max_tail=8).lookahead is None
    True
    """
    one_block = (generate.block_length or generate.max_new_tokens) >= generate.max_new_tokens
    if one_block or generate.lookahead is not None:
        return generate
    return generate.model_copy(update={"lookahead": max_tail})


def with_limit(generate: GenerateConfig, limit: int) -> GenerateConfig:
    """Return `generate` with another `max_new_tokens`, as many steps per token, and without the user's own prompts.

    >>> with_limit(GenerateConfig(max_new_tokens=64, block_length=16, steps=32), 96).steps
    48
    """
    blocks = math.ceil(limit / (generate.block_length or limit))
    steps = generate.steps and max(blocks, round(generate.steps * limit / generate.max_new_tokens))
    return generate.model_copy(update={"max_new_tokens": limit, "steps": steps, "prompts": []})
