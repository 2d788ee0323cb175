"""Answers of causal models: transformers' own tokens, independence of the batch, reproducible samples."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from autoregressive import END, VOCABULARY, theirs, write_model
from dreamtune.data.tokenizer import load_tokenizer
from dreamtune.errors import UserError
from dreamtune.generate.answers import answer as answer_all
from dreamtune.generate.answers import generate_answers
from dreamtune.generate.choosing import next_tokens
from dreamtune.generate.left_to_right import write_on
from dreamtune.generate.row import Answer, Request
from dreamtune.generate.sampler import denoise, generate
from dreamtune.model.loading import load
from dreamtune.part import Part
from dreamtune.settings.generate import GenerateConfig
from planted import make_shards
from tolerance import needs_mkl

KINDS = ["qwen2", "llama"]


@pytest.fixture(scope="module", params=KINDS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """A model as this project loads it, and as transformers does."""
    config = write_model(tmp_path_factory.mktemp("models") / request.param, request.param)
    return load(config), theirs(config)


def prompts(count: int, seed: int = 0) -> list[list[int]]:
    """Return prompts of 1 to 40 ordinary tokens, of several widths."""
    rng = np.random.default_rng(seed)
    return [rng.integers(4, VOCABULARY, int(length)).tolist() for length in rng.integers(1, 41, count)]


def answers(model: Any, requests: list[Request], settings: GenerateConfig) -> list[Answer]:
    return [answer for _, answer in sorted(write_on(model, requests, settings), key=lambda pair: pair[0])]


@pytest.mark.numeric
def test_greedy_answers_are_those_of_transformers_generate_token_for_token(both: tuple[Any, Any]) -> None:
    ours, plain = both
    asked = prompts(24)
    found = generate(ours, asked, GenerateConfig(max_new_tokens=24, batch_size=7))
    for prompt, tokens in zip(asked, found, strict=True):
        ids = torch.tensor([prompt])
        made = plain.generate(ids, max_new_tokens=24, do_sample=False, eos_token_id=END, pad_token_id=END)
        assert tokens == made[0, len(prompt) :].tolist()
    assert len({tuple(tokens) for tokens in found}) > 12


def test_an_answer_ends_with_its_end_token_and_leaves_the_batch(both: tuple[Any, Any]) -> None:
    ours, _ = both
    settings = GenerateConfig(max_new_tokens=100, batch_size=16, temperature=6.0)  # nearly uniform: it ends by chance
    found = answers(ours, [Request(prompt, n) for n, prompt in enumerate(prompts(16))], settings)
    lengths = {len(answer.tokens) for answer in found}
    assert len(lengths) > 3 and any(answer.ended for answer in found)
    for answer in found:
        assert answer.ended == (answer.tokens[-1] == END) and END not in answer.tokens[:-1]
        assert answer.steps == answer.passes == len(answer.tokens) == len(answer.unmasked_at)
        assert answer.unmasked_at == list(range(len(answer.tokens)))
        assert answer.ended or len(answer.tokens) == 100


def test_a_turns_end_ends_an_answer_as_generate_does_with_several(both: tuple[Any, Any]) -> None:
    """Behind it an untuned model would write the next turn."""
    ours, plain = both
    asked = prompts(12)
    tokenizer = load_tokenizer(plain.config.name_or_path, masks=False)
    found = answer_all(ours, tokenizer, [Request(p, n) for n, p in enumerate(asked)], GenerateConfig(max_new_tokens=24))
    first = next(token for one in found for token in one.tokens[:-1])
    tokenizer.turn_end_id = first
    found = answer_all(ours, tokenizer, [Request(p, n) for n, p in enumerate(asked)], GenerateConfig(max_new_tokens=24))
    ours.config.eos_token_id = END
    for prompt, one in zip(asked, found, strict=True):
        made = plain.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False, eos_token_id=[END, first])
        assert one.tokens == made[0, len(prompt) :].tolist() and one.ended == (one.tokens[-1] in (END, first))
    assert any(one.tokens[-1] == first for one in found)


@needs_mkl
@pytest.mark.parametrize("sampled", [False, True], ids=["greedy", "sampled"])
def test_an_answer_does_not_depend_on_its_batch(both: tuple[Any, Any], sampled: bool) -> None:
    ours, _ = both
    settings = GenerateConfig(max_new_tokens=16, temperature=0.8 if sampled else 0.0, top_p=0.9 if sampled else None)
    requests = [Request(prompt, n, n % 3) for n, prompt in enumerate(prompts(20))]
    alone = answers(ours, requests, settings.model_copy(update={"batch_size": 1}))
    for size in (3, 16):
        together = answers(ours, requests, settings.model_copy(update={"batch_size": size}))
        assert [a.tokens for a in together] == [a.tokens for a in alone]
    backwards = answers(ours, requests[::-1], settings)
    assert [a.tokens for a in backwards] == [a.tokens for a in alone[::-1]]


def test_samples_are_reproducible_and_differ_by_their_keys(both: tuple[Any, Any]) -> None:
    ours, _ = both
    prompt, settings = prompts(1)[0], GenerateConfig(max_new_tokens=12, temperature=1.0, seed=3)
    requests = [Request(prompt, example, sample) for example in (0, 1) for sample in (0, 1, 2)]
    first, second = (answers(ours, requests, settings) for _ in range(2))
    assert [a.tokens for a in first] == [a.tokens for a in second]
    assert len({tuple(a.tokens) for a in first}) == len(requests)
    other = answers(ours, requests, settings.model_copy(update={"seed": 4}))
    assert [a.tokens for a in other] != [a.tokens for a in first]


def test_samples_follow_the_probabilities_that_transformers_would_sample_from() -> None:
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits = torch.randn(1, 30, generator=torch.Generator().manual_seed(0)) * 3
    warped = logits.clone()
    for warp in (TemperatureLogitsWarper(0.7), TopKLogitsWarper(12), TopPLogitsWarper(0.9)):
        warped = warp(None, warped)
    expected, count = warped.softmax(dim=-1)[0], 40_000
    noise = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    settings = GenerateConfig(temperature=0.7, top_k=12, top_p=0.9)
    tokens = next_tokens(logits.expand(count, -1), noise, settings)
    found = torch.bincount(tokens, minlength=30) / count
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_what_cannot_be_decoded_is_one_line(both: tuple[Any, Any]) -> None:
    ours, _ = both
    with pytest.raises(UserError, match="prompt 1 is empty"):
        generate(ours, [[5], []], GenerateConfig(max_new_tokens=2))
    with pytest.raises(UserError, match="attends causally, so it cannot fill in masks"):
        list(denoise(ours, [Request([5], 0)], GenerateConfig(max_new_tokens=2)))
    ours.config.is_causal = False
    try:
        with pytest.raises(UserError, match="attends both ways and cannot write from left to right"):
            generate(ours, [[5]], GenerateConfig(max_new_tokens=2))
    finally:
        ours.config.is_causal = True
    weight = ours.model.layers[1].mlp.up_proj.weight
    before = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.fill_(float("nan"))
        with pytest.raises(UserError, match=r"scores are not finite.*up_proj"):
            generate(ours, [[5]], GenerateConfig(max_new_tokens=2))
    finally:
        with torch.no_grad():
            weight.copy_(before)


def test_the_stage_writes_the_same_answers_in_parts(tmp_path: Path) -> None:
    config, shards = write_model(tmp_path / "qwen2", "qwen2"), make_shards(tmp_path / "shards")
    settings = GenerateConfig(max_new_tokens=6, max_prompts=7, temperature=1.0, samples=2, prompts=["2 + 3 = ?"])
    (whole := tmp_path / "whole").mkdir()
    counts = generate_answers(settings, config, shards, None, None, whole)
    assert counts["questions"] == 8 and counts["rows"] == 16
    folders = []
    for number in (1, 2, 3):
        (folder := tmp_path / f"part-{number}").mkdir()
        generate_answers(settings, config, shards, None, None, folder, Part(number, 3))
        folders.append(folder)
    (gathered := tmp_path / "gathered").mkdir()
    generate_answers(settings, config, shards, None, None, gathered, parts=folders)
    found, expected = (pl.read_parquet(out / "answers.parquet") for out in (gathered, whole))
    assert found.equals(expected) and found["completion"].n_unique() > 8
    made = json.loads((whole / "generation.json").read_text())
    assert made["canaries"] == [] and made["tokens_per_pass"] == 1.0
    assert "temperature" in made["settings"] and "order" not in made["settings"], "nothing of denoising"
