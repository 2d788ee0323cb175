"""The stages of annealed attention: from none of what follows to all of it, over a share of the steps."""

import math
from collections import Counter

import pytest

from dreamtune.objective.annealing import right_context, stages


@pytest.mark.parametrize("longest", [1, 2, 9, 10, 100, 513, 2112])
@pytest.mark.parametrize("total", [1, 2, 3, 7, 100, 1000])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.29, 0.5, math.nextafter(1, 0)])
def test_it_only_grows_and_the_last_step_sees_everything(longest: int, total: int, share: float) -> None:
    seen = [right_context(step, total, share, longest) for step in range(1, total + 1)]
    annealed = [context for context in seen if context is not None]
    assert seen == annealed + [None] * (total - len(annealed)) and seen[-1] is None
    assert annealed == sorted(annealed) and len(annealed) == int(share * total) < total
    assert not annealed or annealed[0] == 0
    assert all(context == 0 or context < longest - 1 for context in annealed)
    if len(annealed) >= len(stages(longest)):
        counts = Counter(annealed)
        assert list(counts) == stages(longest) and max(counts.values()) - min(counts.values()) <= 1


def test_each_stage_has_twice_the_context_of_the_one_before() -> None:
    assert stages(513) == [0, 8, 16, 32, 64, 128, 256]
    assert stages(1) == stages(9) == [0]
