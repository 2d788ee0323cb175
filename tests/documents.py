"""Hand-made documents and their noise, for the tests of the objective, of packing and of the loss."""

from dataclasses import replace

import numpy as np

from dreamtune.objective.diffusion import Document, Noise
from tiny import MASK


def document(example_id: int = 7, prompt: int = 3, response: int = 10, tail: int = 2) -> Document:
    tokens = np.arange(prompt + response + tail) % 50
    return Document(example_id, tokens.astype(np.int64), prompt, tail)


def noise(objective: str = "elbo", rate: float = 0.5, **changes: object) -> Noise:
    return replace(Noise(objective, rate, seed=1, epoch=0, mask_id=MASK), **changes)  # type: ignore[arg-type]
