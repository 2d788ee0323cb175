"""Writing changed weights as a checkpoint in the format of the base, which the official code can load."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dreamtune.files import read_json, usual_mode, write_json
from dreamtune.inputs.special_tokens import NAMED_IN, NEW, read_json_object, special_ids
from dreamtune.inputs.weight_files import PICKLES, weight_files
from dreamtune.progress import track

README = "README.md"  # the base's model card
# The base's weights in other formats, which a library could take for those of the new model; and their indices.
OTHER_WEIGHTS = ("*.h5", "*.msgpack", "*.gguf", "*.ggml", "*.onnx*", "*.ot", "*.npz", "*.tflite", "*.bin.index.json")


def declare_mask(folder: Path, base: Path, mask_token: str | None) -> None:
    """Make a written checkpoint name the mask token that it was trained with, if the setting model.mask_token chose it.

    Args:
        folder: of the checkpoint.
        base: folder of its base model, with the same tokenizer.
        mask_token: the setting; None changes nothing.
    """
    if mask_token is None:
        return
    config = read_json(folder / "config.json")
    number = special_ids(base, config, mask_token)["mask"]
    write_json(folder / "config.json", config | {"mask_token_id": number})
    for name in NAMED_IN:
        named = read_json_object(folder / name)
        others = {key: value for key, value in named.items() if key != "mask_token"}
        if mask_token == NEW and others != named:  # the tokenizer has no text for it
            write_json(folder / name, others)
        elif mask_token != NEW and named and (name == NAMED_IN[0] or others != named):
            write_json(folder / name, named | {"mask_token": mask_token})


def rewrite(base: Path, target: Path, change: Callable[[str, torch.Tensor], torch.Tensor]) -> int:
    """Write a checkpoint with changed weights into the new folder `target`; return its number of weight files.

    The base's other files (config.json, tokenizer, index, Python files) are copied byte for byte, but for its model
    card, whose claims are not those of the new weights, and its weights in other formats. Its safetensors are written
    file by file under the same names and keys, so that only one file of weights is in memory at a time.

    Args:
        base: folder of the checkpoint in the official format.
        change: takes a key and the base's tensor, and returns the tensor that is written in its place.

    Raises:
        FileExistsError: `target` exists.
    """
    target.mkdir(parents=True)
    for file in sorted(base.iterdir()):
        weights = any(file.match(pattern) for pattern in (*PICKLES, *OTHER_WEIGHTS, "*.safetensors"))
        if file.is_file() and not weights and not file.name.startswith(".") and file.name != README:
            shutil.copyfile(file, target / file.name)
    files = weight_files(base)
    for file in track(files, "writing", len(files)):
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata()
        tensors = {key: change(key, weight).contiguous() for key, weight in load_file(file).items()}
        with usual_mode(target / file.name) as written:
            save_file(tensors, written, metadata)
    return len(files)
