"""Fetch pinned models and data files from the Hugging Face hub into its local cache.

No other module goes to the network. A file is in the cache whole or not at all: a call after one that was interrupted
begins with the file that was being fetched.
"""

import errno
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import constants, errors, hf_hub_download, snapshot_download
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import disable_progress_bars

from dreamtune.errors import UserError
from dreamtune.inputs.base_card import README
from dreamtune.inputs.hub import (
    HUB,
    HUB_MODEL,
    TEXTS,
    cache,
    cached_file,
    data_file,
    listed_files,
    missing_files,
    model_folder,
    pinned_file,
)
from dreamtune.inputs.model_check import check_model
from dreamtune.inputs.rows import open_rows
from dreamtune.inputs.weight_files import MODEL_WEIGHTS, PICKLES

T = TypeVar("T")
ATTEMPTS = 3
ABANDONED_S = 600.0  # a half-written file not added to for this many seconds has no writer any more
CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}


def download(
    sources: Sequence[str],
    say: Callable[[str], None] = print,
    models: Sequence[Mapping[str, Any]] = (),
    columns: Iterable[tuple[str, str]] = (),
) -> int:
    """Fetch each source that the cache does not hold; return the number of bytes fetched.

    Args:
        sources: pinned addresses of models and data files, as `hub.hub_sources` returns them.
        say: called with each line of progress.
        models: settings path, revision, family, mask_token and attention of models among the sources, which are checked
            as soon as they are fetched.
        columns: data files' addresses, each with the name of a column that it must have.

    Raises:
        UserError: there is no such repository, revision or file, it may not be read, the hub cannot be reached, a model
            cannot be used, or a data file lacks a column.
    """
    if not sys.stderr.isatty():  # else a log would hold every state of the bars, beside the lines below
        disable_progress_bars()
    fetched = 0
    for source in sources:
        started = time.monotonic()
        size = _data_file(source, say) if source.startswith(HUB) else _model(source, say)
        done = f"fetched {_size(size)} in {time.monotonic() - started:.0f} s" if size else "nothing to fetch"
        say(f"{source}: {done}")
        for model in models:
            if source == f"{model['path']}@{model['revision']}":
                folder = model_folder(model["path"], model["revision"])
                check_model(folder, model["family"], model["mask_token"], model["attention"])
        fetched += size
        if wanted := [name for file, name in columns if file == source]:
            open_rows([data_file(source)], wanted, 1, nested=wanted)  # whether one may hold lists, the plan knows
    say(f"everything is in {cache()}" if sources else "this configuration takes nothing from the hub")
    return fetched


def _data_file(address: str, say: Callable[[str], None]) -> int:
    repository, file, revision, kind = pinned_file(address)
    _clear_abandoned(repository, kind)
    return 0 if cached_file(repository, file, revision, kind) else _file(repository, file, revision, kind, say)


def _model(source: str, say: Callable[[str], None]) -> int:
    """Fetch a model that the cache does not hold whole; return the number of bytes fetched.

    Its weights are fetched one file after the other, so that a kill loses at most the file that is being fetched.
    """
    address = HUB_MODEL.fullmatch(source)
    assert address, f"{source} was planned, and is OWNER/NAME@REVISION"
    repository, revision = address["repository"], address["revision"]
    _clear_abandoned(repository, "model")
    if listed_files(repository, revision) and not missing_files(repository, revision):
        return 0
    before, texts = _texts(repository, revision), [*(f"*{end}" for end in TEXTS), README]
    get = partial(snapshot_download, repository, revision=revision, allow_patterns=texts, ignore_patterns=["*/*"])
    _try(get, repository, revision)
    new = {name: size for name, size in _texts(repository, revision).items() if name not in before}
    if new:
        say(f"  configuration and tokenizer ({len(new)} files, {_size(sum(new.values()))})")
    return sum(new.values()) + sum(
        _file(repository, name, revision, "model", say) for name in missing_files(repository, revision)
    )


def _texts(repository: str, revision: str) -> dict[str, int]:
    """Return the sizes in bytes, by name, of those of a model's small files (`TEXTS`) that the cache holds."""
    config = cached_file(repository, "config.json", revision)
    folder = config.parent.iterdir() if config else ()
    return {file.name: file.stat().st_size for file in folder if file.name.endswith(TEXTS)}


def _file(repository: str, name: str, revision: str, kind: str, say: Callable[[str], None]) -> int:
    size = listed_files(repository, revision).get(name)
    say(f"  {name}" + (f" ({_size(size)})" if size else ""))
    get = partial(hf_hub_download, repository, name, repo_type=kind, revision=revision)
    return Path(_try(get, repository, revision, name, kind)).stat().st_size


def _try(get: Callable[[], T], repository: str, revision: str, file: str = "", kind: str = "model") -> T:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return get()
        except Exception as error:  # the hub's library passes on errors of several network libraries
            if mistake := _mistake(error, repository, revision, file, kind):
                raise UserError(mistake) from error
            # The library itself tries for half a minute to reach the hub, so only broken connections are tried again.
            if attempt == ATTEMPTS or isinstance(error, errors.LocalEntryNotFoundError):
                reason = " ".join(str(list(_causes(error))[-1]).split())
                raise UserError(
                    f"{repository} cannot be fetched from {constants.ENDPOINT} ({reason}); run this again where there "
                    "is internet, files that are whole are kept"
                ) from error
            time.sleep(2.0**attempt)
    raise AssertionError("the last attempt returns or raises")


def _mistake(error: Exception, repository: str, revision: str, file: str, kind: str) -> str | None:
    """Return one line that tells the user how to mend the error; None if trying again may help."""
    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{repository}"
    login = "log in with `hf auth login` or set HF_TOKEN, and start again"
    for cause in _causes(error):
        if isinstance(cause, errors.GatedRepoError):
            return f"{repository} is gated: ask for access at {page}, then {login}"
        if isinstance(cause, errors.RepositoryNotFoundError):
            return f"the hub has no {kind} {repository}, or it is private: check the name, or {login}"
        if isinstance(cause, errors.RevisionNotFoundError):
            return f"{repository} has no revision {revision}; its commits are listed at {page}/commits/main"
        if isinstance(cause, errors.RemoteEntryNotFoundError):
            return f"{repository} at {revision} has no file {file}{_pickled(repository, revision, file)}"
        if isinstance(cause, errors.OfflineModeIsEnabled):
            return f"{repository} is not in {cache()}, and HF_HUB_OFFLINE forbids to fetch it; unset that"
        if isinstance(cause, OSError) and cause.errno in CANNOT_WRITE:
            return f"cannot write to {cache()}: {cause.strerror}; set HF_HOME to a folder of yours with room"
    return None


def _pickled(repository: str, revision: str, file: str) -> str:
    pickled = [n for n in listed_files(repository, revision) if any(Path(n).match(pattern) for pattern in PICKLES)]
    if file != MODEL_WEIGHTS or not pickled:
        return ""
    return f", only pickled weights ({pickled[0]}), which can run code when read; convert them to {MODEL_WEIGHTS} first"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and the errors that caused it, outermost first: the hub's library wraps the network's errors."""
    while error:
        yield error
        error = error.__cause__


def _clear_abandoned(repository: str, kind: str) -> None:
    """Delete the half-written files of calls that were killed, because the hub's library never resumes them."""
    blobs = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repository, repo_type=kind), "blobs")
    for left in blobs.glob("*.incomplete"):
        with suppress(OSError):  # another user's, or gone meanwhile
            if time.time() - left.stat().st_mtime > ABANDONED_S:
                left.unlink()


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
