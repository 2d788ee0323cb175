"""The JSON schema of a configuration file; workflow/scripts/write_schema.py writes it to config/schema.json."""

from typing import Any

from dreamtune.config import Experiment
from dreamtune.settings.base import Section
from dreamtune.settings.study import DataSizes, Replicates, StudyConfig

NAMES = {"type": "array", "items": {"type": "string"}, "minItems": 1}


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of a configuration file, with which editors complete and check keys."""
    schema = Experiment.model_json_schema()
    changes = {name: dict(field) for name, field in schema["properties"].items()}
    partial = {"type": "object", "properties": changes, "additionalProperties": False}
    schema["properties"]["experiments"] = {
        "type": "object",
        "description": "experiments by name, each with the keys of the sections above that it changes",
        "additionalProperties": {"anyOf": [partial, {"type": "null"}]},
    }
    for name in ("ModelConfig", "DataConfig"):  # an experiment need not repeat the required keys
        relaxed = {k: v for k, v in schema["$defs"][name].items() if k != "required"}
        schema["$defs"][f"{name}Changes"] = relaxed
    for name in ("model", "data"):
        changes[name] = changes[name] | {"$ref": changes[name]["$ref"] + "Changes"}
    _add_study(schema)
    return schema | {"title": "dreamtune configuration", "$schema": "https://json-schema.org/draft/2020-12/schema"}


def _add_study(schema: dict[str, Any]) -> None:
    """Add the keys that make a study of the experiments: grid, seeds, data_sizes and study."""

    def section(kind: type[Section]) -> dict[str, Any]:
        found = kind.model_json_schema()
        schema["$defs"] |= found.pop("$defs", {})
        return found

    seeds, sizes, study = section(Replicates), section(DataSizes), section(StudyConfig)
    grid = {
        "type": "object",
        "properties": {"of": NAMES | {"description": "names of the experiments; all, if it is left out"}},
        "additionalProperties": {"type": "array", "minItems": 1},
    }
    schema["properties"] |= {
        "grid": {
            "description": "settings by dotted name, such as train.lora.rank, each with a list of values: the product "
            "of all lists takes the place of the experiments in `of`; a list of grids makes the points of each",
            "anyOf": [grid, {"type": "array", "items": grid}, {"type": "null"}],
        },
        "seeds": {
            "description": "number of replicates of each experiment, or a section that says of which",
            "anyOf": [seeds["properties"]["count"], seeds, {"type": "null"}],
        },
        "data_sizes": {
            "description": "numbers of training rows, or all, or a section that says of which experiments",
            "anyOf": [sizes["properties"]["rows"], sizes, {"type": "null"}],
        },
        "study": {"description": "settings of the study as a whole", "anyOf": [study, {"type": "null"}]},
    }
