"""Find the safetensors files of a checkpoint. Torch-free, because planning looks for them before any job starts."""

import json
import re
from pathlib import Path
from typing import NamedTuple

from dreamtune.errors import UserError

MODEL_WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
PLAIN_NAME = re.compile(r"[^./\\\0][^/\\\0]*\.safetensors")  # of a file in the folder itself, and not a hidden one
HEADER_BYTES = 100_000_000  # safetensors' own limit


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of the checkpoint in `folder`, sorted by name.

    Raises:
        UserError: there is none, or one is missing that the index lists; or an adapter lies beside them, which
            transformers would load too, or the base that it names instead.
    """
    if (folder / ADAPTER).exists():
        raise UserError(
            f"{folder} holds an adapter ({ADAPTER}) beside the model; it would be loaded too, and is not part of the "
            "model's identity: give a folder without it"
        )
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
        UserError: the file is no index of weights, or it names something else than a safetensors file of the folder:
            such a file would not be part of the model's identity, and others than safetensors can run code when read.
    """
    try:
        listed = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()
        names = sorted(set(map(str, listed))) or [""]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / INDEX} is no index of weights; copy or download it again") from error
    if wrong := [name for name in names if not PLAIN_NAME.fullmatch(name)]:
        raise UserError(
            f"{folder / INDEX} names {wrong[0]!r}; expected names of safetensors files that lie in the same folder; "
            "copy or download the model again"
        )
    return names


class Header(NamedTuple):
    """What the header of a safetensors file says of a tensor.

    Attributes:
        file: that holds the tensor.
        dtype: as safetensors names it, such as "BF16".
        shape: of the tensor.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]


def read_headers(files: list[Path]) -> dict[str, Header]:
    """Return what the headers of some safetensors files say, by tensor; the tensors themselves are not read.

    Format: https://huggingface.co/docs/safetensors (length of the header in 8 bytes, header as JSON, tensors).

    Raises:
        UserError: a file is no safetensors file, or it is cut short.
    """
    found: dict[str, Header] = {}
    for file in files:
        size = file.stat().st_size
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            text = opened.read(length) if length <= min(size, HEADER_BYTES) else b""
        try:
            header = json.loads(text)
            held = {name: said for name, said in header.items() if name != "__metadata__"}
            end = max((said["data_offsets"][1] for said in held.values()), default=0)
            found |= {name: Header(file, said["dtype"], tuple(said["shape"])) for name, said in held.items()}
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise UserError(f"{file} is not a safetensors file; copy or download it again") from error
        if size != 8 + length + end:
            raise UserError(
                f"{file} has {size:,} bytes, and by its header {8 + length + end:,}; copy or download it again"
            )
    return found
