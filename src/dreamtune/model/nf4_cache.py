"""The base in NF4 as a cache: the job that quantises it first keeps the 4-bit weights, later jobs read these.

An entry is a folder of safetensors files in the layout in which transformers saves a quantised model (packed weights,
their scales and the rest of bitsandbytes' `QuantState`), and `cache.json`, written last. Embeddings, norms and head are
in it as they are; nothing that is quantised is there dequantised. Its name is a digest of all that decides on its bits.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from dreamtune.device.caches import Caches, only_maker
from dreamtune.device.phases import phase
from dreamtune.digests import FileMark, describe, digest, mark, sha256_file
from dreamtune.errors import UserError
from dreamtune.files import read_json, usual_mode, write_json
from dreamtune.inputs.weight_files import INDEX
from dreamtune.model.nf4 import nf4_config

RECORD, GENERATION = "cache.json", "generation_config.json"
FORMAT = 1
SHARD_BYTES = 2**30  # of a file, and so of the host memory that writing takes


@dataclass
class Nf4Entry:
    """The place of a base model in the cache, whether it is there or not.

    Attributes:
        caches: of the job.
        about: what decides on the bits: model, architecture, quantisation, library and kind of device.
        refused: whether this job could not load it, though it is whole: then the job replaces it.
    """

    caches: Caches
    about: Mapping[str, Any]
    refused: bool = False

    @classmethod
    def of(cls, caches: Caches | None, family: str, dtype: torch.dtype, device: str) -> "Nf4Entry | None":
        """Return the entry of a job's base model; None without a cache or without a model of known identity."""
        if caches is None or caches.model is None:
            return None
        about = {
            "format": FORMAT,
            "model": caches.model,
            "family": family,
            "quantisation": nf4_config(dtype).to_dict(),
            "bitsandbytes": version("bitsandbytes"),
            "torch": torch.__version__,
            "device": kind_of(torch.device(device)),
        }
        return cls(caches, json.loads(json.dumps(about, default=str)))

    @property
    def folder(self) -> Path:
        """The entry's folder."""
        return self.caches.folder / "nf4" / digest(self.about)

    def is_whole(self) -> bool:
        """Return whether the entry is there, and its files are the ones that were written.

        A file is hashed again only if its size, time of change or inode is another than the remembered one. A damaged
        entry is said on stderr.
        """
        try:
            record = read_json(self.folder / RECORD)
            files: dict[str, dict[str, Any]] = record["files"]
            found: dict[str, FileMark] = {name: mark(self.folder / name) for name in files}
            for name, entry in files.items():
                if not os.access(self.folder / name, os.R_OK):
                    raise PermissionError(f"{name} may not be read")
                if list(found[name]) != entry["mark"] and sha256_file(self.folder / name) != entry["sha256"]:
                    raise ValueError(f"{name} was changed")
            if record["about"] != self.about:
                raise ValueError("it is of another model")
        except FileNotFoundError as error:
            if (self.folder / RECORD).exists():
                print(f"{self.folder} lacks {error.filename}; quantising again", file=sys.stderr)
            return False
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            print(f"{self.folder} is damaged ({error}); quantising again", file=sys.stderr)
            return False
        self.caches.taken["nf4"] = digest({name: entry["sha256"] for name, entry in files.items()})
        return True

    def read(self, load: Callable[[Path, str], Any]) -> Any:
        """Return the model that the entry holds; None if it is not there, or is damaged.

        Args:
            load: called with the entry's folder and "kept", the layout of its files. A whole entry that it refuses,
                mostly because another release of a library wrote it, is replaced once the model is quantised: it stays
                where this job lacked memory, and gets no further.
        """
        if not self.is_whole():
            return None
        try:
            return load(self.folder, "kept")
        except UserError as error:
            print(f"{error}; quantising again", file=sys.stderr)
            self.refused = True
            del self.caches.taken["nf4"]
            return None

    @phase("caching")
    def keep(self, model: Any) -> None:
        """Write the entry from a model that was just quantised, and holds neither NaN nor infinity.

        Files that were replaced while they were read are no longer the model that the entry is named by: then it is
        not written, or a job of the earlier files, once they are back, would compute with the others.
        """
        if self.caches.model_changed():
            print("the base model's files changed while they were read, so it is not kept in NF4", file=sys.stderr)
            return
        with (
            only_maker(self.folder, lambda: not self.refused and self.is_whole()) as private,
            ThreadPoolExecutor() as hashing,
        ):
            if private is None:
                return
            named = {}
            for number, tensors in enumerate(_shards(model), start=1):
                file = private / f"model-{number:05d}.safetensors"
                _save(tensors, file)
                named[file] = (list(tensors), hashing.submit(describe, file))
            index = {tensor: file.name for file, (tensors, _) in named.items() for tensor in tensors}
            write_json(private / GENERATION, {})  # transformers wants one; our sampler reads none
            write_json(private / INDEX, {"metadata": {}, "weight_map": index})
            files = {file.name: described.result() | {"mark": mark(file)} for file, (_, described) in named.items()}
            files |= {name: describe(private / name) | {"mark": mark(private / name)} for name in (INDEX, GENERATION)}
            write_json(private / RECORD, {"about": self.about, "files": files})


def kind_of(device: torch.device) -> str:
    """Return the kind of a device on which 4-bit weights have the same bits.

    Double quantisation takes the mean of a weight's scales, and in which order a mean is added up depends on the number
    of threads and the width of vectors on a CPU, and on the number of multiprocessors of a GPU.
    """
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        return f"cuda {card.major}.{card.minor}, {card.multi_processor_count} multiprocessors"
    return f"{device.type}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"


def _shards(model: Any) -> Iterator[dict[str, Tensor]]:
    """Yield the tensors of a quantised model on the host, about `SHARD_BYTES` at a time, by their names."""
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue  # it is the embeddings' tensor
        if shard and size + tensor.nbytes > SHARD_BYTES:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor.detach().to("cpu", copy=True).contiguous()
        size += tensor.nbytes
    yield shard


def _save(tensors: dict[str, Tensor], file: Path) -> None:
    try:
        with usual_mode(file):
            save_file(tensors, file, {"format": "pt"})
    except SafetensorError as error:  # its own kind also for a full disk
        raise OSError(str(error)) from error
