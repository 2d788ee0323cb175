"""What is compiled is compiled few times, and computes the same.

The compiler's front end is real, its back end runs the captured graphs as they are: how often something is captured
is what a GPU would spend its first minutes on. FlashAttention's kernel is stood in for by the same function in SDPA,
which a CPU can run.
"""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from conftest import FIXTURES
from documents import document, noise
from dreamtune.device.compiler import set_compiler
from dreamtune.generate.layers import prepare_for_generation
from dreamtune.generate.row import Request
from dreamtune.generate.sampler import denoise
from dreamtune.model import attention
from dreamtune.model.facts import Facts, set_facts
from dreamtune.model.loading import attach_lora, load, load_model
from dreamtune.objective.diffusion import corrupt
from dreamtune.objective.loss import loss_sums
from dreamtune.objective.packing import collate
from dreamtune.settings.generate import GenerateConfig
from dreamtune.train.layers import prepare_layers
from dreamtune.train.micro_batch_plan import MicroBatchPlan
from tiny import make_model, settings

DREAM = FIXTURES / "dream_tiny"


@torch.library.custom_op("dreamtune_tests::varlen", mutates_args=())
def varlen(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, starts: torch.Tensor, key_starts: torch.Tensor
) -> torch.Tensor:
    """Attend within each document, [T, heads, d]."""
    out = []
    for some, span in zip(pairwise(starts.tolist()), pairwise(key_starts.tolist()), strict=True):
        parts = (part[slice(*ends)].transpose(0, 1).float() for part, ends in ((q, some), (k, span), (v, span)))
        out.append(scaled_dot_product_attention(*parts))
    return torch.cat(out, dim=1).transpose(0, 1).to(q.dtype).contiguous()


@varlen.register_fake
def _(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, starts: torch.Tensor, key_starts: torch.Tensor
) -> torch.Tensor:
    return torch.empty_like(q)


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Return a list with an entry for each graph that torch.compile hands to its back end: the kinds of its numbers."""
    graphs: list[list[str]] = []
    original = torch.compile

    def backend(graph: Any, inputs: Any) -> Callable[..., Any]:
        given = [node.meta["example_value"] for node in graph.graph.find_nodes(op="placeholder")]
        graphs.append([str(value.dtype) for value in given if isinstance(value, torch.Tensor) and value.ndim == 0])
        run: Callable[..., Any] = graph.forward
        return run

    monkeypatch.setattr(torch, "compile", lambda function, **named: original(function, backend=backend, **named))
    torch._dynamo.reset()
    return graphs


def test_windows_of_any_length_and_all_layers_share_two_graphs(
    captured: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One for the last layer, which is computed at the supervised rows alone, and one for all others."""
    monkeypatch.setattr(attention, "varlen_attn", lambda q, k, v, *starts: varlen(q, k, v, *starts[:2]))
    lora = settings().lora.model_copy(update={"dropout": 0.0, "target_modules": ["q_proj", "v_proj"]})
    config = make_model(tmp_path / "base").model_copy(update={"dtype": "bfloat16"})
    plain, model = (attach_lora(load(config), lora, 0).eval() for _ in range(2))
    set_facts(model.get_base_model().config, Facts("dream", flash=True))
    prepare_layers(model, MicroBatchPlan(1000, 0, "packed", compile=True))
    draw = np.random.default_rng(0)
    with torch.no_grad():
        loss_sums(model, collate([corrupt(document(0), noise())]))
    assert captured == []  # without gradients nothing is compiled
    for step in range(8):
        lengths = draw.integers(5, 60, 7 + step % 3).tolist()
        batch = collate([corrupt(document(e, 3, n, 1), noise(rate=0.5)) for e, n in enumerate(lengths)])
        losses = [loss_sums(m, batch)[0] for m in (model, plain)]
        assert losses[0].item() == pytest.approx(losses[1].item(), rel=2e-2)
    assert len(captured) == 2


def test_floats_are_constants_of_compiled_code(captured: list[list[str]], tmp_path: Path) -> None:
    """Not its inputs, which would be computed with on the CPU, in C++ that is compiled first."""
    set_compiler()
    lora = settings().lora.model_copy(update={"dropout": 0.05, "alpha": 12, "rank": 8, "target_modules": ["q_proj"]})
    model = attach_lora(load(make_model(tmp_path / "base")), lora, 0).train()
    prepare_layers(model, MicroBatchPlan(1000, 0, "packed", compile=True))
    loss_sums(model, collate([corrupt(document(0), noise())]))
    assert captured and not any(captured)


def test_layers_share_what_is_compiled_for_generation(captured: list[list[str]]) -> None:
    """A full pass and a block's pass, each for a batch that is full and one that is not; not one for each layer."""
    config = GenerateConfig(max_new_tokens=24, block_length=8, refresh="block", batch_size=3)
    requests = [Request([5, 6, 7], number) for number in range(5)]

    def answers(model: Any) -> list[list[int]]:
        return [answer.tokens for _, answer in sorted(denoise(model, requests, config), key=lambda pair: pair[0])]

    plain = answers(load_model(DREAM, dtype="float32"))
    assert captured == []  # a CPU runs layers as they are
    model = load_model(DREAM, dtype="float32")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model), "device", property(lambda self: torch.device("cuda")))
        prepare_for_generation(model)
    assert answers(model) == plain
    assert 0 < len(captured) <= 4  # of three layers


def test_other_widths_do_not_exhaust_the_compiler(captured: list[list[str]]) -> None:
    """Past its limit it would run whatever is new as it is, and say so in its own log only."""
    model = load_model(DREAM, dtype="float32")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model), "device", property(lambda self: torch.device("cuda")))
        prepare_for_generation(model)
    config = GenerateConfig(max_new_tokens=16, block_length=8, refresh="block", batch_size=4)
    for prompt in (3, 20, 40, 60):
        found = len(captured)
        list(denoise(model, [Request([5] * prompt, number) for number in range(7)], config))
    assert len(captured) < 20 and torch._dynamo.config.recompile_limit >= 20
    assert found == len(captured)  # by then lengths are symbolic, and nothing is new
