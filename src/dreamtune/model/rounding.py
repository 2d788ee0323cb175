"""How much of a weight update is lost when the sum of weight and update is rounded to the weight's number type."""

from dataclasses import dataclass
from math import sqrt

import torch

TOLERANCE = 0.05  # of the update's Frobenius norm: what rounding may take without being noticed


@dataclass(frozen=True)
class Rounding:
    """What rounding took of an update, as sums of squares over all its numbers.

    Attributes:
        error: ‖round(W + D) − (W + D)‖², for weight W and update D.
        update: ‖D‖².
        count: how many numbers D has.
    """

    error: float
    update: float
    count: int

    @property
    def lost(self) -> float:
        """The share of the update's Frobenius norm that rounding took, 0 to 1; 0 for an update of zeros."""
        return sqrt(self.error / self.update) if self.update else 0.0

    @property
    def rms(self) -> float:
        """The root mean square of the update."""
        return sqrt(self.update / self.count)


def add_rounded(weight: torch.Tensor, update: torch.Tensor) -> tuple[torch.Tensor, Rounding]:
    """Return weight + update in the weight's type, and what rounding to it took.

    bfloat16 has 8 significant bits, so that of an update of 1/512 beside weights of 1 nothing is left:

    >>> total, rounding = add_rounded(torch.ones(2, 2).bfloat16(), torch.full((2, 2), 1 / 512))
    >>> total.tolist(), rounding.lost, rounding.rms
    ([[1.0, 1.0], [1.0, 1.0]], 1.0, 0.001953125)

    Args:
        weight: [out, in].
        update: [out, in] float32.
    """
    exact = weight.float() + update
    rounded = exact.to(weight.dtype)
    error = float((rounded.float() - exact).square().sum(dtype=torch.float64))
    return rounded, Rounding(error, float(update.square().sum(dtype=torch.float64)), update.numel())


def total_rounding(parts: list[Rounding]) -> Rounding:
    """Return the rounding of several updates taken together, at least one."""
    return Rounding(
        error=sum(part.error for part in parts),
        update=sum(part.update for part in parts),
        count=sum(part.count for part in parts),
    )
