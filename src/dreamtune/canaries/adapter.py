"""Canaries on what training changed: a module that learns nothing, and a gradient that explodes.

Both look at the gradient norms of the whole run, as the optimiser got them before clipping, and at the weights before
the first and after the last step. They name modules.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from dreamtune.checks import Check, check

NAMED = 3  # modules named in a sentence
EXPLODES = 100.0  # times the run's median gradient norm; clipping bounds what one step can do, hence only a warning
SURE_MOVE = 1e-6  # learning rate from which a step moves every float32 weight that has a gradient


@dataclass(frozen=True)
class Trained:
    """What is known of the weights that a run was to train, each by its name.

    Attributes:
        gradients: the largest gradient norm that the weight had in any step.
        moved: whether the weight is another one than before the first step.
        without: target modules that got no adapter at all.
        steps: optimiser steps of the run.
        learning_rate: the run's highest.
    """

    gradients: Mapping[str, float]
    moved: Mapping[str, bool]
    without: Sequence[str]
    steps: int
    learning_rate: float


def all_modules_learn(trained: Trained) -> Check:
    """Return the hard check that every module had a gradient, and moved."""
    modules = sorted({*map(module_of, trained.moved), *trained.without})
    dead = sorted({module_of(weight) for weight in trained.moved if is_dead(weight, trained)} | set(trained.without))
    fault = (
        f"training taught some modules nothing{': ' if dead else ''}{_listed(dead)}; see that each module of "
        "train.lora.target_modules has an adapter, that a gradient reaches it, and that the optimiser has its weights"
    )
    note: dict[str, Any] = {"note": f"dead: {_listed(dead)}"} if dead else {}
    expected = f"0 of {len(modules)} modules without a gradient or a move"
    return check("all_modules_learn", not dead, len(dead), expected, fault, **note)


def is_dead(weight: str, trained: Trained) -> bool:
    """Return whether a weight surely learned nothing.

    LoRA's B starts at zero, so that any move shows. A has no gradient as long as B is zero, which is in the first step,
    and next to none at a learning rate of next to nothing.
    """
    if ".lora_B" not in weight and (trained.steps < 2 or trained.learning_rate < SURE_MOVE):
        return False
    return not trained.moved[weight] or trained.gradients.get(weight) == 0.0


def gradients_steady(norms: Sequence[float], gradients: Mapping[str, float]) -> Check:
    """Return the soft check that no gradient explodes: in one step of the run, or in one module of its adapter.

    Args:
        norms: gradient norm of each step, over all weights.
        gradients: the largest gradient norm of each weight in any step.
    """
    name, expected = "gradients_steady", f"at most {EXPLODES:g} times the run's median gradient norm"
    most = module_of(max(gradients, key=lambda weight: gradients[weight], default=""))
    fault = f"the gradient exploded, most in {most}; lower train.learning_rate or raise train.warmup"
    # The weights of a whole model differ by far anyway, so only those of adapters are compared with each other.
    adapters = [norm for weight, norm in gradients.items() if ".lora_B" in weight]
    value = max(_times_median(norms), _times_median(adapters))
    return check(name, value <= EXPLODES, value, expected, fault, hard=False, note=f"largest in {most}")


def module_of(weight: str) -> str:
    """Return the module of an adapter's weight; other weights are named themselves.

    >>> module_of("model.layers.0.self_attn.q_proj.lora_A.weight"), module_of("model.norm.weight")
    ('model.layers.0.self_attn.q_proj', 'model.norm.weight')
    """
    return weight.partition(".lora_")[0]


def _times_median(values: Sequence[float]) -> float:
    """Return the largest value divided by the median; 1 without a median above zero."""
    middle = median(values) if values else 0.0
    return max(values) / middle if middle else 1.0


def _listed(names: Sequence[str]) -> str:
    """Return the first names in words.

    >>> _listed(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
