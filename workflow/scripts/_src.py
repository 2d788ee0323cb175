"""Importing this puts `src/` on the path, so that the scripts beside it also run by hand, from any folder."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))
