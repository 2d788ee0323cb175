"""The learning rate range test: its rates, its smoothed curve, when it stops, and the rate that it chooses. Torch-free.

The rate grows in every step, and the loss is watched (Smith, arXiv 1506.01186, section 3.3). That it grows by the same
factor, that the loss is smoothed, and the rule are from fastai's `lr_find` (its suggestion `minimum`): a tenth of the
rate at which the smoothed loss was least. Where the loss falls fastest would be another rule; it rests on differences,
which noise decides.

A diffusion loss differs from window to window, by its mask rates, far more than training changes it in a few steps. So
the test goes round the same few windows, under the same masks, and each loss is compared with the loss of that window
before the first step. The smoothed loss is a ratio: 1 at the start, 0.9 where windows lost a tenth.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dreamtune.errors import UserError

LOWEST, HIGHEST = 1e-6, 1.0  # learning rates
STEPS = 61  # ten for each power of ten
WINDOWS = 8  # most windows that the test goes round
SMOOTHING = 0.8  # what a step's loss counts for in the next one, so that about five count
LEAST_FALL = 0.02  # of the smoothed loss; less is taken for no fall at all
RISE_BACK = 0.5  # of what the smoothed loss fell: risen back by as much, it has turned
DIVERGED = 1.5  # smoothed loss above which the test stops, whatever came before
TENTH = 0.1


@dataclass
class Curve:
    """The losses of a range test so far: those of a window before the first step, and after it was trained so far."""

    rates: list[float] = field(default_factory=list)  # learning rate of the last step before the loss
    losses: list[float] = field(default_factory=list)  # nats per response token
    before: list[float] = field(default_factory=list)  # of the same windows, before the first step
    smoothed: list[float] = field(default_factory=list)  # ratio of the two, see `smoothed_ratio`

    def add(self, rate: float, loss: float, before: float) -> None:
        """Add the loss that a step at `rate` led to."""
        self.rates.append(rate)
        self.losses.append(loss)
        self.before.append(before)
        self.smoothed.append(smoothed_ratio(self.losses, self.before))

    @property
    def least(self) -> float:
        """The least smoothed loss so far."""
        return min((ratio for ratio in self.smoothed if math.isfinite(ratio)), default=1.0)

    @property
    def fall(self) -> float:
        """By how much the smoothed loss fell below 1; negative if it never did."""
        return 1.0 - self.least

    @property
    def ended(self) -> str | None:
        """Why the test is over: "turned" or "diverged"; None if it is not."""
        last = self.smoothed[-1] if self.smoothed else 1.0
        if not last <= DIVERGED:  # or it is not a number
            return "diverged"
        if self.fall >= LEAST_FALL and last - self.least > RISE_BACK * self.fall:
            return "turned"
        return None

    def result(self) -> dict[str, Any]:
        """Return the content of range_test.json: the rate `chosen`, where the loss `turned_at`, `ended`, the `points`.

        Raises:
            UserError: the loss did not fall at any rate, or did not turn up to the highest.
        """
        remedy = "set train.learning_rate to a number"
        if self.fall < LEAST_FALL:
            raise UserError(
                f"train.learning_rate find: the loss fell by less than {LEAST_FALL:.0%} at every rate up to "
                f"{self.rates[-1]:.1e}, so there is nothing to choose by; {remedy}, or see what is trained on"
            )
        if self.ended is None:
            raise UserError(
                f"train.learning_rate find: the loss did not turn up to a learning rate of {HIGHEST:g}; {remedy}"
            )
        turned = self.rates[self.smoothed.index(self.least)]
        names = ("learning_rate", "loss", "before", "smoothed")
        columns = (self.rates, self.losses, self.before, self.smoothed)
        return {
            "chosen": float(f"{TENTH * turned:.1e}"),
            "turned_at": turned,
            "fall": self.fall,
            "ended": self.ended,
            "points": [dict(zip(names, point, strict=True)) for point in zip(*columns, strict=True)],
        }


def rates() -> list[float]:
    """Return the learning rates of the test's steps, each the same factor above the one before.

    >>> len(rates()), rates()[0], round(rates()[10], 12), rates()[-1]
    (61, 1e-06, 1e-05, 1.0)
    """
    decades = math.log10(HIGHEST / LOWEST)
    return [float(f"{LOWEST * 10 ** (decades * step / (STEPS - 1)):.6g}") for step in range(STEPS)]


def smoothed_ratio(losses: list[float], before: list[float]) -> float:
    """Return the exponential mean of the losses over that of the same windows' losses before the first step.

    >>> round(smoothed_ratio([4.0, 0.9], [4.0, 1.0]), 3)  # (0.8 * 4 + 0.9) / (0.8 * 4 + 1)
    0.976
    """
    counts = [SMOOTHING**age for age in reversed(range(len(losses)))]
    weighed = sum(count * loss for count, loss in zip(counts, before, strict=True))
    return sum(count * loss for count, loss in zip(counts, losses, strict=True)) / weighed if weighed else 1.0


def range_test(windows: int, loss_of: Callable[[int], float], step: Callable[[float], None]) -> dict[str, Any]:
    """Run the test; return the content of range_test.json, see `Curve.result`.

    Args:
        windows: number of windows to go round.
        loss_of: returns the loss of a window, counted from 0, under the weights as they are, and makes its gradients.
        step: changes the weights by the last gradients at a learning rate.

    Raises:
        UserError: no rate can be chosen from the curve.
    """
    before = [loss_of(window) for window in range(windows)]
    curve, growing = Curve(), rates()
    for number, rate in enumerate([*growing, None]):
        window = number % windows
        loss = loss_of(window)
        if number:
            curve.add(growing[number - 1], loss, before[window])
        if curve.ended or rate is None:
            break
        step(rate)
    return curve.result()
