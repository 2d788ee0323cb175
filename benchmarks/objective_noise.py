"""How noisy the gradient of fixed documents is under each way to mask, for benchmarks/objectives.py.

The mean square of a gradient under independent t is made by rare small t with large weights 1/t: a thousand draws say
little about it. But given how many tokens are masked, k, every way masks a uniform set S of that size, and only its
weight differs. So what is measured is the gradient G of Σ CE over S, and that over the complement of S, for sets of all
sizes; the mean square under each way is then a sum over k with known coefficients (objective_coefficients.py).
The variance is the mean square less the squared norm of the mean, which all unbiased ways share. Ways that choose other
sets (blocks, a tail hidden together, mirrored pairs, CART's weights) are drawn as they are; their weights are bounded.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import _src  # noqa: F401, puts src on the path
import numpy as np
import torch
from objective_coefficients import coefficients, density_weight, mean_coefficients, pair_weights
from objective_gradients import Gradients, densities
from objective_ways import BIASED, REFERENCE, WAYS

from dreamtune.objective.diffusion import Document, Noise, corrupt
from dreamtune.objective.masks import Masking
from dreamtune.objective.rates import noises
from dreamtune.settings.train import TrainConfig
from dreamtune.train.windows import corrupted

WINDOW = 8  # documents of a step, as train.global_batch is by default
SHARES = 10  # evenly spaced rates at which the mean gradients of all documents are compared
EXACT = Masking(exact=True)
# Ways whose sets of tokens are drawn as training draws them, those with the same sets together.
DRAWN = (("mirrored pairs", "P-POTS, mirrored pairs"), ("tail together",), ("blocks",), ("CART",))


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    documents: int = 64  # the spread between them makes the intervals
    counts: int = 12  # numbers of masked tokens, for each document
    draws: int = 16  # masks of each document, for the ways that are drawn as they are
    density: int = 8  # documents for densities, and masks of each at each rate


def way_settings(train: TrainConfig, name: str, found: dict[str, list[float]]) -> TrainConfig:
    """Return the settings of a way, with the measured density where it asks for one."""
    changes = dict(WAYS[name])
    if "rate_density" in changes:
        changes["rate_density"] = found[changes["rate_density"]]
    return TrainConfig(**(train.model_dump() | {"objective": "elbo"} | changes))


def measure(
    gradients: Gradients,
    train: TrainConfig,
    documents: Sequence[Document],
    ways: Sequence[str],
    sizes: Sizes,
    mask_id: int,
    report: Callable[..., None],
) -> list[dict[str, Any]]:
    """Return a line for each way: its gradient's variance over that of `REFERENCE`, and the noise of the data.

    Ways that train another loss are compared by variance over the squared norm of the mean: how large a gradient is
    depends on the loss, and the optimiser does not care.
    """
    names = [REFERENCE, *(way for way in ways if way != REFERENCE)]
    found: dict[str, list[float]] = {}
    if any("rate_density" in WAYS[name] for name in names):
        found = densities(gradients, train, documents[: sizes.density], sizes.density, mask_id)
        report("densities", **found)
    settings = {name: way_settings(train, name, found) for name in names}
    counted = {name: given for name, given in settings.items() if not any(name in group for group in DRAWN)}
    scores: dict[str, list[tuple[float, float]]] = {name: [] for name in names}  # of each document
    means, between = [], []  # [documents, 2, P] and [documents]
    for number, document in enumerate(documents):
        sets = Sets(gradients, document, train, sizes.counts, mask_id, seed=number)
        means.append(sets.halves)
        between.append(sets.between())
        for name, given in counted.items():
            scores[name].append(sets.score(given, name in BIASED))
        for group in DRAWN:
            if mine := {name: settings[name] for name in group if name in settings}:
                for name, score in drawn_scores(gradients, mine, document, sizes.draws, mask_id, seed=number).items():
                    scores[name].append(score)
    return [
        *_lines(scores, settings, documents, report),
        _data_line(torch.stack(means), scores, np.array(between), report),
    ]


class Sets:
    """Gradients of Σ CE over random sets of a document's tokens, and over their complements, in loss per token.

    Sizes are drawn more often where weights are large: a third evenly, a third by 1/k, a third by 1/(L - k). Each size
    has two sets, which share nothing else.

    Attributes:
        counts: [n], k of each set; `share` is the probability of each size.
        products: [n, 3]: |G|², |G'|², G·G' of the set and its complement.
        halves: [2, P], two independent estimates of the mean gradient, by exact pairs.
    """

    def __init__(
        self, gradients: Gradients, document: Document, train: TrainConfig, counts: int, mask_id: int, seed: int
    ) -> None:
        noise = Noise("uniform", 1.0, seed, 0, mask_id, tail_as_one=train.tail_loss == "one", masking=EXACT)
        whole = corrupt(document, noise)
        self.length, self.tokens = int(whole.supervised.sum()), whole.loss_tokens
        sizes = np.arange(1, self.length + 1)
        likely = sum(part / part.sum() for part in (np.ones(self.length), 1 / sizes, 1 / (self.length + 1 - sizes))) / 3
        even = (np.arange(counts) + np.random.default_rng(seed).uniform(size=counts)) / counts
        drawn = 1 + np.minimum(np.searchsorted(np.cumsum(likely), even), self.length - 1)
        self.counts, self.share = np.repeat(drawn, 2), np.repeat(likely[drawn - 1], 2)
        given = [replace(noise, rate=(k - 0.5) / self.length, epoch=n) for n, k in enumerate(self.counts)]
        sets = torch.stack([gradients.of([corrupt(document, one)]) for one in given]) / self.tokens
        rest = torch.stack([gradients.of([corrupt(document, replace(one, complement=True))]) for one in given])
        rest = rest / self.tokens
        self.sets, self.rest = sets, rest  # [n, P]
        products = [(sets * sets).sum(1), (rest * rest).sum(1), (sets * rest).sum(1)]
        self.products = torch.stack(products, dim=1).numpy()
        weights, others = pair_weights(self.counts, self.length)
        pairs = torch.from_numpy(weights)[:, None] * sets + torch.from_numpy(others)[:, None] * rest
        pairs = pairs / torch.from_numpy(self.length * self.share)[:, None]
        self.halves = torch.stack([pairs[::2].mean(0), pairs[1::2].mean(0)])

    def between(self) -> float:
        """Return the variance of the mean gradient given the number of masked tokens, under exact counts."""
        weights = torch.from_numpy((self.length / self.counts) ** 2 / (self.length * self.share))[::2]
        return float((weights * (self.sets[::2] * self.sets[1::2]).sum(1)).mean() - self.halves[0] @ self.halves[1])

    def score(self, train: TrainConfig, biased: bool) -> tuple[float, float]:
        """Return the mean square of the gradient under a way, and the squared norm of its mean."""
        table = coefficients(train, self.length)[self.counts]  # [n, 3]
        square = float((table * self.products).sum(1) @ (1 / self.share)) / len(self.counts)
        if not biased:
            return square, float(self.halves[0] @ self.halves[1])
        mean = mean_coefficients(train, self.length)[self.counts] / self.share
        parts = torch.from_numpy(mean)[:, None] * self.sets
        return square, float(parts[::2].mean(0) @ parts[1::2].mean(0))


def drawn_scores(
    gradients: Gradients, ways: dict[str, TrainConfig], document: Document, draws: int, mask_id: int, seed: int
) -> dict[str, tuple[float, float]]:
    """Return for each way the mean square of a document's gradient, and the squared norm of its mean.

    Masks are corrupted as training does, with exact counts; half of them at rates drawn by 1/t, since few masked tokens
    weigh most. Each rate has two masks.

    Args:
        gradients: of the model.
        ways: settings that differ in the density of rates alone.
        document: whose gradient it is.
        draws: number of masks, or of pairs.
        mask_id: the mask token.
        seed: of the rates.
    """
    first, length = next(iter(ways.values())), len(document.tokens) - document.prompt_tokens
    even = (np.arange(draws // 2) + np.random.default_rng(seed).uniform(size=draws // 2)) / (draws // 2)
    sizes = 1 + np.arange(length)
    likely = sum(part / part.sum() for part in (np.ones(length), 1 / sizes)) / 2
    bins = np.minimum(np.searchsorted(np.cumsum(likely), even), length - 1)
    rates = np.repeat((bins + np.random.default_rng(seed + 1).uniform(size=len(bins))) / length, 2)
    rarer = np.repeat(1 / (length * likely[bins]), 2)  # 1 / the density with which these rates are drawn
    [noise] = noises(first.model_copy(update={"rate_density": []}), np.zeros(1), [document.example_id], 0, mask_id)
    found = []
    for number, rate in enumerate(rates):
        noised = corrupted(first, [document], [replace(noise, rate=float(rate), epoch=draws * seed + number)])
        found.append(gradients.of(noised) / sum(one.loss_tokens for one in noised))
    whole = torch.stack(found)
    squares, parts = whole.square().sum(1).numpy(), torch.from_numpy(rarer)[:, None] * whole
    signal = float(parts[::2].mean(0) @ parts[1::2].mean(0))
    return {name: (float((rarer * density_weight(way, rates) * squares).mean()), signal) for name, way in ways.items()}


def _lines(
    scores: dict[str, list[tuple[float, float]]],
    settings: dict[str, TrainConfig],
    documents: Sequence[Document],
    report: Callable[..., None],
) -> list[dict[str, Any]]:
    reference = np.array(scores[REFERENCE])
    mean_length = np.mean([len(document.tokens) - document.prompt_tokens for document in documents])
    lines = []
    for name, found in scores.items():
        square, signal = np.array(found).T
        own = name in BIASED or any(name in group for group in DRAWN)
        scale = reference[:, 1].sum() / signal.sum() if name in BIASED else 1.0
        ratio, error = _ratio(square - (signal if own else reference[:, 1]), reference[:, 0] - reference[:, 1])
        tokens = 1.0 if not settings[name].pairs_masks else 2 - (settings[name].exact_counts / mean_length)
        line = {"way": name, "noise": ratio * scale, "error": error * scale, "tokens": float(tokens)}
        lines.append(line | {"biased": name in BIASED})
        report("noise", **lines[-1], signal=float(signal.sum() / (square - signal).sum()))
    return lines


def common(gradients: Gradients, train: TrainConfig, documents: Sequence[Document], mask_id: int) -> float:
    """Return the variance over rates of the mean gradient of all documents at a rate.

    Only this part can be taken away by rates that are spread over the documents of a step: what a rate does to one
    document alone stays random. It is the covariance, over rates, of the means of two halves of the documents.
    """
    sums = torch.zeros(SHARES, 2, sum(weight.numel() for weight in gradients.weights), dtype=torch.float64)
    examples = [document.example_id for document in documents]
    noise = noises(train, np.arange(len(examples)), examples, 0, mask_id)
    for place, document in enumerate(documents):
        for share in range(SHARES):
            given = replace(noise[place], rate=(share + 0.5) / SHARES, epoch=share, masking=EXACT)
            noised = corrupt(document, given)
            sums[share, place % 2] += gradients.of([noised]) / noised.loss_tokens
    sums /= len(documents) / 2
    centred = sums - sums.mean(0)
    return float((centred[:, 0] * centred[:, 1]).sum() / (SHARES - 1))


def _data_line(
    means: torch.Tensor,
    scores: dict[str, list[tuple[float, float]]],
    between: np.ndarray,
    report: Callable[..., None],
) -> dict[str, Any]:
    """Return the variance of expected gradients between documents over that of `REFERENCE`, as a line of the table.

    The report also says which share of a document's variance lies `between` its numbers of masked tokens, [documents].
    """
    square, signal = np.array(scores[REFERENCE]).T
    noise, error = np.array(_covariance(means)) / (square - signal).mean()
    line = {"way": "data", "noise": float(noise), "error": float(error), "tokens": 1.0}
    share, share_error = _ratio(between, square - signal)
    report("noise", **line, between_rates=share, between_rates_error=share_error)
    return line


def _covariance(pairs: torch.Tensor) -> tuple[float, float]:
    """Return the trace of the covariance of two vectors, and its standard error, from samples [n, 2, P]."""
    centred = pairs - pairs.mean(dim=0)
    products = (centred[:, 0] * centred[:, 1]).sum(dim=1)
    return float(products.sum()) / (len(pairs) - 1), float(products.std()) / len(pairs) ** 0.5


def _ratio(mine: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """Return the ratio of two sums over documents, and its standard error over them (delta method)."""
    ratio = mine.sum() / reference.sum()
    residual = mine - ratio * reference
    return float(ratio), float(residual.std(ddof=1) / reference.mean() / len(mine) ** 0.5) if len(mine) > 1 else 0.0
