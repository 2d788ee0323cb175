"""The canary of annealed attention: planted faults in what a layer sees while it is annealed."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from documents import document, noise
from dreamtune.canaries.right_context import right_context_kept
from dreamtune.checks import Check
from dreamtune.model.attention import NAME, attend
from dreamtune.objective.annealing import stages
from dreamtune.objective.diffusion import corrupt
from dreamtune.objective.packing import Batch, collate
from tiny import IDS


def batches(lengths: tuple[int, ...] = (50, 35, 50)) -> list[Batch]:
    return [collate([corrupt(document(n, 3, size), noise(rate=0.4)) for n, size in enumerate(lengths)])]


def judged(model: Any, lengths: tuple[int, ...] = (50, 35, 50)) -> Check:
    return right_context_kept(model, batches(lengths), IDS, stages(max(lengths)))


@pytest.mark.parametrize("lengths", [(50, 35, 50), (40, 40), (60,), (3, 4)], ids=str)
def test_it_passes(model: Any, lengths: tuple[int, ...]) -> None:
    check = judged(model, lengths)
    assert check["passed"] and check["hard"] and check["value"] == 0


@pytest.mark.parametrize(
    "seen",
    [lambda asked: None, lambda asked: asked and asked + 1, lambda asked: asked and 1000, lambda asked: 0],
    ids=["ignored", "one more in each layer", "all", "none"],
)
def test_a_layer_that_sees_more_or_less(
    model: Any, seen: Callable[[int | None], int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(*given: Any, right_context: int | None = None, **options: Any) -> Any:
        return attend(*given, right_context=seen(right_context), **options)

    monkeypatch.setitem(AttentionInterface._global_mapping, NAME, faulty)
    check = judged(model)
    assert check["passed"] is False and check["value"] > 0


def test_documents_that_see_each_other_only_while_annealed(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last token of a document sees into the next one."""

    def faulty(
        module: Any, query: Any, key: Any, value: Any, mask: Any, cu_seq_lens_q: Any, *rest: Any, **named: Any
    ) -> Any:
        out, _ = attend(module, query, key, value, mask, cu_seq_lens_q, *rest, **named)
        if named.get("right_context"):
            out = out.clone()
            for first, end in pairwise(cu_seq_lens_q.tolist()[:-1]):
                last, seen = slice(end - 1, end), slice(first, end + 1)
                given = query[:, :, last], key[:, :, seen], value[:, :, seen]
                out[:, last] = scaled_dot_product_attention(*given, enable_gqa=True).transpose(1, 2)
        return out, None

    monkeypatch.setitem(AttentionInterface._global_mapping, NAME, faulty)
    assert judged(model)["passed"] is False


def test_nothing_to_look_at_is_no_pass(model: Any) -> None:
    assert right_context_kept(model, [], IDS, [0])["passed"] is False
