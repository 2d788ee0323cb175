"""Write files atomically, so that a reader sees the old content or the new; and read and write JSON in one style."""

import glob
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import Any

from dreamtune.writers import abandoned, private_name


@contextmanager
def replace_with(path: Path) -> Iterator[Path]:
    """Yield a private name in the folder of `path`; when the block ends, the file or link made there becomes `path`.

    The last step is one atomic rename. If the block raises, `path` stays as it was and the private file is removed, as
    are those of `path` whose writers were killed.

    >>> with replace_with(Path("index.html")) as private:  # doctest: +SKIP
    ...     private.write_text("<title>Experiments</title>")
    """
    for left in abandoned(path.parent, f".{glob.escape(path.name)}.*"):
        left.unlink(missing_ok=True)
    private = private_name(path)
    try:
        yield private
        private.replace(path)
    finally:
        private.unlink(missing_ok=True)


@contextmanager
def usual_mode(path: Path) -> Iterator[Path]:
    """Give the file that a library writes to `path` within the block the mode of any new file; yield `path`.

    safetensors 0.8 writes files that only their owner can read, whatever the umask says (safetensors#782): others who
    share a folder of results would have the configuration of an adapter, and not its weights.
    """
    path.touch()
    mode = path.stat().st_mode
    yield path
    path.chmod(mode)


def json_bytes(value: Any) -> bytes:
    """Return a JSON value as UTF-8 text in the style of all JSON files here: indented by 1, with a final newline.

    Lone surrogates, which Python puts in place of bytes of a file name that are not UTF-8, are written as JSON escapes.

    >>> json_bytes({"rows": 2})
    b'{\\n "rows": 2\\n}\\n'

    Raises:
        ValueError: a number is NaN or infinite, which JSON cannot hold (see `finite`).
    """
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode(errors="backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON value to `path`, atomically.

    Raises:
        ValueError: a number is NaN or infinite; then nothing is written.
    """
    content = json_bytes(value)
    with replace_with(path) as private:
        private.write_bytes(content)


def read_json(path: Path) -> Any:
    """Return the JSON value in a UTF-8 file, on machines with any locale.

    Raises:
        OSError: the file cannot be read.
        ValueError: its content is not JSON.
    """
    return json.loads(path.read_bytes())


def finite(value: Any) -> Any:
    """Return the JSON value with null in place of NaN and infinity, which JSON cannot hold.

    >>> finite({"loss": [0.5, float("nan")]})
    {'loss': [0.5, None]}
    """
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
