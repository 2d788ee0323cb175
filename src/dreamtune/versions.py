"""What a stage's version is made of: digests of settings, files, models and code.

Torch-free and quick: the Snakefile calls this while it is parsed. How a digest is computed is not itself hashed,
so this module is in `UNHASHED`; so is the progress display, which cannot change what a stage writes.
"""

import ast
import hashlib
import json
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from dreamtune.errors import UserError
from dreamtune.weight_files import weight_files

SRC = Path(__file__).resolve().parents[1]
ROOT = SRC.parent
UNHASHED = {"dreamtune.versions", "dreamtune.progress"}
MODEL_SUFFIXES = {".safetensors", ".json", ".txt", ".model"}
TOKENIZER_FILES = {
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "config.json",
}


def digest(value: Any) -> str:
    """Return 12 hex digits of a JSON value; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class FileDigests:
    """Digests of input files, remembered by path, size and time of change, so that a large file is read once."""

    def __init__(self, memory: Path) -> None:
        self.memory = memory
        self.known: dict[str, list[Any]] = json.loads(memory.read_text()) if memory.exists() else {}
        self.changed = False

    def of(self, path: Path) -> str:
        """Return the SHA-256 of `path`."""
        stat = path.stat()
        key, mark = str(path.resolve()), [stat.st_size, stat.st_mtime_ns]
        if self.known.get(key, [None])[:2] != mark:
            self.known[key] = [*mark, sha256_file(path)]
            self.changed = True
        return self.known[key][2]

    def save(self) -> None:
        """Write what was learnt; a folder that cannot be written to only costs the next call its time."""
        if not self.changed or not os.access(self.memory.parent, os.W_OK):
            return
        beside = self.memory.with_suffix(f".{os.getpid()}")
        beside.write_text(json.dumps(self.known))
        beside.replace(self.memory)

    def of_model(self, path: str, revision: str | None) -> Any:
        """Return what identifies a model: hub name and pinned revision, or the digests of a local folder's files.

        Raises UserError where there is no such folder, no weights in it, or no pinned revision.
        """
        if Path(path).is_dir():
            weight_files(Path(path))
        return self._identity(path, revision, lambda file: file.suffix in MODEL_SUFFIXES)

    def of_tokenizer(self, path: str, revision: str | None) -> Any:
        """Like `of_model`, for the files that a tokenizer is read from."""
        return self._identity(path, revision, lambda file: file.name in TOKENIZER_FILES)

    def _identity(self, path: str, revision: str | None, counts: Any) -> Any:
        folder = Path(path)
        if folder.is_dir():
            return {file.name: self.of(file) for file in sorted(folder.iterdir()) if file.is_file() and counts(file)}
        if folder.is_absolute() or path.startswith((".", "~")) or path.count("/") != 1:
            raise UserError(
                f"model.path: there is no folder {path!r}; give a checkpoint folder or a hub name OWNER/NAME"
            )
        if revision is None or len(revision) != 40 or set(revision) - set("0123456789abcdef"):
            raise UserError(
                f"model.revision: {path!r} is no folder here, and as a hub name it needs a commit of 40 hex digits, "
                f"not {revision!r}"
            )
        return f"{path}@{revision}"


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
    return ast.parse(path.read_text())


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
