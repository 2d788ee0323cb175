"""CUDA graphs of micro-batches: padding changes nothing, and a GPU's replays have the gradients of plain passes."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import PartialState
from torch import Tensor

from documents import document, noise
from dreamtune.errors import UserError
from dreamtune.objective.diffusion import Noised, corrupt
from dreamtune.objective.packing import Batch, collate
from dreamtune.settings.model import ModelConfig
from dreamtune.train.graphs import TARGET_SIZES, TOKEN_SIZES, BatchShape, Padded, gradients_in_place, padded
from dreamtune.train.micro_batches import (
    Prefetcher,
    accumulate,
    clear_gradients,
    forward_backward,
    graphs_of,
    make_window,
    window_sums,
)
from dreamtune.train.run import Run, prepare_run
from tests.train.test_micro_batches import Calls
from tiny import make_model, make_shards, settings
from tolerance import float32_rounding

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
LONGEST = 64


def prepared(folder: Path, changes: dict[str, Any] | None = None, **train: Any) -> Run:
    base: ModelConfig = make_model(folder / "base").model_copy(update=changes or {})
    lora = settings().lora.model_copy(update={"dropout": train.pop("dropout", 0.0)})
    run = prepare_run(settings(lora=lora, **train), base, make_shards(folder / "shards"), folder / "work")
    run.model.train()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for name, weight in run.finetuning.trained.items():
            if "lora_B" in name:  # at zero, half of the gradient would vanish
                torch.nn.init.normal_(weight, std=0.05)
    return run


def some(draw: np.random.Generator, most: int) -> list[Noised]:
    lengths = draw.integers(5, 50, int(draw.integers(1, most))).tolist()
    return [corrupt(document(e, 3, n, 1), noise(rate=0.5)) for e, n in enumerate(lengths)]


def gradient(run: Run, batch: Batch, loss_tokens: int | Tensor) -> tuple[Tensor, Tensor]:
    sums = forward_backward(run, batch, loss_tokens)
    found = torch.cat([weight.grad.flatten() for weight in run.finetuning.parameters if weight.grad is not None])
    run.optimizer.zero_grad()
    return sums, found


@pytest.mark.parametrize("count", [1, 63, 64, 65, 1000, 1025, 5678, 8191, 8192, 8193, 100_000])
def test_few_sizes_and_little_waste(count: int) -> None:
    """A tenth at most, beyond the multiple of 64 to which a row on a GPU is padded anyway."""
    assert padded(count, TOKEN_SIZES) % 64 == padded(count, TARGET_SIZES) % 64 == 0
    assert count <= padded(count, TOKEN_SIZES) <= max(count * 1.1, count + 63)
    assert count <= padded(count, TARGET_SIZES) <= max(count * 3 / 2, count + 63)


def test_a_window_of_short_documents_meets_few_shapes() -> None:
    draw = np.random.default_rng(0)
    lengths = np.clip(draw.normal(166, 80, (400, 32)), 30, 458).astype(int)
    windows = [[corrupt(document(e, n // 2, n - n // 2, 1), noise(rate=0.5)) for e, n in enumerate(w)] for w in lengths]
    batches = [collate(window, multiple=64) for window in windows]
    shapes = [BatchShape.of(batch, 512) for batch in batches]
    waste = sum(s.tokens for s in shapes) / sum(len(b.input_ids) for b in batches) - 1
    wasted_targets = sum(s.targets for s in shapes) / sum(len(b.positions) for b in batches) - 1
    assert len(set(shapes)) <= 12 and waste < 0.04 and wasted_targets < 0.25


def test_padding_changes_neither_sums_nor_gradient(tmp_path: Path) -> None:
    """One set of tensors takes smaller and larger micro-batches in turn; nothing of the one before may stay."""
    run, draw = prepared(tmp_path), np.random.default_rng(0)
    slot = Padded(BatchShape(tokens=640, documents=24, targets=512), LONGEST, torch.device("cpu"))
    for most in (12, 2, 9, 4):
        batch = collate(some(draw, most), multiple=16)
        slot.fill(batch, 77)
        assert slot.batch.boundaries.diff().max() <= LONGEST and slot.batch.boundaries[-1] == 640
        sums, exact = gradient(run, batch, 77)
        padded_sums, found = gradient(run, slot.batch, slot.loss_tokens)
        tolerance = float32_rounding(640)
        torch.testing.assert_close(padded_sums, sums, rtol=tolerance, atol=0)
        assert (found - exact).norm() < tolerance * exact.norm()


def test_a_micro_batch_is_copied_and_its_rows_are_chosen_in_few_operations(tmp_path: Path) -> None:
    """Beside a graph each is a launch of its own; a graph's kernels follow each other with a gap between them."""
    run, batch = prepared(tmp_path), collate(some(np.random.default_rng(0), 12), multiple=16)
    slot = Padded(BatchShape(tokens=640, documents=24, targets=512), LONGEST, torch.device("cpu"))
    with Calls() as calls:
        slot.fill(batch, 77)
    assert len([name for name in calls.names if "copy" in name or "zero" in name]) <= 8, calls.names
    with Calls() as calls:
        forward_backward(run, slot.batch, slot.loss_tokens)
    assert not [name for name in calls.names if "index_put" in name]
    states = torch.randn(640, 8, dtype=torch.bfloat16, requires_grad=True)
    upstream = torch.randn(512, 8, dtype=torch.bfloat16) * (slot.batch.weights[:, None] > 0)
    [sorted_] = torch.autograd.grad(states[slot.batch.positions], states, upstream)
    [added] = torch.autograd.grad(states.index_select(0, slot.batch.positions), states, upstream)
    assert torch.equal(added, sorted_)


