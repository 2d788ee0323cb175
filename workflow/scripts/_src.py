"""Put the package on the import path when this module is imported, so that the scripts beside it run from any folder.

Importing it also keeps the Hugging Face libraries off the network: the inputs were downloaded before, and a compute
node may have no internet. It makes Python look for garbage rarely until the job begins: while modules are imported it
would go through the same objects again and again, a fifth of the imports' time. Ctrl-C and a lack of memory end a
script with one line, also during its imports.
"""

import gc
import os
import re
import sys
from pathlib import Path
from types import TracebackType

gc.set_threshold(1_000_000)  # `Stage` sets the usual one
ROOT = Path(__file__).resolve().parents[2]  # the project; or the installed package, beside which lie others
if (ROOT / "src").is_dir():
    sys.path.insert(0, str(ROOT / "src"))
else:
    sys.path.append(str(ROOT.parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # huggingface_hub and datasets read it when they are imported, PEFT later
# What the loader of libraries, the system, C++ and torch's allocator say; MemoryError is Python's own.
NO_MEMORY = re.compile(
    r"failed to map segment from shared object|Cannot allocate memory|cannot allocate memory|std::bad_alloc"
    r"|can't allocate memory|can't start new thread"
)


def stopped(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print one line for Ctrl-C or a lack of memory, and a traceback for any other exception that nobody caught."""
    name = Path(sys.argv[0]).stem
    if is_interrupt(error):
        print(f"{name}: stopped by SIGINT; start it again to go on", file=sys.stderr, flush=True)
    elif issubclass(kind, MemoryError) or NO_MEMORY.search(str(error)):
        said = f"out of memory ({' '.join(str(error).split())[:200] or kind.__name__}); nothing was filed"
        print(f"{name}: {said}; give the job more (cluster.max_mem_gb, ulimit -v)", file=sys.stderr, flush=True)
    else:
        sys.__excepthook__(kind, error, trace)


def is_interrupt(error: BaseException | None) -> bool:
    """Return whether an exception is Ctrl-C, or what a library made of it: a text, of pydantic building a model."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt) or "KeyboardInterrupt" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


sys.excepthook = stopped
