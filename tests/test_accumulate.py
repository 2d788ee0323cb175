"""What happens to a plan when the memory runs out, with rows as a GPU packs them."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from documents import document, noise
from dreamtune import accumulate
from dreamtune.accumulate import make_smaller
from dreamtune.batching import Share
from dreamtune.diffusion import corrupt
from dreamtune.errors import UserError
from dreamtune.packing import collate
from tiny import plan


def test_a_document_that_stands_alone_cannot_be_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fills its row up is no document, so that layers are recomputed next, and then an error says what to do."""
    prepared: list[int] = []
    monkeypatch.setattr(accumulate, "prepare_layers", lambda model, p: prepared.append(p.recompute_layers))
    monkeypatch.setattr(accumulate, "unwrap", lambda model: model)
    model = SimpleNamespace(model=SimpleNamespace(layers=[None] * 5))
    run: Any = SimpleNamespace(plan=plan(1000), model=model, share=Share(device=torch.device("cpu")))
    alone = (collate([corrupt(document(response=96), noise())], multiple=64),)
    assert len(alone[0].input_ids) == 128  # of which the document has 101
    make_smaller(run, alone)
    assert run.plan.recompute_layers == 5 and run.plan.cut_tokens is None and prepared == [5]
    with pytest.raises(UserError, match="out of GPU memory; lower"):
        make_smaller(run, alone)


def test_a_pass_of_several_documents_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accumulate, "prepare_layers", lambda *_: None)
    monkeypatch.setattr(accumulate, "unwrap", lambda model: model)
    model = SimpleNamespace(model=SimpleNamespace(layers=[None] * 5))
    run: Any = SimpleNamespace(plan=plan(1000), model=model, share=Share(device=torch.device("cpu")))
    window = [corrupt(document(e, response=25), noise()) for e in range(4)]  # 30 tokens each
    make_smaller(run, (collate(window, multiple=64),))
    assert (run.plan.cut_tokens, run.plan.recompute_layers) == (60, 0)
