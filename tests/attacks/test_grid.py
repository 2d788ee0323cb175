"""A grid of 64 points is killed at 10 random moments: nothing finished is made twice, and its tables do not change.

Snakemake, the plan, filing, publication, the study and its page are real. The scripts of the other stages are stand-ins
(`scripts/stand_in.py`), which file small outputs after a pause: a kill strikes the workflow, not the arithmetic.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from attacks.targets import Attacked
from attacks.undisturbed import draw
from conftest import ROOT
from dreamtune.digests import sha256_file
from dreamtune.files import read_json, write_json
from dreamtune.report.reads import Reads
from dreamtune.report.summary import build_summary
from dreamtune.settings.report import Comparison
from project import MICRO, Project
from report_fixture import write_reads

SHARES = (0.3, 0.45, 0.6, 0.75)  # right answers of the stand-ins' tuned models; the base has 0.12
SIGNALS = (signal.SIGKILL,) * 4 + (signal.SIGTERM,) * 3 + (signal.SIGINT,) * 3
CORES = 2
REPLACED = ("prepare_shards", "audit_references", "train_adapter", "evaluate_likelihood", "generate_answers")
REPLACED += ("score_answers", "render_report")
GRID = (
    "grid: {train.lora.rank: [1, 2, 4, 8], train.learning_rate: [1e-4, 3e-4, 1e-3, 3e-3]}\n"
    "data_sizes: [50, 100, 200, all]\n"
)
STARTED = """
with open("started.txt", "a") as file:
    out = sys.argv[sys.argv.index("--out") + 1] if "--out" in sys.argv else ""
    file.write(f"{out} {os.path.exists(out + '/manifest.json')}\\n")
"""
TABLES = ("study.csv", "study.parquet", "study.json")
# What smoke measures for the time and memory of full runs.
MEASURED = {"seconds_per_token": 1e-6, "validation_s": 0.1, "validation": [], "fit_s": 1.0, "host_memory_gib": 0.2}
MEASURED |= {"ran_as": {"device": "cpu", "micro_batch_tokens": 512}}


def stand_ins(folder: Path, work: Path) -> None:
    """Write what the stand-ins file, once for each of SHARES."""
    for kind, share in enumerate(SHARES):
        reads = write_reads(work / str(kind), base=0.12, tuned=share)
        names = {"shards": "prepare_shards", "smoke": "smoke", "full": "full", "likelihood": "evaluate_likelihood"}
        names |= {
            f"{what}/test/greedy/{who}": f"{what}-{who}" for what in ("answers", "scores") for who in ("base", "tuned")
        }
        for key, name in names.items():
            shutil.copytree(reads[key], folder / str(kind) / name, ignore=shutil.ignore_patterns("manifest.json"))
        report, references = (folder / str(kind) / name for name in ("render_report", "audit_references"))
        report.mkdir()
        references.mkdir()
        summary = build_summary(Reads(reads), Comparison(resamples=200), "a run")
        write_json(report / "summary.json", summary)
        (report / "report.html").write_text("<title>a run</title>")
        write_json(references / "references.json", {"rows": 100, "gradable": 100})
        splits = {"train": {"rows": 500, "tokens": 24_000}, "validation": {"rows": 0}, "test": {"rows": 100}}
        write_json(folder / str(kind) / "prepare_shards/shards.json", {"splits": splits})
        training = folder / str(kind) / "smoke/training.json"
        training.write_text(json.dumps(json.loads(training.read_text()) | MEASURED))


def grid(folder: Path) -> Project:
    """Return a project with the study of 64 points, and stand-ins for all stages but the study and the publication."""
    project = Project(folder, cores=CORES, real=True)
    project.longest_s = 1500
    scripts = folder / "workflow/scripts"
    for stage in REPLACED:
        shutil.copyfile(ROOT / "tests/attacks/scripts/stand_in.py", scripts / f"{stage}.py")
    with tempfile.TemporaryDirectory() as work:
        stand_ins(folder / "stand_ins", Path(work))
    # The page takes seconds, and its minute is soon over on a busy machine: it is written at the beginning and the end.
    project.edit("src/dreamtune/workflow/publish.py", "OFTEN, PAUSE_S = 50, 60.0", "OFTEN, PAUSE_S = 50, 3600.0")
    with (scripts / "_src.py").open("a") as file:
        file.write(STARTED)
    project.edit(MICRO, "full: {rows: 16, epochs: 1, log_every: 1}\n", "full: {epochs: 1, log_every: 1}\n")
    project.edit(MICRO, "  sampled: {temperature: 0.7, top_p: 0.9}\n", "")
    with (folder / MICRO).open("a") as file:
        file.write(GRID)
    return project


def tables(project: Project) -> dict[str, str]:
    """Return the SHA-256 of each table of the study and of its page."""
    [study] = [path.parent for path in (project.folder / "results/study").glob("*/manifest.json")]
    found = {f"study/{study.name}/{name}": sha256_file(study / name) for name in TABLES}
    latest = project.folder / "results/latest"
    return found | {f"latest/{name}": sha256_file(latest / name) for name in TABLES[:2]}


def strike(driver: subprocess.Popen[bytes], what: signal.Signals) -> None:
    """Send a signal to the driver and all that it started; end what is still there after a minute."""
    os.killpg(driver.pid, what)
    with suppress(subprocess.TimeoutExpired):
        driver.wait(60)
    with suppress(ProcessLookupError):
        os.killpg(driver.pid, signal.SIGKILL)
    driver.wait(60)


def run_until(project: Project, finished: float, lot: random.Random, what: signal.Signals) -> str:
    """Run Snakemake, and strike it soon after that many versions are finished, or before it begins, or at its end."""
    driver = project.start()
    early = lot.uniform(0.5, 12) if lot.random() < 0.3 else 600.0
    began = time.monotonic()
    while driver.poll() is None and time.monotonic() - began < early and len(project.manifests()) < finished:
        time.sleep(0.02)
    time.sleep(lot.uniform(0, 1))
    if driver.poll() is not None:
        return f"over, status {driver.returncode}"
    strike(driver, what)
    return f"{what.name} at {len(project.manifests())} versions, after {time.monotonic() - began:.1f} s"


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The study after a run that nobody killed."""
    project = grid(tmp_path_factory.mktemp("calm"))
    project.snakemake()
    return project


