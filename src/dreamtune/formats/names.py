"""The names in the folders of answers and scores, SET/SETTING/WHO: of generation settings, and of who answers."""

HEADLINE = "greedy"  # `generate` itself, which the verdict rests on
SAMPLED = "sampled"  # `generate.sampled`
CANVAS = "canvas-"  # and the limit of one of `evaluate.canvases`; any other name is that of a decoder

BASE, TUNED = "base", "tuned"
FEW_SHOT_BASE, FEW_SHOT_TUNED = "few-shot-base", "few-shot-tuned"  # with worked examples before each question


def gives_verdict(setting: str) -> bool:
    """Return whether a verdict is given under a generation setting: the headline's and each decoder."""
    return setting != SAMPLED and not setting.startswith(CANVAS)
