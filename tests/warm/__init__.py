"""Warm Pythons: processes that have imported the large libraries once, and fork for each script that a test runs.

A start of Python with torch, transformers and PEFT takes six seconds, one of Snakemake two; a fork takes 30 ms. What
is forked is a fresh process that imports the project's own modules from the copy of the project it is asked to run.
`start` is called once for a whole test session. `python3` in the folder it makes hands calls over (client.py) to one
of the servers (server.py); what the servers do not take runs on the real interpreter. docs/testing.md says more.
"""

import marshal
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

VARIABLE = "DREAMTUNE_WARM_PYTHON"  # names the folder with the sockets and the `python3` that hands calls over
KINDS = ("model", "snakemake")
SEEDS = (0, 1)  # of Python's hashes: forks of one process share one, and an order of sets that matters has to show
LONGEST = 80  # characters of the folder's name: the path of a Unix socket has at most 107, a script's first line 255
HERE = Path(__file__).parent
# Variables that a library may read while it is imported: a call in which one differs runs on the real interpreter.
READ_AT_IMPORT = (
    *("ACCELERATE_", "ATEN_", "BNB_", "BITSANDBYTES_", "CUDA_", "DNNL_", "GOMP_", "HF_", "HOME", "HUGGING", "KMP_"),
    *("LANG", "LC_", "LD_", "MALLOC_", "MKL_", "NUMEXPR_", "NVIDIA_", "OMP_", "ONEDNN_", "OPENBLAS_", "PEFT_"),
    *("PYTHONDEV", "PYTHONHASH", "PYTHONIO", "PYTHONOPT", "PYTHONUTF8", "PYTHONWARN", "PYTORCH_", "TORCH", "TRANSFORM"),
    *("TZ", "XDG_"),
)
# Exceptions from the list above: set by torchrun for its processes, or by importing PEFT (also in pytest itself).
NOT_READ = ("TORCHELASTIC_", "TORCH_NCCL_", "TORCHINDUCTOR_CACHE_DIR")
# Every script sets these before its imports (model/loading.py sets MKL_CBWR), so unset and set count as equal.
USUAL = {"HF_HUB_OFFLINE": "1", "MKL_CBWR": "AUTO,STRICT"}
# Snakemake sets these to a job's threads, 1 or 2. They count as equal: torch takes its number from model.threads.
THREADS = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "GOTO", "OPENBLAS", "MKL", "VECLIB", "NUMEXPR")}


def possible() -> bool:
    """Return whether a fork of a process that imported torch is as good as a fresh one: on Linux, without a GPU."""
    return sys.platform == "linux" and not Path("/dev/nvidiactl").exists()


def python() -> str:
    """Return the Python that a test starts scripts with: one that hands them to the servers, where there are any."""
    folder = os.environ.get(VARIABLE)
    return f"{folder}/python3" if folder else sys.executable


def account() -> str:
    """Return one line on how many calls had a fork, and which variables sent how many to the real interpreter."""
    folder = Path(os.environ[VARIABLE])
    forked = sum(path.stat().st_size for path in folder.glob("count-*"))
    real = Counter((folder / "real").read_text().splitlines() if (folder / "real").exists() else [])
    because = "".join(f"; {count} on the real interpreter for {names}" for names, count in real.items())
    return f"warm Pythons: {forked} calls in forks{because}"


def start() -> Callable[[], None]:
    """Start the servers, name their folder in the environment, and return a function that ends them.

    They import nothing before they are asked for something, and end with the process that called this, however it ends.
    """
    folder = tempfile.TemporaryDirectory(prefix="dreamtune-")
    if not possible() or len(folder.name) > LONGEST or len(sys.executable) > 2 * LONGEST:
        folder.cleanup()
        return lambda: None
    usual = USUAL | THREADS
    environment = os.environ | usual
    seen = {n: value for n, value in environment.items() if n.startswith(READ_AT_IMPORT) and not n.startswith(NOT_READ)}
    Path(folder.name, "environment").write_bytes(marshal.dumps((READ_AT_IMPORT, NOT_READ, usual, usual | seen)))
    call = f"import sys\nsys.path.append({str(HERE)!r})\nfrom client import main\nmain({folder.name!r}, sys.argv[1:])\n"
    for name in ("python", "python3"):
        command = Path(folder.name, name)
        command.write_text(f"#!{sys.executable} -IS\n{call}")  # a shell between would add to the environment
        command.chmod(0o755)
    addresses = {Path(folder.name, f"{kind}-{seed}"): (kind, seed) for kind in KINDS for seed in SEEDS}
    servers = [_server(address, kind, seed, environment) for address, (kind, seed) in addresses.items()]
    for address, server in zip(addresses, servers, strict=True):
        while not address.exists():  # it has still to listen
            assert server.poll() is None, address.with_suffix(".log").read_text()
            time.sleep(0.005)
    os.environ[VARIABLE] = folder.name

    def end() -> None:
        del os.environ[VARIABLE]
        for server in servers:
            server.communicate()
        folder.cleanup()

    return end


def _server(address: Path, kind: str, seed: int, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    with address.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, str(HERE / "server.py"), kind, address, address.parent / "python3"],
            env=environment | {"PYTHONHASHSEED": str(seed)},
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for pytest, which then ends them
        )
