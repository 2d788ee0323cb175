"""The sampler: the official tokens at temperature 0, independence of the batch, and its laws on scripted models."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import FIXTURES
from dreamtune.errors import UserError
from dreamtune.generate import choosing
from dreamtune.generate import sampler as module
from dreamtune.generate.packed_rows import packed_rows
from dreamtune.generate.sampler import Answer, Request, denoise, generate, reveal_shares
from dreamtune.model.attention import row_boundaries
from dreamtune.model.loading import load_model
from dreamtune.model.logits import apply_head, hidden_states
from dreamtune.scoring.form import left_to_right
from dreamtune.settings.generate import GenerateConfig
from tolerance import model_tolerance, needs_mkl

DREAM, LLADA = FIXTURES / "dream_tiny", FIXTURES / "llada_tiny"
ORDERS = ["origin", "maskgit_plus", "topk_margin", "entropy"]
MASK, END, VOCAB = 9, 8, 10
RUNS = json.loads((DREAM / "reference_generate.json").read_text())


@pytest.fixture(scope="module")
def dream() -> Any:
    return load_model(DREAM, dtype="float32")


def answers(model: Any, requests: list[Request], settings: GenerateConfig) -> list[Answer]:
    return [answer for _, answer in sorted(denoise(model, requests, settings), key=lambda pair: pair[0])]


@pytest.mark.parametrize("run", RUNS, ids=[f"{r['alg']}-{r['steps']}-{len(r['prompt'])}" for r in RUNS])
@pytest.mark.parametrize("ranking", ["untempered", "official"])
def test_greedy_output_is_the_official_one(dream: Any, run: dict[str, Any], ranking: str) -> None:
    config = GenerateConfig(
        order=run["alg"], steps=run["steps"], max_new_tokens=run["max_new_tokens"], temperature=0.0, ranking=ranking
    )
    expected = run["output"][len(run["prompt"]) :]
    end = dream.config.eos_token_id
    expected = expected[: expected.index(end) + 1] if end in expected else expected
    assert generate(dream, [run["prompt"]], config) == [expected]


@pytest.mark.parametrize("run", RUNS, ids=[f"{r['alg']}-{r['steps']}-{len(r['prompt'])}" for r in RUNS])
def test_no_recorded_choice_is_nearly_a_tie(dream: Any, run: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits that another processor could have given, by the derived tolerance, lead to the recorded tokens too."""
    noise = torch.Generator().manual_seed(0)

    def elsewhere(model: Any, rows: torch.Tensor) -> torch.Tensor:
        logits = apply_head(model, rows)
        most = model_tolerance(logits, dream.config)["atol"]
        return logits + most * (2 * torch.rand(logits.shape, generator=noise) - 1)

    monkeypatch.setattr(choosing, "apply_head", elsewhere)
    test_greedy_output_is_the_official_one(dream, run, "untempered")


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("folder", [DREAM, LLADA], ids=["dream", "llada"])
def test_a_row_is_the_same_alone_and_in_any_batch(order: str, temperature: float, folder: Path) -> None:
    """Prompts of many lengths, rows that finish early and late, and the official mean over the batch would differ."""
    model = load_model(folder, dtype="float32")
    random = np.random.default_rng(0)
    requests = [Request(random.integers(0, 270, n).tolist(), 100 + n, n % 2) for n in (3, 4, 9, 20, 21, 4, 30)]
    config = GenerateConfig(order=order, max_new_tokens=14, steps=9, temperature=temperature, seed=1)
    alone = [answers(model, [request], config)[0] for request in requests]
    for batch_size in (2, 7):
        together = answers(model, requests[::-1], config.model_copy(update={"batch_size": batch_size}))[::-1]
        for a, b in zip(alone, together, strict=True):
            assert (a.tokens, a.unmasked_at, a.steps, a.ended) == (b.tokens, b.unmasked_at, b.steps, b.ended)


