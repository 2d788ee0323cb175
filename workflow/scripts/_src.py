"""Put the package on the import path when this module is imported, so that the scripts beside it run from any folder.

Importing it also keeps the Hugging Face libraries off the network: the inputs were downloaded before, and a compute
node may have no internet.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # the project; or the installed package, beside which lie others
if (ROOT / "src").is_dir():
    sys.path.insert(0, str(ROOT / "src"))
else:
    sys.path.append(str(ROOT.parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # huggingface_hub and datasets read it when they are imported, PEFT later
