"""Read a configuration file, and refuse what YAML would silently read as something else.

YAML 1.1 takes the last of two equal keys, reads `010` as 8 (octal) and `1:30` as 90 (base 60). Snakemake loads the
files that it is given by itself, so the Snakefile has each of them checked here. Torch-free.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from dreamtune.errors import UserError

OCTAL = re.compile(r"[-+]?0[0-7_]+")
SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")
NUMBERS = {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}


def read_file(path: Path) -> Any:
    """Return the content of a YAML file.

    Raises:
        UserError: the file cannot be read or is not YAML; a key stands twice in one mapping; or a number is written in
            a way that YAML reads as another one.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        what = "there is no such configuration file" if isinstance(error, FileNotFoundError) else error.strerror
        raise UserError(f"{path}: {what}; give an existing file after --configfile") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: this is not YAML in UTF-8: {error.reason} at byte {error.start}") from None
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        _check(path, root, "", set())
        return loader.construct_document(root) if root else None
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{path}: this is not YAML: {' '.join(str(error).split())}") from None
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: a number or date in it cannot be read: {error}") from None


def _check(path: Path, node: yaml.Node | None, name: str, seen: set[int]) -> None:
    """Raise a UserError for the first mistake in the tree below `node`, whose dotted name is `name`."""
    if node is None or id(node) in seen:  # an alias leads to a node that was checked where it is written
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            inner = f"{name}.{key.value}" if name else str(key.value)
            line = key.start_mark.line + 1
            if key.tag != "tag:yaml.org,2002:merge" and isinstance(key, yaml.ScalarNode):
                if key.value in lines:
                    raise UserError(
                        f"{path}: {inner} is given twice, in line {lines[key.value]} and in line {line}; only one "
                        "would count, so keep one of them"
                    )
                lines[key.value] = line
            _check(path, value, inner, seen)
    elif isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            _check(path, item, f"{name}.{number}", seen)
    elif isinstance(node, yaml.ScalarNode) and _is_plain_number(node) and (meant := _misread(node.value)):
        line = node.start_mark.line + 1
        raise UserError(f"{path}: {name} is {node.value} in line {line}, which YAML reads as {meant}")


def _is_plain_number(node: yaml.ScalarNode) -> bool:
    return node.tag in NUMBERS and node.style is None  # a quoted text has a style


def _misread(text: str) -> str:
    """Return what YAML makes of a number that people would read otherwise; "" for any other number.

    >>> _misread("010"), _misread("1:30"), _misread("0.5"), _misread("0")
    ('an octal number, 8; write it without the leading 0', 'a number to base 60; write it in decimals', '', '')
    """
    if OCTAL.fullmatch(text):
        return f"an octal number, {int(text.replace('_', ''), 8)}; write it without the leading 0"
    return "a number to base 60; write it in decimals" if SEXAGESIMAL.fullmatch(text) else ""
