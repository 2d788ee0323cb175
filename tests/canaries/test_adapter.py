"""Modules that learn nothing and gradients that explode, planted in a smoke run on a tiny model and named by it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dreamtune.canaries.adapter import Trained, all_modules_learn, gradients_steady, is_dead
from dreamtune.errors import UserError
from dreamtune.model.loading import attach_lora
from dreamtune.settings.lora import LoraSettings
from dreamtune.train import finetuning, micro_batches
from dreamtune.train import run as runs
from dreamtune.train.optimizer import make_optimizer
from training_runs import Train, read

pytest_plugins = "training_runs"  # its fixtures

MODULE = "model.layers.1.self_attn.q_proj"
INSIDE = f"base_model.model.{MODULE}"
SMOKE: dict[str, Any] = {"epochs": 1, "validation_rows": 0}


def checks(out: Path) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in read(out, "gate.json")["checks"]}


def weights(model: nn.Module, kind: str) -> list[nn.Parameter]:
    return [p for name, p in model.named_parameters() if name.startswith(INSIDE) and f"lora_{kind}" in name]


def frozen(model: nn.Module) -> None:
    for weight in weights(model, "A") + weights(model, "B"):
        weight.requires_grad_(False)


def b_without_gradient(model: nn.Module) -> None:
    weights(model, "B")[0].register_hook(torch.zeros_like)


def a_without_gradient(model: nn.Module) -> None:
    weights(model, "A")[0].register_hook(torch.zeros_like)


def both_start_at_zero(model: nn.Module) -> None:
    nn.init.zeros_(weights(model, "A")[0])


def scaled_by_zero(model: nn.Module) -> None:
    model.get_submodule(INSIDE).scaling["default"] = 0.0  # type: ignore[index, union-attr, operator]


def no_adapter(model: nn.Module) -> None:
    parent, _, name = INSIDE.rpartition(".")
    setattr(model.get_submodule(parent), name, model.get_submodule(f"{INSIDE}.base_layer"))


@pytest.fixture
def adapters(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that plants a fault in every adapter that is made from now on."""

    def plant(fault: Callable[[nn.Module], None]) -> None:
        def faulty(model: Any, lora: LoraSettings, seed: int) -> Any:
            tuned = attach_lora(model, lora, seed)
            fault(tuned)
            return tuned

        monkeypatch.setattr(finetuning, "attach_lora", faulty)

    return plant


@pytest.mark.parametrize(
    "fault",
    [frozen, b_without_gradient, a_without_gradient, both_start_at_zero, scaled_by_zero, no_adapter],
)
def test_a_dead_module_stops_full_by_name(
    train: Train, adapters: Callable[..., None], fault: Callable[[nn.Module], None], capsys: pytest.CaptureFixture[str]
) -> None:
    adapters(fault)
    smoke = train("smoke", **SMOKE)
    check = checks(smoke)["all_modules_learn"]
    assert (check["hard"], check["passed"], check["value"]) == (True, False, 1)
    assert check["note"] == f"dead: {MODULE}" and f"nothing: {MODULE};" in check["fault"]
    assert f"all_modules_learn: training taught some modules nothing: {MODULE};" in capsys.readouterr().err
    others = {name for name, check in checks(smoke).items() if check["passed"] is False}
    assert others == {"all_modules_learn"}
    with pytest.raises(UserError, match=rf"failed its gate: all_modules_learn \(1; .*dead: {MODULE}"):
        train("full", gate=smoke)


