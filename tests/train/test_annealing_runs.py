"""Whole trainings with annealed attention: what is logged, resumed, validated and checked, and what is not annealed."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AttentionInterface

from autoregressive import write_model
from dreamtune.errors import UserError
from dreamtune.model.attention import NAME, attend
from dreamtune.settings.model import ModelConfig
from tiny import END, MASK, VOCAB, make_model
from training_runs import Train, adapter, log, losses, read

pytest_plugins = "training_runs"  # its fixtures
ANNEALED = {"attention_annealing": 0.5}  # 6 of 12 steps; the longest document has 24 tokens
STAGES = [0, 0, 8, 8, 16, 16]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    """An autoregressive checkpoint that is made a diffusion model, with the tokens of the tests' shards."""
    folder = tmp_path_factory.mktemp("model") / "llama"
    made = write_model(folder, "llama", vocab_size=VOCAB, initializer_range=0.2, eos_token_id=END, pad_token_id=END)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace("{", f'{{"mask_token_id": {MASK},', 1))
    return made.model_copy(update={"attention": "bidirectional"})


def contexts(out: Path) -> list[int | None]:
    return [line.get("right_context") for line in log(out) if "loss" in line]


def canary(out: Path, name: str) -> dict[str, Any]:
    return next(check for check in read(out, "gate.json")["checks"] if check["name"] == name)


def test_the_first_steps_see_more_and_more_and_nothing_else_is_annealed(train: Train) -> None:
    """Validation before the first step is that of a run without; canaries at the end see all; it learns."""
    found, plain = train("annealed", **ANNEALED), train("plain")
    assert contexts(found) == [*STAGES, *[None] * 6]
    assert contexts(plain) == [None] * 12 and not any("right_context" in line for line in log(plain))
    assert losses(found)[0] != losses(plain)[0]
    first, untouched = (next(line for line in log(out) if "validation_nll" in line) for out in (found, plain))
    assert first["step"] == 0 and first == untouched
    assert read(found, "gate.json")["passed"] and losses(found)[-1] < losses(found)[0]
    names = [{check["name"] for check in read(out, "gate.json")["checks"]} for out in (found, plain)]
    assert names[0] - names[1] == {"right_context_kept_first_window"} and not names[1] - names[0]
    kept = canary(found, "right_context_kept_first_window")
    assert kept["hard"] and kept["passed"] and kept["value"] == 0


def test_smoke_anneals_by_a_share_of_its_own_steps(train: Train) -> None:
    assert contexts(train("smoke", max_steps=5, attention_annealing=0.7)) == [0, 8, 16, None, None]
    assert contexts(train("one", max_steps=1, attention_annealing=0.9)) == [None]


def test_resumed_is_uninterrupted(train: Train, tmp_path: Path) -> None:
    """To the bit, with dropout, in every stage and between stages."""
    whole = train("whole", **ANNEALED, checkpoint_steps=1, keep_checkpoints=100)
    for step in (1, 3, 5, 6):
        work = tmp_path / f"from-{step}"
        for checkpoint in sorted((tmp_path / "whole/checkpoints").iterdir())[:step]:
            shutil.copytree(checkpoint, work / "checkpoints" / checkpoint.name)
        resumed = train(work.name, **ANNEALED)
        assert read(resumed, "training.json")["resumed_from"] == [step]
        assert adapter(resumed) == adapter(whole)
        assert losses(resumed) == losses(whole) and contexts(resumed) == contexts(whole)


def test_the_range_test_is_that_of_a_run_without(train: Train, tmp_path: Path) -> None:
    """Otherwise the growing context would move the loss together with the rate."""
    model = make_model(tmp_path / "dream")
    settings = {"model": model, "learning_rate": "find", "mask_counts": "random"}  # as in test_range_test
    curves = [read(train(f"{share}", **settings, attention_annealing=share), "range_test.json") for share in (0.0, 0.5)]
    assert curves[0] == curves[1]


def test_an_attention_that_ignores_the_setting_stops_the_run(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(*given: Any, right_context: int | None = None, **options: Any) -> Any:
        return attend(*given, **options)

    monkeypatch.setitem(AttentionInterface._global_mapping, NAME, faulty)
    smoke = train("smoke", **ANNEALED, max_steps=2)
    with pytest.raises(UserError, match=r"right_context_kept_first_window \(\d+; expected 0 of"):
        train("full", smoke, **ANNEALED)


def test_full_fine_tuning_anneals_too(train: Train, base: ModelConfig) -> None:
    out = train("full", **ANNEALED, finetuning="full", learning_rate=1e-3)
    assert contexts(out) == [*STAGES, *[None] * 6] and read(out, "gate.json")["passed"]


def test_a_model_that_attends_both_ways_already_is_told_so(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train("dream", model=make_model(tmp_path / "dream"), **ANNEALED, max_steps=2)
    assert "is a dream model, which attends both ways from the start" in capsys.readouterr().err
    train("llama", **ANNEALED, max_steps=2)
    assert "attends both ways" not in capsys.readouterr().err
