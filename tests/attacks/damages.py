"""Damages drawn at random: of values in a tree of JSON or YAML, of bytes, of a safetensors header."""

import json
import random
from pathlib import Path
from typing import Any

WEIRD: tuple[Any, ...] = (
    *(None, "", " ", "x", "-", "null", "nan", "../../etc", "{question}", "é" * 300, "\x00", "1e-3", "010"),
    *(-1, 0, 1, 3, 10**9, 2**63, 2**70, -0.5, 0.5, 1e308, float("inf"), float("nan"), True, False),
    *([], {}, [None], [[]], [1, 2, 3], ["x"], {"a": 1}, {"": None}),
)


def damage_value(tree: Any, lot: random.Random) -> str:
    """Change, remove or add one value anywhere in a tree of dictionaries and lists; return what was done."""
    places: list[tuple[Any, Any, str]] = []

    def collect(node: Any, name: str) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((node, key, f"{name}.{key}"))
            collect(node[key], f"{name}.{key}")

    collect(tree, "")
    node, key, name = lot.choice(places)
    how = lot.choice(["replace"] * 6 + ["remove", "add"])
    value = lot.choice(WEIRD)
    if how == "remove":
        del node[key]
    elif how == "add" and isinstance(node, dict):
        node[lot.choice(["x", f"{key}s", "", "new"])] = value
    else:
        node[key] = value
    return f"{how} {name} {value!r:.40}"


def damage_bytes(content: bytes, lot: random.Random) -> tuple[bytes, str]:
    """Return the bytes with one damage: cut, some changed, some inserted, a stretch repeated; and what was done."""
    at, length = lot.randrange(len(content)), lot.randint(1, 20)
    how = lot.choice(["cut", "change", "insert", "repeat", "remove", "empty"])
    some = lot.randbytes(length)
    damaged = {
        "cut": content[:at],
        "change": content[:at] + some + content[at + length :],
        "insert": content[:at] + some + content[at:],
        "repeat": content[: at + length] + content[at:],
        "remove": content[:at] + content[at + length :],
        "empty": b"",
    }
    return damaged[how], f"{how} {length} bytes at {at}"


def damage_json(path: Path, lot: random.Random) -> str:
    """Damage a JSON file, in a value or in its bytes; return what was done."""
    if lot.random() < 0.25:
        content, said = damage_bytes(path.read_bytes(), lot)
        path.write_bytes(content)
        return said
    tree = json.loads(path.read_text())
    said = damage_value(tree, lot)
    path.write_text(json.dumps(tree))
    return said


def damage_file(path: Path, lot: random.Random) -> str:
    """Damage a file's bytes, as often in its first or last hundred as anywhere; return what was done."""
    content = path.read_bytes()
    place = lot.choice(["head", "tail", "anywhere"])
    cut = {"head": 100, "tail": len(content) - 100, "anywhere": 0}[place]
    if place == "head":
        part, said = damage_bytes(content[:cut], lot)
        path.write_bytes(part + content[cut:])
    else:
        part, said = damage_bytes(content[max(cut, 0) :], lot)
        path.write_bytes(content[: max(cut, 0)] + part)
    return f"{place}: {said}"


def damage_safetensors(path: Path, lot: random.Random) -> str:
    """Damage a safetensors file: its header's JSON, its header's length, or its bytes; return what was done."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    how = lot.choice(["header", "header", "length", "bytes"])
    if how == "bytes":
        return damage_file(path, lot)
    if how == "length":
        length = lot.choice([0, 1, length - 1, length + 1, len(content), 2**40, 2**64 - 1])
        path.write_bytes(length.to_bytes(8, "little") + content[8:])
        return f"length {length}"
    header = json.loads(content[8 : 8 + length])
    said = damage_value(header, lot)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    return f"header: {said}"
