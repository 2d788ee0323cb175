"""Find the safetensors files of a checkpoint. Torch-free, because planning looks for them before any job starts."""

import json
from pathlib import Path

from dreamtune.errors import UserError

MODEL_WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of the checkpoint in `folder`, sorted by name.

    Raises:
        UserError: there is none, or one is missing that the index lists.
    """
    if (folder / MODEL_WEIGHTS).exists():
        return [folder / MODEL_WEIGHTS]
    if (folder / INDEX).exists():
        names = index_names(folder)
        missing = [name for name in names if not (folder / name).exists()]
        if missing:
            raise UserError(f"{folder} lacks {missing[0]}, which its {INDEX} names; copy or download it again")
        return [folder / name for name in names]
    pickled = sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))
    if pickled:
        raise UserError(
            f"{folder} has only pickled weights ({pickled[0]}), which can run code when read; convert them to "
            f"{MODEL_WEIGHTS} first"
        )
    raise UserError(f"{folder} holds no {MODEL_WEIGHTS}")


def index_names(folder: Path) -> list[str]:
    """Return the names of the files that the index of weights in `folder` lists, sorted.

    Raises:
        UserError: the file is no index of weights.
    """
    try:
        return sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / INDEX} is no index of weights; copy or download it again") from error
