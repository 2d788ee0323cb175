"""The configuration file: YAML to typed sections, one set of sections per experiment.

The file's sections hold the defaults; `experiments` lists experiments by name, each with the keys that it changes;
`grid`, `seeds` and `data_sizes` multiply them to the runs of a study. An unknown key is an error that names the most
similar key.
"""

import types
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError
from pydantic_core import ErrorDetails

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
from dreamtune.settings.runs import RunOverrides, SmokeOverrides
from dreamtune.settings.score import ScoreConfig
from dreamtune.settings.sections import EvaluateSection, GenerateSection
from dreamtune.settings.study import StudyConfig
from dreamtune.settings.train import TrainConfig
from dreamtune.study.expand import KEYS, add_run, check_methods, read_study, runs_of
from dreamtune.study.fields import hint, keys_beside
from dreamtune.study.halved import check_halving
from dreamtune.study.points import Point

SHOWN = 80  # most characters of a section that is quoted


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
    """The experiments of one configuration file, by name, after grid, seeds and data sizes are multiplied out."""

    experiments: dict[str, Experiment]
    points: dict[str, Point] = Field(default_factory=dict)  # of the same names: what each is within the study
    study: StudyConfig = Field(default_factory=StudyConfig)


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
        TooManyRuns: the study has more runs than `study.max_points`.
    """
    if not isinstance(raw, dict):
        raise UserError(f"the configuration must be a mapping of sections, not {type(raw).__name__}")
    defaults = _written({name: section for name, section in raw.items() if name not in ("experiments", *KEYS)})
    experiments = raw.get("experiments", {"main": {}})
    if not isinstance(experiments, dict) or not experiments:
        raise UserError("experiments: expected a mapping of names to changes, for example `experiments: {main: {}}`")
    study = read_study(raw, experiments, Experiment)
    points: dict[str, Point] = {}
    found: dict[str, Experiment] = {}
    for name, over in experiments.items():
        _check_name(name, over)
        own = merge(defaults, _written(over or {}))
        for point, changes in runs_of(study, name, own):
            add_run(points, point)
            found[point.name] = _experiment(point, merge(own, changes))
    check_methods(study, points)
    check_halving(study.settings, points, found)
    return Config(experiments=found, points=points, study=study.settings)


def _check_name(name: Any, changes: Any) -> None:
    """Raise a UserError unless an experiment's name can be that of a folder, and its changes are a mapping."""
    if not isinstance(name, str) or not name.replace("-", "").replace("_", "").isalnum():
        raise UserError(f"experiments: the name {name!r} should hold only letters, digits, '-' and '_'")
    if len(name.encode()) > NAME:  # it names a folder, and stands in one line of every message
        raise UserError(
            f"experiments: the name {name[:20]}… takes {len(name.encode())} bytes; at most {NAME} are allowed"
        )
    if not isinstance(changes, dict | types.NoneType):
        raise UserError(f"experiments.{name}: expected a mapping of sections to changes, not {changes!r}")


def _experiment(point: Point, sections: dict[str, Any]) -> Experiment:
    try:
        experiment = Experiment.model_validate(sections)
    except ValidationError as error:
        raise UserError(_one_line(error)) from None
    unused = [field for field in point.coordinates if field.startswith("train.lora")]
    if unused and experiment.train.finetuning == "full":
        raise UserError(
            f"grid.of: {point.experiment} trains all weights, for which {unused[0]} has no use, so its points would be "
            "one; leave it out"
        )
    if problem := causal_problem(experiment) or contradiction(experiment):
        raise UserError(f"experiments.{point.name}: {problem}")
    return experiment.model_copy(update=causal_settings(experiment))


def merge(defaults: Any, changes: Any) -> Any:
    """Return `defaults` with `changes`: mappings are merged key by key, any other value is replaced.

    >>> merge({"lora": {"rank": 16, "alpha": 32}, "betas": [0.9, 0.999]}, {"lora": {"rank": 8}, "betas": [0.9, 0.95]})
    {'lora': {'rank': 8, 'alpha': 32}, 'betas': [0.9, 0.95]}
    """
    if not isinstance(defaults, dict) or not isinstance(changes, dict):
        return changes
    return defaults | {name: merge(defaults.get(name), value) for name, value in changes.items()}


def _written(sections: dict[str, Any]) -> dict[str, Any]:
    """Return the sections without the empty ones, such as a bare `train:`, which YAML reads as null."""
    return {name: section for name, section in sections.items() if section is not None}


def _one_line(error: ValidationError) -> str:
    # Misspelt keys first: one that is required is then missing, too.
    errors = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    first = errors[0]
    ways = [e for e in errors if _is_way(e) and e["loc"][:-1] == first["loc"][:-1]] if _is_way(first) else [first]
    key, more = ".".join(map(str, first["loc"][:-1] if _is_way(first) else first["loc"])), len(errors) - len(ways)
    if first["type"] == "extra_forbidden":
        known = keys_beside(Experiment, first["loc"]) + (list(KEYS) if len(first["loc"]) == 1 else [])
        message = f"unknown key {key!r} in the configuration; {hint(str(first['loc'][-1]), known)}"
    elif first["type"] == "missing":
        message = f"{key}: this key is required and missing from the configuration"
    else:
        problem = " or ".join(dict.fromkeys(e["msg"].removeprefix("Value error, ") for e in ways))
        problem = problem.replace(" or Input should be", " or")
        message = f"{key}: {problem[:1].lower()}{problem[1:]}{_given(first['input'])}"
    return message + (f" (and {more} more)" if more else "")


def _is_way(error: ErrorDetails) -> bool:
    """Whether an error is about one of several types that a key may have; the type is then the end of its location."""
    last, kind = error["loc"][-1] if error["loc"] else 0, error["type"]
    found = isinstance(last, str) and kind not in ("extra_forbidden", "missing")
    return found and last not in keys_beside(Experiment, error["loc"]) and len(error["loc"]) > 1


def _given(value: Any) -> str:
    """Return the words that quote a value; none for a whole section, of which a sentence names what is wrong."""
    text = repr(value)
    return "" if isinstance(value, dict) and len(text) > SHOWN else f"; given was {text}"