def test_a_batch_fits_its_shape() -> None:
    draw = np.random.default_rng(1)
    for _ in range(50):
        batch = collate(some(draw, 40), multiple=64)
        shape = BatchShape.of(batch, LONGEST)
        assert len(batch.input_ids) <= shape.tokens and len(batch.positions) <= shape.targets
        slot = Padded(shape, LONGEST, torch.device("cpu"))
        slot.fill(batch, 1)
        assert slot.batch.boundaries[-1] == shape.tokens and slot.batch.boundaries.diff().max() <= LONGEST


@pytest.mark.parametrize("graphs", [True, None])
def test_only_a_gpu_has_graphs(graphs: bool | None, tmp_path: Path) -> None:
    if graphs:
        with pytest.raises(UserError, match=r"train\.graphs"):
            prepared(tmp_path, graphs=graphs)
    else:
        assert not prepared(tmp_path).plan.graphs


def test_a_window_goes_on_without_graphs_when_the_memory_runs_out(tmp_path: Path) -> None:
    """What the replays before have added is dropped with them: the window's gradient is that of a run without."""
    run = prepared(tmp_path)
    exact = gradient_of(run, 1)
    replays: list[int] = []

    def replay(batch: Batch, loss_tokens: int) -> Tensor:
        replays.append(len(batch.positions))
        if len(replays) == 2:
            raise torch.OutOfMemoryError
        return forward_backward(run, batch, loss_tokens)

    run.plan = replace(run.plan, graphs=True)
    run.graphs = replay  # type: ignore[assignment]
    gradients_in_place(run.finetuning.parameters)
    assert torch.equal(gradient_of(run, 1), exact) and len(replays) == 2
    assert run.graphs is None and not run.plan.graphs and run.plan.cut_tokens is None


def gradient_of(run: Run, step: int) -> Tensor:
    """Return the gradient of a window, and clear it."""
    with Prefetcher(partial(make_window, run), step) as windows:
        accumulate(run, windows, step)
    found = torch.cat([weight.grad.flatten() for weight in run.finetuning.parameters if weight.grad is not None])
    clear_gradients(run)
    return found


def on_gpu(folder: Path, **train: Any) -> Run:
    PartialState._reset_state()  # it keeps the device of the tests before
    return prepared(folder, {"device": "cuda", "dtype": "bfloat16"}, micro_batch_tokens=1000, graphs=True, **train)


def replayed(run: Run, batch: Batch, seed: int) -> Tensor:
    torch.manual_seed(seed)
    sums = graphs_of(run)(batch, 50).clone()
    found = torch.cat([w.grad.flatten() for w in run.finetuning.parameters if w.grad is not None] + [sums])
    clear_gradients(run)
    return found


@needs_gpu
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_replay_has_the_gradient_of_a_pass_without_graphs(dropout: float, tmp_path: Path) -> None:
    """And dropout's noise is that of the seed: the same for one seed, other for another, in a replay as without."""
    run, draw = on_gpu(tmp_path, dropout=dropout), np.random.default_rng(0)
    batches = [collate(some(draw, 6), "cuda") for _ in range(6)]
    plain = [replayed(run, batch, seed) for seed, batch in enumerate(batches)]  # the first of each shape is no replay
    for seed, batch in enumerate(batches):
        for _ in range(3):
            found = replayed(run, batch, seed)
            assert (found - plain[seed]).norm() < 0.02 * plain[seed].norm()
        other = replayed(run, batch, seed + 100)
        gradients = other[:-2], found[:-2]  # without the sums, which are far larger
        assert ((gradients[0] - gradients[1]).norm() > 0.02 * gradients[1].norm()) == (dropout > 0)


@needs_gpu
def test_memory_that_runs_out_within_a_capture_is_said_as_such(tmp_path: Path) -> None:
    """And afterwards kernels and dropout run as if there had been no capture."""
    run = on_gpu(tmp_path, dropout=0.3)
    [batch] = [collate(some(np.random.default_rng(0), 6), "cuda")]
    plain = replayed(run, batch, 0)
    graphs, calls = graphs_of(run), list[int]()

    def fails(batch: Batch, loss_tokens: Tensor) -> Tensor:
        calls.append(1)
        forward_backward(run, batch, loss_tokens)
        raise torch.OutOfMemoryError

    graphs.step = fails
    with pytest.raises(torch.OutOfMemoryError):
        replayed(run, batch, 0)
    assert calls == [1]
    clear_gradients(run)
    run.graphs = None
    found = replayed(run, batch, 0)
    assert (found - plain).norm() < 0.02 * plain.norm()


@needs_gpu
def test_windows_add_up_in_place(tmp_path: Path) -> None:
    """Over several steps, with graphs and without: the same sums and the same weights."""
    ends = []
    for name, graphs in (("graphs", True), ("plain", False)):
        changes = {"device": "cuda", "dtype": "bfloat16"}
        PartialState._reset_state()
        run = prepared(tmp_path / name, changes, micro_batch_tokens=64, graphs=graphs, dropout=0.1)
        said = []
        for step in (1, 2, 3, 1, 2, 3, 1, 2, 3):
            sums = window_sums(run, make_window(run, step), step)
            assert sums is not None
            run.finetuning.clip(1.0, run.finetuning.gradient_norms())
            run.optimizer.step()
            clear_gradients(run)
            said += sums.tolist()
        assert not graphs or any(slot.graph for slot in graphs_of(run)._padded.values())
        ends.append((said, torch.cat([w.detach().flatten() for w in run.finetuning.parameters])))
    assert ends[0][0] == pytest.approx(ends[1][0], rel=0.05)
    assert (ends[0][1] - ends[1][1]).norm() < 0.05 * ends[1][1].norm()
