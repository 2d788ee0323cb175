"""Every configuration that ships is planned on tiny stand-ins for its model and its rows."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

import autoregressive
from conftest import FIXTURES, ROOT
from dreamtune.canvas import Canvas
from dreamtune.config import Config, parse_config
from dreamtune.settings.generate import as_trained
from dreamtune.study.points import by_curve, by_method
from dreamtune.workflow.experiments import make_plan, plan_merge
from test_config import SHIPPED

RUNS = {
    "config": 1,
    "demo": 2,
    "llada": 1,
    "notebook": 1,
    "qwen2-causal": 1,
    "qwen2-diffusion": 1,
    "smollm2": 3 * 3,
    "scaling": 3 * 3 * 4 + 3 + 1 + 12,
    "study": 3 * 3 + 3 + 1 + 4 + 2,
}


def stand_ins(name: str, folder: Path) -> dict[str, Any]:
    """Return a shipped configuration with a tiny model of its family, and the embedded model's rows."""
    raw = yaml.safe_load((ROOT / f"config/{name}.yaml").read_text())
    path = tiny = ROOT / "resources/tiny-dream"
    if "qwen2" in name:
        autoregressive.write_model(path := folder / "qwen2", "qwen2", vocab_size=160)
    elif name == "llada":
        shutil.copytree(FIXTURES / "llada_tiny", path := folder / "llada")
        for file in autoregressive.TOKENIZER:
            shutil.copy(tiny / file, path)
    elif name == "smollm2":
        autoregressive.write_model(path := folder / "llama", "llama", vocab_size=160)
        raw["model"]["mask_token"] = "new"
    raw["model"] |= {"path": str(path), "revision": None}
    sources = raw["data"].get("sources", [raw["data"]])
    for named in (*sources, *raw.get("evaluate", {}).get("benchmarks", [])):
        named["files"] = [str(tiny / "rows.parquet")]
    for source in sources:
        source["columns"] = sources[-1]["columns"]
    return raw


@pytest.fixture(params=[path.stem for path in SHIPPED])
def shipped(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Config]:
    monkeypatch.chdir(tmp_path)
    return request.param, parse_config(stand_ins(request.param, tmp_path))


def test_it_plans(shipped: tuple[str, Config]) -> None:
    name, config = shipped
    plan, latest = make_plan(config)
    merged = plan_merge(plan, config, latest)
    stages = Counter(stage for stage, _ in plan)
    assert len(config.experiments) == stages["render_report"] == RUNS[name]
    assert stages["prepare_shards"] == 1, "all runs train and test on the same rows"
    assert len(merged) == sum(run.train.finetuning == "lora" for run in config.experiments.values())


def test_the_study_shows_every_part_in_at_most_20_runs() -> None:
    raw = yaml.safe_load((ROOT / "config/study.yaml").read_text())
    config = parse_config(raw)
    methods = by_method(config.points.values())
    assert len(config.experiments) <= 20
    assert {len(methods[name]) for name in ("qlora", "full")} == {3}, "what is compared has three seeds"
    assert {point.data_size for point in by_curve(config.points.values())["qlora"]} == {100, 300, None}
    assert config.experiments["copy"].train.objective == "copy"
    assert len({method for method in methods if method.startswith("tune-")}) == 6
    assert config.study.baseline == "full"
    rows = config.experiments["qlora"].train
    assert config.experiments["qlora-rows100"].train.total_steps(780) == rows.total_steps(780)


def test_annealing_alone_tells_the_two_adapted_smollm2_apart() -> None:
    experiments = parse_config(yaml.safe_load((ROOT / "config/smollm2.yaml").read_text())).experiments
    plain, annealed = experiments["diffusion"], experiments["annealed"]
    assert annealed.train == plain.train.model_copy(update={"attention_annealing": 0.3})
    assert annealed.model_copy(update={"train": plain.train}) == plain
    assert experiments["causal"].model.causal and experiments["causal"].data == plain.data
    assert {experiment.train.learning_rate for experiment in experiments.values()} == {"find"}, "one rule for all"
    canvas = Canvas.of(plain.train.model_dump(), as_trained(plain.generate, plain.train.max_tail).model_dump())
    assert canvas.behind <= canvas.longest_tail, "generation shows no canvas that training did not"
    assert plain.data.cluster == "calculation", "of one template, all steps would be one observation"


def test_the_notebook_differs_from_the_default_in_its_mistakes_alone() -> None:
    notebook, default = (
        parse_config(yaml.safe_load((ROOT / f"config/{name}.yaml").read_text())).experiments[experiment]
        for name, experiment in (("notebook", "notebook"), ("config", "dream7b-s1k"))
    )
    ours, theirs = default.train.model_dump(), notebook.train.model_dump()
    assert {name for name in ours if ours[name] != theirs[name]} == {
        "objective",
        "on_failed_gate",
        "max_tail",
        "long_tail",
        "cut_share",
    }
    assert notebook.model == default.model and notebook.data.columns == default.data.columns
    assert (notebook.data.max_tokens, notebook.data.too_long) == (1024, "truncate")
