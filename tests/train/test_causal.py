"""Losses and gradients of causal models: transformers' own, in packed and padded batches, through joined layers."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from autoregressive import END, KINDS, VOCABULARY, theirs, write_model
from dreamtune.model import attention
from dreamtune.model.attention import attend
from dreamtune.model.facts import Facts, facts_of, set_facts
from dreamtune.model.loading import attach_lora, load
from dreamtune.objective.diffusion import Document, Noise, Noised, corrupt
from dreamtune.objective.loss import loss_sums, supervised_rows
from dreamtune.objective.packing import collate, hidden_rows, split_window
from dreamtune.settings.lora import LoraSettings
from dreamtune.train.graphs import BatchShape, Padded
from dreamtune.train.layers import prepare_layers
from tiny import plan

ALL = LoraSettings(rank=4, alpha=8, dropout=0.0, target_modules=["all-linear"])


def window(lengths: tuple[int, ...] = (9, 14, 14, 30)) -> list[Noised]:
    """Return documents with prompts of 3 tokens, as a causal model is trained on them."""
    rng = np.random.default_rng(0)
    documents = [
        Document(n, np.array([*rng.integers(4, VOCABULARY, length), END]), prompt_tokens=3, tail_tokens=0)
        for n, length in enumerate(lengths)
    ]
    return [corrupt(document, Noise("causal", 1.0, seed=0, epoch=0, mask_id=1)) for document in documents]


def our_gradients(model: Any, documents: list[Noised], budget: int = 40) -> tuple[float, dict[str, Tensor]]:
    """Return the window's loss and its gradients, in packed micro-batches as training runs them."""
    model.zero_grad()
    tokens, total = sum(row.loss_tokens for row in documents), 0.0
    for rows in split_window(documents, budget):
        loss, nll = loss_sums(model, collate(rows))
        assert torch.equal(loss.detach(), nll)
        (loss / tokens).backward()
        total += loss.item() / tokens
    return total, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def their_gradients(model: Any, documents: list[Noised]) -> tuple[float, dict[str, Tensor]]:
    """Return transformers' loss on a padded batch whose labels leave out prompts, and its gradients."""
    longest = max(len(row.input_ids) for row in documents)
    ids, labels = torch.full((len(documents), longest), END), torch.full((len(documents), longest), -100)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(documents):
        length, tokens = len(row.input_ids), torch.from_numpy(row.document.tokens)
        ids[number, :length], mask[number, :length] = tokens, 1
        labels[number, 3:length] = tokens[3:]
    model.zero_grad()
    loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_same(ours: tuple[float, dict[str, Tensor]], their: tuple[float, dict[str, Tensor]]) -> None:
    assert ours[0] == pytest.approx(their[0], abs=1e-5)
    assert ours[1].keys() == their[1].keys()
    for name, gradient in their[1].items():
        torch.testing.assert_close(
            ours[1][name], gradient, atol=1e-5, rtol=1e-5, msg=lambda said, n=name: f"{n}: {said}"
        )


@pytest.mark.numeric
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradient_of_all_weights_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    config = write_model(tmp_path / kind, kind, initializer_range=0.1)
    model = load(config).train()
    assert_same(our_gradients(model, window()), their_gradients(theirs(config).train(), window()))


