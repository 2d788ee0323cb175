"""What a stage's version is made of: digests of settings, files and code (inputs: see `dreamtune.inputs`).

Torch-free and quick: the Snakefile calls this while it is parsed. How a digest is computed is not itself hashed,
so the two modules are in `UNHASHED`; so is the progress display, which cannot change what a stage writes.
"""

import ast
import hashlib
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

SRC = Path(__file__).resolve().parents[1]
ROOT = SRC.parent
UNHASHED = {"dreamtune.versions", "dreamtune.inputs", "dreamtune.progress"}


def digest(value: Any) -> str:
    """Return 12 hex digits of a JSON value; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe(path: Path) -> dict[str, Any]:
    """Return what a manifest says of a file."""
    return {"sha256": sha256_file(path), "bytes": path.stat().st_size}


def code_digest(script: str | Path) -> str:
    """Return 12 hex digits of a script and of every local module it reaches through imports, lazy ones too.

    Compared are syntax trees without docstrings, so comments and formatting do not count. Files beside a package's
    modules (templates) count as code. Nothing is executed.
    """
    found: dict[str, str] = {}
    todo = [("__main__", Path(script).resolve())]
    while todo:
        name, path = todo.pop()
        if name in found or name in UNHASHED:
            continue
        tree = _parse(path, path.stat().st_mtime_ns)
        found[name] = _tree_digest(path, path.stat().st_mtime_ns)
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        todo += [module for imported in _imports(tree, package) for module in _locate(imported)]
        if path.name == "__init__.py":
            data = [f for f in sorted(path.parent.iterdir()) if f.is_file() and f.suffix not in {".py", ".pyc"}]
            found |= {f"{name}/{file.name}": sha256_file(file) for file in data}
    return digest(found)


@cache
def _parse(path: Path, _mtime: int) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def _tree_digest(path: Path, mtime: int) -> str:
    return digest(_plain(_parse(path, mtime)))


def _plain(node: Any) -> Any:
    """Return a tree as lists. Empty fields are left out: which ones exist differs between Python's versions."""
    if isinstance(node, list):
        return [_plain(item) for item in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(node):
        fields["body"] = fields["body"][1:]
    return [type(node).__name__, *([k, _plain(v)] for k, v in fields.items() if v is not None and v != [])]


def _imports(tree: ast.Module, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _locate(imported: str) -> Iterator[tuple[str, Path]]:
    """Yield every local module that `import imported` runs: its packages and, if it is one, itself."""
    parts = imported.split(".")
    for end in range(1, len(parts) + 1):
        stem = SRC.joinpath(*parts[:end])
        for path in (stem.with_suffix(".py"), stem / "__init__.py"):
            if path.is_file():
                yield ".".join(parts[:end]), path
