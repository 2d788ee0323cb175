"""The names of generation settings, as in the folders of answers and scores: SET/SETTING/WHO. Torch-free."""

HEADLINE = "greedy"  # `generate` itself, which the verdict rests on
SAMPLED = "sampled"  # `generate.sampled`
CANVAS = "canvas-"  # and the limit of one of `evaluate.canvases`; any other name is that of a decoder