@pytest.mark.numeric
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("recompute", [0, 2], ids=["kept", "recomputed"])
def test_the_adapters_gradient_is_that_of_transformers(kind: str, recompute: int, tmp_path: Path) -> None:
    """Through the joined products, and the last layer at the supervised rows alone."""
    config = write_model(tmp_path / kind, kind, initializer_range=0.1)
    ours, plain = attach_lora(load(config), ALL, 0), theirs(config)
    their = get_peft_model(plain, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for name, weight in ours.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(weight, std=0.1)
    their.load_state_dict(ours.state_dict())
    prepare_layers(ours, replace(plan(), recompute_layers=recompute))
    assert_same(our_gradients(ours.train(), window()), their_gradients(their.train(), window()))


@pytest.mark.parametrize("lengths", [(9, 14, 30), (14, 14, 14)], ids=["different lengths", "one length"])
def test_the_last_layer_computes_only_the_rows_that_are_scored(lengths: tuple[int, ...], tmp_path: Path) -> None:
    model = attach_lora(load(write_model(tmp_path / "qwen2", "qwen2")), ALL, 0)
    whole = hidden_rows(model, batch := collate(window(lengths)))[batch.positions]
    prepare_layers(model, plan())
    seen: list[int] = []
    model.get_base_model().model.layers[-1].mlp.act_fn.register_forward_hook(
        lambda _, given, __: seen.append(given[0].shape[1])
    )
    found = supervised_rows(model, batch)
    assert seen == [len(batch.positions)] and len(batch.positions) < len(batch.input_ids)
    torch.testing.assert_close(found, whole)


def test_flash_attention_gets_the_causal_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs on a GPU, with a stand-in for its kernel."""
    windows = []

    def kernel(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        starts: Tensor,
        _: Tensor,
        *longest: int,
        window_size: tuple[int, int] = (-1, -1),
    ) -> Tensor:
        windows.append(window_size)
        spans = [slice(*ends) for ends in pairwise(starts.tolist())]
        parts = [[t[s].transpose(0, 1)[None] for t in (q, k, v)] for s in spans]
        outs = [scaled_dot_product_attention(*part, is_causal=window_size == (-1, 0)) for part in parts]
        return torch.cat([out[0].transpose(0, 1) for out in outs])

    config = write_model(tmp_path / "llama", "llama").model_copy(update={"dtype": "bfloat16"})
    model, batch = load(config), collate(window())
    plain = hidden_rows(model, batch)
    monkeypatch.setattr(attention, "varlen_attn", kernel)
    set_facts(model.config, facts_of(model.config)._replace(flash=True))
    torch.testing.assert_close(hidden_rows(model, batch), plain, atol=0.1, rtol=0.1)
    model.config.is_causal = False
    hidden_rows(model, batch)
    assert windows == [(-1, 0)] * 2 + [(-1, -1)] * 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("groups", [1, 4])
def test_on_a_gpu_the_packed_kernel_is_sdpa_of_each_document(groups: int) -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    query, key, value = (
        torch.randn(1, heads, 90, 64, device="cuda", dtype=torch.bfloat16, generator=generator)
        for heads in (4, 4 // groups, 4 // groups)
    )
    module = nn.Module()
    module.config = type("Config", (), {"is_causal": True, "dreamtune": Facts("qwen2", flash=True, causal=True)})()  # type: ignore[assignment]
    starts = torch.tensor([0, 20, 21, 90], dtype=torch.int32, device="cuda")
    found, _ = attend(module, query, key, value, None, starts, 69)
    for first, last in pairwise(starts.tolist()):
        part = [tensor[:, :, first:last].float() for tensor in (query, key, value)]
        alone = scaled_dot_product_attention(*part, is_causal=True, enable_gqa=True).transpose(1, 2)
        torch.testing.assert_close(found[:, first:last].float(), alone, atol=0.03, rtol=0.03)


def test_padding_to_the_shape_of_a_cuda_graph_changes_neither_sums_nor_gradient(tmp_path: Path) -> None:
    model = attach_lora(load(write_model(tmp_path / "qwen2", "qwen2", initializer_range=0.1)), ALL, 0)
    prepare_layers(model, plan())
    slot = Padded(BatchShape(tokens=128, documents=8, targets=128), 40, torch.device("cpu"))
    slot.fill(batch := collate(window()), 1)
    sums = []
    for given in (batch, slot.batch):
        model.zero_grad()
        loss, nll = loss_sums(model, given)
        loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        sums.append((loss.detach(), nll, gradient))
    for found, exact in zip(sums[1], sums[0], strict=True):
        torch.testing.assert_close(found, exact, atol=1e-4, rtol=1e-4)
