"""What a causal model makes of a configuration: what follows from it, and what is refused in one line."""

from typing import Any

import pytest

from dreamtune.config import Experiment, parse_config
from dreamtune.errors import UserError
from dreamtune.settings.model import ModelConfig

PARTS: dict[str, Any] = {"model": {"path": "m", "attention": "causal"}, "data": {"files": ["x.parquet"]}}


def experiment(**sections: Any) -> Experiment:
    merged = {**sections, **{name: PARTS[name] | sections.get(name, {}) for name in PARTS}}
    return parse_config(merged).experiments["main"]


def test_a_causal_model_is_trained_on_the_next_token_without_a_tail_and_measured_once() -> None:
    found = experiment()
    assert (found.train.objective, found.train.longest_tail, found.train.mean_tail) == ("causal", 0, 0.0)
    assert found.evaluate.likelihood.draws == 1
    usual = experiment(model={"attention": "bidirectional"})
    assert (usual.train.objective, usual.train.max_tail, usual.evaluate.likelihood.draws) == ("elbo", 64, 16)


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"train": {"objective": "elbo"}}, 'train.objective "elbo" has no meaning'),
        ({"train": {"objective": "copy"}}, 'train.objective "copy" has no meaning'),
        ({"train": {"max_tail": 8}}, "train.max_tail 8 has no meaning"),
        ({"train": {"complementary": True}}, "train.complementary true has no meaning"),
        ({"train": {"cut_share": 0.1}}, "or set it to 0.0 here"),
        ({"train": {"padding_tokens": [5]}}, r"train.padding_tokens \[5\] has no meaning"),
        (
            {"train": {"attention_annealing": 0.3}},
            "train.attention_annealing 0.3 has no meaning .* or set it to 0.0 here",
        ),
        (
            {"model": {"attention": "bidirectional"}, "train": {"attention_annealing": 0.3, "objective": "copy"}},
            "train.objective copy masks nothing; set it to 0",
        ),
        ({"generate": {"block_length": 32}}, r"generate.block_length 32 has no meaning .*; .* or set it to null here"),
        ({"generate": {"refresh": "block"}}, 'generate.refresh "block"'),
        ({"generate": {"steps": 600}}, "generate.steps 600"),
        ({"generate": {"threshold": 0.9}}, "generate.threshold 0.9"),
        ({"evaluate": {"likelihood": {"draws": 4}}}, "evaluate.likelihood.draws 4"),
        ({"evaluate": {"decoders": [{"name": "fast", "factor": 1.0}]}}, "evaluate.decoders, fast: factor 1.0"),
        ({"model": {"attention": "bidirectional"}, "train": {"objective": "causal"}}, "needs a causal model"),
    ],
)
def test_a_setting_that_the_user_gave_and_a_causal_model_cannot_follow(sections: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        experiment(**sections)
    assert "\n" not in str(error.value)


def test_settings_that_mean_nothing_to_do_are_accepted() -> None:
    """So that an experiment can take back what the shared sections say."""
    nothing = {"objective": "causal", "max_tail": 0, "cut_share": 0.0, "complementary": False}
    assert experiment(train=nothing, generate={"block_length": None, "threshold": None, "refresh": "step"})
    shared = {"train": {"max_tail": 8}, "generate": {"block_length": 4, "max_new_tokens": 8}}
    causal = {"model": PARTS["model"], "train": {"max_tail": 0}, "generate": {"block_length": None}}
    both = parse_config(
        {"model": {"path": "m"}, "data": PARTS["data"], **shared, "experiments": {"a": {}, "b": causal}}
    )
    assert [e.train.objective for e in both.experiments.values()] == ["elbo", "causal"]


def test_versions_of_diffusion_models_do_not_know_of_the_choice() -> None:
    """Their digests are those from before there was one."""
    both = [ModelConfig(path="m", attention=kind).by_kind()[0] for kind in ("bidirectional", "causal")]
    assert "attention" not in both[0] and both[1] == both[0] | {"attention": "causal"}
