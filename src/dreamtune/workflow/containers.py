"""What a job in a container needs of the host: its image, and every path outside of the work folder that is read or
written: what the plan names, the hub's cache and token, local scratch.

A container sees the work folder and what is bound into it, nothing else of the host's disks.
"""

import os
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dreamtune.digests import sha256_file
from dreamtune.errors import UserError
from dreamtune.inputs.files import HUB, resolve_files
from dreamtune.inputs.hub import hub_sources
from dreamtune.workflow.code import ROOT
from dreamtune.workflow.scratch import VARIABLE as SCRATCH

LOCK = ROOT / "containers" / "requirements.lock"
HUB_FOLDERS = ("HF_HOME", "HF_HUB_CACHE")
TOKEN = "/mnt/hub-token"  # where a container sees the hub's token
SHARED = "DREAMTUNE_BIND"  # what all machines bind, as a job on a node has it of the driver
# A bind hides what the image has at the same place, so of these it takes single files.
OF_THE_IMAGE = frozenset(
    Path("/", name)
    for name in ("", "bin", "dev", "etc", "lib", "lib64", "opt", "proc", "run", "sbin", "sys", "tmp", "usr", "var")
)
# Inside, whatever the host's environment says: the image's packages and no others, and caches in the work folder.
ENVIRONMENT = "; ".join(
    (
        "unset PYTHONPATH PYTHONHOME",
        'export PYTHONNOUSERSITE=1 XDG_CACHE_HOME="$PWD/.cache" MPLCONFIGDIR="$PWD/.cache/matplotlib"',
        'export TORCHINDUCTOR_CACHE_DIR="$PWD/.cache/torchinductor" TRITON_CACHE_DIR="$PWD/.cache/triton"',
    )
)


def image() -> str:
    """Return DREAMTUNE_IMAGE, a file or an address; without it the file that is named by the lock's digest."""
    return os.environ.get("DREAMTUNE_IMAGE") or f"containers/dreamtune-{sha256_file(LOCK)[:12]}.sif"


def require(name: str, nodes: int = 1) -> None:
    """Stop unless the image is there; one with an address is fetched by Snakemake.

    Args:
        nodes: most that a training takes.

    Raises:
        UserError: there is no such file; or it has an address, and every node of a training would fetch it.
    """
    if "://" in name and nodes > 1:
        raise UserError(
            f"each of the {nodes} nodes of a training would fetch {name}; fetch it once, by `apptainer pull NAME.sif "
            f"{name}`, and set DREAMTUNE_IMAGE to that file"
        )
    if "://" not in name and not Path(name).is_file():
        raise UserError(f"there is no image {name}; `make image` builds it, or set DREAMTUNE_IMAGE to one you have")


def bind(specs: Iterable[dict[str, Any]]) -> None:
    """Have every path that `specs` name outside of the work folder bound into containers, by APPTAINER_BIND.

    Data and models are bound read-only, the hub's cache for writing. Without HF_HOME the cache is in the work folder:
    there the home folder's is not to be seen. Its token is, where a source lies on the hub.

    Raises:
        UserError: such a path has a comma or a colon in its name, which a bind cannot express; or HF_HOME or
            HF_HUB_CACHE is a folder that cannot be made.
    """
    work, specs = Path.cwd(), list(specs)
    token = token_file() if any(hub_sources(spec["inputs"]) for spec in specs) else None
    os.environ.setdefault("HF_HOME", str(work / ".cache" / "huggingface"))
    binds = dict.fromkeys(named_paths(specs), "ro") | dict.fromkeys(hub_folders(work), "rw")
    os.environ[SHARED] = ",".join(filter(None, [_given(), *bind_list(binds, work)]))
    # Only here, where the downloads run: a node never asks the hub, and may have another home folder or none.
    bind_here([f"{_expressible(token.resolve())}:{TOKEN}:ro"] if token else [])
    if token:
        os.environ["HF_TOKEN_PATH"] = TOKEN


