"""Faults planted behind training, in the sampler and in what is measured; see test_planted_faults.py for the others."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from dreamtune.evaluate import elbo
from dreamtune.evaluate.hard_canaries import CAUSAL, COUNTED, MISREAD
from dreamtune.evaluate.likelihood import evaluate_likelihood
from dreamtune.formats.reads import Reads
from dreamtune.generate.answers import generate_answers
from dreamtune.generate.choosing import choose
from dreamtune.model import logits
from dreamtune.report.summary import build_summary
from dreamtune.settings.data import Columns
from dreamtune.settings.generate import GenerateConfig
from dreamtune.settings.likelihood import LikelihoodConfig
from dreamtune.settings.lora import LoraSettings
from dreamtune.settings.report import Comparison
from planted import BASE, TINY, Plant, make_shards, train
from report_fixture import write_reads

pytest_plugins = "planted"  # its fixture

SOFT = ("context_helps", "prompt_matters", "no_gap")
HARD = (*(name for name in COUNTED if name not in CAUSAL), "rows_aligned")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


@pytest.fixture(scope="module")
def honest(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of 30 steps without a fault."""
    return train(tmp_path_factory.mktemp("honest") / "full", shards, rows=240, max_steps=None)


# The sampler.


def generate(out: Path, shards: Path) -> dict[str, Any]:
    """Answer six test questions at a temperature at which every token is drawn now and then."""
    out.mkdir()
    settings = GenerateConfig(max_new_tokens=24, max_prompts=6, temperature=30.0)
    generate_answers(settings, BASE, shards, None, None, out)
    return json.loads((out / "generation.json").read_text())["canaries"][0]


def test_the_mask_token_sampled_as_output(plant: Plant, shards: Path, tmp_path: Path) -> None:
    """Caught in generation.json, and the report's verdict is invalid."""
    reads = write_reads(tmp_path / "reads", questions=12, tuned=0.9)
    answers = reads["answers/test/greedy/tuned"] / "generation.json"

    def verdict(check: dict[str, Any]) -> dict[str, Any]:
        answers.write_text(json.dumps({"canaries": [check]}))
        return build_summary(Reads(reads), Comparison(resamples=200), "demo")

    honest = generate(tmp_path / "honest", shards)
    assert honest["passed"] and honest["hard"] and verdict(honest)["verdict"] != "invalid"

    plant(choose, lambda logits, uniform, settings, mask_id: choose(logits, uniform, settings, 0))
    check = generate(tmp_path / "faulty", shards)
    assert not check["passed"] and check["value"] > 0
    summary = verdict(check)
    assert summary["headline"] == "Invalid: the sampler left mask tokens in the answers"
    assert "in the tuned model's answers (test, greedy)" in summary["reasons"][0]


# What the tuned model does (warnings).


def evaluate(out: Path, shards: Path, run: Path) -> dict[str, bool | None]:
    """Return whether each soft canary passed; the hard ones are added by their names."""
    out.mkdir()
    settings = LikelihoodConfig(draws=4, max_rows=24, batch_tokens=1024)
    evaluate_likelihood(settings, BASE, shards, run / "adapter", out)
    canaries = json.loads((out / "likelihood.json").read_text())["canaries"]
    assert all(canary["fault"] for canary in canaries)
    soft, hard = ([canary for canary in canaries if canary["hard"] is kind] for kind in (False, True))
    found = dict(zip(SOFT, [canary["passed"] for canary in soft], strict=True))
    return found | {canary["name"]: canary["passed"] for canary in hard}


def test_without_a_fault_every_canary_passes(honest: Path, shards: Path, tmp_path: Path) -> None:
    assert evaluate(tmp_path / "out", shards, honest) == dict.fromkeys((*SOFT, *HARD), True)


def shown(job: elbo.Job, mask_id: int) -> list[int]:
    """What the model may see: the response with its masks behind the prompt."""
    tokens = list(job.example.tokens)
    for place in job.masked:
        tokens[job.example.prompt + place] = mask_id
    return tokens


def targets(job: elbo.Job, mask_id: int) -> list[int]:
    return list(job.example.tokens)


def no_context(job: elbo.Job, mask_id: int) -> list[int]:
    return [*job.example.tokens[: job.example.prompt], *[mask_id] * job.example.response]


def no_prompt(job: elbo.Job, mask_id: int) -> list[int]:
    return [0] * job.example.prompt + shown(job, mask_id)[job.example.prompt :]


