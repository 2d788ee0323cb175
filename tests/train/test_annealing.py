"""Annealed attention in training: gradients, what a prediction depends on, and that only training is annealed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from autoregressive import KINDS, MASK, VOCABULARY, theirs, write_model
from dreamtune.model import attention
from dreamtune.model.facts import facts_of, set_facts
from dreamtune.model.loading import attach_lora, load
from dreamtune.objective.diffusion import Document, Noise, Noised, corrupt
from dreamtune.objective.loss import loss_sums
from dreamtune.objective.packing import Batch, collate, hidden_rows, split_window
from dreamtune.settings.lora import LoraSettings
from dreamtune.settings.model import ModelConfig
from dreamtune.train.graphs import BatchShape, Padded
from dreamtune.train.layers import prepare_layers
from tests.train.test_layers import captured, varlen  # noqa: F401, a fixture
from tiny import plan

ALL = LoraSettings(rank=4, alpha=8, dropout=0.0, target_modules=["all-linear"])
LENGTHS = (12, 40, 27)
WIDTHS = [0, 8, 16, 32, None]


def adapted(folder: Path, kind: str = "qwen2", **shape: Any) -> ModelConfig:
    """Write an autoregressive checkpoint; return the section that makes it a diffusion model."""
    made = write_model(folder / kind, kind, **({"initializer_range": 0.1, "vocab_size": VOCABULARY + 1} | shape))
    return made.model_copy(update={"attention": "bidirectional", "mask_token": "new"})


def window(lengths: tuple[int, ...] = LENGTHS, rate: float = 0.5) -> list[Noised]:
    draw = np.random.default_rng(0)
    documents = [Document(n, draw.integers(4, VOCABULARY, size), 3, 0) for n, size in enumerate(lengths)]
    return [corrupt(document, Noise("elbo", rate, seed=0, epoch=0, mask_id=MASK)) for document in documents]


def limited(batch: Batch, right_context: int | None) -> Batch:
    return replace(batch, right_context=right_context)


def trainable(config: ModelConfig) -> Any:
    """Return the model with an adapter that is not zero, prepared as training does."""
    model = attach_lora(load(config), ALL, 0)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(weight, std=0.1)
    prepare_layers(model, plan())
    return model.train()


def our_gradients(model: Any, right_context: int | None) -> dict[str, Tensor]:
    model.zero_grad()
    for rows in split_window(window(), 45):
        (loss_sums(model, limited(collate(rows), right_context))[0] / 79).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def dense_gradients(model: Any, right_context: int | None) -> dict[str, Tensor]:
    """Return the gradients of the same window by transformers' plainest attention, under a mask that is written out."""
    model.zero_grad()
    for row in window():
        places = torch.arange(len(row.input_ids))
        far = places[None] > places[:, None] + (len(places) if right_context is None else right_context)
        mask = torch.zeros(far.shape).masked_fill(far, -torch.inf)[None, None]
        logits = model(input_ids=torch.from_numpy(row.input_ids)[None], attention_mask=mask).logits[0]
        targets = torch.from_numpy(np.flatnonzero(row.supervised))  # logits at i - 1 predict token i
        tokens = torch.from_numpy(row.document.tokens)[targets]
        losses = nn.functional.cross_entropy(logits[targets - 1], tokens, reduction="none")
        ((losses * torch.from_numpy(row.weights)[targets]).sum() / 79).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(found: dict[str, Tensor], exact: dict[str, Tensor]) -> None:
    assert found.keys() == exact.keys()
    for name, gradient in exact.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-5, msg=lambda said, n=name: f"{n}: {said}")


def gradient_of(model: Any, batch: Batch) -> Tensor:
    """Return the loss and the gradient of a micro-batch."""
    model.zero_grad()
    loss, _ = loss_sums(model, batch)
    loss.backward()
    return torch.cat([loss.detach()[None], *(p.grad.flatten() for p in model.parameters() if p.grad is not None)])


