"""Ring (b): every shipped YAML parses; a wrong one says so in one line."""

import json
import types
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Union

import pytest
import yaml

from conftest import ROOT
from dreamtune.config import load_config, parse_config
from dreamtune.config_schema import json_schema
from dreamtune.settings.base import Section

SHIPPED = sorted((ROOT / "config").glob("*.yaml"))
LEAST = {"model": {"path": "x"}, "data": {"files": ["rows.parquet"]}}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.name)
def test_shipped_configs_parse(path: Path) -> None:
    assert load_config(path).experiments


def test_notebook_settings_of_the_default() -> None:
    experiment = load_config(ROOT / "config/config.yaml").experiments["dream7b-s1k"]
    assert experiment.model.revision == "6572adb5535263e4d1a337b56942ba48b6dee2a9"
    assert experiment.train.learning_rate == 2e-5  # YAML 1.1 reads 2e-5 as text
    assert experiment.train.lora.target_modules == ["q_proj", "v_proj"]
    smoke = experiment.smoke.applied_to(experiment.train)
    assert (smoke.rows, smoke.epochs, smoke.log_every, smoke.learning_rate) == (64, 1, 1, 2e-5)
    assert experiment.full.applied_to(experiment.train) == experiment.train
    assert experiment.generate.by_name()["sampled"].top_p == 0.9
    assert experiment.generate.by_name()["greedy"].temperature == 0.0


