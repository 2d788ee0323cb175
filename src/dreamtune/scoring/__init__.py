"""The names that code outside of the project may rely on; import everything else from the modules."""

from dreamtune.scoring.score import is_correct as is_correct
