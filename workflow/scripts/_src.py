"""Put `src/` on the import path when this module is imported, so that the scripts beside it run from any folder.

Importing it also keeps the Hugging Face libraries off the network: the inputs were downloaded before, and a compute
node may have no internet.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # huggingface_hub and datasets read it when they are imported, PEFT later
