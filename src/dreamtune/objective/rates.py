"""The mask rates of a window's documents, as `train.rate_draws`, `rate_range` and `rate_density` say. Step 3."""

from collections.abc import Sequence

import numpy as np

from dreamtune.noise import uniforms
from dreamtune.objective.density import redrawn
from dreamtune.objective.diffusion import GOLDEN_RATIO, MIN_RATE, Draw, Noise
from dreamtune.objective.masks import Masking
from dreamtune.settings.train import TrainConfig


def noises(train: TrainConfig, places: np.ndarray, examples: Sequence[int], epoch: int, mask_id: int) -> list[Noise]:
    """Return how each document of an epoch is corrupted, see `drawn_rates`."""
    rates, scales = drawn_rates(train, places, examples, epoch)
    masking = Masking(
        exact=train.exact_counts,
        mirror=train.pairs == "mirror",
        block=train.mask_block,
        tail_together=train.tail_masks == "together",
    )
    return [
        Noise(
            train.objective,
            float(rate),
            train.seed,
            epoch,
            mask_id,
            tail_as_one=train.tail_loss == "one",
            masking=masking,
            scale=float(scale),
            bounds=train.all_rates,
        )
        for rate, scale in zip(rates, scales, strict=True)
    ]


def drawn_rates(
    train: TrainConfig, places: np.ndarray, examples: Sequence[int], epoch: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return t of the documents of an epoch, and 1/p(t), by which their losses are multiplied: [n] each.

    Args:
        train: settings of the run.
        places: [n], the documents' places in the epoch's order, from 0.
        examples: [n], their example ids.
        epoch: from 0.
    """
    shares = rate_shares(train.rate_draws, places, examples, train.seed, epoch, train.epochs)
    shares, scales = redrawn(shares, train.rate_density)
    low, high = train.rate_range
    if not train.exact_counts:  # 1/t must stay bounded, and in a complementary pair 1/(1 - t) too
        low, high = max(low, MIN_RATE), min(high, 1 - MIN_RATE if train.complementary else 1.0)
    return low + (high - low) * shares, scales


def rate_shares(
    draws: str, places: np.ndarray, examples: Sequence[int], seed: int, epoch: int, epochs: int
) -> np.ndarray:
    """Return how far each document's rate lies within the range of rates, [n] in [0, 1), each uniform by itself.

    - `even`: a golden-ratio step from one place of the epoch's order to the next, as in `diffusion.mask_rates`.
    - `independent`: every document by itself. Each reference implementation does so, and every variance is relative to
      this.
    - `per_document`: [0, 1) has a stratum for each epoch, and a document meets each of them once, in an order of its
      own, so that its rates are spread over the run.

    Three epochs, in which one document meets each third once:

    >>> [int(3 * rate_shares("per_document", np.array([0]), [7], 0, epoch, 3)[0]) for epoch in range(3)]
    [2, 0, 1]
    """
    if draws == "even":
        return (uniforms((Draw.RATE, seed, epoch), np.zeros(1)) + places * GOLDEN_RATIO) % 1.0
    own = np.concatenate([uniforms((Draw.RATE, seed, epoch, example), np.zeros(1)) for example in examples])
    if draws == "independent":
        return own
    assert draws == "per_document", f"unknown rate_draws {draws!r}"
    strata = [
        np.argsort(uniforms((Draw.STRATUM, seed, example), np.arange(epochs)), kind="stable")[epoch % epochs]
        for example in examples
    ]
    return (np.array(strata) + own) / epochs
