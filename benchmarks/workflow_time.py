"""The whole workflow from its first second to its report: the seconds of each job by phase, and what Snakemake adds.

Smoke and full training, greedy and sampled answers of base and tuned, likelihood and report, by real Snakemake in a new
folder; --again then changes the learning rate and runs it once more, with everything that jobs share already there. The
model has Dream 7B's shape and random weights, so nothing is said about quality. `imports` counts from the start of a
job's process and `outside` is what Snakemake saw of the job and the process did not: the shell, and the end of Python.
All but `work` is the fixed cost of a job.

usage   python benchmarks/workflow_time.py --data s1k.parquet --tokenizer FOLDER --work /tmp/workflow --again
        ... --toy                    a small model on the CPU: shows only that the benchmark runs
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import _src  # noqa: F401, puts src on the path
import torch
import yaml
from seven_b_shape import TOY, write_checkpoint

ROOT = Path(__file__).resolve().parents[1]
PHASES = ("imports", "identifying", "verifying", "loading", "caching", "compiling", "canaries", "alignment")
PHASES += ("rehearsal", "writing", "outside")
TARGETS = {"first": 240, "again": 120}  # seconds of the whole workflow
FIXED = 15  # seconds of a job beside its work, once everything that jobs share is there
TOY_VOCABULARY = 152064  # the real tokenizer's ids must have rows
WIDE = {name: TOY[name] for name in TOY if not name.endswith("_id")} | {"vocab_size": TOY_VOCABULARY}


def main() -> int:
    """Print a table for each run, and one line of JSON; with --check return 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="parquet file of training rows")
    columns = ["question", "gemini_thinking_trajectory", "solution"]
    parser.add_argument("--columns", nargs=3, default=columns, help="of question, reasoning and answer")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of Dream's tokenizer")
    parser.add_argument("--work", type=Path, required=True, help="folder for the checkpoint (15 GB) and the results")
    parser.add_argument("--model", type=Path, help="checkpoint to take instead; it gets the tokenizer's files")
    parser.add_argument("--config", type=Path, help="YAML whose sections come on top of the benchmark's own")
    parser.add_argument("--cores", default="4", help="cores for Snakemake; one job at a time takes the GPU")
    parser.add_argument("--toy", action="store_true", help="a small model on the CPU, few rows and tokens")
    parser.add_argument("--again", action="store_true", help="run a second time, with another learning rate")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a target is missed")
    arguments = parser.parse_args()
    settings, missed = configuration(arguments), []
    for name in ("first", "again") if arguments.again else ("first",):
        if name == "again":
            settings["train"]["learning_rate"] *= 2
        found = measure(arguments.work, settings, arguments.cores)
        print(f"{name} run\n{table(found)}\n{json.dumps({'run': name, **found})}", flush=True)
        missed += misses(name, found)
    if not arguments.toy:
        print("\n".join(missed) or "every target is met")
    return int(arguments.check and bool(missed))


def configuration(arguments: argparse.Namespace) -> dict[str, Any]:
    """Lay out project and model in the work folder; return the shipped configuration with the benchmark's numbers."""
    work, toy = arguments.work, arguments.toy
    work.mkdir(parents=True, exist_ok=True)
    for part in ("Snakefile", "workflow", "src", "profiles"):
        if not (work / part).exists():
            (work / part).symlink_to(ROOT / part)
    model = arguments.model or work / "model"
    if not model.exists():
        write_checkpoint(model, WIDE if toy else {}, "cuda" if torch.cuda.is_available() else "cpu")
    for file in sorted(arguments.tokenizer.glob("*.json")):
        if not (model / file.name).exists():
            shutil.copyfile(file, model / file.name)
    config: dict[str, Any] = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    question, reasoning, answer = arguments.columns
    config["model"] = {"path": str(model.resolve()), "quantization": "nf4", "dtype": "bfloat16"}
    config["data"] |= {"files": [str(arguments.data.resolve())]}
    config["data"]["columns"] = {"question": question, "reasoning": reasoning, "answer": answer}
    config["train"]["learning_rate"] = float(config["train"]["learning_rate"])
    config["generate"] |= {"max_new_tokens": 256, "max_prompts": 12}
    config["evaluate"]["likelihood"] = {"draws": 8}
    config["experiments"] = {"time": {}}
    if toy:
        config["model"] |= {"device": "cpu", "dtype": "float32", "threads": 1}
        config["data"] |= {"max_tokens": 256}
        config["smoke"] |= {"rows": 8}
        config["full"] = {"rows": 16, "epochs": 1}
        config["generate"] |= {"max_new_tokens": 32, "max_prompts": 1}
        config["evaluate"]["likelihood"] = {"draws": 1, "max_rows": 2}
    for section, values in (yaml.safe_load(arguments.config.read_text()) if arguments.config else {}).items():
        config[section] = {**config.get(section, {}), **values}
    return config