def test_weights_that_the_optimiser_does_not_have(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """They have a gradient and never move."""
    monkeypatch.setattr(runs, "make_optimizer", lambda parameters, *given: make_optimizer(parameters[:-2], *given))
    check = checks(train(**SMOKE))["all_modules_learn"]
    assert check["passed"] is False and check["note"] == "dead: model.layers.1.mlp.down_proj"
    check = checks(train("full", finetuning="full", learning_rate=1e-3, **SMOKE))["all_modules_learn"]
    assert check["passed"] is False and check["note"] == "dead: lm_head.weight, model.norm.weight"


def test_an_honest_run_and_one_that_goes_on(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the first attempt saw is in its checkpoint; one step alone moves B and not A, and that is no fault."""
    for options in ({}, {"max_steps": 1}, {"finetuning": "full", "learning_rate": 1e-3}, {"learning_rate": 1e-30}):
        found = checks(train(str(options), **SMOKE | options))
        assert found["all_modules_learn"]["passed"] and found["gradients_steady"]["passed"] is not False, options
    first = train("first", checkpoint_steps=2, **SMOKE)
    again = train("first", checkpoint_steps=2, **SMOKE)
    assert read(again, "training.json")["resumed_from"] == [6]
    for name in ("all_modules_learn", "gradients_steady"):
        assert checks(again)[name] == checks(first)[name]


@pytest.mark.parametrize("always", [False, True], ids=["in one step", "in one module, at every step"])
def test_an_exploding_gradient_is_named(
    train: Train, adapters: Callable[..., None], monkeypatch: pytest.MonkeyPatch, always: bool
) -> None:
    """It warns: clipping bounds what it does to the weights."""
    step = 0
    original = micro_batches.window_sums

    def counted(*given: Any) -> Any:
        nonlocal step
        step += 1
        return original(*given)

    monkeypatch.setattr(micro_batches, "window_sums", counted)
    adapters(
        lambda model: weights(model, "B")[0].register_hook(lambda g: g * (1e5 if always or step == 4 else 1)) and None
    )
    found = checks(train(**SMOKE))
    steady = found["gradients_steady"]
    assert (steady["hard"], steady["passed"], steady["note"]) == (False, False, f"largest in {MODULE}")
    assert steady["value"] > 1000 and steady["fault"].startswith(f"the gradient exploded, most in {MODULE};")
    assert found["all_modules_learn"]["passed"]


def test_what_counts_as_dead() -> None:
    a, b = f"{MODULE}.lora_A.weight", f"{MODULE}.lora_B.weight"
    seen: dict[str, Any] = {"gradients": {a: 0.1, b: 0.2}, "moved": {a: True, b: True}, "without": [], "steps": 8}
    alive = Trained(**seen, learning_rate=1e-4)
    assert not is_dead(a, alive) and not is_dead(b, alive) and all_modules_learn(alive)["passed"]
    for weight in (a, b):
        assert is_dead(weight, Trained(**seen | {"gradients": {a: 0.1, b: 0.2} | {weight: 0.0}}, learning_rate=1e-4))
        assert is_dead(weight, Trained(**seen | {"moved": {a: True, b: True} | {weight: False}}, learning_rate=1e-4))
    still = {"gradients": {a: 0.0, b: 0.2}, "moved": {a: False, b: True}}
    assert not is_dead(a, Trained(**seen | still | {"steps": 1}, learning_rate=1e-4))
    assert not is_dead(a, Trained(**seen | still, learning_rate=1e-30))
    many = Trained({}, {f"model.layers.{n}.q_proj.lora_B.weight": False for n in range(5)}, [], 8, 1e-4)
    dead = all_modules_learn(many)
    assert dead["value"] == 5 and dead["note"].endswith("model.layers.2.q_proj and 2 more")


def test_what_counts_as_exploding() -> None:
    gradients = {f"model.layers.{n}.q_proj.lora_B.weight": 1.0 for n in range(5)}
    assert gradients_steady([1.0, 2.0, 0.5, 9.0], gradients)["passed"]
    assert gradients_steady([1.0, 2.0, 0.5, 900.0], gradients)["passed"] is False
    assert gradients_steady([900.0], gradients)["passed"] and gradients_steady([1.0, 900.0], gradients)["passed"]
    loud = gradients_steady([5.0] * 8, gradients | {"model.layers.3.q_proj.lora_B.weight": 500.0})
    assert loud["passed"] is False and loud["note"] == "largest in model.layers.3.q_proj"
    whole = {"model.norm.weight": 1e-4, "lm_head.weight": 1.0, "model.embed_tokens.weight": 1e-3}
    assert gradients_steady([1.0] * 8, whole)["passed"]  # not an adapter: its weights differ by far
    assert json.dumps(loud)
