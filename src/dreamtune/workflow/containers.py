"""Find the image of jobs that run in containers, and bind the host's folders that they read or write.

Of the host's disks a container sees the work folder and the paths bound into it, nothing else. Bound are the workflow's
code where it lies elsewhere, the data files and models that the plan names, what jobs keep for each other, the hub's
cache and token, and the local scratch folder.
"""

import os
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from dreamtune.digests import sha256_file
from dreamtune.errors import UserError
from dreamtune.inputs.files import HUB, resolve_files
from dreamtune.inputs.hub import hub_sources
from dreamtune.workflow.code import INSTALLED, ROOT
from dreamtune.workflow.scratch import VARIABLE as SCRATCH

LOCK = ROOT / "containers" / "requirements.lock"
HUB_FOLDERS = ("HF_HOME", "HF_HUB_CACHE")
TOKEN = "/mnt/hub-token"  # where a container sees the hub's token
SHARED = "DREAMTUNE_BIND"  # holds the binds of all machines: the driver sets it, and jobs on nodes inherit it
# Folders that are never bound whole, only single files in them: a bind hides the image's folder at the same place.
OF_THE_IMAGE = frozenset(
    Path("/", name)
    for name in ("", "bin", "dev", "etc", "lib", "lib64", "opt", "proc", "run", "sbin", "sys", "tmp", "usr", "var")
)
# Shell commands run first in a container: use only the image's packages, and keep caches in the work folder.
ENVIRONMENT = "; ".join(
    (
        "unset PYTHONPATH PYTHONHOME PYTHON_EXEC",  # with the last, torchrun would start a Python of the host
        'export PYTHONNOUSERSITE=1 XDG_CACHE_HOME="$PWD/.cache" MPLCONFIGDIR="$PWD/.cache/matplotlib"',
        'export TORCHINDUCTOR_CACHE_DIR="$PWD/.cache/torchinductor" TRITON_CACHE_DIR="$PWD/.cache/triton"',
    )
)


def image() -> str:
    """Return the image's file or address: DREAMTUNE_IMAGE, or by default the file that `make image` builds."""
    beside = Path() if INSTALLED or Path.cwd().resolve() == ROOT else ROOT
    return os.environ.get("DREAMTUNE_IMAGE") or str(beside / f"containers/dreamtune-{sha256_file(LOCK)[:12]}.sif")


def require(name: str, nodes: int = 1) -> None:
    """Check that jobs can run in an image; Snakemake itself fetches one that has an address.

    Args:
        name: file or address of the image, as `image` returns it.
        nodes: largest number of nodes of a training.

    Raises:
        UserError: there is no such file; or it is an address, and each of several nodes would fetch it.
    """
    if "://" in name and nodes > 1:
        raise UserError(
            f"each of the {nodes} nodes of a training would fetch {name}; fetch it once, by `apptainer pull NAME.sif "
            f"{name}`, and set DREAMTUNE_IMAGE to that file"
        )
    if "://" not in name and not Path(name).is_file():
        raise UserError(f"there is no image {name}; `make image` builds it, or set DREAMTUNE_IMAGE to one you have")


def bind(specs: Iterable[dict[str, Any]]) -> None:
    """Set APPTAINER_BIND so that containers see every path outside of the work folder that versions need.

    Code, data and models are bound read-only, caches for writing. If HF_HOME is not set, it is set to a folder
    in the work folder, because containers do not see the home folder. The hub's token is bound if an input lies on the
    hub.

    Args:
        specs: the versions' frozen specifications, as the plan has them.

    Raises:
        UserError: a path has a comma or a colon in its name, which a bind cannot express; or a folder that HF_HOME or
            HF_HUB_CACHE names cannot be made.
    """
    work, specs = Path.cwd(), list(specs)
    token = token_file() if any(hub_sources(spec["inputs"]) for spec in specs) else None
    os.environ.setdefault("HF_HOME", str(work / ".cache" / "huggingface"))
    code = (ROOT / "workflow", ROOT / "src")  # their folder, if it is not the work folder
    binds = dict.fromkeys((*code, *named_paths(specs)), "ro")
    binds |= dict.fromkeys((*hub_folders(work), *cache_folders(specs, work)), "rw")
    os.environ[SHARED] = ",".join(filter(None, [_given(), *bind_list(binds, work)]))
    # The token only on this machine, where downloads run: jobs on nodes never go to the hub.
    bind_here([f"{_expressible(token.resolve())}:{TOKEN}:ro"] if token else [])
    if token:
        os.environ["HF_TOKEN_PATH"] = TOKEN


