"""The JSON schema of a configuration file; workflow/scripts/write_schema.py writes it to config/schema.json."""

from typing import Any

from dreamtune.config import Experiment


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
    return schema | {"title": "dreamtune configuration", "$schema": "https://json-schema.org/draft/2020-12/schema"}
