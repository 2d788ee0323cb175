"""Names of a study's runs, made from what differs: short, valid as names of folders, and stable.

A name depends on the run's own settings alone. So another point, seed or data size gives no other run another name.
"""

import hashlib
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from dreamtune.settings.base import NAME, scientific

SHORT = {"learning_rate": "lr", "global_batch": "batch", "target_modules": "targets"}
LONGEST = 16  # characters of one value


def run_name(experiment: str, coordinates: Mapping[str, Any], rows: int | None, seed: int | None) -> str:
    """Return the name of a run.

    Args:
        experiment: its name in the configuration.
        coordinates: values by dotted names of settings, in the order of the grid.
        rows: rows that it trains on, by the study's data sizes; None for all.
        seed: of a replicate other than the first; None for the first.

    >>> run_name("qlora", {"train.lora.rank": 16, "train.learning_rate": 1e-4}, 250, 2)
    'qlora-rank16-lr1e-4-rows250-seed2'
    """
    tail = [f"rows{rows}"] * (rows is not None) + [f"seed{seed}"] * (seed is not None)
    grid = [label(field, value, list(coordinates)) for field, value in coordinates.items()]
    name = "-".join([experiment, *grid, *tail])
    if len(name.encode()) > NAME and grid:
        name = "-".join([experiment, "point_" + _digest("-".join(grid)), *tail])
    return name


def label(field: str, value: Any, fields: list[str]) -> str:
    """Return a value with its setting's name: the last part of the dotted name, or all if another field shares it.

    >>> label("train.lora.rank", 16, ["train.lora.rank"]), label("train.objective", "cart", ["train.objective"])
    ('rank16', 'objective_cart')
    >>> label("train.epochs", 3, ["train.epochs", "full.epochs"])
    'train_epochs3'
    """
    last = field.rpartition(".")[2]
    alone = sum(other.rpartition(".")[2] == last for other in fields) == 1
    short = SHORT.get(last, last) if alone else field.replace(".", "_")
    text = value_text(value)
    return short + ("" if text[0].isdigit() else "_") + text


def value_text(value: Any) -> str:
    """Return a value as letters, digits, '_' and '-'; numbers that are equal have one text, however they are written.

    >>> [value_text(v) for v in ("1e-4", 0.0001, 2.5e-4, 0.05, 16, 16.0, True, None, "none", ["q_proj", "v_proj"])]
    ['1e-4', '1e-4', '25e-5', '5e-2', '16', '16', 'true', 'null', 'none', 'q_proj_v_proj']
    """
    value = scientific(value)
    if value is None or isinstance(value, bool):
        return str(value).lower() if value is not None else "null"
    if isinstance(value, int | float):
        return _number(value)
    parts = value if isinstance(value, list) else [value]
    text = "_".join(_number(part) if isinstance(part, float) else str(part) for part in parts)
    plain = re.sub(r"[^A-Za-z0-9_]+", "_", text).strip("_") or "empty"
    return plain if len(plain) <= LONGEST else f"{plain[: LONGEST - 5]}_{_digest(text)[:4]}"


def _number(value: int | float) -> str:
    if float(value).is_integer() and abs(value) < 1e6:
        return str(int(value))
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    return f"{'-' * sign}{''.join(map(str, digits))}e{exponent}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
