"""Attention with a right context: SDPA's and FlashAttention's against a mask that is written out."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from dreamtune.model import attention
from dreamtune.model.attention import attend
from dreamtune.model.facts import Facts


def layer(causal: bool = False, flash: bool = False) -> Any:
    """Return what `attend` wants to know of an attention layer."""
    module = nn.Module()
    module.config = type("Config", (), {"is_causal": causal, "dreamtune": Facts("qwen2", flash=flash)})()  # type: ignore[assignment]
    return module


def tensors(length: int, groups: int = 2, size: int = 16, **kind: Any) -> list[Tensor]:
    generator = torch.Generator(kind.get("device", "cpu")).manual_seed(0)
    heads = (4, 4 // groups, 4 // groups)
    return [torch.randn(1, h, length, size, generator=generator, requires_grad=True, **kind) for h in heads]


def boundaries(lengths: list[int], device: str = "cpu") -> tuple[Tensor, int]:
    return torch.tensor([0, *lengths], device=device).cumsum(0).to(torch.int32), max(lengths)


def masked(given: list[Tensor], lengths: list[int], right_context: int) -> Tensor:
    """Return attention under a dense mask over the whole packed row, [1, T, H, d]."""
    places = torch.arange(sum(lengths), device=given[0].device)
    document = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).to(places.device)
    seen = (places[None] <= places[:, None] + right_context) & (document[None] == document[:, None])
    return scaled_dot_product_attention(*given, attn_mask=seen, enable_gqa=True).transpose(1, 2)


def gradients(out: Tensor, given: list[Tensor]) -> tuple[Tensor, ...]:
    upstream = torch.linspace(-1, 1, out.numel(), device=out.device, dtype=out.dtype).view_as(out)
    return torch.autograd.grad(out, given, upstream)


@pytest.mark.numeric
@pytest.mark.parametrize("lengths", [[9], [9, 70, 23], [40, 40, 40], [1, 2, 300]], ids=str)
@pytest.mark.parametrize("right_context", [0, 1, 8, 32])
def test_a_right_context_is_a_dense_mask(lengths: list[int], right_context: int) -> None:
    given = tensors(sum(lengths))
    found, _ = attend(layer(), *given, None, *boundaries(lengths), right_context=right_context)
    exact = masked(given, lengths, right_context)
    torch.testing.assert_close(found, exact, atol=1e-5, rtol=1e-5)
    for ours, dense in zip(gradients(found, given), gradients(exact, given), strict=True):
        torch.testing.assert_close(ours, dense, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("lengths", [[30], [9, 70, 23], [40, 40, 40]], ids=str)
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16], ids=str)
def test_none_of_it_is_causal_and_all_of_it_is_full_to_the_bit(lengths: list[int], kind: torch.dtype) -> None:
    given = [tensor.to(kind) for tensor in tensors(sum(lengths))]
    starts = boundaries(lengths)
    for limited, plain in ((0, layer(causal=True)), (max(lengths) - 1, layer()), (max(lengths) + 9, layer())):
        found, _ = attend(layer(), *given, None, *starts, right_context=limited)
        assert torch.equal(found, attend(plain, *given, None, *starts)[0])


def test_flash_attention_takes_the_right_context_and_nothing_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents of one length, too, which SDPA's kernels for a GPU would compute under a mask."""
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(attention, "varlen_attn", lambda q, *_, **named: (asked.append(named), q)[1])
    given = [tensor.detach().to(torch.bfloat16) for tensor in tensors(60)]
    for lengths in ([10, 50], [30, 30]):
        for right_context in (None, 0, 8):
            attend(layer(flash=True), *given, None, *boundaries(lengths), right_context=right_context)
    assert asked == [{}, {"window_size": (-1, 0)}, {"window_size": (-1, 8)}, {"window_size": (-1, 8)}]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("lengths", [[20, 1, 69, 300], [64, 64, 64]], ids=str)
@pytest.mark.parametrize("right_context", [0, 1, 8, 64, 256, 299, 300, 1000])
def test_on_a_gpu_the_right_context_is_a_dense_mask(groups: int, lengths: list[int], right_context: int) -> None:
    """Forward and backward. What a token may not see changes no bit; a context as wide as the documents is none."""
    given = tensors(sum(lengths), groups, size=64, device="cuda", dtype=torch.bfloat16)
    starts = boundaries(lengths, "cuda")
    found, _ = attend(layer(flash=True), *given, None, *starts, right_context=right_context)
    precise = [tensor.detach().float().requires_grad_() for tensor in given]
    exact = masked(precise, lengths, right_context)
    torch.testing.assert_close(found.float(), exact, atol=0.03, rtol=0.03)
    for ours, dense in zip(gradients(found, given), gradients(exact, precise), strict=True):
        assert (ours.float() - dense).norm() < 0.02 * dense.norm()
    if len(set(lengths)) > 1 and right_context >= max(lengths):
        assert torch.equal(found, attend(layer(flash=True), *given, None, *starts)[0])
    for first, last in pairwise([0, *torch.tensor(lengths).cumsum(0).tolist()]):
        cut = first + (last - first) // 2
        for part in given[1:]:
            kept, part.data[:, :, cut:last] = part.data[:, :, cut:last].clone(), 3.0
            again, _ = attend(layer(flash=True), *given, None, *starts, right_context=right_context)
            blind = max(cut - right_context, first)
            assert torch.equal(again[:, first:blind], found[:, first:blind])
            part.data[:, :, cut:last] = kept
