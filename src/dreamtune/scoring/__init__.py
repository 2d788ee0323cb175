from dreamtune.scoring.score import is_correct as is_correct
