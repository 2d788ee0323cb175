"""Find pinned models and data files of the Hugging Face hub in its local cache. Nothing here goes to the network.

`snakemake download` fills that cache (`download.py`); a compute node, which may have no internet, only reads it.
Functions import the hub's library when they are called, because the Snakefile imports this module and must start fast.
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
# Ends of the names of a model's small files: configuration, tokenizer, and the official code, which is never run and
# only copied into merged checkpoints.
TEXTS = (".json", ".txt", ".model", ".jinja", ".py")
FETCH = "fetch it where there is internet: snakemake download --cores 1 (with the same profile and --configfile)"


def hub_sources(inputs: Mapping[str, Any]) -> list[str]:
    """Return the pinned addresses of those of a version's inputs that lie on the hub, each once.

    Args:
        inputs: identities of the version's inputs by name, as `dreamtune.inputs.identity.identify` returns them.

    Returns:
        OWNER/NAME@REVISION for a model, hf://datasets/OWNER/NAME@REVISION/PATH for a data file.

    >>> data = f"hf://datasets/me/sums@{'0' * 40}/train.parquet"
    >>> hub_sources({"model": {"config.json": "6f3a…"}, "data": [data, "9b1c…"]}) == [data]
    True
    """
    found: dict[str, None] = {}
    for identity in inputs.values():
        listed: Iterable[Any] = [identity] if isinstance(identity, str) else identity
        each_of = (
            name for each in listed for name in ([each] if isinstance(each, str) else each)
        )  # of several sources
        found |= {each: None for each in each_of if each.startswith(HUB) or HUB_MODEL.fullmatch(each)}
    return list(found)


def model_folder(path: str, revision: str | None) -> Path:
    """Return the local folder of a checkpoint: `path` itself, or for a hub name the cache's folder of that revision.

    Raises:
        UserError: there is no such folder, the hub name is not pinned to a full commit, or a file was not fetched.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    refuse_gguf(path)
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


def refuse_gguf(path: str) -> None:
    """Raise a UserError that says how to convert it, if a model's path is that of a GGUF file."""
    if path.lower().endswith(".gguf"):
        raise UserError(
            f"model.path is {path}, a GGUF file; make a folder of it once, and name that: python "
            "workflow/scripts/convert_gguf.py FILE FOLDER"
        )


def cached_model(path: str, revision: str | None) -> Path | None:
    """Return the cache's folder of a pinned model, None if it is not there whole.

    It is found by its name alone, because importing the hub's library for it would make each start of Snakemake slower.
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    if not HUB_MODEL.fullmatch(f"{path}@{revision}"):
        return None
    folder = Path(HF_HUB_CACHE, f"models--{path.replace('/', '--')}", "snapshots", str(revision))
    tokenizer = (folder / "tokenizer.json").exists() or (folder / "vocab.json").exists()
    single = (folder / MODEL_WEIGHTS).exists()
    weights = [MODEL_WEIGHTS] if single or not (folder / INDEX).exists() else index_names(folder)
    there = all((folder / name).exists() for name in ("config.json", *weights))
    return folder if there and tokenizer else None


def data_file(address: str) -> Path:
    """Return the path of a pinned data file in the cache.

    Args:
        address: hf://datasets/OWNER/NAME@REVISION/PATH.

    Raises:
        UserError: the address is not pinned, or the file has not been fetched.
    """
    path = cached_file(*pinned_file(address))
    if path is None:
        raise UserError(f"{address} is not in {cache()}; {FETCH}")
    return path


def pinned_file(address: str) -> tuple[str, str, str, str]:
    """Split a data file's address into repository, file, revision and the hub's word for its kind, "dataset".

    >>> pinned_file(f"hf://datasets/me/sums@{'0' * 40}/data/train.parquet")
    ('me/sums', 'data/train.parquet', '0000000000000000000000000000000000000000', 'dataset')

    Raises:
        UserError: the address is not of the form hf://datasets/OWNER/NAME@REVISION/PATH with a full commit.
    """
    fields = HUB_FILE.fullmatch(address)
    if not fields:
        raise UserError(
            f"{address} is not a pinned hub file; write hf://datasets/OWNER/NAME@REVISION/PATH.parquet "
            "with the 40-digit commit as the revision"
        )
    return fields["repository"], fields["file"], fields["revision"], "dataset"


def missing_files(repository: str, revision: str) -> list[str]:
    """Return the names of the files that loading a model needs and the cache lacks, weights last.

    The repository's list of files, which the cache holds from the first fetch on, says which files there are. Without
    the list, config.json and the weights are required.
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
    """Return the sizes in bytes, by path, of all files of a model's repository; {} if the cache does not list them."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        return {file.path: file.size for file in get_cached_repo_tree(repository, revision=revision)}
    except CachedRepoTreeNotFoundError:
        return {}


def cached_file(repository: str, file: str, revision: str, kind: str = "model") -> Path | None:
    """Return the path of a repository's file in the cache; None if it is not there."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, file, revision=revision, repo_type=kind)
    return Path(found) if isinstance(found, str) else None  # an object instead: known not to exist on the hub


def cache() -> str:
    """Return "the hub's cache FOLDER", for messages."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return f"the hub's cache {HF_HUB_CACHE}"
