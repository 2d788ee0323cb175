"""The whole workflow on real rows: real Snakemake, the real tokenizer, a small random model in Dream's shape.

    python benchmarks/real_rows.py --tokenizer FOLDER --data gsm8k_train.parquet s1k.parquet

Every parquet file becomes an experiment of its own, with the settings of config/config.yaml except those that a CPU
cannot pay for (--steps, --prompts, --new-tokens, --draws). Checks that every stage has finished, that every source row
is kept or dropped for a reason, that every question asked was answered and graded, and that the report has a verdict;
prints the counts. Random weights say nothing about quality: the verdict should be that there is no evidence.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import polars as pl
import torch
import yaml
from _src import whole  # which also puts src on the path
from safetensors.torch import save_file

from dreamtune.model.loading import empty_model

ROOT = Path(__file__).resolve().parents[1]
SHAPE = ROOT / "tests/fixtures/dream_7b/config.json"
STAGES = {
    "prepare_shards",
    "train_adapter",
    "generate_answers",
    "evaluate_likelihood",
    "score_answers",
    "render_report",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="parquet files of training rows")
    parser.add_argument("--benchmark", type=Path, help="parquet file that is answered and graded besides")
    columns = ["question", "gemini_thinking_trajectory", "solution"]
    parser.add_argument("--columns", nargs=3, default=columns, help="of question, reasoning and answer")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of Dream's tokenizer")
    parser.add_argument("--work", type=Path, help="folder for results, kept; default: a temporary one")
    parser.add_argument("--steps", type=int, default=200, help="optimiser steps of the full run, at most")
    parser.add_argument("--smoke-rows", type=int, default=64, help="rows of the smoke run")
    parser.add_argument("--full-rows", type=int, help="rows of the full run; default: all")
    parser.add_argument("--prompts", type=int, default=64, help="questions asked, at most")
    parser.add_argument("--new-tokens", type=int, default=32, help="tokens of an answer")
    parser.add_argument("--draws", type=int, default=2, help="mask draws of the likelihood")
    parser.add_argument("--hidden", type=int, default=32, help="width of the random model")
    parser.add_argument("--cores", default="2", help="cores for Snakemake")
    arguments = parser.parse_args()
    if arguments.work:
        return run(arguments, arguments.work)
    with tempfile.TemporaryDirectory() as folder:
        run(arguments, Path(folder))


def run(arguments: argparse.Namespace, work: Path) -> None:
    """Lay out a project in `work`, run its workflow, and check what came out."""
    work.mkdir(parents=True, exist_ok=True)
    for part in ("Snakefile", "workflow", "src", "profiles"):
        if not (work / part).exists():
            (work / part).symlink_to(ROOT / part)
    if not (work / "model").exists():
        write_model(work / "model", arguments.tokenizer, arguments.hidden)
    (work / "real.yaml").write_text(yaml.safe_dump(settings(arguments), sort_keys=False), encoding="utf-8")
    command = [sys.executable, "-m", "snakemake", "--cores", arguments.cores, "--configfile", "real.yaml"]
    started = time.perf_counter()
    subprocess.run([*command, "--quiet", "rules", "host"], cwd=work, check=True)
    print(json.dumps({"snakemake": "finished", "seconds": round(time.perf_counter() - started, 1)}))
    for file in arguments.data:
        print(json.dumps({"experiment": name_of(file)} | check(work, file, arguments)))


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the shipped configuration with what a CPU cannot pay for made small."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    question, reasoning, answer = arguments.columns
    columns = {"question": question, "reasoning": reasoning, "answer": answer}
    config["model"] = {"path": "model", "quantization": "nf4", "dtype": "float32", "device": "cpu", "threads": 1}
    config["data"] |= {"columns": columns}
    # A cap per experiment: a file so small that its epochs are shorter runs them in full.
    config["train"] |= {"max_steps": arguments.steps, "learning_rate": 1e-3}
    config["train"] |= {"validation_rows": min(32, arguments.prompts)}
    config["smoke"] |= {"rows": arguments.smoke_rows}
    if arguments.full_rows:
        config.setdefault("full", {})["rows"] = arguments.full_rows
    config["generate"] |= {"max_new_tokens": arguments.new_tokens, "max_prompts": arguments.prompts}
    config["generate"].pop("sampled")
    config["evaluate"]["likelihood"] = {"draws": arguments.draws, "max_rows": arguments.prompts}
    if arguments.benchmark:
        path = str(arguments.benchmark.resolve())
        config["evaluate"]["benchmarks"] = [
            {"name": name_of(arguments.benchmark), "files": [path], "question": question, "answer": answer}
        ]
    files = {name_of(file): {"data": {"files": [str(file.resolve())]}} for file in arguments.data}
    return config | {"experiments": files}


def check(work: Path, file: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the counts of one experiment; fail where they do not add up."""
    latest = work / "results/latest" / name_of(file)
    folders = json.loads((latest / "versions.json").read_text())
    manifests = {name: json.loads((work / folder / "manifest.json").read_text()) for name, folder in folders.items()}
    assert {m["stage"] for m in manifests.values()} >= STAGES, "a stage is missing"
    shards = manifests["shards"]["counts"]
    source = pl.scan_parquet(file).select(pl.len()).collect().item()
    kept, dropped = sum(shards["rows"].values()), sum(shards["dropped"].values())
    assert shards["source_rows"] == source == kept + dropped, f"{source} rows, {kept} kept, {dropped} dropped"
    asked = min(shards["rows"]["test"], arguments.prompts)
    for who in ("base", "tuned"):
        answers, scores = (manifests[f"{stage}/test/greedy/{who}"]["counts"] for stage in ("answers", "scores"))
        assert answers["rows"] == scores["rows"] == asked, f"{asked} questions, {answers}, {scores}"
        assert scores["gradable"] + scores["ungradable"] == asked
    summary = json.loads((latest / "summary.json").read_text())
    full = manifests["full"]["counts"]
    epochs = -(-full["rows"] // 8) * 3
    assert full["steps"] == summary["training"]["steps"] == min(epochs, arguments.steps)
    assert summary["nll"]["base"]["n"] == asked
    return {
        "source_rows": source,
        "rows": shards["rows"],
        "dropped": shards["dropped"],
        "steps": full["steps"],
        "loss": [round(summary["training"][name], 3) for name in ("first_loss", "last_loss")],
        "asked": asked,
        "gradable": summary["accuracy"]["questions"],
        "benchmarks": {
            name: block["accuracy"]["questions"]
            for name, block in summary["comparisons"].items()
            if not name.startswith("test/")
        },
        "verdict": summary["verdict"],
        "nll": [round(summary["nll"][side]["value"], 3) for side in ("base", "tuned")],
        "report_bytes": (latest / "report.html").stat().st_size,
        "wall_s": summary["wall_s"]["total"],
    }


@whole
def write_model(folder: Path, tokenizer: Path, hidden: int) -> None:
    """Write two random layers in Dream 7B's format, with its vocabulary and the given tokenizer."""
    folder.mkdir()
    small = {"hidden_size": hidden, "intermediate_size": 4 * hidden, "num_hidden_layers": 2}
    raw = json.loads(SHAPE.read_text()) | small | {"num_attention_heads": 2, "num_key_value_heads": 1}
    (folder / "config.json").write_text(json.dumps(raw))
    for file in sorted(tokenizer.glob("*.json")):
        shutil.copyfile(file, folder / file.name)
    torch.manual_seed(0)
    weights = {
        name: (torch.ones if "norm" in name else torch.zeros if "bias" in name else torch.randn)(parameter.shape)
        for name, parameter in empty_model(raw).named_parameters()
    }
    save_file(
        {name: (w * 0.02 if w.ndim == 2 else w).bfloat16() for name, w in weights.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )


def name_of(file: Path) -> str:
    """Return the file's stem as a name for an experiment or a benchmark."""
    return file.stem.replace(".", "-").replace("_", "-").lower()


if __name__ == "__main__":
    main()