def test_a_home_folder_is_that_of_the_user_who_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job may have another: in a container it is the work folder."""
    monkeypatch.setenv("HOME", "/home/me")
    benchmarks = [{"name": "b", "files": ["~/b.parquet"]}]
    given = {"model": {"path": "~/m"}, "data": {"files": ["~/*.parquet"]}, "evaluate": {"benchmarks": benchmarks}}
    [experiment] = parse_config(given | {"experiments": {"x": {}}}).experiments.values()
    named = (experiment.model.path, *experiment.data.files, *experiment.evaluate.benchmarks[0].files)
    assert named == ("/home/me/m", "/home/me/*.parquet", "/home/me/b.parquet")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"train": {"learning_rat": 1e-3}},
            "unknown key 'train.learning_rat' in the configuration; did you mean 'learn",
        ),
        ({"train": {"lora": {"rnk": 1}}}, "unknown key 'train.lora.rnk' in the configuration; did you mean 'rank'?"),
        ({"trian": {}}, "unknown key 'trian' in the configuration; did you mean 'train'?"),
        ({"generate": {"sampled": {"temprature": 1.0}}}, "did you mean 'temperature'?"),
        ({"evaluate": {"benchmarks": [{"name": "x", "file": ["y"]}]}}, "did you mean 'files'?"),
        ({"train": {"epochs": "3"}}, "train.epochs: input should be a valid integer; given was '3'"),
        ({"train": {"epochs": True}}, "train.epochs"),
        ({"train": {"learning_rate": "fast"}}, "train.learning_rate: input should be a valid number, or find; given"),
        (
            {"train": {"learning_rate": "find", "finetuning": "full"}, "model": {"path": "x", "quantization": "none"}},
            "experiments.main: train.learning_rate find tries rates on a copy",
        ),
        ({"data": {"files": ["x"], "template": "{question}"}}, "must contain {answer} exactly once"),
        ({"data": {"files": ["x"], "columns": {"reasoning": None}}}, "go together"),
        ({"data": {"files": ["x"], "template": "{question}{resoning}{answer}"}}, "did you mean {reasoning}?"),
        ({"data": {"files": ["x"], "template": "{question} {input}{reasoning}{answer}"}}, "the template has {input}"),
        ({"data": {"files": ["x"], "template": "{question}{ reasoning }{answer}"}}, "did you mean {reasoning}?"),
        (
            {"model": {"path": "x", "device": "cpu"}, "train": {"optimizer": "paged_adamw_8bit"}},
            "experiments.main: train.optimizer paged_adamw_8bit needs a GPU",
        ),
        (
            {"data": {"files": ["x"], "chat": {"variables": {"year": 1.5}}}},
            "data.chat.variables.year: input should be a valid string or a valid boolean or a valid integer; given was",
        ),
        (
            {"data": {"files": ["x"], "chat": {"variables": {"messages": "x"}}}},
            "messages cannot be set: the chat template",
        ),
        ({"data": {"sources": [{"files": ["x"], "name": "a\nb"}]}}, "data.sources.0.name: expected 1 to 64 printable"),
        ({"train": {"learning_rate": float("inf")}}, "train.learning_rate: input should be less than or equal to 10"),
        ({"train": {"weight_decay": float("nan")}}, "train.weight_decay: input should be"),
        ({"train": {"betas": [2, 3]}}, "train.betas.0: input should be less than 1"),
        ({"train": {"seed": 2**70}}, "train.seed: input should be less than or equal to 4294967295"),
        ({"train": {"seed": -1}}, "train.seed: input should be greater than or equal to 0"),
        ({"train": {"lora": {"rank": "1e30"}}}, "train.lora.rank: input should be a valid integer"),
        ({"train": {"lora": {"rank": 10**30}}}, "train.lora.rank: input should be less than or equal to 65536"),
        ({"generate": {"scatter": 10**9}}, "generate.scatter: input should be less than or equal to 10000"),
        ({"cluster": {"margin": float("inf")}}, "cluster.margin: input should be less than or equal to 100"),
        ({"experiments": {"x" * 300: {}}}, "takes 300 bytes; at most 64 are allowed"),
        ({"evaluate": {"decoders": [{"name": "x" * 300}]}}, "evaluate.decoders.0.name: string should have at most 64"),
        ({"model": {}}, "model.path: this key is required"),
        ({"model": None}, "model: this key is required"),
        ({"model": {"path": "x", "attention": "both"}}, "model.attention: input should be 'bidirectional' or 'causal'"),
        ({"evaluate": {"benchmarks": [{"name": "test", "files": ["y"]}]}}, "cannot be named test"),
        ({"evaluate": {"benchmarks": [{"name": "x", "files": ["y"]}] * 2}}, "two benchmarks are named x"),
        ({"evaluate": {"canvases": [32, 64, 32]}}, "32 is listed twice"),
        ({"evaluate": {"canvases": [0]}}, "evaluate.canvases.0: input should be greater than or equal to 1"),
        ({"evaluate": {"decoders": [{"name": "whole", "block_lenght": 4}]}}, "did you mean 'block_length'?"),
        ({"evaluate": {"decoders": [{"name": "x"}, {"name": "x"}]}}, "two decoders are named x"),
        ({"evaluate": {"decoders": [{"name": "sampled"}]}}, "cannot be named sampled"),
        ({"evaluate": {"decoders": [{"name": "a/b"}]}}, "evaluate.decoders.0.name"),
        (
            {"evaluate": {"decoders": [{"name": "x", "block_length": 4, "steps": 3}]}},
            "experiments.main: evaluate.decoders, x: steps is 3, but 512 new tokens in blocks of 4 are 128 blocks",
        ),
    ],
)
def test_mistakes_are_one_line(change: dict, message: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_config(LEAST | change)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_part_of_smoke_keeps_the_rest_of_it_small() -> None:
    smoke = parse_config(LEAST | {"smoke": {"log_every": 2}}).experiments["main"].smoke
    assert (smoke.rows, smoke.epochs, smoke.log_every) == (64, 1, 2)


def test_an_empty_section_changes_nothing_and_null_stays_null() -> None:
    top = LEAST | {"train": None, "generate": {"sampled": None}}
    changes = {"a": {"train": {"epochs": 2}}, "b": {"train": None, "generate": {}}, "c": None}
    experiments = parse_config(top | {"experiments": changes}).experiments
    assert [experiments[name].train.epochs for name in "abc"] == [2, 3, 3]
    assert all(experiments[name].generate.sampled is None for name in "abc")


def test_experiments_change_single_keys() -> None:
    raw = LEAST | {"train": {"learning_rate": 1e-3, "lora": {"rank": 4}}}
    raw |= {"experiments": {"a": None, "b": {"train": {"lora": {"alpha": 8}}}}}
    experiments = parse_config(raw).experiments
    assert experiments["a"].train.lora.rank == experiments["b"].train.lora.rank == 4
    assert (experiments["a"].train.lora.alpha, experiments["b"].train.lora.alpha) == (32, 8)


def test_the_mistake_of_an_experiment_is_found() -> None:
    with pytest.raises(ValueError, match=r"train\.lora\.alhpa.*'alpha'"):
        parse_config(LEAST | {"experiments": {"b": {"train": {"lora": {"alhpa": 8}}}}})


def test_schema_is_current_and_describes_every_field() -> None:
    schema = json_schema()
    assert json.loads((ROOT / "config/schema.json").read_text()) == schema, "run `make schema`"
    fields = [schema["properties"], *(d["properties"] for d in schema["$defs"].values() if "properties" in d)]
    assert all("description" in field for group in fields for field in group.values())


def sections(kind: type[Section]) -> list[type[Section]]:
    return [kind, *(deep for sub in kind.__subclasses__() for deep in sections(sub))]


def test_every_field_is_marked_result_or_runtime() -> None:
    for kind in sections(Section):
        if kind.__name__ in {"Section", "Experiment"}:
            continue
        for name, field in kind.model_fields.items():
            assert field.json_schema_extra["kind"] in {"result", "runtime"}, f"{kind.__name__}.{name}"


def numbers_in(annotation: Any, metadata: Iterable[Any]) -> Iterator[list[Any]]:
    """Yield what is declared of each number within a field's annotation, those in lists and optional ones included."""
    if typing.get_origin(annotation) is Annotated:
        inner, *declared = typing.get_args(annotation)
        yield from numbers_in(inner, [*metadata, *(m for d in declared for m in getattr(d, "metadata", [d]))])
    elif annotation in (int, float):
        yield list(metadata)
    else:
        own = metadata if typing.get_origin(annotation) in (Union, types.UnionType) else ()
        for inner in typing.get_args(annotation):
            yield from numbers_in(inner, own)