@pytest.mark.timeout(3600)
def test_a_grid_of_64_points_killed_10_times(calm: Project, tmp_path: Path, record_property: Any) -> None:
    killed, lot, total = grid(tmp_path / "killed"), draw("grid"), len(calm.manifests())
    moments = sorted(lot.uniform(0, total) for _ in SIGNALS[1:])
    moments.append(total - lot.randint(0, 2))  # the last reports, the study, or the page behind it
    seen: dict[Path, tuple[int, str]] = {}
    for moment, what in zip(moments, lot.sample(SIGNALS, len(SIGNALS)), strict=True):
        said = run_until(killed, moment, lot, what)
        print(said, flush=True)
        record_property("struck", f"grid: {what.name}" if "at" in said else "over before the moment came")
        seen = check_unchanged(killed, seen)
    killed.snakemake()
    assert killed.jobs() == {}
    made = {path.relative_to(killed.folder) for path in check_unchanged(killed, seen)}
    assert made == {path.relative_to(calm.folder) for path in calm.manifests()}
    check_starts(killed, len(made))
    Attacked(None, killed.folder, killed.folder, None, ()).check_whole()  # type: ignore[arg-type]
    assert tables(killed) == tables(calm)
    assert len(read_json(killed.folder / "results/latest/members.json")["runs"]) == 64


def check_unchanged(project: Project, seen: dict[Path, tuple[int, str]]) -> dict[Path, tuple[int, str]]:
    """Check that no version that was finished before was made again since; return all that are finished now."""
    now = {path: (mtime, sha256_file(path)) for path, mtime in project.manifests().items()}
    assert {path for path, found in seen.items() if now.get(path) != found} == set(), "made twice, or lost"
    return now


def check_starts(project: Project, versions: int) -> None:
    """Check that no finished version was begun again, and that a kill cost at most the jobs that were running."""
    lines = [line.rsplit(" ", 1) for line in (project.folder / "started.txt").read_text().splitlines()]
    begun = Counter(out for out, _ in lines if "/.published-" not in out and out)
    assert [out for out, was_finished in lines if was_finished == "True"] == []
    print(f"{begun.total()} starts for {versions} versions, {max(begun.values())} of one")
    assert begun.total() - versions <= CORES * len(SIGNALS)
