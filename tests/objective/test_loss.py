"""The loss on hand-made documents with answers known by hand, and its gradient against a float64 reference."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from documents import document, noise
from dreamtune.model.loading import attach_lora, load
from dreamtune.model.logits import token_logits
from dreamtune.objective import loss as module
from dreamtune.objective import packing
from dreamtune.objective.diffusion import Document, Noised, corrupt, mask_rates
from dreamtune.objective.loss import loss_sums, token_losses
from dreamtune.objective.packing import collate, split_window
from tiny import VOCAB, make_model, settings
from tolerance import float32_rounding, model_tolerance


class TwoTokens(nn.Module):
    """A model of two tokens that gives token 1 the logit `x` and token 0 the logit 0, everywhere."""

    def __init__(self, x: float) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.tensor(x))


@pytest.fixture
def two_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    def hidden(model: TwoTokens, input_ids: Tensor, *_: Tensor, **packing: object) -> Tensor:
        return model.x * torch.ones(*input_ids.shape, 1)

    head = nn.Linear(1, 2, bias=False).requires_grad_(False)
    head.weight.copy_(torch.tensor([[0.0], [1.0]]))
    monkeypatch.setattr(packing, "hidden_states", hidden)
    monkeypatch.setattr(module, "head_of", lambda model: head)


def by_hand(tokens: list[int], supervised: list[int], weight: float, elbo: float, tail: int = 0) -> Noised:
    where = np.isin(np.arange(len(tokens)), supervised)
    return Noised(
        Document(0, np.array(tokens, np.int64), 1, tail),
        noise(),
        np.array(tokens, np.int64),
        where,
        (where * weight).astype(np.float32),
        (where * elbo * (np.arange(len(tokens)) < len(tokens) - tail)).astype(np.float32),
        len(tokens) - 1,
        len(tokens) - 1 - tail,
    )


def test_loss_by_hand(two_tokens: None) -> None:
    """x = ln 3, so p(1) = 3/4 and p(0) = 1/4: CE is ln(4/3) for a 1 and ln 4 for a 0."""
    rows = [by_hand([0, 1, 0, 1], [1, 2], weight=2.0, elbo=2.0), by_hand([0, 1, 1], [2], weight=4.0, elbo=4.0, tail=1)]
    loss, nll = loss_sums(TwoTokens(math.log(3)), collate(rows))
    assert loss.item() == pytest.approx(2 * (math.log(4 / 3) + math.log(4)) + 4 * math.log(4 / 3))
    assert nll.item() == pytest.approx(2 * (math.log(4 / 3) + math.log(4)))  # the tail's token is not reported
    assert not nll.requires_grad


def test_gradient_by_hand(two_tokens: None) -> None:
    """d CE / dx = p(1) - [target is 1]: 2 (3/4 - 1) + 2 (3/4 - 0) = 1."""
    model = TwoTokens(math.log(3))
    loss_sums(model, collate([by_hand([0, 1, 0, 1], [1, 2], 2.0, 2.0)]))[0].backward()
    assert model.x.grad is not None and model.x.grad.item() == pytest.approx(1.0)


def test_the_bound_is_unbiased(two_tokens: None) -> None:
    """The mean of the bound over draws is the exact NLL of a model that ignores its input: ln(4/3) per token 1."""
    total = tokens = 0.0
    for place, rate in enumerate(mask_rates(np.arange(4000), 0, 0)):
        noised = corrupt(Document(place, np.ones(21, np.int64), 1, 0), noise(rate=float(rate), mask_id=0))
        if noised.supervised.any():
            total += loss_sums(TwoTokens(math.log(3)), collate([noised]))[1].item()
        tokens += noised.nll_tokens
    assert total / tokens == pytest.approx(math.log(4 / 3), rel=0.03)


WINDOW = [corrupt(document(e, 3, 6 + 3 * e, e % 3), noise(rate=0.2 + 0.15 * e)) for e in range(5)]


def gradient(model: nn.Module, micro_batches: list[list[Noised]], multiple: int = 1) -> Tensor:
    """Return the gradient of a window's loss as training adds it up, flat."""
    model.zero_grad()
    tokens = sum(row.loss_tokens for rows in micro_batches for row in rows)
    for rows in micro_batches:
        (loss_sums(model, collate(rows, multiple=multiple))[0] / tokens).backward()
    return flat(model)


