"""The library's rooms: none is crowded, and no import runs back up.

A room is a folder of src/dreamtune, or a module that lies directly in it. A face is an `__init__.py` with names in it.
"""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

from conftest import ROOT

SRC = ROOT / "src/dreamtune"
FACES = {"model", "generate", "scoring"}  # their __init__.py re-exports the names that outside code may rely on


def room_of(module: str) -> str:
    """Return the folder, or the file on the ground, that `dreamtune.room.module` belongs to."""
    return module.removeprefix("dreamtune.").split(".")[0]


def imported(path: Path) -> set[str]:
    """Return the rooms that a file imports from, late imports included."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "dreamtune":
            rooms |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dreamtune."):
            rooms.add(room_of(str(node.module)))
        elif isinstance(node, ast.Import):
            rooms |= {room_of(alias.name) for alias in node.names if alias.name.startswith("dreamtune.")}
    return rooms


def test_no_folder_holds_more_than_20_modules() -> None:
    folders = [SRC, *(path for path in SRC.iterdir() if path.is_dir())]
    assert {folder.name: n for folder in folders if (n := len(list(folder.glob("*.py")))) > 20} == {}
    assert not [path for path in SRC.glob("*/*/*.py")], "rooms stand side by side, not in each other"


def test_no_import_runs_back_up() -> None:
    """The rooms have an order in which each imports only from those before it."""
    graph: dict[str, set[str]] = {}
    for path in SRC.rglob("*.py"):
        room = room_of(".".join(path.relative_to(SRC).with_suffix("").parts))
        graph.setdefault(room, set()).update(imported(path) - {room})
    order = list(TopologicalSorter(graph).static_order())  # CycleError names the rooms that import each other
    assert order.index("settings") < order.index("data") < order.index("train")


def test_only_faces_say_something_on_import() -> None:
    """Other code in an `__init__.py` would run, and enter a stage's digest, whenever one module of it is imported."""
    for path in SRC.glob("*/__init__.py"):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        code = [node for node in body if not isinstance(node, ast.Expr)]
        assert bool(code) == (path.parent.name in FACES), path
