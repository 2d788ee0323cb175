"""How a result was made, for its manifest: packages, commit, image, processor, GPU. None of this is hashed."""

import importlib.metadata
import json
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from dreamtune.digests import sha256_file
from dreamtune.workflow.code import INSTALLED, ROOT

PACKAGES = (
    *("torch", "transformers", "peft", "bitsandbytes", "accelerate", "datasets"),
    *("polars", "snakemake", "tokenizers", "safetensors", "math-verify", "numpy"),
)


def provenance() -> dict[str, Any]:
    """Return the manifest's record of this process: commit, packages, Python, image, host, processor and GPU."""
    return {
        "git": _git(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES if _installed(name)},
        "python": platform.python_version(),
        "image": _image(),
        "host": socket.gethostname(),
        "cpu": _cpu(),
        "gpu": _gpu(),
    }


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _image() -> str | None:
    """Return the container image's file name and the digest of its lock; None outside of a container."""
    file = os.environ.get("APPTAINER_CONTAINER") or os.environ.get("SINGULARITY_CONTAINER")
    lock = Path(sys.prefix) / "requirements.lock"
    return f"{Path(file).name}, lock {sha256_file(lock)[:12] if lock.exists() else 'unknown'}" if file else None


def _git() -> dict[str, Any] | None:
    """Return the commit of the code, and whether tracked files differ from it; None if there is no telling.

    Of an installed package it is the commit that pip fetched (PEP 610): its folder may lie in a foreign repository.
    """
    if INSTALLED:
        return _fetched()
    try:
        commit = subprocess.run(
            ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
        changes = subprocess.run(
            ["git", "-C", str(ROOT), "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit.stdout.strip(), "dirty": bool(changes.stdout.strip())}


def _fetched() -> dict[str, Any] | None:
    try:
        origin = importlib.metadata.distribution("dreamtune").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:  # as in a container, which sees the package's folder alone
        return None
    commit = json.loads(origin or "{}").get("vcs_info", {}).get("commit_id")
    return {"commit": commit, "dirty": False} if commit else None


def _cpu() -> str:
    """Return the processor's name as Linux tells it; elsewhere its architecture, such as arm64."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def _gpu() -> str | None:
    """Return the GPU's name if this process has imported torch; stages without a model never do, and get None."""
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else None
