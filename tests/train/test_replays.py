"""Training by CUDA graphs, played by `fake_graphs` on a CPU: a replay is the pass that was captured, to the bit."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fake_graphs
from documents import document, noise
from dreamtune.model import attention
from dreamtune.objective.diffusion import corrupt
from dreamtune.objective.packing import Batch, collate
from dreamtune.train import graphs as graphs_module
from dreamtune.train import run as run_module
from dreamtune.train.graphs import Graphs
from dreamtune.train.layers import prepare_layers
from dreamtune.train.micro_batches import clear_gradients, graphs_of
from dreamtune.train.run import Run
from tests.train.test_graphs import prepared, some
from training_runs import Train, adapter, log

pytest_plugins = "training_runs"  # its fixtures


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_graphs.install(monkeypatch)
    monkeypatch.setattr(attention, "flash_runs", lambda _: True)


def with_graphs(folder: Path, **train: Any) -> Run:
    run = prepared(folder, **train)
    run.plan = replace(run.plan, graphs=True)
    prepare_layers(run.model, run.plan)
    return run


def told(run: Run, batch: Batch, seed: int) -> Tensor:
    """Return sums and gradient of a micro-batch, in a graph or not, and clear the gradient."""
    torch.manual_seed(seed)
    sums = graphs_of(run)(batch, 50).clone()
    found = torch.cat([*(w.grad.flatten() for w in run.finetuning.parameters if w.grad is not None), sums])
    clear_gradients(run)
    return found


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_replay_is_the_pass_to_the_bit(dropout: float, tmp_path: Path) -> None:
    """Also after the weights have changed: what was copied or computed from them is computed again."""
    run, draw = with_graphs(tmp_path, dropout=dropout), np.random.default_rng(0)
    batches = [collate(some(draw, 6), multiple=64) for _ in range(4)]
    for change in range(3):
        for seed, batch in enumerate(batches):
            run.graphs = None if change == 0 and seed == 0 else run.graphs
            graphs = graphs_of(run)
            replayed = told(run, batch, seed)
            slot = graphs._padded[graphs_module.BatchShape.of(batch, graphs.longest)]
            kept, slot.graph, slot.met = slot.graph, None, False
            plain = told(run, batch, seed)
            slot.graph = kept
            assert torch.equal(replayed, plain) and (change < 2 or kept is not None)
        with torch.no_grad():
            for weight in run.finetuning.parameters:
                weight.mul_(1.1)


@pytest.fixture
def graphed(train: Train, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Return `train`, of runs whose plan has CUDA graphs."""
    choose: Callable[..., Any] = run_module.choose
    monkeypatch.setattr(run_module, "choose", lambda *given: replace(choose(*given), graphs=True))
    return train


def test_a_training_by_replays_is_one_without_to_the_bit(graphed: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through rehearsal, updates, validations, checkpoints and a last step; so is one that is resumed."""
    changes: dict[str, Any] = {"max_steps": 8, "checkpoint_steps": 3, "validate_every": 2, "micro_batch_tokens": 64}
    captures, capture = list[int](), Graphs._capture

    def counted(graphs: Graphs, slot: Any) -> None:
        captures.append(slot.shape.tokens)
        capture(graphs, slot)

    monkeypatch.setattr(Graphs, "_capture", counted)
    replayed = graphed("replayed", **changes)
    assert captures
    monkeypatch.setattr(Graphs, "_capture", never_captured)
    plain = graphed("plain", **changes)
    assert adapter(replayed) == adapter(plain)
    names = ("loss", "grad_norm", "validation_nll", "elbo")
    assert [[line.get(name) for name in names] for line in log(replayed)] == [
        [line.get(name) for name in names] for line in log(plain)
    ]


def never_captured(graphs: Graphs, slot: Any) -> None:
    slot.graph, slot.sums = Plain(graphs, slot), torch.zeros(2)


class Plain:
    """In the place of a graph: the pass itself, each time."""

    def __init__(self, graphs: Graphs, slot: Any) -> None:
        self.graphs, self.slot = graphs, slot

    def replay(self) -> None:
        self.slot.sums = self.graphs._added(self.slot)


def test_graphs_that_have_all_left_take_their_memory_pool_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch fails an assertion where a graph is captured into a pool that no graph uses any more."""
    monkeypatch.setattr(graphs_module, "KEPT", 2)
    run, window = with_graphs(tmp_path), [corrupt(document(e, 3, 40, 1), noise(rate=0.5)) for e in range(9)]
    batches = [collate(window[:count], multiple=64) for count in (1, 4, 9)]
    for number in (0, 0, 1, 2, 2, 0, 0):
        told(run, batches[number], 0)
    assert any(slot.graph for slot in graphs_of(run)._padded.values())


def test_a_capture_that_breaks_off_leaves_nothing_behind(tmp_path: Path) -> None:
    """torch stays on the capture's stream if it cannot end the capture: windows would be read while they are copied."""
    run = with_graphs(tmp_path, dropout=0.3)
    batch = collate(some(np.random.default_rng(0), 6), multiple=64)
    plain, real, before = told(run, batch, 0), graphs_of(run).step, torch.cuda.current_stream()

    def fails(batch: Batch, loss_tokens: Tensor) -> Tensor:
        real(batch, loss_tokens)
        raise torch.OutOfMemoryError

    graphs_of(run).step = fails
    with pytest.raises(torch.OutOfMemoryError):
        told(run, batch, 0)
    assert torch.cuda.current_stream() is before
    clear_gradients(run)
    run.graphs = None
    assert torch.equal(told(run, batch, 0), plain)