@pytest.mark.numeric
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("right_context", WIDTHS)
def test_gradients_of_all_weights_are_those_under_a_dense_mask(
    kind: str, right_context: int | None, tmp_path: Path
) -> None:
    config = adapted(tmp_path, kind)
    ours, dense = load(config).train(), theirs(config).train()
    dense.load_state_dict(ours.state_dict())
    assert_same(our_gradients(ours, right_context), dense_gradients(dense, right_context))


@pytest.mark.numeric
@pytest.mark.parametrize("right_context", [0, 8, 32])
def test_the_adapters_gradient_is_that_under_a_dense_mask(right_context: int, tmp_path: Path) -> None:
    """Through the joined products, with the last layer at the supervised rows where that is possible."""
    config = adapted(tmp_path)
    ours, plain = trainable(config), theirs(config)
    dense = get_peft_model(plain, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    dense.load_state_dict(ours.state_dict())
    assert_same(our_gradients(ours, right_context), dense_gradients(dense.train(), right_context))


@pytest.mark.parametrize("lengths", [LENGTHS, (30, 30)], ids=str)
def test_none_of_it_is_a_causal_model_and_all_of_it_a_bidirectional_one_to_the_bit(
    lengths: tuple[int, ...], tmp_path: Path
) -> None:
    model, batch = trainable(adapted(tmp_path)), collate(window(lengths))
    full = gradient_of(model, batch)
    for wide in (max(lengths) - 1, 1000):
        assert torch.equal(gradient_of(model, limited(batch, wide)), full)
    causal = gradient_of(model, limited(batch, 0))
    model.config.is_causal = True
    assert torch.equal(gradient_of(model, batch), causal) and not torch.equal(causal, full)


def test_a_prediction_depends_on_as_many_later_tokens_as_all_layers_reach_together(tmp_path: Path) -> None:
    """One layer on its right context; two on twice as many."""
    ids = torch.from_numpy(window((60,))[0].input_ids)
    for layers in (1, 2, 3):
        model = load(adapted(tmp_path / str(layers), num_hidden_layers=layers))
        batch = collate(window((60,)))
        for right_context in (0, 1, 8):
            before = hidden_rows(model, limited(batch, right_context))
            for place in (0, 17, 40):
                changed = ids.clone()
                changed[place] = (changed[place] + 5) % 100
                after = hidden_rows(model, limited(replace(batch, input_ids=changed), right_context))
                moved = (before != after).any(dim=-1).nonzero()[:, 0].tolist()
                # The row of a token is that of the token before it: it scores what follows.
                assert min(moved) == max(place - layers * right_context, 0) + (place > layers * right_context)


def test_layers_are_compiled_once_without_it_once_causal_and_once_for_all_widths(
    captured: list[list[str]],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Twice each: the last layer is computed at the supervised rows."""
    monkeypatch.setattr(attention, "varlen_attn", lambda q, k, v, *starts, **_: varlen(q, k, v, *starts[:2]))
    lora = ALL.model_copy(update={"target_modules": ["q_proj"]})
    model = attach_lora(load(adapted(tmp_path).model_copy(update={"dtype": "bfloat16"})), lora, 0)
    set_facts(model.config, facts_of(model.config)._replace(flash=True))
    prepare_layers(model, replace(plan(), compile=True))
    for right_context in (None, 0, 8, 16, None):
        for lengths in ((90, 12, 70), (80, 81)):
            loss_sums(model.train(), limited(collate(window(lengths)), right_context))
    assert len(captured) == 6


def test_a_cuda_graph_belongs_to_one_width() -> None:
    batch = collate(window())
    shapes = {BatchShape.of(limited(batch, right_context), 64) for right_context in WIDTHS}
    assert len(shapes) == len(WIDTHS)
    assert {Padded(shape, 64, torch.device("cpu")).batch.right_context for shape in shapes} == set(WIDTHS)
