"""Version folders under `results/`, as stages write them, made without running one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import yaml
from safetensors.numpy import save_file

from conftest import FIXTURES, ROOT
from dreamtune.config import parse_config
from dreamtune.digests import describe
from dreamtune.files import read_json, write_json
from dreamtune.workflow.experiments import make_plan, plan_merge, plan_study
from dreamtune.workflow.plan import Plan
from dreamtune.workflow.verification import sealed, version_of


def specification(
    stage: str, reads: Mapping[str, Path] | None = None, order_only: Mapping[str, Path] | None = None, **given: Any
) -> dict[str, Any]:
    """Return what a version of a stage is made from; `given` replaces fields such as settings and runtime."""
    spec = {
        **{"format": 1, "stage": stage, "settings": {}, "inputs": {}, "code": "0" * 12, "runtime": {}, "cluster": {}},
        "reads": {name: folder.as_posix() for name, folder in (reads or {}).items()},
        "order_only": {name: folder.as_posix() for name, folder in (order_only or {}).items()},
        **given,
    }
    return spec | {"version": version_of(spec)}


def freeze(spec: Mapping[str, Any], root: Path = Path()) -> Path:
    """Write a specification as config.json; return the version's folder, below `root`."""
    folder = root / "results" / spec["stage"] / spec["version"]
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", sealed(spec))
    return folder


def finish(folder: Path, spec: Mapping[str, Any], **record: Any) -> None:
    """Write the manifest of the files that lie in a version's folder."""
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("config.json", "manifest.json")
    ]
    outputs = {path.relative_to(folder).as_posix(): describe(path) for path in files}
    write_json(folder / "manifest.json", sealed({**spec, "counts": {}, "wall_s": 1.0, **record, "outputs": outputs}))


def edit_output(folder: Path, name: str, **values: Any) -> None:
    """Change values in a JSON file of a finished version, and its manifest with it, as if its stage had written it."""
    write_json(folder / name, read_json(folder / name) | values)
    manifest = read_json(folder / "manifest.json")
    del manifest["digest"]
    manifest["outputs"][name] = describe(folder / name)
    write_json(folder / "manifest.json", sealed(manifest))


def write_experiment(root: Path) -> Plan:
    """Finish every version of the smallest configuration below `root`, the working directory; return its plan.

    The files have the formats of those that stages write, and small contents that differ from version to version.
    """
    (root / "resources").symlink_to(ROOT / "resources")
    micro = yaml.safe_load((FIXTURES / "micro.yaml").read_text())
    rows = {"files": ["resources/tiny-dream/rows.parquet"], "question": "question", "answer": "solution"}
    micro["evaluate"]["benchmarks"] = [{"name": "others", **rows}]
    micro["study"] = {"choose": "validation"}
    micro["generate"]["max_prompts"] = 200  # no fewer may choose
    config = parse_config(micro)
    plan, latest = make_plan(config)
    plan_merge(plan, config, latest)
    plan_study(plan, config, latest)
    plan.freeze()
    for (stage, version), spec in plan.items():
        if stage != "merge_adapter":
            CONTENT[stage](folder := Path("results") / stage / version, int(version, 16) % 1000)
            finish(folder, spec)
    return plan


def _shards(folder: Path, salt: int) -> None:
    write_json(folder / "shards.json", {"tokenizer": {"mask_id": salt, "end_id": 1}, "splits": {}})
    write_json(folder / "audit.json", {"max_tokens": salt})
    for name in ("lengths", "questions"):
        pl.DataFrame({"example_id": [salt, 1]}).write_parquet(folder / f"{name}.parquet")
    for split in ("train", "validation", "test"):
        (folder / split).mkdir()
        table = pa.table({"input_ids": [[salt, 2, 3]]})
        with pa.ipc.new_stream(folder / split / f"{split}-00000.arrow", table.schema) as file:
            file.write_table(table)


def _training(folder: Path, salt: int) -> None:
    (folder / "adapter").mkdir()
    write_json(folder / "adapter/adapter_config.json", {"r": 4, "lora_alpha": 8, "seed": salt})
    save_file({"lora_A": np.full(64, salt, np.float32)}, folder / "adapter/adapter_model.safetensors")
    write_json(folder / "training.json", {"rows": salt, "first_loss": 2.5})
    write_json(folder / "gate.json", {"passed": True, "checks": [], "salt": salt})
    (folder / "train_log.jsonl").write_text(f'{{"step": 1, "loss": {salt}}}\n')
    (folder / "checkpoints/step-000001").mkdir(parents=True)


def _answers(folder: Path, salt: int) -> None:
    pl.DataFrame({"example_id": [0, 1], "completion": [f"it is {salt}", "4"]}).write_parquet(folder / "answers.parquet")
    pl.DataFrame({"example_id": [0, 1], "seconds": [0.5, salt]}).write_parquet(folder / "timings.parquet")
    write_json(folder / "generation.json", {"rows": salt})


def _likelihood(folder: Path, salt: int) -> None:
    sides = {"nll_base": [180.0, 90.0], "nll_tuned": [float(salt), 80.0]}
    for name in ("likelihood", "likelihood_full"):
        pl.DataFrame(sides).write_parquet(folder / f"{name}.parquet")
    write_json(folder / "likelihood.json", {"draws": salt})


def _scores(folder: Path, salt: int) -> None:
    frame = pl.DataFrame({"example_id": range(8), "correct": [False] * 8, "tokens": [salt] * 8})
    frame.write_parquet(folder / "scores.parquet")
    write_json(folder / "scores.json", {"rows": 8, "salt": salt})


def _contamination(folder: Path, salt: int) -> None:
    write_json(folder / "contamination.json", {"pairs": [], "salt": salt})
    pl.DataFrame({"example_id": [salt]}).write_parquet(folder / "questions.parquet")


def _references(folder: Path, salt: int) -> None:
    write_json(folder / "references.json", {"rows": salt, "gradable": 0})


def _report(folder: Path, salt: int) -> None:
    (folder / "report.html").write_text(f"<title>{salt}</title>")
    write_json(folder / "summary.json", {"verdict": "improved", "salt": salt})


def _study(folder: Path, salt: int) -> None:
    write_json(folder / "study.json", {"format": 1, "salt": salt})


def _confirm(folder: Path, salt: int) -> None:
    write_json(folder / "confirm.json", {"format": 1, "salt": salt})


CONTENT = {
    "prepare_shards": _shards,
    "train_adapter": _training,
    "generate_answers": _answers,
    "evaluate_likelihood": _likelihood,
    "score_answers": _scores,
    "audit_contamination": _contamination,
    "audit_references": _references,
    "render_report": _report,
    "study": _study,
    "confirm": _confirm,
}
