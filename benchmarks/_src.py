"""Put `src/` on the import path when this module is imported, here and in the processes that a benchmark starts."""

import os
import shutil
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

SRC = str(Path(__file__).resolve().parents[1] / "src")
sys.path.insert(0, SRC)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [SRC, os.environ.get("PYTHONPATH")]))


def whole(write: Callable[..., Any]) -> Callable[..., Path]:
    """Return a function that makes a folder, its first argument, as `write` does, and whole or not at all.

    A benchmark takes a folder that is there for made by an earlier call of itself, which may have been killed.
    """

    @wraps(write)
    def written(folder: Path, *arguments: Any, **named: Any) -> Path:
        private = folder.with_name(f".{folder.name}.half")
        shutil.rmtree(private, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        write(private, *arguments, **named)
        return private.rename(folder)

    return written
