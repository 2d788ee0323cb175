"""The identity of a stage's inputs from outside `results/`: models, tokenizers and data files.

The identity is a pinned hub address or the files' digests, and it is hashed into the version. The job determines it
again before it starts and before it publishes: otherwise the result of a file that was replaced meanwhile would be
stored under the version of the earlier file.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from dreamtune.digests import mark, sha256_file
from dreamtune.errors import UserError
from dreamtune.files import read_json, write_json
from dreamtune.inputs.base_card import FILES as CARD_FILES
from dreamtune.inputs.files import resolve_files
from dreamtune.inputs.hub import HUB, pinned_file, refuse_gguf
from dreamtune.inputs.weight_files import weight_files

DIGESTS = Path("results/.digests.json")
TOKENIZER_FILES = {
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "config.json",
    "chat_template.jinja",
    "chat_template.json",
}
BASE_MODEL = ("model", "tokenizer", "card")  # inputs that are files of the base model
MODEL_FILES = TOKENIZER_FILES | {"generation_config.json", "model.safetensors.index.json"}  # and all safetensors


class FileDigests:
    """Digests of input files, kept in the file `memory` by path, size, time of change and inode: a large file is
    read once.

    `identify` determines the identity of an input once per object of this class; make a new object to do so again.
    """

    def __init__(self, memory: Path) -> None:
        self.memory = memory
        self.known: dict[str, list[Any]] = {}
        self.changed = False
        self.identified: dict[tuple[str | None, ...], Any] = {}
        with suppress(OSError, ValueError):  # without a memory, or with one cut short, every file is read again
            self.known = read_json(memory)

    def of(self, path: Path) -> str:
        """Return the SHA-256 of a file's content, 64 hex digits."""
        key, seen = str(path.resolve()), list(mark(path))
        if self.known.get(key, [None])[:-1] != seen:
            self.known[key] = [*seen, sha256_file(path)]
            self.changed = True
        return str(self.known[key][-1])

    def save(self) -> None:
        """Write the digests to `memory`; a failure is ignored, the next process then reads files again."""
        if not self.changed:
            return
        with suppress(OSError):
            self.memory.parent.mkdir(exist_ok=True)
            write_json(self.memory, self.known)

    def of_model(self, path: str, revision: str | None) -> Any:
        """Return a model's identity: OWNER/NAME@REVISION, or for a local folder its files' digests by name.

        Raises:
            UserError: there is no such folder, it holds no weights, or a hub name has no pinned revision.
        """
        if Path(path).is_dir():
            weight_files(Path(path))
        return self._identity(path, revision, lambda file: file.suffix == ".safetensors" or file.name in MODEL_FILES)

    def of_tokenizer(self, path: str, revision: str | None) -> Any:
        """Return a tokenizer's identity: OWNER/NAME@REVISION, or the digests of a local folder's tokenizer files.

        Raises:
            UserError: there is no such folder, or a hub name has no pinned revision.
        """
        return self._identity(path, revision, lambda file: file.name in TOKENIZER_FILES)

    def of_card(self, path: str, revision: str | None) -> Any:
        """Return the identity of the files in which a model states its licence: digests, or a hub model's name.

        A hub name stands in a dictionary, by which `hub.hub_sources` does not fetch the model for its card.

        Raises:
            UserError: there is no such folder, or a hub name has no pinned revision.
        """
        found = self._identity(path, revision, lambda file: file.name in CARD_FILES)
        return found if isinstance(found, dict) else {"hub": found}

    def _identity(self, path: str, revision: str | None, counts: Any) -> Any:
        folder = Path(path)
        if folder.is_dir():
            return {file.name: self.of(file) for file in sorted(folder.iterdir()) if file.is_file() and counts(file)}
        refuse_gguf(path)
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


def identify(names: Iterable[str], runtime: Mapping[str, Any], digests: FileDigests) -> dict[str, Any]:
    """Return the identity of each named input, found by the paths in a stage's runtime settings.

    Args:
        names: "model", "tokenizer" and "card" (of the base model; the card's files state its licence), "questions"
            (the files of section "benchmark"), "chat_template" (the file that the section "data" names), or the name of
            a section with a field `files`, or `sources` with such a field each, which gives a list for each source.
        runtime: the runtime fields of each section, by the section's name.
        digests: digests of files that were read before.

    Raises:
        UserError: a file or folder is missing, a model without weights, a hub name or file without a pinned revision.
    """
    found: dict[str, Any] = {}

    def at(*place: str) -> Any:
        if place not in digests.identified:
            digests.identified[place] = _identity_at(place, digests)
        return digests.identified[place]

    for name in names:
        section = runtime.get("benchmark" if name == "questions" else name, {})
        if name in BASE_MODEL:
            found[name] = at(name, runtime["model"]["path"], runtime["model"]["revision"])
        elif name == "chat_template":
            found[name] = at("files", runtime["data"]["chat_template"])
        elif section.get("sources"):
            found[name] = [at("files", *source["files"]) for source in section["sources"]]
        else:
            found[name] = at("files", *section["files"])
    return found


def _identity_at(place: tuple[str, ...], digests: FileDigests) -> Any:
    """Return the identity of (one of BASE_MODEL, path, revision), or of ("files", pattern, …)."""
    kind, *paths = place
    if kind == "files":
        return [identity for pattern in paths for identity in _files(pattern, digests)]
    of = {"model": digests.of_model, "tokenizer": digests.of_tokenizer, "card": digests.of_card}[kind]
    return of(*paths)


def _files(pattern: str, digests: FileDigests) -> list[str]:
    """Return a pinned hub address as it is, or the digests of the local files that a pattern matches."""
    if pattern.startswith(HUB):
        pinned_file(pattern)
        return [pattern]
    return [digests.of(file) for file in resolve_files([pattern])]
