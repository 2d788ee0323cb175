"""The derived tolerance holds for a right model on this processor, and is far below what a fault changes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dreamtune.model.facts import facts_of, set_facts
from dreamtune.model.loading import load_model
from dreamtune.model.logits import token_logits
from tolerance import float32_rounding, model_tolerance

FIXTURES = Path(__file__).parent / "fixtures"
FOLDERS = [FIXTURES / "dream_tiny", FIXTURES / "llada_tiny"]
pytestmark = pytest.mark.numeric


def test_the_rounding_by_hand() -> None:
    """1 + 2^-24 is 1, as is the sum of any number of such terms, one after the other."""
    assert torch.tensor(1.0) + torch.tensor(2.0**-24) == 1
    assert float32_rounding(terms=100) == 2 * 4 * 2**-24 * 10
    assert float32_rounding(terms=25, layers=4) == float32_rounding(terms=100)


@pytest.mark.parametrize("folder", FOLDERS, ids=["dream", "llada"])
@torch.no_grad()
def test_the_error_against_float64_is_one_computations_share(folder: Path) -> None:
    """Of both the official code's logits and ours; float64 has no rounding to speak of."""
    expected = load_file(folder / "reference.safetensors")
    model = load_model(folder, dtype="float32")
    ours = model(input_ids=expected["input_ids"]).logits
    share = model_tolerance(ours, model.config)["atol"] / 2
    exact = model.double()(input_ids=expected["input_ids"]).logits
    for logits in (ours, expected["logits"]):
        error = (logits - exact).abs().max().item()
        assert 0 < error < share < 40 * error  # neither luck nor a tolerance that would let anything pass


def unshifted(model: Any) -> None:
    facts = facts_of(model.config)
    set_facts(model.config, facts._replace(family="llada" if facts.family == "dream" else "dream"))


def causal(model: Any) -> None:
    model.config.is_causal = True
    for layer in model.model.layers:
        layer.self_attn.is_causal = True


def in_bfloat16(model: Any) -> None:
    model.bfloat16().float()


def another_epsilon(model: Any) -> None:
    """Of the norms: 1e-5 for 1e-6, another family's default."""
    for norm in (module for module in model.modules() if hasattr(module, "variance_epsilon")):
        norm.variance_epsilon *= 10


def one_weight_by_one_percent(model: Any) -> None:
    weight = model.model.layers[0].mlp.down_proj.weight.flatten()
    weight[weight.abs().argmax()] *= 1.01


@pytest.mark.parametrize("folder", FOLDERS, ids=["dream", "llada"])
@pytest.mark.parametrize(
    ("fault", "times"),
    [(unshifted, 10_000), (causal, 10_000), (in_bfloat16, 1_000), (another_epsilon, 1), (one_weight_by_one_percent, 1)],
)
@torch.no_grad()
def test_a_fault_lies_beyond_it(folder: Path, fault: Callable[[Any], None], times: int) -> None:
    """By so many times, however small the fault."""
    ids = load_file(folder / "reference.safetensors")["input_ids"]
    model = load_model(folder, dtype="float32")
    right = token_logits(model, ids)
    fault(model)
    difference = (token_logits(model, ids) - right).abs().max().item()
    assert difference > times * model_tolerance(right, model.config)["atol"]