def test_every_number_has_a_smallest_and_a_largest_value() -> None:
    checked = 0
    for kind in sections(Section):
        for name, field in kind.model_fields.items():
            for declared in numbers_in(field.annotation, field.metadata):
                low, high = (
                    [getattr(d, n, None) for d in declared for n in names] for names in (("ge", "gt"), ("le", "lt"))
                )
                assert any(v is not None for v in low) and any(v is not None for v in high), f"{kind.__name__}.{name}"
                checked += 1
    assert checked > 60


def test_empty_section_is_no_change(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(LEAST) + "experiments:\n  main:\n")
    assert load_config(path).experiments["main"].train.epochs == 3


@pytest.mark.parametrize("preset", sorted((ROOT / "config/presets").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_preset_goes_on_top_of_any_configuration(preset: Path) -> None:
    """As snakemake merges the files it is given; what a card decides must not change a version."""
    whole = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    change = yaml.safe_load(preset.read_text())
    merged = parse_config(whole | {"train": whole["train"] | change["train"]})
    trained, alone = (c.experiments["dream7b-s1k"].train for c in (merged, parse_config(whole)))
    assert trained.memory_gib is not None and trained.by_kind()[0] == alone.by_kind()[0]


@pytest.mark.parametrize(
    ("generate", "lookahead"),
    [
        ({}, None),
        ({"block_length": 512}, None),
        ({"block_length": 32}, 20),
        ({"block_length": 32, "lookahead": 0}, 0),
        ({"lookahead": 7}, 7),
    ],
)
def test_the_lookahead_is_the_longest_usual_tail_of_training(generate: dict[str, Any], lookahead: int | None) -> None:
    sections = LEAST | {"train": {"max_tail": 20, "long_tail": 99}, "generate": generate | {"sampled": {}}}
    settings = parse_config(sections).experiments["main"].generations()
    assert {name: setting.lookahead for name, setting in settings.items()} == dict.fromkeys(settings, lookahead)
    assert settings.keys() == {"greedy", "sampled"}


def test_canvases_and_decoders_are_further_settings_of_generation() -> None:
    generate = {"max_new_tokens": 64, "block_length": 16, "steps": 32, "threshold": 0.9, "prompts": ["Who are you?"]}
    decoders = [{"name": "whole", "block_length": None, "threshold": None}, {"name": "wide", "lookahead": 40}]
    evaluate = {"canvases": [48, 96], "decoders": decoders}
    sections = LEAST | {"train": {"max_tail": 20}, "generate": generate, "evaluate": evaluate}
    settings = parse_config(sections).experiments["main"].generations()
    assert list(settings) == ["greedy", "canvas-48", "canvas-96", "whole", "wide"]
    headline = settings["greedy"]
    limits = {name: (settings[name].max_new_tokens, settings[name].steps) for name in ("canvas-48", "canvas-96")}
    assert limits == {"canvas-48": (48, 24), "canvas-96": (96, 48)}  # two tokens a step, as in the headline
    changes = {"block_length": None, "threshold": None, "lookahead": None, "prompts": []}
    assert settings["whole"] == headline.model_copy(update=changes)
    assert settings["wide"] == headline.model_copy(update={"lookahead": 40, "prompts": []})


def test_a_mistake_in_a_whole_section_does_not_quote_it() -> None:
    twice = [{"name": "x", "files": [f"{place}-of-several-files.parquet"]} for place in "ab"]
    with pytest.raises(ValueError) as error:
        parse_config(LEAST | {"data": {"sources": twice}})
    assert str(error.value) == "data: two sources are named x; give each its own name"
