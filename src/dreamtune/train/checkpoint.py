"""Checkpoints that survive a kill at any moment, and two writers in one folder.

    work/checkpoints/step-000125/
        adapter/            PEFT format, as the finished run writes it; or, of full fine-tuning,
        model.safetensors   all weights in float32
        optimizer.pt        state of the optimiser
        state.json          step, log so far, seconds so far, and the settings it belongs to
        checksums.json      sha256 of the above

A checkpoint is written under a name that no other process has and then renamed, so a folder called step-... was once
complete; its checksums tell whether it still is. Order, masks and dropout are functions of the step, so no state of
a random generator is kept.
"""

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig
from safetensors.torch import load_file, save_file

from dreamtune.digests import sha256_file
from dreamtune.files import finite, private_name, read_json, write_json
from dreamtune.inputs.weight_files import MODEL_WEIGHTS
from dreamtune.model.adapter_format import ADAPTER_WEIGHTS, CONFIG
from dreamtune.settings.model import ModelConfig

ADAPTER, OPTIMIZER, STATE, CHECKSUMS = "adapter", "optimizer.pt", "state.json", "checksums.json"
PREFIX = "step-"
ABANDONED_S = 3600.0  # a half-written folder this old has no writer any more


@dataclass(frozen=True)
class Checkpoint:
    """What was read back, complete and verified."""

    path: Path
    state: dict[str, Any]
    weights: dict[str, torch.Tensor]
    optimizer: dict[str, Any]


def save_adapter(weights: dict[str, torch.Tensor], config: PeftConfig, folder: Path, base: ModelConfig) -> None:
    """Write adapter_model.safetensors and adapter_config.json, PEFT's format.

    The base model is named in the config only: the weights file is the same to the byte wherever the base lies.
    """
    folder.mkdir(parents=True)
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()},
        folder / ADAPTER_WEIGHTS,
        {"format": "pt"},
    )
    config.save_pretrained(str(folder))
    path = folder / CONFIG
    # PEFT writes a set of module names in the order of its hashes, which differs from process to process.
    values = {k: sorted(v) if isinstance(v, list) else v for k, v in read_json(path).items()}
    values |= {"base_model_name_or_path": base.path, "revision": base.revision, "inference_mode": True}
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def save_checkpoint(
    folder: Path,
    step: int,
    write_weights: Callable[[Path], None],
    optimizer: dict[str, Any],
    state: dict[str, Any],
) -> None:
    """Write `folder`/step-NNNNNN beside its final name and rename it; an existing whole one is left as it is.

    Args:
        write_weights: writes what is trained into the folder it is given.
        optimizer: state of the optimiser.
        state: what else has to be known to go on.
    """
    final = folder / f"{PREFIX}{step:06d}"
    private = private_name(final)
    private.mkdir(parents=True)
    write_weights(private)
    torch.save(optimizer, private / OPTIMIZER)
    write_json(private / STATE, finite(state))
    write_json(private / CHECKSUMS, _digests(private))
    _move_into_place(private, final)


def _move_into_place(private: Path, final: Path) -> None:
    """Rename; where another writer was first, keep its checkpoint if whole (the two are the same), else replace it."""
    for _ in range(3):
        try:
            private.rename(final)
            return
        except FileNotFoundError:
            print(f"checkpoint {final.name} was removed while it was written; going on without it", file=sys.stderr)
            return
        except OSError:  # `final` exists: a folder that is not empty cannot be renamed over
            if is_whole(final):
                break
            shutil.rmtree(final, ignore_errors=True)
    shutil.rmtree(private, ignore_errors=True)


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CHECKSUMS)
    return {str(path.relative_to(folder)): sha256_file(path) for path in files}


def is_whole(folder: Path) -> bool:
    """Return whether every file is there and has the bytes that were written."""
    try:
        digests = read_json(folder / CHECKSUMS)
        return bool(digests) and digests == _digests(folder)
    except (OSError, ValueError):
        return False


def newest(folder: Path) -> Checkpoint | None:
    """Return the newest whole checkpoint, or None. A damaged one is named on stderr and deleted.

    Left where it is, it would count among those that `prune` keeps, and cost a whole one its place.
    """
    for path in _newest_first(folder):
        if not is_whole(path):
            if path.exists():  # not pruned by another writer in the meantime
                print(f"checkpoint {path} is damaged; deleted, looking for the one before it", file=sys.stderr)
                shutil.rmtree(path, ignore_errors=True)
            continue
        weights = path / MODEL_WEIGHTS
        try:
            return Checkpoint(
                path=path,
                state=read_json(path / STATE),
                weights=load_file(weights if weights.exists() else path / ADAPTER / ADAPTER_WEIGHTS),
                optimizer=torch.load(path / OPTIMIZER, map_location="cpu", weights_only=True),
            )
        except FileNotFoundError:  # pruned by another writer between the check and the reading
            continue
    return None


def _newest_first(folder: Path) -> Iterator[Path]:
    """Yield the checkpoints from the newest; list anew after each, as another writer may have added or pruned some."""
    seen: set[Path] = set()
    while paths := sorted(set(folder.glob(f"{PREFIX}*")) - seen):
        seen.add(paths[-1])
        yield paths[-1]


def prune(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints, and what was left half-written long ago."""
    for path in sorted(folder.glob(f"{PREFIX}*"))[:-keep]:
        shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(f".{PREFIX}*"):
        try:
            abandoned = time.time() - path.stat().st_mtime > ABANDONED_S
        except FileNotFoundError:
            continue
        if abandoned:
            shutil.rmtree(path, ignore_errors=True)
