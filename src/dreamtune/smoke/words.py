"""What the smoke run saw, as one paragraph for a person: alarms and what usually helps. Torch-free.

Each number was measured by the run; what was not measured is left out of the paragraph.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dreamtune.readable import duration, nats, number, percent

SURE = 2.0  # standard errors that a fall of the training loss must exceed, where there are no validation rows
TOO_FAR = 1.0  # update relative to the frozen weights, from which on it outweighs them

HELP = {
    "loss": (
        "a higher train.learning_rate or train.learning_rate: find, more steps (smoke.epochs, smoke.rows), and a look "
        "at whether a response can be predicted from its prompt at all (data.template, data.columns)"
    ),
    "adapter": (
        "see in gate.json which modules all_modules_learn names, that train.lora.target_modules names layers of this "
        "model, and that train.learning_rate is not next to 0"
    ),
    "too far": "a lower train.learning_rate, or a longer train.warmup",
    "canvas": "the settings that the sentence names; those of generate need no other training",
}


@dataclass(frozen=True)
class Seen:
    """What a smoke run measured; None where it did not.

    Attributes:
        losses: training loss of each step, in nats per response token.
        averaged: steps of which the first and the last loss are means.
        validation: loss of the validation rows before the first and after the last step, under the same masks.
        moved: norm of the adapter's update relative to the frozen weights'; None in full fine-tuning.
        dead: what all_modules_learn says of modules that learned nothing; "" if all learned.
        canvas: warnings of canvases that training does not show; None if no canvas is known.
        full_s: seconds that the full run's steps will take.
    """

    losses: Sequence[float]
    averaged: int
    validation: tuple[float, float] | None = None
    moved: float | None = None
    dead: str = ""
    canvas: Sequence[str] | None = None
    full_s: float | None = None

    @property
    def ends(self) -> tuple[float, float]:
        """Mean of the first and of the last losses."""
        first, last = self.losses[: self.averaged], self.losses[-self.averaged :]
        return sum(first) / len(first), sum(last) / len(last)

    @property
    def error(self) -> float | None:
        """Standard error of the difference of the two means; None if a mean has only one step."""
        if self.averaged < 2:
            return None
        parts = self.losses[: self.averaged], self.losses[-self.averaged :]
        return math.sqrt(
            sum((loss - mean) ** 2 for part, mean in zip(parts, self.ends, strict=True) for loss in part)
            / (self.averaged * (self.averaged - 1))
        )


def in_words(seen: Seen) -> dict[str, Any]:
    """Return the paragraph as "words", and the names of its alarms, keys of `HELP`, as "alarms"."""
    alarms = [name for name, raised in _alarms(seen).items() if raised]
    said = [_loss(seen), _adapter(seen), _canvas(seen), _time(seen)]
    if alarms:
        said += [f"What usually helps{_about(name, alarms)}: {HELP[name]}." for name in alarms]
    elif any(raised is None for raised in _alarms(seen).values()):
        said.append("What was measured gives no alarm.")
    else:
        said.append("Nothing here is an alarm.")
    return {"words": " ".join(text for text in said if text), "alarms": alarms}


def _alarms(seen: Seen) -> dict[str, bool | None]:
    """Return for each alarm whether it is raised; None where the evidence does not suffice."""
    return {
        "loss": _stood_still(seen),
        "adapter": bool(seen.dead) or seen.moved == 0,
        "too far": seen.moved is not None and seen.moved > TOO_FAR,
        "canvas": None if seen.canvas is None else bool(seen.canvas),
    }


def _stood_still(seen: Seen) -> bool | None:
    if seen.validation is not None:  # the same masks before and after: a loss that only noise changes stays as it is
        return round(seen.validation[1], 3) >= round(seen.validation[0], 3)
    if seen.error is None:
        return None
    return seen.ends[0] - seen.ends[1] <= SURE * seen.error


def _loss(seen: Seen) -> str:
    first, last = seen.ends
    steps, mean = len(seen.losses), seen.averaged
    if steps < 2:
        return f"The training loss was {nats(first)} nats per response token in the only step."
    means = f" (means of the first and the last {mean})" if mean > 1 else ""
    said = f"The training loss {_went(first, last)} over {steps} steps{means}"
    if seen.validation is not None:
        said += f", the validation loss, under the same masks before and after, {_went(*seen.validation)}"
    elif seen.error is not None:
        noise = f"{nats(seen.error)} is the standard error of that difference"
        said += f"; {noise}, so this is no fall" if _stood_still(seen) else f"; {noise}"
    return f"{said}.{' ALARM: the loss did not fall.' if _stood_still(seen) else ''}"


def _went(first: float, last: float) -> str:
    """Return from where to where a loss went.

    >>> _went(6.2, 1.4), _went(1.4, 1.5)
    ('fell by 4.800 nats per token, from 6.200 to 1.400', 'rose by 0.100 nats per token, from 1.400 to 1.500')
    """
    if nats(first) == nats(last):
        return f"stayed at {nats(first)} nats per token"
    way = "fell" if last < first else "rose"
    return f"{way} by {nats(abs(first - last))} nats per token, from {nats(first)} to {nats(last)}"


def _adapter(seen: Seen) -> str:
    if seen.dead:
        return f"ALARM: modules of the model learned nothing ({seen.dead})."
    if seen.moved is None:
        return ""
    if seen.moved == 0:
        return "ALARM: the adapter did not move, its update is 0."
    said = f"The adapter's update has {_share(seen.moved)} the norm of the frozen weights it is added to."
    return said + (" ALARM: it outweighs them." if seen.moved > TOO_FAR else "")


def _share(moved: float) -> str:
    return f"{percent(moved, 2)} of" if moved >= 1e-4 else f"{number(moved)} times"


def _canvas(seen: Seen) -> str:
    if seen.canvas is None:
        return ""
    if not seen.canvas:
        return "The canvas of generation fits what training shows."
    return f"ALARM: the canvas of generation does not fit what training shows: {'; '.join(seen.canvas)}."


def _time(seen: Seen) -> str:
    return "" if seen.full_s is None else f"The full run's steps will take about {duration(seen.full_s)} at this speed."


def _about(name: str, alarms: Sequence[str]) -> str:
    """Return which alarm a piece of advice is about, if there are several."""
    about = {"loss": "a loss that does not fall", "adapter": "an adapter that does not move"}
    about |= {"too far": "an update that is too large", "canvas": "a canvas that does not fit"}
    return f" against {about[name]}" if len(alarms) > 1 else ""
