"""The whole DAG on small models of other families than Dream: diffusion and causal, from one configuration."""

import json
import shutil
from pathlib import Path

import jsonschema
import pytest
import yaml

from autoregressive import KINDS, TOKENIZER, write_model
from conftest import FIXTURES, ROOT
from project import MICRO, Project

DENOISING = {"block_length": 4, "refresh": "block"}
EXPERIMENTS = {
    "llada": {"model": {"path": "models/llada"}},
    "qwen2": {"model": {"path": "models/qwen2"}, "generate": DENOISING},
    "qwen2-causal": {"model": {"path": "models/qwen2", "attention": "causal"}},
    "llama": {"model": {"path": "models/llama"}},
    "llama-causal": {"model": {"path": "models/llama", "attention": "causal", "quantization": "none"}},
}


@pytest.mark.slow
def test_every_family_diffusion_and_causal_goes_through_the_whole_dag(tmp_path: Path) -> None:
    project = Project(tmp_path)
    for kind in KINDS:
        write_model(tmp_path / "models" / kind, kind)
    shutil.copytree(FIXTURES / "llada_tiny", tmp_path / "models/llada")
    for name in TOKENIZER:
        shutil.copyfile(ROOT / "resources/tiny-dream" / name, tmp_path / "models/llada" / name)
    raw = yaml.safe_load((tmp_path / MICRO).read_text())
    del raw["train"]["max_tail"], raw["evaluate"]["likelihood"]["draws"]
    raw |= {"generate": {"max_new_tokens": 8, "max_prompts": 4}, "experiments": EXPERIMENTS}
    (tmp_path / MICRO).write_text(yaml.safe_dump(raw))

    project.snakemake()
    latest = tmp_path / "results/latest"
    summaries = {name: json.loads((latest / name / "summary.json").read_text()) for name in EXPERIMENTS}
    schema = json.loads((ROOT / "docs/summary.schema.json").read_text())
    for name, summary in summaries.items():
        causal = name.endswith("causal")
        jsonschema.validate(summary, schema)
        assert summary["verdict"] != "invalid", summary["sentence"]
        assert summary["nll"]["kind"] == ("exact" if causal else "bound")
        assert summary["recipe"]["objective"] == ("causal" if causal else "elbo")
        assert summary["nll"]["rows"] == 8 and summary["accuracy"]["base"]["n"] == 4
        names = {check["name"] for check in summary["canaries"] if check["source"] == "likelihood"}
        assert ("later_tokens_hidden" in names) == causal and ("targets_hidden" in names) != causal
    for kind in KINDS:  # the same rows, for both
        assert summaries[kind]["versions"]["shards"] == summaries[f"{kind}-causal"]["versions"]["shards"]
        assert summaries[kind]["versions"]["full"] != summaries[f"{kind}-causal"]["versions"]["full"]
    index = (latest / "index.html").read_text()
    assert index.count(">exact") == 2 and index.count(">bound") == 3
    assert project.jobs() == {}
