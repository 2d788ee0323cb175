"""Importing this puts `src/` on the path, so that the scripts beside it also run by hand, from any folder.

It also keeps them off the network: what they read was downloaded before, and a compute node may have no internet.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # huggingface_hub and datasets read it when they are imported, PEFT later
