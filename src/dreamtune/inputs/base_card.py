"""The licence that a base model's own files state: config.json, or the front matter of its model card, README.md."""

from pathlib import Path
from typing import Any

import yaml

from dreamtune.files import read_json
from dreamtune.inputs.hub import cached_file

README = "README.md"
FILES = (README, "config.json")  # in a model's folder
FIELDS = ("license", "license_name", "license_link")


def base_licence(path: str, revision: str | None) -> dict[str, str]:
    """Return the fields license, license_name and license_link that a base model's files state; {} if they state none.

    A hub model's README.md is read from the cache, where `snakemake download` puts it. Without it nothing is known:
    that stops no report.

    Args:
        path: folder of the checkpoint, or its name on the hub.
        revision: the hub commit.
    """
    folder = Path(path)
    for name in FILES:
        file = folder / name if folder.is_dir() else cached_file(path, name, str(revision))
        if file and file.is_file():
            stated = _front_matter(file) if name == README else _object(file)
            found = {key: stated[key].strip() for key in FIELDS if isinstance(stated.get(key), str)}
            if found.get("license"):
                return found
    return {}


def _object(file: Path) -> dict[str, Any]:
    try:
        content = read_json(file)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _front_matter(file: Path) -> dict[str, Any]:
    """Return the YAML between the lines of dashes with which a model card begins; {} where there is none."""
    from huggingface_hub import metadata_load  # slow to import, and planning does not need it

    try:
        return metadata_load(file) or {}
    except (OSError, ValueError, yaml.YAMLError):
        return {}
