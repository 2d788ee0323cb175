"""What happens to a plan when the memory runs out, with rows as a GPU packs them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from documents import document, noise
from dreamtune.errors import UserError
from dreamtune.objective.diffusion import corrupt
from dreamtune.objective.packing import collate
from dreamtune.train import micro_batches as accumulate
from dreamtune.train.micro_batches import make_smaller, make_window, window_sums
from dreamtune.train.run import prepare_run
from dreamtune.train.windows import Share
from tiny import make_model, make_shards, plan, settings


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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_nothing_waits_for_the_gpu_inside_a_window(tmp_path: Path) -> None:
    """From the masks on, over several micro-batches forward and backward: torch stops at whatever would wait."""
    changes = {"device": "cuda", "dtype": "bfloat16", "quantization": "nf4"}
    base = make_model(tmp_path / "base").model_copy(update=changes)
    run = prepare_run(settings(micro_batch_tokens=32), base, make_shards(tmp_path / "shards"), tmp_path)
    run.model.train()
    for step in (1, 2, 3):  # compiles, and that waits
        window_sums(run, make_window(run, step), step)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        window = make_window(run, 3)
        sums = window_sums(run, window, 3)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(window.batches) > 1 and sums is not None and sums.isfinite().all()
    with pytest.raises(RuntimeError, match="synchroniz"):  # that it would be noticed
        torch.cuda.set_sync_debug_mode("error")
        try:
            sums.tolist()
        finally:
            torch.cuda.set_sync_debug_mode("default")
