"""Generation: the sampler of Dream (and of LLaDA), greedy for the headline."""

from typing import Literal

from pydantic import model_validator

from dreamtune.settings.base import Float, Section, result, runtime


class GenerateConfig(Section):
    """Settings of the denoising sampler; the same for base and tuned."""

    max_new_tokens: int = result(512, "positions denoised after the prompt", ge=1)
    steps: int | None = result(None, "denoising steps; null takes one per new token", ge=1)
    block_length: int | None = result(
        None, "positions that are finished before the next ones begin, from the left; null takes all at once", ge=1
    )
    refresh: Literal["step", "block"] = result(
        "step",
        "when a row goes through the model as a whole: at each step, which is exact, or when a block begins, whose "
        "further steps compute the block alone and see the rest as it was then",
    )
    threshold: Float | None = result(
        None,
        "reveal besides the step's share each position whose token has this probability, untempered",
        gt=0.0,
        le=1.0,
    )
    order: Literal["origin", "maskgit_plus", "topk_margin", "entropy"] = result(
        "entropy", "which masked positions are revealed first"
    )
    ranking: Literal["untempered", "official"] = result(
        "untempered", "rank positions before or, as the official sampler does, after temperature and filtering"
    )
    temperature: Float = result(0.0, "0 is greedy", ge=0.0)
    top_p: Float | None = result(None, "sample among the likeliest tokens of this total probability", gt=0.0, le=1.0)
    top_k: int | None = result(None, "sample among so many of the likeliest tokens", ge=1)
    samples: int = result(1, "answers per question", ge=1)
    seed: int = result(0, "seed of the sampling noise")
    max_prompts: int | None = result(None, "answer only the first so many questions; null answers all", ge=1)
    prompts: list[str] = result(list, "questions of your own, answered besides the test split and never graded")
    batch_size: int = runtime(16, "rows denoised together; a row's answer does not depend on it", ge=1)
    scatter: int = runtime(1, "jobs that share the rows of one version", ge=1)

    @model_validator(mode="after")
    def every_block_has_a_step(self) -> "GenerateConfig":
        blocks = -(-self.max_new_tokens // (self.block_length or self.max_new_tokens))
        if self.steps is not None and self.steps < blocks:
            raise ValueError(
                f"steps is {self.steps}, but {self.max_new_tokens} new tokens in blocks of {self.block_length} are "
                f"{blocks} blocks of at least one step each: raise steps or block_length"
            )
        return self


class Sampling(Section):
    """A second generation setting beside the greedy headline; every other field is the headline's."""

    temperature: Float = result(0.7, "softmax temperature", gt=0.0)
    top_p: Float | None = result(0.9, "sample among the likeliest tokens of this total probability", gt=0.0, le=1.0)
    top_k: int | None = result(None, "sample among so many of the likeliest tokens", ge=1)
    samples: int = result(1, "answers per question", ge=1)

    def applied_to(self, generate: GenerateConfig) -> GenerateConfig:
        """Return `generate` with this second setting's numbers."""
        return generate.model_copy(update=self.model_dump())
