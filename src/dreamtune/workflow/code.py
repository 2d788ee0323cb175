"""The digest of a stage's code, which is hashed into its versions: after an edit the stage's results are made again.

**A module's place decides which results an edit makes again.** The modules in `workflow/` and `device/`, and
`progress`, `interruption`, `errors`, `prediction` and `writers`, decide how a job runs and what it prints, never what
it writes: they enter no digest. Nor does `smoke.words`: its paragraph is kept in training.json as it was said then, and
nothing is computed from it. Every other module enters the digest of each script that reaches it through imports.

Torch-free and quick, because the Snakefile calls this while it is parsed.
"""

import ast
import gc
import os
from collections.abc import Iterator
from functools import cache
from itertools import accumulate
from pathlib import Path

from dreamtune.digests import digest, sha256_file

SRC = Path(__file__).resolve().parents[2]
# The folder of `workflow/` and `containers/`: the project, or the package itself where setup.py installed them with it.
INSTALLED = (SRC / "dreamtune" / "workflow" / "scripts").is_dir()
ROOT = SRC / "dreamtune" if INSTALLED else SRC.parent
UNHASHED = (  # packages and modules
    *("workflow", "device", "progress", "interruption", "errors", "prediction", "writers"),
    "smoke.words",
)
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)  # what may have a docstring


def code_digest(script: str | Path) -> str:
    """Return 12 hex digits that stand for a script and all modules of this project that it imports, in functions too.

    The digest is over syntax trees without docstrings, so comments, docstrings and formatting do not change it. Other
    files in a package's folder, such as templates, count as code. Nothing is imported or executed.

    Raises:
        SyntaxError: the script or one of the modules is no Python.
    """
    found: dict[str, str] = {}
    ours = {entry.stem for entry in SRC.iterdir()}
    asked: set[str] = set()
    todo = [("__main__", Path(script).resolve())]
    while todo:
        name, path = todo.pop()
        if name in found or _unhashed(name):
            continue
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        found[name], imported = _read(path, path.stat().st_mtime_ns, package)
        new = {dotted for dotted in imported - asked if dotted.partition(".")[0] in ours}
        asked |= new
        todo += [module for dotted in new for module in _locate(dotted)]
        if path.name == "__init__.py":
            data = [f for f in sorted(path.parent.iterdir()) if f.is_file() and f.suffix not in {".py", ".pyc"}]
            found |= {f"{name}/{file.name}": sha256_file(file) for file in data}
    return digest(found)


def _unhashed(name: str) -> bool:
    """Return whether a module enters no digest, itself or the package it lies in.

    >>> [_unhashed(f"dreamtune.{name}") for name in ("device.gpus", "smoke.words", "smoke.range_test", "smoke")]
    [True, True, False, False]
    """
    place = name.partition(".")[2]
    return any(f"{place}.".startswith(f"{unhashed}.") for unhashed in UNHASHED)


@cache
def _read(path: Path, _mtime: int, package: str) -> tuple[str, frozenset[str]]:
    """Return the digest of a file's syntax tree, and the dotted names that it imports, with the packages around them.

    Trees are made of so many objects that Python would look for garbage among them all the time; there is none.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        return digest(_words(tree)), frozenset(
            dotted for name in _imports(tree, package) for dotted in accumulate(name.split("."), "{}.{}".format)
        )
    finally:
        if collects:
            gc.enable()


def _words(root: ast.AST) -> list[str]:
    """Return a syntax tree as words: for each node its kind, its fields and a bracket, without docstrings and lines.

    Empty fields are left out, because Python's versions differ in which ones exist.

    >>> " ".join(_words(ast.parse("x = 1  # a comment").body[0]))
    "Assign targets [ Name id 'x' ctx Store ) ) ] value Constant value 1 ) )"
    """
    words: list[str] = []
    add = words.append

    def walk(node: ast.AST) -> None:
        add(type(node).__name__)
        for name in node._fields:
            value = getattr(node, name, None)
            if isinstance(value, list):
                items = value[1:] if name == "body" and _has_docstring(node) else value
                if items:
                    add(name)
                    add("[")
                    for item in items:
                        walk(item) if isinstance(item, ast.AST) else add(repr(item))
                    add("]")
            elif value is not None:
                add(name)
                walk(value) if isinstance(value, ast.AST) else add(repr(value))
        add(")")

    walk(root)
    return words


def _has_docstring(node: ast.AST) -> bool:
    return isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None


def _imports(tree: ast.Module, package: str) -> Iterator[str]:
    """Yield the dotted names that a file in `package` imports: of modules, and of classes and functions in modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _locate(dotted: str) -> Iterator[tuple[str, Path]]:
    """Yield name and file of the module or package of this project that has a dotted name, if there is one.

    >>> [(name, path.name) for name, path in _locate("dreamtune.digests")]
    [('dreamtune.digests', 'digests.py')]
    """
    stem = f"{SRC}/{dotted.replace('.', '/')}"
    for path in (f"{stem}.py", f"{stem}/__init__.py"):
        if os.path.isfile(path):  # noqa: PTH113, a Path takes five times as long, and a plan asks for thousands
            yield dotted, Path(path)