def reference(model: nn.Module) -> Tensor:
    """Return the same in float64, one document at a time, unpacked, by cross entropy over all logits."""
    exact = model.double()
    exact.zero_grad()
    tokens = sum(row.loss_tokens for row in WINDOW)
    for row in WINDOW:
        logits = token_logits(exact, torch.from_numpy(row.input_ids)[None])[0]
        losses = F.cross_entropy(logits, torch.from_numpy(row.document.tokens), reduction="none")
        ((losses * torch.from_numpy(row.weights)).sum() / tokens).backward()
    return flat(exact)


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten().double() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("frozen", [True, False], ids=["adapter", "full fine-tuning"])
@pytest.mark.parametrize("budget", [1, 20, 33, 50, 1000])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.1)])
def test_gradient_of_any_split_is_the_reference(
    frozen: bool, budget: int, dtype: str, tolerance: float, tmp_path: Path
) -> None:
    """Relative error of the whole vector, not its cosine, which would not see a wrong scale."""
    config = make_model(tmp_path / "base").model_copy(update={"dtype": dtype})
    lora = settings().lora.model_copy(update={"dropout": 0.0})

    def fresh() -> nn.Module:
        model = load(config)
        if not frozen:
            return model
        tuned = attach_lora(model, lora, 0)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            for name, parameter in tuned.named_parameters():
                if "lora_B" in name:  # at zero, half of the gradient would vanish
                    nn.init.normal_(parameter, std=0.05)
        return tuned

    exact = reference(fresh())
    found = gradient(fresh(), split_window(WINDOW, budget), multiple=1 if budget < 40 else 64)
    assert (found - exact).norm() / exact.norm() < tolerance
    assert (2 * found - exact).norm() / exact.norm() > 0.5  # what a cosine would not see


@pytest.mark.parametrize("frozen", [True, False])
def test_chunks_of_the_head_change_nothing(frozen: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(make_model(tmp_path / "base"))
    model.lm_head.weight.requires_grad_(not frozen)
    whole = gradient(model, [WINDOW])
    monkeypatch.setattr(module, "HEAD_ROWS", 4)
    rows = sum(row.loss_tokens for row in WINDOW)  # the longest sum that is cut: a weight of the head adds up all rows
    assert (gradient(model, [WINDOW]) - whole).norm() < float32_rounding(rows) * whole.norm()


def test_losses_of_training_and_of_the_canaries_are_the_same(tmp_path: Path) -> None:
    model, batch = load(make_model(tmp_path / "base")), collate(WINDOW)
    model.requires_grad_(False)
    weighted, nll = loss_sums(model, batch)
    losses = token_losses(model, batch)
    rounding = float32_rounding(len(losses) + VOCAB)  # the rows, and each one's sum over the vocabulary
    assert weighted.item() == pytest.approx(float((losses * batch.weights).sum()), rel=rounding)
    assert nll.item() == pytest.approx(float((losses * batch.elbo_weights).sum()), rel=rounding)


@pytest.mark.parametrize("lengths", [(9, 13, 18, 21), (12, 12, 12), (12, 12, 6), (28, 26, 21), (12, 11, 6), (64,)])
@pytest.mark.parametrize("multiple", [1, 64])
def test_documents_of_a_pass_do_not_see_each_other(lengths: tuple[int, ...], multiple: int, tmp_path: Path) -> None:
    """Packed, each document has the hidden rows that it has alone, in Dream's shifted order too.

    Also where all are of one length, and where the padding is longer than any of them.
    """
    model = load(make_model(tmp_path / "base"))
    rows = [corrupt(document(e, 3, length, 1), noise(rate=0.5)) for e, length in enumerate(lengths)]
    batch = collate(rows, multiple=multiple)
    with torch.no_grad():
        together = packing.hidden_rows(model, batch)
        for start, row in zip(batch.starts, rows, strict=True):
            alone = packing.hidden_rows(model, collate([row]))
            inside = slice(start + 1, start + len(row.input_ids))  # the first row is another document's, and unused
            torch.testing.assert_close(together[inside], alone[1:], **model_tolerance(alone, model.config))
