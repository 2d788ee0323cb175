"""The configuration file: YAML to typed sections, one set of sections per experiment.

The file's sections hold the defaults; `experiments` lists experiments by name, each with the keys that it changes. An
unknown key is an error that names the most similar key.
"""

import difflib
import types
import typing
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from dreamtune.config_file import read_file
from dreamtune.contradictions import causal_problem, causal_settings, contradiction
from dreamtune.errors import UserError
from dreamtune.formats.names import CANVAS
from dreamtune.settings.base import NAME, Section
from dreamtune.settings.cluster import ClusterConfig
from dreamtune.settings.data import DataConfig
from dreamtune.settings.generate import GenerateConfig, as_trained, with_limit
from dreamtune.settings.merge import MergeConfig
from dreamtune.settings.model import ModelConfig
from dreamtune.settings.report import Comparison, ReportConfig
from dreamtune.settings.score import ScoreConfig
from dreamtune.settings.sections import EvaluateSection, GenerateSection
from dreamtune.settings.train import RunOverrides, SmokeOverrides, TrainConfig


class Experiment(Section):
    """All sections of one experiment: the file's defaults with the experiment's changes."""

    model: ModelConfig = Field(description="the base model: checkpoint, precision, device")
    data: DataConfig = Field(description="the training data: files, columns, template, split, lengths")
    train: TrainConfig = Field(default_factory=TrainConfig, description="training: objective, adapter, optimiser")
    smoke: SmokeOverrides = Field(
        default_factory=SmokeOverrides, description="what the short run, which must pass before full, changes of train"
    )
    full: RunOverrides = Field(default_factory=RunOverrides, description="what the full run changes of train")
    generate: GenerateSection = Field(default_factory=GenerateSection, description="the denoising sampler")
    score: ScoreConfig = Field(default_factory=ScoreConfig, description="how completions are graded")
    evaluate: EvaluateSection = Field(
        default_factory=EvaluateSection, description="the evaluation: likelihood, benchmarks, verdict"
    )
    merge: MergeConfig = Field(default_factory=MergeConfig, description="how `snakemake merge` exports the adapter")
    report: ReportConfig = Field(default_factory=ReportConfig, description="the report: heading, number of examples")
    cluster: ClusterConfig = Field(
        default_factory=ClusterConfig, description="bounds on the time and memory that jobs request on a cluster"
    )

    @property
    def graded(self) -> str | None:
        """What answers to conversations are graded against: a column, "" for the last turn itself, None for nothing."""
        return "" if self.score.answer_extractor else self.score.answer_column

    @property
    def comparison(self) -> Comparison:
        """What decides the verdict. Conversations without answers to grade are judged by their likelihood."""
        chosen = self.evaluate.comparison
        ungraded = self.data.conversations and self.score.answer is None
        return chosen.model_copy(update={"primary": "nll"}) if ungraded else chosen

    def generations(self) -> dict[str, GenerateConfig]:
        """Return greedy, sampled, canvas-N and the decoders by name, each with its lookahead worked out.

        Where the configuration leaves it open, an answer in several blocks is shown as many masks beyond its block as
        training shows end tokens behind an answer.
        """
        headline = self.generate.headline
        settings = self.generate.by_name()
        settings |= {f"{CANVAS}{limit}": with_limit(headline, limit) for limit in self.evaluate.canvases}
        settings |= {decoder.name: decoder.applied_to(headline) for decoder in self.evaluate.decoders}
        return {name: as_trained(generate, self.train.max_tail) for name, generate in settings.items()}


class Config(BaseModel):
    """The experiments of one configuration file, by name."""

    experiments: dict[str, Experiment]


def load_config(path: str | Path) -> Config:
    """Read a YAML file into a `Config`.

    Raises:
        UserError: a ValueError; its one line names the offending key, or why the file cannot be read.
    """
    return parse_config(read_file(Path(path)))


def parse_config(raw: Any) -> Config:
    """Turn the mapping read from a configuration file into a `Config`.

    Raises:
        UserError: a ValueError; its one line names the offending key.
    """
    if not isinstance(raw, dict):
        raise UserError(f"the configuration must be a mapping of sections, not {type(raw).__name__}")
    defaults = _written({name: section for name, section in raw.items() if name != "experiments"})
    experiments = raw.get("experiments", {"main": {}})
    if not isinstance(experiments, dict) or not experiments:
        raise UserError("experiments: expected a mapping of names to changes, for example `experiments: {main: {}}`")
    return Config(experiments={name: _experiment(name, defaults, over) for name, over in experiments.items()})


def _experiment(name: str, defaults: dict[str, Any], changes: Any) -> Experiment:
    if not isinstance(name, str) or not name.replace("-", "").replace("_", "").isalnum():
        raise UserError(f"experiments: the name {name!r} should hold only letters, digits, '-' and '_'")
    if len(name.encode()) > NAME:  # it names a folder, and stands in one line of every message
        raise UserError(
            f"experiments: the name {name[:20]}… takes {len(name.encode())} bytes; at most {NAME} are allowed"
        )
    if not isinstance(changes, dict | types.NoneType):
        raise UserError(f"experiments.{name}: expected a mapping of sections to changes, not {changes!r}")
    try:
        experiment = Experiment.model_validate(_merge(defaults, _written(changes or {})))
    except ValidationError as error:
        raise UserError(_one_line(error)) from None
    if problem := causal_problem(experiment) or contradiction(experiment):
        raise UserError(f"experiments.{name}: {problem}")
    return experiment.model_copy(update=causal_settings(experiment))


def _merge(defaults: Any, changes: Any) -> Any:
    """Return `defaults` with `changes`: mappings are merged key by key, any other value is replaced.

    >>> _merge({"lora": {"rank": 16, "alpha": 32}, "betas": [0.9, 0.999]}, {"lora": {"rank": 8}, "betas": [0.9, 0.95]})
    {'lora': {'rank': 8, 'alpha': 32}, 'betas': [0.9, 0.95]}
    """
    if not isinstance(defaults, dict) or not isinstance(changes, dict):
        return changes
    return defaults | {name: _merge(defaults.get(name), value) for name, value in changes.items()}


def _written(sections: dict[str, Any]) -> dict[str, Any]:
    """Return the sections without the empty ones, such as a bare `train:`, which YAML reads as null."""
    return {name: section for name, section in sections.items() if section is not None}


def _one_line(error: ValidationError) -> str:
    # Misspelt keys first: one that is required is then missing, too.
    errors = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    first, more = errors[0], len(errors) - 1
    key = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        known = _keys_beside(first["loc"])
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(known)}"
        message = f"unknown key {key!r} in the configuration; {hint}"
    elif first["type"] == "missing":
        message = f"{key}: this key is required and missing from the configuration"
    else:
        problem = first["msg"].removeprefix("Value error, ")
        message = f"{key}: {problem[:1].lower()}{problem[1:]}; given was {first['input']!r}"
    return message + (f" (and {more} more)" if more else "")


def _keys_beside(location: tuple[int | str, ...]) -> list[str]:
    """Return the names of all fields of the section in which the unknown key at `location` stands."""
    model: Any = Experiment
    for key in location[:-1]:
        if isinstance(key, str) and key in model.model_fields:
            model = _section_in(model.model_fields[key].annotation) or model
    return list(model.model_fields)


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """Return the section type within an annotation such as `list[Benchmark]` or `Sampling | None`; None without one."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in typing.get_args(annotation) if (found := _section_in(inner))), None)