def bind_here(more: Iterable[str] = ()) -> None:
    """Have bound what the driver found, `more`, and what each machine knows for itself: its local scratch folder.

    A folder of DREAMTUNE_SCRATCH that is not there is left to `scratch.py`, which says so in one line: bound, it would
    keep every container from starting.

    Raises:
        UserError: the folder has a comma or a colon in its name.
    """
    asked = os.environ.get(SCRATCH)
    folder = Path(os.path.expandvars(asked)) if asked else None
    scratch = bind_list({folder: "rw"}, Path.cwd()) if folder and folder.is_dir() else []
    shared = os.environ.setdefault(SHARED, _given())
    value = ",".join(filter(None, [shared, *more, *scratch]))
    os.environ |= {"APPTAINER_BIND": value, "SINGULARITY_BIND": value}


def _given() -> str:
    return os.environ.get("APPTAINER_BIND") or os.environ.get("SINGULARITY_BIND") or ""


def token_file() -> Path | None:
    """Return the file in which `hf auth login` left the hub's token, found as huggingface_hub.constants does.

    None if there is none, or if it lies in HF_HOME, which is bound anyway. Nothing else of its folder is to be bound: a
    container that sees what renews a login, and may not write there, would use that up and lose the new token.
    """
    given = os.environ.get("HF_TOKEN_PATH")
    if os.environ.get("HF_HOME") and not given:
        return None
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    token = Path(os.path.expandvars(given or f"{caches}/huggingface/token")).expanduser()
    return token if os.access(token, os.R_OK) else None


def hub_folders(work: Path) -> Iterator[Path]:
    """Yield the folders of the hub's cache; what lies outside of `work` is made, for only what exists can be bound."""
    for name in filter(os.environ.get, HUB_FOLDERS):
        folder = Path(os.environ[name]).expanduser().absolute()
        os.environ[name] = str(folder)
        if not folder.is_relative_to(work):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"{name}: cannot make {folder}: {error.strerror}; give another folder") from error
        yield from (path for path in (folder, folder / "hub") if path.exists())


def named_paths(specs: Iterable[dict[str, Any]]) -> Iterator[Path]:
    """Yield the data files, the files of model folders and, of a linked worktree, git's folder."""
    sections = [section for spec in specs for section in spec["runtime"].values()]
    for pattern in {pattern: None for section in sections for pattern in section.get("files", [])}:
        if not pattern.startswith(HUB):
            yield from resolve_files([pattern])
    for folder in {Path(section["path"]): None for section in sections if "path" in section}:
        if folder.is_dir():
            yield from folder.iterdir()
    if Path(".git").is_file():
        command = ["git", "rev-parse", "--path-format=absolute", "--git-common-dir"]
        found = subprocess.run(command, capture_output=True, text=True)
        if found.returncode == 0:
            yield Path(found.stdout.strip()) / "HEAD"


def bind_list(paths: dict[Path, str], work: Path) -> list[str]:
    """Return `source:destination:mode` of what makes `paths` (each with its mode) visible beside the `work` folder.

    A path is visible under its own name only if each symbolic link on the way leads somewhere that is visible too.
    """
    found: dict[Path, str] = {}
    for path, mode in paths.items():
        for place in places(path.absolute()):
            target = place if mode == "rw" or _hides(place.parent, work) else place.parent
            if not target.is_relative_to(work):
                found[target] = mode
    return [f"{path.resolve()}:{_expressible(path)}:{mode}" for path, mode in sorted(found.items())]


def _expressible(path: Path) -> Path:
    if set(",:") & set(str(path)):
        raise UserError(f"{path}: a container takes no path with a comma or a colon; rename it, or copy it here")
    return path


def _hides(folder: Path, work: Path) -> bool:
    """Whether binding `folder` would cover something of the image's, or the work folder with one that is read-only."""
    return folder in OF_THE_IMAGE or work.is_relative_to(folder.resolve())


def places(path: Path) -> Iterator[Path]:
    """Yield `path` and where it leads, one symbolic link after the other, up to where there is none on the way."""
    yield path
    for part in (*reversed(path.parents), path):
        if part.is_symlink():
            target = part.parent / part.readlink() / path.relative_to(part)
            yield from places(Path(os.path.normpath(target)))
            return
