"""The canary of annealed attention: a token sees no later tokens than its right context, and does see these.

All other canaries look at the attention that training ends with. This one runs the first two stages of
`objective.annealing`: causal attention, and the smallest right context, which takes other kernels.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from dreamtune.canaries.backwards import later_leaks
from dreamtune.canaries.leaks import Count, neighbour_leaks, watch
from dreamtune.canaries.short import shortened
from dreamtune.canaries.window import blind_scores
from dreamtune.checks import Check, check
from dreamtune.model.logits import unwrap
from dreamtune.model.modes import evaluation_mode
from dreamtune.objective.packing import Batch

FAULT = "while attention was annealed, a token saw more than its right context, or nothing of it"


def right_context_kept(model: nn.Module, batches: Sequence[Batch], ids: dict[str, Any], stages: Sequence[int]) -> Check:
    """Return the hard check that the first stages of an annealed run see what they shall. 9 forward passes or more.

    Counted as faults are, among the hidden rows that score the response: those that change with tokens further behind
    than all layers together reach, under causal attention and under the smallest right context; under the latter also
    those that change with another document of their micro-batch, and those whose logits no later token changes.

    Args:
        model: base with adapter; it is put into evaluation mode and back.
        batches: micro-batches of one window; they are cut short, see `shortened`.
        ids: special tokens and vocabulary size, as in shards.json.
        stages: right contexts of the run, the first of which is 0.
    """
    wrong, layers = Count(), len(unwrap(model).model.layers)
    with evaluation_mode(model):
        for batch in map(shortened, batches):
            for right_context in stages[:2]:
                limited, reach = replace(batch, right_context=right_context), layers * right_context
                watched = watch(model, limited)
                if reach < batch.longest:
                    wrong += later_leaks(model, limited, watched, ids, reach)[1]
                if right_context:
                    wrong += neighbour_leaks(model, limited, watched, ids)
                    wrong += blind_scores(model, limited, watched, ids)
    expected = f"0 of {wrong.tested} scores see past their right context or nothing of it"
    return check("right_context_kept", wrong.moved == 0 < wrong.tested, wrong.moved, expected, FAULT)
