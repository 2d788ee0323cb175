"""The sections `generate` and `evaluate` of a configuration, which hold the settings of several stages each."""

from typing import Annotated

from pydantic import Field, field_validator

from dreamtune.formats.names import CANVAS, HEADLINE, SAMPLED
from dreamtune.settings.base import LONG, result
from dreamtune.settings.benchmark import Benchmark
from dreamtune.settings.few_shot import FewShot
from dreamtune.settings.generate import Decoder, GenerateConfig, Sampling
from dreamtune.settings.likelihood import LikelihoodConfig
from dreamtune.settings.report import Comparison


class GenerateSection(GenerateConfig):
    """Settings of the denoising sampler: the headline's, and optionally a second setting with sampling."""

    sampled: Sampling | None = result(
        None, "a second setting, with sampling, whose answers are reported apart from the headline; null for none"
    )

    @property
    def headline(self) -> GenerateConfig:
        """The setting that the verdict rests on, greedy unless the configuration says otherwise."""
        return GenerateConfig(**{name: getattr(self, name) for name in GenerateConfig.model_fields})

    def by_name(self) -> dict[str, GenerateConfig]:
        """Return the generation settings by the names that reports and folders use: greedy, sampled."""
        settings = {HEADLINE: self.headline}
        return settings | ({SAMPLED: self.sampled.applied_to(self.headline)} if self.sampled else {})


class EvaluateSection(Comparison):
    """Settings of the evaluation: likelihood, benchmarks, and the comparison that decides the verdict."""

    likelihood: LikelihoodConfig = result(LikelihoodConfig, "how the held-out likelihood is estimated")
    benchmarks: list[Benchmark] = result(
        list, "further sets of questions, answered and graded in addition to the test split"
    )
    canvases: list[Annotated[int, Field(ge=1, le=LONG)]] = result(
        list,
        "further values of generate.max_new_tokens under which all questions are answered too: accuracy by canvas",
    )
    decoders: list[Decoder] = result(
        list,
        "further generation settings, each with a name, under which all questions are answered too; the report says "
        "whether the verdict is the same under each",
    )
    few_shot: int = result(
        0,
        "worked training examples before each question in a further set of the base model's answers, drawn with "
        "generate.seed; the verdict is improved only if the tuned model beats these answers, too; 0 makes none",
        ge=0,
        le=1_000,
    )
    few_shot_tuned: bool = result(
        False, "whether the tuned model, too, answers a further time with these examples; the verdict does not use it"
    )
    few_shot_example_tokens: int | None = result(
        None,
        "draw only training rows of at most this many tokens as worked examples; null draws any complete row",
        ge=1,
        le=LONG,
    )
    few_shot_context: int | None = result(
        None,
        "limit of worked examples, question and answer together, in tokens; null takes the positions that the model's "
        "config.json names, which may be more than it was trained on",
        ge=1,
        le=LONG,
    )

    @field_validator("benchmarks")
    @classmethod
    def names_differ(cls, benchmarks: list[Benchmark]) -> list[Benchmark]:
        names = [benchmark.name for benchmark in benchmarks]
        if "test" in names:
            raise ValueError("a benchmark cannot be named test, which is the held-out split; choose another name")
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two benchmarks are named {twice[0]}; give each its own name")
        return benchmarks

    @field_validator("canvases")
    @classmethod
    def canvases_differ(cls, canvases: list[int]) -> list[int]:
        if twice := [canvas for canvas in canvases if canvases.count(canvas) > 1]:
            raise ValueError(f"{twice[0]} is listed twice; name each canvas once")
        return canvases

    @field_validator("decoders")
    @classmethod
    def decoders_differ(cls, decoders: list[Decoder]) -> list[Decoder]:
        names = [decoder.name for decoder in decoders]
        for name in names:
            if name in (HEADLINE, SAMPLED) or name.startswith(CANVAS):
                raise ValueError(
                    f"a decoder cannot be named {name}, which names a setting already; choose another name"
                )
            if names.count(name) > 1:
                raise ValueError(f"two decoders are named {name}; give each its own name")
        return decoders

    @property
    def comparison(self) -> Comparison:
        """The fields that decide the verdict, without likelihood and benchmarks."""
        return Comparison(**{name: getattr(self, name) for name in Comparison.model_fields})

    @property
    def worked(self) -> FewShot | None:
        """The worked examples of few-shot prompts; None if there are none."""
        if not self.few_shot:
            return None
        return FewShot(shots=self.few_shot, example_tokens=self.few_shot_example_tokens, context=self.few_shot_context)