@needs_mkl
@pytest.mark.numeric
def test_logits_are_equal_to_the_bit_alone_and_in_a_batch(dream: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guarantee that generate.py states for the CPU: equality does not rest on luck between near ties."""
    seen: list[dict[bytes, torch.Tensor]] = []

    def spy(model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        hidden = hidden_states(model, input_ids, attention_mask)
        for row, ids in enumerate(input_ids):
            length = int(attention_mask[row].sum()) if attention_mask is not None else len(ids)
            seen[-1][ids[:length].numpy().tobytes()] = hidden[row, :length]
        return hidden

    monkeypatch.setattr(module, "hidden_states", spy)
    random = np.random.default_rng(0)
    requests = [Request(random.integers(0, 499, n).tolist(), n) for n in range(3, 80, 7)]
    config = GenerateConfig(max_new_tokens=6)
    seen.append({})
    for request in requests:
        answers(dream, [request], config)
    for batch_size in (3, 16):
        seen.append({})
        answers(dream, requests, config.model_copy(update={"batch_size": batch_size}))
    alone = seen[0]
    assert alone.keys() == seen[1].keys() == seen[2].keys()
    for canvas, hidden in alone.items():
        assert torch.equal(hidden, seen[1][canvas]) and torch.equal(hidden, seen[2][canvas])


def test_prompts_come_back_in_order(dream: Any) -> None:
    prompts = [[1] * n for n in (40, 2, 33, 5)]
    config = GenerateConfig(max_new_tokens=5, batch_size=2)
    assert generate(dream, prompts, config) == [generate(dream, [prompt], config)[0] for prompt in prompts]
    assert generate(dream, [], config) == []


class Scripted(torch.nn.Module):
    """A "model" whose logits are a function of the canvas: hidden rows are logits, the head is the identity."""

    def __init__(self, script: Any) -> None:
        super().__init__()
        self.script, self.anchor, self.passes = script, torch.nn.Parameter(torch.zeros(1)), 0
        self.config = type("Config", (), dict(mask_token_id=MASK, eos_token_id=END, vocab_size=VOCAB, is_causal=False))


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> type[Scripted]:
    def hidden(model: Scripted, input_ids: torch.Tensor, attention_mask: Any) -> torch.Tensor:
        model.passes += 1
        return model.script(input_ids)

    monkeypatch.setattr(module, "hidden_states", hidden)
    monkeypatch.setattr(choosing, "apply_head", lambda model, rows: rows.clone())
    for user in (module, choosing):
        monkeypatch.setattr(user, "unwrap", lambda model: model)
    return Scripted


def peaks(*rows: tuple[int, float]) -> Any:
    """Return a script that gives new position i the token and the logit rows[i], after a prompt of one token."""

    def script(input_ids: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(*input_ids.shape, VOCAB)
        for position, (token, height) in enumerate(rows):
            logits[:, 1 + position, token] = height
        return logits

    return script


def test_surest_positions_come_first(scripted: type[Scripted]) -> None:
    model = scripted(peaks((1, 2.0), (2, 9.0), (3, 5.0), (4, 1.0)))
    for order in ("maskgit_plus", "topk_margin", "entropy"):
        config = GenerateConfig(max_new_tokens=4, order=order)
        (answer,) = answers(model, [Request([0], 0)], config)
        assert answer.tokens == [1, 2, 3, 4]
        # int(4 · 0.24975) = 0 at the first step, then 1 (of 4), 1 (of 3), and the last takes the other two
        assert answer.unmasked_at == [3, 1, 2, 3]


def test_steps_that_reveal_nothing_cost_no_pass(scripted: type[Scripted]) -> None:
    model = scripted(peaks((1, 1.0), (2, 1.0), (3, 1.0)))
    (answer,) = answers(model, [Request([0], 0)], GenerateConfig(max_new_tokens=3, steps=50))
    assert model.passes == 2 and answer.steps == 50


def test_equally_sure_positions_are_revealed_from_the_left(scripted: type[Scripted]) -> None:
    model = scripted(peaks(*[(1, 3.0)] * 6))
    (answer,) = answers(model, [Request([0], 0)], GenerateConfig(max_new_tokens=6, steps=3))
    assert answer.unmasked_at == sorted(answer.unmasked_at)


def test_ranking_after_a_temperature_writes_left_to_right(scripted: type[Scripted]) -> None:
    """Tempered, every position is equally sure, and ties go to the left: what the reports' `left_to_right` is for."""
    heights = np.random.default_rng(0).permutation(12) + 8.0
    share = {}
    for ranking in ("untempered", "official"):
        config = GenerateConfig(max_new_tokens=12, temperature=0.2, top_p=0.9, ranking=ranking)  # type: ignore[arg-type]
        model = scripted(peaks(*[(1, float(height)) for height in heights]))
        (answer,) = answers(model, [Request([0], 0)], config)
        share[ranking] = left_to_right(answer.unmasked_at)
    assert share["official"] == 1.0 and (share["untempered"] or 0.0) < 0.4


def test_the_schedule_is_the_official_one() -> None:
    shares = reveal_shares(4)
    assert shares.dtype == np.float32
    times = np.linspace(1, 1e-3, 5)
    np.testing.assert_allclose(shares, 1 - times[1:] / times[:-1], rtol=1e-5)


def test_a_row_is_finished_when_all_before_its_end_token_stands(scripted: type[Scripted]) -> None:
    """The end token is revealed first, at position 2; what follows it is never needed."""
    model = scripted(peaks((1, 4.0), (2, 5.0), (END, 9.0), (3, 1.0), (4, 0.9), (5, 0.8)))
    (answer,) = answers(model, [Request([0], 0)], GenerateConfig(max_new_tokens=6))
    assert answer.tokens == [1, 2, END] and answer.ended
    assert answer.unmasked_at == [3, 2, 1]
    assert answer.steps == 4 and model.passes == 3


def test_an_early_end_token_does_not_cut_what_is_not_there_yet(scripted: type[Scripted]) -> None:
    """Tokens after the first end token are dropped, tokens before it are waited for."""
    model = scripted(peaks((1, 0.5), (END, 3.0), (2, 9.0), (END, 8.0)))
    (answer,) = answers(model, [Request([0], 0)], GenerateConfig(max_new_tokens=4))
    assert answer.tokens == [1, END]


def test_counts_are_the_rows_own(scripted: type[Scripted]) -> None:
    """Rows at different steps share a batch: the batch's mean count would make the second row follow the first."""
    model = scripted(peaks(*[(1, 1.0)] * 8))
    config = GenerateConfig(max_new_tokens=8, batch_size=2)
    alone = answers(model, [Request([0], 0)], config)[0].unmasked_at
    assert [a.unmasked_at for a in answers(model, [Request([0], i) for i in range(5)], config)] == [alone] * 5


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_mask_token_is_never_chosen(scripted: type[Scripted], order: str, temperature: float) -> None:
    model = scripted(peaks(*[(MASK, 50.0)] * 12))
    config = GenerateConfig(max_new_tokens=12, order=order, temperature=temperature, top_k=3, top_p=0.5)
    for answer in answers(model, [Request([0], i) for i in range(4)], config):
        assert MASK not in answer.tokens and -1 not in answer.unmasked_at


def test_prompt_stays_as_it_is(scripted: type[Scripted]) -> None:
    """A mask token in the prompt is the user's, not a position to fill."""
    canvases = []

    def script(input_ids: torch.Tensor) -> torch.Tensor:
        canvases.append(input_ids.clone())
        return torch.zeros(*input_ids.shape, VOCAB)

    answers(scripted(script), [Request([3, MASK, 4], 0)], GenerateConfig(max_new_tokens=4))
    assert all(canvas[0, :3].tolist() == [3, MASK, 4] for canvas in canvases)


def test_noise_is_keyed_by_seed_example_and_sample(scripted: type[Scripted]) -> None:
    model = scripted(peaks())
    config = GenerateConfig(max_new_tokens=20, temperature=1.0)

    def tokens(example: int, sample: int, seed: int = 0) -> list[int]:
        return answers(model, [Request([0], example, sample)], config.model_copy(update={"seed": seed}))[0].tokens

    assert tokens(1, 0) == tokens(1, 0)
    assert len({tuple(tokens(*key)) for key in ((1, 0), (1, 1), (2, 0), (1, 0, 1))}) == 4


def test_the_same_prompt_twice_gives_two_samples(dream: Any) -> None:
    config = GenerateConfig(max_new_tokens=8, temperature=1.0)
    first, second = generate(dream, [[5, 6], [5, 6]], config)
    assert first != second
    assert generate(dream, [[1, 2], [5, 6]], config)[1] == first


def test_origin_reveals_its_share_at_each_step(scripted: type[Scripted]) -> None:
    """Each hidden position with probability 1 − s/t: about as many at each of the steps."""
    model = scripted(peaks())
    found = answers(
        model, [Request([0], i) for i in range(60)], GenerateConfig(order="origin", max_new_tokens=40, steps=8)
    )
    full = [a for a in found if not a.ended]
    counts = np.bincount(np.concatenate([a.unmasked_at for a in full]), minlength=8) / len(full)
    np.testing.assert_allclose(counts, 5, atol=1)


def test_what_cannot_be_answered_is_refused_in_one_line(dream: Any) -> None:
    with pytest.raises(UserError, match="prompt 1 is empty"):
        generate(dream, [[1], []], GenerateConfig())
    with pytest.raises(UserError, match="causally"):
        causal = load_model(DREAM)
        causal.config.is_causal = True
        generate(causal, [[1]], GenerateConfig())
    headless = load_model(DREAM)
    headless.config.mask_token_id = None
    with pytest.raises(UserError, match="mask_token_id"):
        generate(headless, [[1]], GenerateConfig())


@pytest.mark.numeric
@torch.no_grad()
def test_rows_of_different_lengths_passed_as_one_are_those_passed_side_by_side(dream: Any) -> None:
    """As a GPU takes them: padding is one more document, and needs no mask."""
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 270, (3, 16)))
    visible = np.arange(16) < np.array([[9], [16], [12]])
    packed = packed_rows(dream, ids, torch.from_numpy(row_boundaries(visible)))
    expected = hidden_states(dream, ids, torch.from_numpy(visible).long())
    seen = torch.from_numpy(visible)
    torch.testing.assert_close(packed[seen], expected[seen], **model_tolerance(expected, dream.config))