def bind_here(more: Iterable[str] = ()) -> None:
    """Set APPTAINER_BIND on this machine: the driver's binds, those in `more`, and this machine's scratch folder.

    A scratch folder that does not exist is not bound, because then no container would start; `scratch_folder` reports
    it in the job.

    Args:
        more: further binds, as source:destination:mode.

    Raises:
        UserError: the scratch folder has a comma or a colon in its name.
    """
    asked = os.environ.get(SCRATCH)
    folder = Path(os.path.expandvars(asked)) if asked else None
    scratch = bind_list({folder: "rw"}, Path.cwd()) if folder and folder.is_dir() else []
    shared = os.environ.setdefault(SHARED, _given())
    value = ",".join(filter(None, [shared, *more, *scratch]))
    os.environ |= {"APPTAINER_BIND": value, "SINGULARITY_BIND": value}


def _given() -> str:
    """Return the binds that the user has set, as a comma-separated list."""
    return os.environ.get("APPTAINER_BIND") or os.environ.get("SINGULARITY_BIND") or ""


def token_file() -> Path | None:
    """Return the file of the hub's token, which `hf auth login` writes; None if there is none, or HF_HOME has it.

    The search follows huggingface_hub.constants; HF_HOME is bound as a whole. Only the token's file is bound, not its
    folder: the files there that renew a login work once, and a container that cannot write would lose the new token.
    """
    given = os.environ.get("HF_TOKEN_PATH")
    if os.environ.get("HF_HOME") and not given:
        return None
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    token = Path(os.path.expandvars(given or f"{caches}/huggingface/token")).expanduser()
    return token if os.access(token, os.R_OK) else None


def hub_folders(work: Path) -> Iterator[Path]:
    """Yield the folders of the hub's cache that exist, and make HF_HOME and HF_HUB_CACHE absolute in the environment.

    Folders outside of the work folder are made if they do not exist, because only an existing folder can be bound.

    Raises:
        UserError: such a folder cannot be made.
    """
    for name in filter(os.environ.get, HUB_FOLDERS):
        folder = Path(os.environ[name]).expanduser().absolute()
        os.environ[name] = str(folder)
        if not folder.is_relative_to(work):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"{name}: cannot make {folder}: {error.strerror}; give another folder") from error
        yield from (path for path in (folder, folder / "hub") if path.exists())


def cache_folders(specs: Iterable[dict[str, Any]], work: Path) -> Iterator[Path]:
    """Yield each folder outside of the work folder in which jobs keep what can be made again (`model.cache`).

    It is made if it does not exist. One that cannot be made is left out: no job needs it.
    """
    named = {spec["runtime"].get("model", {}).get("cache"): None for spec in specs}
    for folder in (Path(name).absolute() for name in named if name):
        if not folder.is_relative_to(work):
            with suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
                yield folder


def named_paths(specs: Iterable[dict[str, Any]]) -> Iterator[Path]:
    """Yield the data files and the files of model folders that the versions name.

    In a linked git worktree, the main repository's HEAD is yielded, too: manifests record the commit.
    """
    sections = [section for spec in specs for section in spec["runtime"].values()]
    sections += [source for section in sections for source in section.get("sources") or []]
    named = {pattern: None for section in sections for pattern in section.get("files", [])}
    named |= {section["chat_template"]: None for section in sections if section.get("chat_template")}
    for pattern in named:
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
    """Return the binds, as source:destination:mode, with which a container sees `paths` under their own names.

    Where a path is a symbolic link, or leads through one, the link's target is bound, too. For a read-only file its
    folder is bound, unless that would hide files of the image or the work folder.

    Args:
        paths: paths with their modes, "ro" or "rw".
        work: the work folder, which needs no bind.

    Raises:
        UserError: a path has a comma or a colon in its name.

    >>> bind_list({Path("/data/set/a.parquet"): "ro", Path("/data/set/b.parquet"): "ro", Path("/etc/hosts"): "ro",
    ...            Path("/fast/job"): "rw", Path("/home/me/c.parquet"): "ro"}, work=Path("/home/me"))
    ['/data/set:/data/set:ro', '/etc/hosts:/etc/hosts:ro', '/fast/job:/fast/job:rw']
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
    """Return whether binding `folder` would hide a folder of the image, or make the work folder within it read-only."""
    return folder in OF_THE_IMAGE or work.is_relative_to(folder.resolve())


def places(path: Path) -> Iterator[Path]:
    """Yield `path`, and the paths that it leads to, one symbolic link resolved after the other.

    If /data is a link to /disk1, and /disk1/set one to ../disk2/set, then /data/set/a yields itself, /disk1/set/a and
    /disk2/set/a.
    """
    yield path
    for folder in (*reversed(path.parents), path):
        if folder.is_symlink():
            target = folder.parent / folder.readlink() / path.relative_to(folder)
            yield from places(Path(os.path.normpath(target)))
            return
