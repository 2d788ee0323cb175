"""Host memory while a checkpoint in Dream 7B's shape is quantised to NF4: it streams, file by file.

What counts is anonymous memory (RssAnon), which the machine must have; pages of the files come and go.

usage   python benchmarks/load_memory.py --work /tmp/six --layers 6
"""

import argparse
import sys
import threading
import time
from pathlib import Path

import _src  # noqa: F401, puts src on the path
import torch
from seven_b_shape import TOY, report, write_checkpoint

from dreamtune.model.loading import load_model


def main() -> int:
    """Write a random checkpoint, load it, and print the peak above what was and what stays, beside the files' sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--layers", type=int, default=28, help="decoder layers; a layer is a file")
    parser.add_argument("--toy", action="store_true", help="two narrow layers")
    arguments = parser.parse_args()
    folder, device = arguments.work / "model", "cuda" if torch.cuda.is_available() else "cpu"
    if not folder.exists():
        write_checkpoint(folder, TOY if arguments.toy else {"num_hidden_layers": arguments.layers}, device)
    start, peak, loaded = anonymous_gib(), [0.0], threading.Event()

    def watch() -> None:
        while not loaded.is_set():
            peak[0] = max(peak[0], anonymous_gib())
            time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    model = load_model(folder, quantization="nf4", device=device)
    loaded.set()
    watcher.join()
    stays = anonymous_gib()
    sizes = [file.stat().st_size / 2**30 for file in folder.glob("*.safetensors")]
    above = {"before": peak[0] - start, "after": peak[0] - stays}
    report(
        "loading",
        device=str(model.device),
        peak_above_gib={name: round(value, 6) for name, value in above.items()},
        largest_file_gib=round(max(sizes), 6),
        all_files_gib=round(sum(sizes), 6),
    )
    return 0


def anonymous_gib() -> float:
    """Return this process's anonymous resident memory."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 2**20


if __name__ == "__main__":
    sys.exit(main())
