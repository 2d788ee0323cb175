"""The digest of a stage's code, which is hashed into its versions: after an edit the stage's results are made again.

**A module's place decides which results an edit makes again.** The modules in `workflow/` and `device/`, and
`progress`, `interruption`, `errors`, `prediction` and `writers`, decide how a job runs and what it prints, never what
it writes: they enter no digest. Nor does `smoke.words`: its paragraph is kept in training.json as it was said then, and
nothing is computed from it. Every other module enters the digest of each script that reaches it through imports.

Torch-free and quick, because the Snakefile calls this while it is parsed.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from dreamtune.digests import digest, sha256_file

SRC = Path(__file__).resolve().parents[2]
# The folder of `workflow/` and `containers/`: the project, or the package itself where setup.py installed them with it.
INSTALLED = (SRC / "dreamtune" / "workflow" / "scripts").is_dir()
ROOT = SRC / "dreamtune" if INSTALLED else SRC.parent
UNHASHED = (  # packages and modules
    *("workflow", "device", "progress", "interruption", "errors", "prediction", "writers"),
    "smoke.words",
)


def code_digest(script: str | Path) -> str:
    """Return 12 hex digits that stand for a script and all modules of this project that it imports, in functions too.

    The digest is over syntax trees without docstrings, so comments, docstrings and formatting do not change it. Other
    files in a package's folder, such as templates, count as code. Nothing is imported or executed.

    Raises:
        SyntaxError: the script or one of the modules is no Python.
    """
    found: dict[str, str] = {}
    todo = [("__main__", Path(script).resolve())]
    while todo:
        name, path = todo.pop()
        if name in found or _unhashed(name):
            continue
        mtime = path.stat().st_mtime_ns
        found[name] = _tree_digest(path, mtime)
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        todo += [module for imported in _imports(path, mtime, package) for module in _locate(imported)]
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
def _parse(path: Path, _mtime: int) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def _tree_digest(path: Path, mtime: int) -> str:
    return digest(_plain(_parse(path, mtime)))


def _plain(node: Any) -> Any:
    """Return a syntax tree as nested lists, without docstrings and line numbers.

    Empty fields are left out, because Python's versions differ in which ones exist.

    >>> _plain(ast.parse("x  # a comment"))
    ['Module', ['body', [['Expr', ['value', ['Name', ['id', "'x'"], ['ctx', ['Load']]]]]]]]
    """
    if isinstance(node, list):
        return [_plain(item) for item in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(node):
        fields["body"] = fields["body"][1:]
    return [type(node).__name__, *([k, _plain(v)] for k, v in fields.items() if v is not None and v != [])]


@cache
def _imports(path: Path, mtime: int, package: str) -> list[str]:
    """Return the dotted names that a file in `package` imports: of modules, and of classes and functions in modules."""
    found: list[str] = []
    for node in ast.walk(_parse(path, mtime)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            found += [f"{base}.{alias.name}" for alias in node.names]
    return found


def _locate(imported: str) -> Iterator[tuple[str, Path]]:
    """Yield name and file of every module of this project that importing the dotted name runs, packages first.

    >>> [name for name, _ in _locate("dreamtune.digests.sha256_file")]
    ['dreamtune', 'dreamtune.digests']
    """
    names = imported.split(".")
    for end in range(1, len(names) + 1):
        stem = SRC.joinpath(*names[:end])
        for path in (stem.with_suffix(".py"), stem / "__init__.py"):
            if path.is_file():
                yield ".".join(names[:end]), path