@pytest.mark.parametrize(
    "view, expected, hard",
    [
        (targets, "context_helps", {"targets_hidden", "targets_do_not_matter"}),
        (no_context, "context_helps", {"attends_both_ways"}),
        (no_prompt, "prompt_matters", set()),
    ],
    ids=["targets are shown in evaluation", "the context is not read", "the prompt is not read"],
)
def test_a_model_that_is_shown_something_else(
    plant: Plant, honest: Path, shards: Path, tmp_path: Path, view: Any, expected: str, hard: set[str]
) -> None:
    original = elbo.summed_cross_entropy

    def faulty(m: Any, jobs: Any, mask_id: int) -> np.ndarray:
        seen = pad_sequence([torch.tensor(view(job, mask_id)) for job in jobs], batch_first=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(elbo, "hidden_states", lambda m, _, attention: logits.hidden_states(m, seen, attention))
            return original(m, jobs, mask_id)

    plant(original, faulty)
    found = evaluate(tmp_path / "out", shards, honest)
    assert found[expected] is False
    assert {name for name in HARD if found[name] is False} == hard


def invalid(out: Path, tmp_path: Path) -> str:
    """Return the headline of a report that decides by the likelihood, with the canaries of `out`."""
    reads = write_reads(tmp_path / "reads", questions=12, tuned=0.9)
    path = reads["likelihood"] / "likelihood.json"
    canaries = json.loads((out / "likelihood.json").read_text())["canaries"]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"canaries": canaries}))
    summary = build_summary(Reads(reads), Comparison(resamples=200, primary="nll"), "demo")
    assert summary["verdict"] == "invalid"
    return str(summary["headline"])


@pytest.mark.parametrize("odd", [0, 1], ids=["even rows", "odd rows"])
def test_the_likelihood_leaks(plant: Plant, honest: Path, shards: Path, tmp_path: Path, odd: int) -> None:
    """Rows of a batch see the one before them, most often another draw of the same example, which shows its targets."""
    original = logits.hidden_states

    def faulty(m: Any, ids: torch.Tensor, *given: Any, **packing: Any) -> torch.Tensor:
        hidden = original(m, ids, *given, **packing)
        readers = torch.arange(1, len(ids))[torch.arange(1, len(ids)) % 2 == odd]
        hidden[readers] += 0.1 * hidden[readers - 1]
        return hidden

    plant(original, faulty)
    found = evaluate(tmp_path / "out", shards, honest)
    assert {name for name in HARD if found[name] is False} == {"documents_apart", "targets_do_not_matter"}
    assert invalid(tmp_path / "out", tmp_path) == f"Invalid: {COUNTED['targets_do_not_matter'][0]}"


@pytest.mark.parametrize("step", [1, -1, 2, -2])
def test_the_likelihood_reads_other_rows(honest: Path, shards: Path, tmp_path: Path, step: int) -> None:
    original = elbo.hidden_states
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elbo, "hidden_states", lambda *given: original(*given).roll(-step, dims=1))
        found = evaluate(tmp_path / "out", shards, honest)
    assert {name for name in HARD if found[name] is False} == {"rows_aligned"}
    assert invalid(tmp_path / "out", tmp_path) == f"Invalid: {MISREAD}"


def test_answers_that_belong_to_other_questions(tmp_path: Path) -> None:
    """A join gone wrong: nothing in the prompt tells the answer, so all that training can do is learn rows by heart."""
    rows = pl.read_parquet(f"{TINY}/rows.parquet")
    texts = ("deepseek_thinking_trajectory", "solution")
    moved = rows.with_columns(pl.concat([rows[name].tail(1), rows[name].head(-1)]) for name in texts)
    moved.with_row_index("group").write_parquet(tmp_path / "rows.parquet")  # else 12 rows are too few templates
    columns = Columns(question="question", reasoning=texts[0], answer=texts[1], cluster="group")
    wrong = make_shards(tmp_path / "shards", files=[str(tmp_path / "rows.parquet")], columns=columns)
    batch: dict[str, Any] = {"rows": 12, "global_batch": 12, "epochs": 32, "max_steps": None}
    lora = LoraSettings(rank=32, alpha=64, dropout=0.0, target_modules=["all-linear"])
    run = train(tmp_path / "run", wrong, lora=lora, learning_rate=5e-3, objective="uniform", max_tail=0, **batch)
    found = evaluate(tmp_path / "out", wrong, run)
    assert found["prompt_matters"] is False and found["no_gap"] is False
