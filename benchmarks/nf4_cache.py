"""Loading the base in NF4: quantised from its files, kept for the next job, and read from there; seconds and bits.

Dream 7B's shape with random weights. Shows that what a later job reads equals to the bit what it would have quantised.
The operating system may have the files in memory: --cold drops them from its cache where it can (Linux).

usage   python benchmarks/nf4_cache.py --work /tmp/seven_b
        ... --toy                    a small model, in seconds
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import _src  # noqa: F401, puts src on the path
import torch
from seven_b_shape import TOY, report, write_checkpoint

from dreamtune.device.caches import open_caches
from dreamtune.model.loading import load_model


def main() -> int:
    """Print a line of JSON for each way to load; return 1 if the bits differ, or if the cache was not taken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the checkpoint (15 GB)")
    parser.add_argument("--toy", action="store_true", help="a small model")
    parser.add_argument("--cold", action="store_true", help="read every file from the disk")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    folder = arguments.work / "model"
    if not folder.exists():
        write_checkpoint(folder, TOY if arguments.toy else {}, device)
    with tempfile.TemporaryDirectory(dir=arguments.work) as temporary:
        caches = Path(temporary)
        open_caches(None)
        plain = timed("directly", folder, device, folder if arguments.cold else None)
        expected = checksums(plain)
        del plain
        for way in ("directly, and keep", "kept"):
            job = open_caches(caches, str(folder))
            model = timed(way, folder, device, caches if arguments.cold else None)
            same, taken = checksums(model) == expected, bool(job and job.taken)
            report(way, equal_to_the_bit=same, from_the_cache=taken)
            del model
            if not same or taken != (way == "kept"):
                return 1
        files = [path.stat().st_size for path in caches.rglob("*.safetensors")]
        report("entry", gib=round(sum(files) / 2**30, 2), files=len(files))
    return 0 if files else 1


def timed(way: str, folder: Path, device: str, cold: Path | None) -> Any:
    """Return the model, and report the seconds of loading it; the files in `cold` are dropped from memory before."""
    for path in cold.rglob("*.safetensors") if cold else ():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    start = time.perf_counter()
    model = load_model(folder, quantization="nf4", device=device, kept=True)
    if device == "cuda":
        torch.cuda.synchronize()
    report(way, seconds=round(time.perf_counter() - start, 2), device=device)
    return model


def checksums(model: Any) -> list[tuple[str, int]]:
    """Return a number for each tensor of a model that depends on each of its bytes and their places."""
    return [(name, checksum(tensor)) for name, tensor in tensors(model)]


def tensors(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors that a model computes with, by name."""
    yield from model.state_dict().items()
    yield from model.named_buffers()


def checksum(tensor: torch.Tensor) -> int:
    """Return a sum of a tensor's bytes, each times its place."""
    data = tensor.detach().contiguous().flatten().view(torch.uint8)
    total = 0
    for part in data.split(2**24):
        places = torch.arange(1, len(part) + 1, device=part.device)
        total = (total * 31 + int((part.long() * (places * 2654435761 % 2**31)).sum())) % 2**63
    return total


if __name__ == "__main__":
    sys.exit(main())
