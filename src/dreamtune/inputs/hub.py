"""What is pinned on the Hugging Face hub, found in the hub's local cache. Nothing here goes to the network.

`snakemake download` fills that cache (`download.py`); a compute node, which may have no internet, reads it.
The hub's library is imported late: the Snakefile imports this module and must stay light.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dreamtune.errors import UserError
from dreamtune.inputs.weight_files import INDEX, MODEL_WEIGHTS, index_names

HUB = "hf://"
HUB_FILE = re.compile(r"hf://datasets/(?P<repository>[^/@]+/[^/@]+)@(?P<revision>[0-9a-f]{40})/(?P<file>.+)")
HUB_MODEL = re.compile(r"(?P<repository>[\w-][\w.-]*/[\w.-]+)@(?P<revision>[0-9a-f]{40})")
# Configuration and tokenizer, and the official code, which is never run: a merged checkpoint takes it along.
TEXTS = (".json", ".txt", ".model", ".jinja", ".py")
FETCH = "fetch it where there is internet: snakemake download --cores 1 (with the same profile and --configfile)"


def hub_sources(inputs: Mapping[str, Any]) -> list[str]:
    """Return what of a version's planned inputs (see `dreamtune.inputs.identity`) lies on the hub, as pinned addresses.

    A model is OWNER/NAME@REVISION, a data file hf://datasets/OWNER/NAME@REVISION/PATH.
    """
    found: dict[str, None] = {}
    for identity in inputs.values():
        listed: Iterable[str] = [identity] if isinstance(identity, str) else identity
        found |= {each: None for each in listed if each.startswith(HUB) or HUB_MODEL.fullmatch(each)}
    return list(found)


def model_folder(path: str, revision: str | None) -> Path:
    """Return the local folder of a checkpoint: `path` itself, or where the cache holds a hub name's pinned revision.

    Raises:
        UserError: no such folder, a hub name without a full commit, or one that has not been fetched whole.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if not HUB_MODEL.fullmatch(f"{path}@{'0' * 40}"):
        raise UserError(f"the model folder {path} does not exist")
    if revision is None or not HUB_MODEL.fullmatch(f"{path}@{revision}"):
        raise UserError(
            f"{path} is no local folder; to take it from the hub, pin model.revision to a commit of 40 hex digits "
            f"(now {revision!r})"
        )
    if missing := missing_files(path, revision):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(f"{path} at {revision}: {missing[0]}{more} is not in {cache()}; {FETCH}")
    return cached_file(path, "config.json", revision).parent  # type: ignore[union-attr]


def data_file(address: str) -> Path:
    """Return where the cache holds a pinned data file.

    Raises:
        UserError: the address is not pinned, or the file has not been fetched.
    """
    path = cached_file(*pinned_file(address))
    if path is None:
        raise UserError(f"{address} is not in {cache()}; {FETCH}")
    return path


def pinned_file(address: str) -> tuple[str, str, str, str]:
    """Return repository, file and revision of a data file's address, and that it is of a data set.

    Raises:
        UserError: it is no such address, or its revision is not a full commit.
    """
    parts = HUB_FILE.fullmatch(address)
    if not parts:
        raise UserError(
            f"{address} is not a pinned hub file; write hf://datasets/OWNER/NAME@REVISION/PATH.parquet "
            "with the 40-digit commit as the revision"
        )
    return parts["repository"], parts["file"], parts["revision"], "dataset"


def missing_files(repository: str, revision: str) -> list[str]:
    """Return the files of a model that are read and that the cache lacks; weights come last.

    Without the repository's list of files, which is cached with its first files, the least a checkpoint needs counts.
    """
    config = cached_file(repository, "config.json", revision)
    if config is None:
        return ["config.json"]
    listed = listed_files(repository, revision)
    texts = [name for name in listed if "/" not in name and name.endswith(TEXTS)]
    single = MODEL_WEIGHTS in listed or (config.parent / MODEL_WEIGHTS).exists() or not (config.parent / INDEX).exists()
    weights = [MODEL_WEIGHTS] if single else index_names(config.parent)
    return [name for name in [*texts, *weights] if not (config.parent / name).exists()]


def listed_files(repository: str, revision: str) -> dict[str, int]:
    """Return the size in bytes of each file of a model's repository, as its cached list says; {} without one."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        return {file.path: file.size for file in get_cached_repo_tree(repository, revision=revision)}
    except CachedRepoTreeNotFoundError:
        return {}


def cached_file(repository: str, file: str, revision: str, kind: str = "model") -> Path | None:
    """Return where the cache holds a file of a repository; None if it does not."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, file, revision=revision, repo_type=kind)
    return Path(found) if isinstance(found, str) else None  # no text: the hub was asked before, and has no such file


def cache() -> str:
    """Return the name of the cache's folder, for messages."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return f"the hub's cache {HF_HUB_CACHE}"
