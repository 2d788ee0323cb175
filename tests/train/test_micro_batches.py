"""What happens to a plan when the memory runs out, with rows as a GPU packs them."""

import gc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from documents import document, noise
from dreamtune.errors import UserError
from dreamtune.model.loading import load
from dreamtune.objective.diffusion import corrupt
from dreamtune.objective.packing import collate
from dreamtune.train import micro_batches as accumulate
from dreamtune.train.finetuning import adapter_gib
from dreamtune.train.micro_batches import heaviest_micro_batch, make_smaller, make_window, rehearse, window_sums
from dreamtune.train.run import prepare_run
from dreamtune.train.steps import launch
from dreamtune.train.windows import Share
from tiny import make_model, make_shards, plan, settings


def test_a_document_that_stands_alone_cannot_be_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fills its row up is no document, so that layers are recomputed next, and then an error says what to do."""
    prepared: list[int] = []
    monkeypatch.setattr(accumulate, "prepare_layers", lambda model, p, _: prepared.append(p.recompute_layers))
    monkeypatch.setattr(accumulate, "unwrap", lambda model: model)
    model = SimpleNamespace(model=SimpleNamespace(layers=[None] * 5))
    run: Any = SimpleNamespace(plan=plan(1000), model=model, train=settings(), share=Share(device=torch.device("cpu")))
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
    run: Any = SimpleNamespace(plan=plan(1000), model=model, train=settings(), share=Share(device=torch.device("cpu")))
    window = [corrupt(document(e, response=25), noise()) for e in range(4)]  # 30 tokens each
    make_smaller(run, (collate(window, multiple=64),))
    assert (run.plan.cut_tokens, run.plan.recompute_layers) == (60, 0)


@pytest.mark.parametrize(("shortest", "lengths"), [(30, [30, 30, 30]), (20, [30, 30, 29])])
def test_the_rehearsal_has_one_length_only_if_the_run_has(shortest: int, lengths: list[int]) -> None:
    """Attention to documents of one length is compiled separately; of rows that differ it would seldom be used."""
    train = settings(max_tail=0)
    given = {"longest": 30, "documents": 3, "lengths": np.array([shortest, 30]), "train": train, "ids": {"mask_id": 9}}
    windows: Any = SimpleNamespace(**given)
    batch = heaviest_micro_batch(windows, plan(100), torch.device("cpu"))
    assert [len(noised.input_ids) for noised in batch.noised] == lengths


def test_the_optimisers_state_takes_its_room_in_the_rehearsal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second step runs beside it: 0.6 GiB at rank 32 on all linear layers of a 7B. The plan counts it, too."""
    run = prepare_run(settings(), make_model(tmp_path / "base"), make_shards(tmp_path / "shards"), tmp_path)
    held: list[int] = []

    def held_bytes(*_: Any) -> None:
        tensors = [thing for thing in gc.get_objects() if type(thing) is torch.Tensor and thing.dtype == torch.uint8]
        held.append(max((tensor.numel() for tensor in tensors), default=0))

    monkeypatch.setattr(accumulate, "forward_backward", held_bytes)
    rehearse(run)
    for weight in run.finetuning.parameters:
        weight.grad = torch.zeros_like(weight)
    run.optimizer.step()
    state = [value for values in run.optimizer.state.values() for name, value in values.items() if name != "step"]
    rehearse(run)
    assert held[0] == sum(value.nbytes for value in state) and held[1] < held[0]
    trained = sum(weight.nbytes for weight in run.finetuning.parameters)
    # Weights, gradients and two moments; copies and their gradients.
    assert adapter_gib(load(run.base), run.train) * 2**30 == pytest.approx(6 * trained)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_nothing_waits_for_the_gpu_until_a_steps_numbers_are_read(tmp_path: Path) -> None:
    """From the masks on, through several micro-batches and the update: torch stops at whatever would wait."""
    changes = {"device": "cuda", "dtype": "bfloat16", "quantization": "nf4"}
    base = make_model(tmp_path / "base").model_copy(update=changes)
    run = prepare_run(settings(micro_batch_tokens=32), base, make_shards(tmp_path / "shards"), tmp_path)
    run.model.train()
    for step in (1, 2, 3):  # compiles, and that waits
        window = make_window(run, step)
        sums = window_sums(run, window, step)
        assert sums is not None and launch(run, step, window, sums).updated
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        window = make_window(run, 3)
        sums = window_sums(run, window, 3)
        assert sums is not None
        launched = launch(run, 3, window, sums)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(window.batches) > 1 and sums.isfinite().all()
    assert launched.numbers.is_pinned() and launched.read()[:2] == sums[:2].tolist()
    with pytest.raises(RuntimeError, match="synchroniz"):  # that it would be noticed
        torch.cuda.set_sync_debug_mode("error")
        try:
            sums.tolist()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_gradients_are_measured_in_one_call_for_all_weights(tmp_path: Path) -> None:
    """Weight by weight, or by a walk through all modules in each step, a small model would wait for the CPU."""
    run = prepare_run(settings(), make_model(tmp_path / "base"), make_shards(tmp_path / "shards"), tmp_path)
    run.model.train()
    window_sums(run, make_window(run, 1), 1)
    one_by_one = torch.stack([weight.grad.norm() for weight in run.finetuning.trained.values()])  # type: ignore[union-attr]
    with Calls() as calls:
        norms = run.finetuning.gradient_norms()
        run.finetuning.clip(1e-3, norms)
    assert torch.equal(norms, one_by_one) and len(norms) == 28
    assert len(calls.names) < 12, calls.names
    assert run.finetuning.trained is run.finetuning.trained and run.finetuning.parameters is run.finetuning.parameters


class Calls(TorchDispatchMode):
    """Lists the operators that torch dispatches."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))
