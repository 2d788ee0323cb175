"""A changed model as a checkpoint in the format of its base, which the official code loads."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dreamtune.inputs.weight_files import PICKLES, weight_files
from dreamtune.progress import track


def rewrite(base: Path, target: Path, change: Callable[[str, torch.Tensor], torch.Tensor]) -> int:
    """Write a checkpoint with other weights into the new folder `target`; return its number of weight files.

    The base's own files (config.json, tokenizer, index, Python files) are copied byte for byte; its safetensors are
    written file by file under their own names and keys, so that only one file of weights is in memory at a time.

    Args:
        base: folder of the checkpoint in the official format.
        change: given a key and the base's tensor, returns the tensor that takes its place.
    """
    target.mkdir(parents=True)
    for file in sorted(base.iterdir()):
        weights = any(file.match(pattern) for pattern in (*PICKLES, "*.safetensors"))
        if file.is_file() and not weights and not file.name.startswith("."):
            shutil.copyfile(file, target / file.name)
    files = weight_files(base)
    for file in track(files, "writing", len(files)):
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata()
        tensors = {key: change(key, weight).contiguous() for key, weight in load_file(file).items()}
        save_file(tensors, target / file.name, metadata)
    return len(files)