def measure(work: Path, settings: dict[str, Any], cores: str) -> dict[str, Any]:
    """Run the workflow; return its seconds, those in which no job ran, and each job's by phase."""
    (work / "time.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    before = set(work.glob("results/*/*/manifest.json"))
    command = [sys.executable, "-m", "snakemake", "--cores", cores, "--configfile", "time.yaml", "--quiet", "all"]
    began, started = time.time(), time.monotonic()
    subprocess.run(command, cwd=work, check=True, stdout=sys.stderr)
    wall_s = time.monotonic() - started
    named = json.loads((work / "results/latest/time/versions.json").read_text())
    names = {str(Path(folder)): name for name, folder in named.items()}
    jobs = []
    for manifest in sorted(set(work.glob("results/*/*/manifest.json")) - before, key=lambda path: path.stat().st_mtime):
        written = manifest.with_name("benchmark.tsv")
        job_s = float(written.read_text().splitlines()[1].split("\t")[0])
        record, end = json.loads(manifest.read_text()), written.stat().st_mtime - began
        spent = record["phases_s"]
        spent["outside"] = round(job_s - sum(spent.values()), 3)
        name = names.get(str(manifest.parent.relative_to(work)), manifest.parent.parent.name)
        jobs.append({"job": name, "gpu": record["gpu"], "from_s": end - job_s, "to_s": end, "s": job_s, **spent})
    alone = wall_s - covered([(job["from_s"], job["to_s"]) for job in jobs])
    return {"wall_s": round(wall_s, 1), "no_job_s": round(alone, 1), "torch": torch.__version__, "jobs": jobs}


def covered(spans: list[tuple[float, float]]) -> float:
    """Return the length of the union of some spans.

    >>> covered([(0, 2), (1, 3), (5, 6)])
    4
    """
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0, end - max(start, reached))
        reached = max(reached, end)
    return total


def table(found: dict[str, Any]) -> str:
    """Return the jobs as a table in Markdown, in seconds, with what is left beside them below it."""
    names = [name for name in PHASES if any(job.get(name, 0) >= 0.05 for job in found["jobs"])]
    lines = [f"| job | s | work | beside it | {' | '.join(names)} |", "|---" * (4 + len(names)) + "|"]
    for job in found["jobs"]:
        cells = [job["s"], job.get("work", 0), job["s"] - job.get("work", 0), *(job.get(name, 0) for name in names)]
        lines.append(f"| {job['job']} | {' | '.join(f'{cell:.1f}' for cell in cells)} |")
    total = sum(job["s"] for job in found["jobs"])
    lines.append(f"whole: {found['wall_s']} s; jobs: {total:.1f} s; without any job: {found['no_job_s']} s")
    return "\n".join(lines)


def misses(name: str, found: dict[str, Any]) -> list[str]:
    """Return a line for each target that was missed."""
    wall_s, most = found["wall_s"], TARGETS[name]
    lines = [f"the {name} run took {wall_s} s, above {most}"] if wall_s > most else []
    beside = {job["job"]: job["s"] - job.get("work", 0) for job in found["jobs"]} if name == "again" else {}
    return lines + [f"{job} took {s:.1f} s beside its work, above {FIXED}" for job, s in beside.items() if s > FIXED]


if __name__ == "__main__":
    sys.exit(main())
