"""Checkpoints that survive a kill at any moment, and two writers in one folder.

    work/checkpoints/step-000125/
        adapter/            PEFT format, as the finished run writes it; or, after full fine-tuning,
        model.safetensors   the whole model in float32
        optimizer.pt        state of the optimiser
        state.json          step, log so far, seconds so far, and the settings it belongs to
        checksums.json      sha256 of the files above

A checkpoint is written under a hidden name, .step-000125.WRITER.RANDOM, that no other process uses and that says which
process writes it (`writers.private_name`), and then renamed, so a folder called step-... was once
complete; its checksums tell whether it still is. Order, masks and dropout are functions of the step, so no state of
a random generator is kept.
"""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig
from safetensors.torch import load_file, save_file

from dreamtune.digests import sha256_file
from dreamtune.files import finite, read_json, usual_mode, write_json
from dreamtune.inputs.weight_files import MODEL_WEIGHTS
from dreamtune.model.adapter_format import ADAPTER_WEIGHTS, CONFIG
from dreamtune.model.new_row import EMBEDDINGS, INDICES
from dreamtune.model.nonfinite import plain_name, refuse_nonfinite
from dreamtune.settings.model import ModelConfig
from dreamtune.writers import abandoned, delete, private_name

ADAPTER, OPTIMIZER, STATE, CHECKSUMS = "adapter", "optimizer.pt", "state.json", "checksums.json"
PREFIX = "step-"
ABANDONED_S = 3600.0  # seconds without a change after which another machine's half-written folder has no writer


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read from disk, complete and verified."""

    path: Path
    state: dict[str, Any]  # state.json
    weights: dict[str, torch.Tensor]  # the adapter's, or the whole model's after full fine-tuning
    optimizer: dict[str, Any]


def save_adapter(
    weights: dict[str, torch.Tensor], config: PeftConfig, folder: Path, base: ModelConfig, new_row: int | None = None
) -> None:
    """Write adapter_model.safetensors and adapter_config.json, PEFT's format.

    Only the config names the base model, so that the file of weights has the same bytes wherever the base lies.

    Args:
        weights: as PEFT names them.
        config: the adapter's.
        folder: made if missing.
        base: settings of the base model.
        new_row: row of the embeddings that is among the weights (see `model.new_row`), None without one.
    """
    folder.mkdir(parents=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    with usual_mode(folder / ADAPTER_WEIGHTS) as file:
        save_file(tensors, file, {"format": "pt"})
    config.save_pretrained(str(folder))
    path = folder / CONFIG
    # PEFT writes a set of module names in hash order, which differs from process to process; sorted, it is stable.
    values = {k: sorted(v) if isinstance(v, list) else v for k, v in read_json(path).items()}
    values |= {"base_model_name_or_path": base.path, "revision": base.revision, "inference_mode": True}
    values |= {INDICES: None if new_row is None else {EMBEDDINGS: [new_row]}}
    # PEFT's own style, so that the file looks the same wherever it was written.
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def save_checkpoint(
    folder: Path,
    step: int,
    write_weights: Callable[[Path], None],
    optimizer: dict[str, Any],
    state: dict[str, Any],
) -> None:
    """Write the checkpoint `folder`/step-NNNNNN under another name and rename it; keep an existing one that is whole.

    Args:
        folder: of all checkpoints of a run.
        step: optimiser steps so far.
        write_weights: writes the trained weights into the folder it is given.
        optimizer: state of the optimiser.
        state: plain JSON, everything else that a resumed run needs.
    """
    final = folder / f"{PREFIX}{step:06d}"
    private = private_name(final)
    private.mkdir(parents=True)
    try:
        write_weights(private)
        torch.save(optimizer, private / OPTIMIZER)
        write_json(private / STATE, finite(state))
        write_json(private / CHECKSUMS, _digests(private))
    except Exception:  # a full disk, for one: what is half-written must not stand in the next attempt's way
        removed = not private.exists()
        shutil.rmtree(private, ignore_errors=True)
        if not removed:
            raise
        _say_removed(final)
        return
    _move_into_place(private, final)


def _move_into_place(private: Path, final: Path) -> None:
    """Rename `private` to `final`. If another writer was first, keep its checkpoint if whole (both are equal)."""
    for _ in range(3):
        try:
            private.rename(final)
            return
        except FileNotFoundError:
            _say_removed(final)
            return
        except OSError:  # `final` exists: a folder that is not empty cannot be renamed over
            if is_whole(final):
                break
            shutil.rmtree(final, ignore_errors=True)
    shutil.rmtree(private, ignore_errors=True)


def _say_removed(final: Path) -> None:
    print(f"checkpoint {final.name} was removed while it was written; going on without it", file=sys.stderr)


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CHECKSUMS)
    return {str(path.relative_to(folder)): sha256_file(path) for path in files}


def is_whole(folder: Path) -> bool:
    """Return whether every file of a checkpoint is there and has the bytes that were written."""
    try:
        digests = read_json(folder / CHECKSUMS)
        return bool(digests) and digests == _digests(folder)
    except (OSError, ValueError):
        return False


def newest(folder: Path) -> Checkpoint | None:
    """Return the newest whole checkpoint of a run, or None. A damaged one is named on stderr and deleted.

    A damaged checkpoint that stays would count among those that `prune` keeps, and push out a whole one.

    Args:
        folder: of all checkpoints of a run; need not exist.
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
    """Yield the checkpoints from the newest; list the folder again after each, as another writer may change it."""
    seen: set[Path] = set()
    while paths := sorted(set(folder.glob(f"{PREFIX}*")) - seen):
        seen.add(paths[-1])
        yield paths[-1]


def check_finite(found: Checkpoint) -> None:
    """Check that neither the weights of a checkpoint nor its optimiser's state hold NaN or infinity.

    Raises:
        UserError: a tensor does; it is named.
    """
    cure = "delete that folder to go on from the checkpoint before it"
    for name, tensor in found.weights.items():
        refuse_nonfinite(plain_name(name), tensor, found.path, cure)
    for weight, held in found.optimizer.get("state", {}).items():
        for name, tensor in held.items():
            if isinstance(tensor, torch.Tensor):
                refuse_nonfinite(f"{weight} ({name} of the optimiser)", tensor, found.path, cure)


def prune(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints, and half-written ones as `clear_abandoned` does."""
    for path in sorted(folder.glob(f"{PREFIX}*"))[:-keep]:
        delete(path)
    clear_abandoned(folder)


def clear_abandoned(folder: Path) -> None:
    """Delete the half-written checkpoints that have no writer any more, tens of GB each after full fine-tuning.

    The name says which process writes a folder. A process of this machine is asked for: what a living one holds is kept
    whatever its age, and all else goes. Of a process on another machine, or before a reboot, nothing can be known from
    here: its folder goes once nothing in it was changed for ABANDONED_S. Should its writer only have been suspended, it
    loses this one checkpoint, says so and goes on.

    Args:
        folder: of all checkpoints of a run; need not exist.
    """
    for path in abandoned(folder, f".{PREFIX}*", ABANDONED_S):
        print(f"deleting {path}, a half-written checkpoint without a writer", file=sys.stderr)
        shutil.rmtree(path, ignore_errors=True)
