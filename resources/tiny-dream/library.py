"""What these scripts need of the library, found beside them when it is not on the path already."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "src"))

from dreamtune.contamination.questions import normalise, question_hash

__all__ = ["normalise", "question_hash"]
