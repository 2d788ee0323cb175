"""Planning many experiments looks once at what they share, and a stage without a model imports nothing heavy."""

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pytest

from conftest import ROOT
from dreamtune.config import parse_config
from dreamtune.inputs import identity
from dreamtune.shards import read_split
from dreamtune.workflow import experiments, plan
from rows import prepare, write_inputs, write_model
from tests.workflow.test_scripts import RUNNABLE, SCRIPTS, WITH_A_MODEL

LIGHT = [path.stem for path in RUNNABLE if path.stem not in WITH_A_MODEL]
HEAVY = {"torch", "transformers", "datasets", "pandas", "scipy.stats", "sympy", "math_verify", "altair", "matplotlib"}
NEEDS = {"render_report": {"altair"}}


def many(count: int) -> dict[str, Any]:
    """Return a configuration of `count` experiments that differ in one setting."""
    return {
        "model": {"path": "model"},
        "data": {"files": ["rows.parquet"]},
        "experiments": {f"seed-{seed}": {"train": {"seed": seed}} for seed in range(count)},
    }


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count how often a script's code and an input's files are looked at."""
    monkeypatch.chdir(tmp_path)
    write_inputs(tmp_path)
    counted: Counter[str] = Counter()

    def count(module: Any, name: str, label: Any) -> None:
        real = getattr(module, name)

        def counting(*arguments: Any) -> Any:
            counted[label(*arguments)] += 1
            return real(*arguments)

        monkeypatch.setattr(module, name, counting)

    count(plan, "code_digest", lambda script: Path(script).stem)
    count(identity.FileDigests, "of", lambda _, path: Path(path).name)
    return counted


def test_planning_looks_once_at_each_script_and_input_however_many_experiments_share_them(calls: Counter[str]) -> None:
    made, latest = experiments.make_plan(parse_config(many(25)))
    assert len(latest) == 25 and len(made) > 100
    assert {stage for stage, _ in made} <= set(calls)
    scripts = {name: times for name, times in calls.items() if (SCRIPTS / f"{name}.py").exists()}
    assert set(scripts.values()) == {1}
    assert calls["model.safetensors"] == calls["rows.parquet"] == 1


def test_a_plan_made_later_sees_what_changed_meanwhile(calls: Counter[str]) -> None:
    before, _ = experiments.make_plan(parse_config(many(1)))
    write_model(Path("model"), rows=200)
    after, _ = experiments.make_plan(parse_config(many(1)))
    assert calls["train_adapter"] == calls["model.safetensors"] == 2
    assert {key for key in before if key[0] == "train_adapter"}.isdisjoint(after)


def test_a_stage_without_a_model_imports_nothing_heavy(tmp_path: Path) -> None:
    """One process for all scripts, those that need something last: what each loads beyond the ones before it counts."""
    code = f"""
import runpy, sys
before = set()
sys.path.insert(0, {str(SCRIPTS)!r})
for name in {sorted(LIGHT, key=lambda name: name in NEEDS)!r}:
    runpy.run_path({str(SCRIPTS)!r} + f"/{{name}}.py")
    print(name, *(({HEAVY!r} & set(sys.modules)) - before))
    before = set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = {name: set(modules) for name, *modules in map(str.split, done.stdout.splitlines())}
    assert loaded == {name: NEEDS.get(name, set()) for name in LIGHT}


def test_datasets_opens_the_shards_and_reads_the_same_rows(tmp_path: Path) -> None:
    rows = {"question": ["w4", "w5", "w6"], "reasoning": ["w7", "w8", "w9"], "answer": ["w10", "w11", "w12"]}
    out, _ = prepare(tmp_path, rows, rows_per_shard=2)
    files = sorted((out / "train").glob("*.arrow"))
    theirs = datasets.concatenate_datasets([datasets.Dataset.from_file(str(file)) for file in files])
    ours = read_split(out, "train")
    assert len(files) == 2 and len(ours) == len(theirs) == 3
    assert list(ours) == list(theirs) == [ours[0], ours[1], ours[-1]]
    assert ours[:2] == theirs[:2] and ours[[2, 0]] == theirs[[2, 0]]
    for outside in (3, -4):
        with pytest.raises(IndexError, match="of a split of 3 rows"):
            ours[outside]


def test_the_driver_imports_none_of_the_packages_that_only_jobs_need() -> None:
    """A Snakemake whose jobs run in an image needs none of them, and a plan that imports them takes seconds longer."""
    rules = [ROOT / "Snakefile", *sorted((ROOT / "workflow/rules").glob("*.smk"))]
    imports = [line for path in rules for line in path.read_text().splitlines() if line.startswith("from dreamtune")]
    assert len(imports) > 10
    jobs_alone = {"torch", "transformers", "datasets", "polars", "pyarrow", "numpy", "scipy", "altair", "tokenizers"}
    code = "\n".join([*imports, "import sys", f"print(sorted({jobs_alone} & sys.modules.keys()))"])
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
