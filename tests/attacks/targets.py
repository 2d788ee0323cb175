"""What is attacked: each kind of job, the state of `results/` before it, and what an undisturbed job makes of that."""

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import warm
from conftest import ROOT
from dreamtune.digests import sha256_file
from dreamtune.files import read_json
from dreamtune.workflow.scratch import clear_finished
from dreamtune.workflow.verification import verify
from project import MICRO, Project
from versions import finish, freeze, specification

STRUCK = ROOT / "tests/attacks/scripts/struck.py"
# Files that hold times, whose bytes differ from run to run: their names are compared.
TIMED = {"manifest.json", "part.json", "training.json", "train_log.jsonl", "timings.parquet", "generation.json"}
TIMED |= {"state.json", "checksums.json", ".digests.json"}
BENCHMARK = "{name: others, files: [resources/tiny-dream/rows.parquet], question: question, answer: solution}"
Spec = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """One kind of job: its script, and which version it makes."""

    name: str
    script: str
    fits: Callable[[Spec], bool] = lambda spec: True  # which of the stage's versions
    options: tuple[str, ...] = ()


TARGETS = {
    target.name: target
    for target in (
        Target("prepare_shards", "prepare_shards"),
        Target("audit_references", "audit_references"),
        Target("audit_contamination", "audit_contamination"),
        Target("smoke", "train_adapter", lambda spec: "gate" not in spec["order_only"]),
        Target("full", "train_adapter", lambda spec: "gate" in spec["order_only"]),
        Target("generate_answers", "generate_answers", lambda spec: "adapter" in spec["reads"]),
        Target("likelihood_part", "evaluate_likelihood", options=("--part", "1/2")),
        Target("likelihood_gather", "evaluate_likelihood"),
        Target("score_answers", "score_answers"),
        Target("render_report", "render_report"),
        Target("merge_adapter", "merge_adapter"),
        Target("publish", "publish"),
        Target("prune", "prune"),
    )
}


@dataclass
class Attacked:
    """A target in a private folder, whose `results/` are as they were before the job."""

    target: Target
    scripts: Path
    folder: Path  # the job's working folder
    version: Path | None  # that the job makes, relative to `folder`; None for publish and prune
    arguments: tuple[str, ...]

    def run(self, *strike: str, limit_s: float = 300) -> tuple[int, str]:
        """Run the job, struck as struck.py is told or undisturbed; return its exit status and what it printed."""
        script = str(self.scripts / f"{self.target.script}.py")
        command = [warm.python(), *((str(STRUCK), *strike) if strike else ()), script, *self.arguments]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},  # what is printed stays in order
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=limit_s,
        )
        return done.returncode, done.stdout.decode(errors="replace")

    def finish(self) -> str:
        """Run the job again, undisturbed, to its end; return what it printed.

        A finished version has no further job: the next plan to be frozen clears up in its folder.
        """
        if self.version and self.is_finished():
            clear_finished(self.folder / self.version)
            return ""
        status, said = self.run()
        assert status == 0, f"the next run failed:\n{said}"
        return said

    def is_finished(self) -> bool:
        return bool(self.version and (self.folder / self.version / "manifest.json").exists())

    def read(self, name: str) -> Any:
        """Return the content of a JSON file of the version that the job makes."""
        assert self.version
        return read_json(self.folder / self.version / name)

    def content(self) -> dict[str, str]:
        """Return what lies below results/, by name: a file's SHA-256, unless it holds times, or where a link leads."""
        found = {}
        for path in sorted((self.folder / "results").rglob("*")):
            name = str(path.relative_to(self.folder))
            if path.is_symlink():
                found[name] = f"-> {path.readlink()}"
            elif path.is_dir():
                found[name] = "folder"
            else:
                found[name] = "timed" if path.name in TIMED else sha256_file(path)
        return found

    def check_whole(self) -> None:
        """Check that each version that is filed is whole, as the stages that read it do."""
        here = Path.cwd()
        try:
            os.chdir(self.folder)
            for manifest in sorted(Path("results").glob("*/[!.]*/manifest.json")):  # what is hidden is no version
                verify(manifest.parent)
        finally:
            os.chdir(here)

    def checkpoints(self) -> list[int]:
        """Return the steps of the whole checkpoints of a training."""
        folder = self.folder / (self.version or "") / "checkpoints"
        return sorted(int(path.name[5:]) for path in folder.glob("step-*"))


@dataclass(frozen=True)
class Finished:
    """A finished experiment in `folder`/project, and in `folder`/before/TARGET the results before the target's job."""

    folder: Path

    @property
    def project(self) -> Path:
        return self.folder / "project"

    def attacked(self, name: str, folder: Path) -> Attacked:
        """Return the target with the state before its job, in `folder`."""
        target = TARGETS[name]
        state = self.folder / "before" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "resources").symlink_to(self.project / "resources")
        if state.exists():
            shutil.copytree(state, folder / "results", symlinks=True, dirs_exist_ok=True)
        version, arguments = self._arguments(target)
        return Attacked(target, self.project / "workflow/scripts", folder, version, arguments)

    def _arguments(self, target: Target) -> tuple[Path | None, tuple[str, ...]]:
        if target.name == "prune":
            return None, ()
        if target.name == "publish":
            [marker] = (self.project / "results/latest/one").glob(".published-*[0-9a-f]")
            links = read_json(marker.parent / "versions.json")
            return None, ("--out", f"results/latest/one/{marker.name}", *(f"{k}={v}" for k, v in links.items()))
        version = self._version(target)
        return version, ("--out", str(version), *target.options)

    def _version(self, target: Target) -> Path:
        for path in sorted((self.project / "results" / target.script).glob("*/config.json")):
            if target.fits(read_json(path)):
                return path.parent.relative_to(self.project)
        raise AssertionError(f"no version fits {target.name}")

    def prepare(self) -> None:
        """Make the states before the targets' jobs."""
        (self.folder / "before").mkdir()
        for name in TARGETS:
            here = self.attacked(name, self.folder / "making" / name)
            shutil.copytree(self.project / "results", here.folder / "results", symlinks=True)
            PREPARE.get(name, _empty)(here)
            (here.folder / "results").rename(self.folder / "before" / name)


def _empty(here: Attacked) -> None:
    """Leave of the version that is to be made its config.json alone."""
    assert here.version
    for path in set((here.folder / here.version).iterdir()) - {here.folder / here.version / "config.json"}:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _with_parts(here: Attacked) -> None:
    _empty(here)
    gather = here.arguments
    for part in ("1/2", "2/2"):
        here.arguments = (*gather, "--part", part)
        status, said = here.run()
        assert status == 0, said


def _published_before(here: Attacked) -> None:
    """Point the published links at nothing that is there any more, under an earlier marker."""
    latest = here.folder / "results/latest/one"
    [marker] = latest.glob(".published-*[0-9a-f]")
    marker.rename(latest / ".published-000000000000")
    (latest / "report.html").unlink()
    (latest / "an-earlier-link").symlink_to("../../score_answers/000000000000")
    (latest.parent / "index.html").write_text("an earlier page")


def _with_unneeded(here: Attacked) -> None:
    """Add a finished version that no experiment needs, and the checkpoints of a finished training."""
    spec = specification("score_answers", settings={"of": "another experiment"})
    folder = freeze(spec, here.folder)
    for name in ("scores.parquet", "scores.json", "more/a", "more/b"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    finish(folder, spec)


PREPARE = {"likelihood_gather": _with_parts, "publish": _published_before, "prune": _with_unneeded}


def build(folder: Path) -> Finished:
    """Return the finished experiment in `folder`, which is made if it is not there."""
    finished = Finished(folder)
    if not (folder / "done").exists():
        project = Project(finished.project)
        project.edit(MICRO, "evaluate:\n", f"evaluate:\n  benchmarks: [{BENCHMARK}]\n")
        project.edit(MICRO, "full: {rows: 16,", "full: {rows: 32,")
        project.edit(MICRO, "checkpoint_minutes: 10.0", "checkpoint_steps: 1")
        project.edit(MICRO, "likelihood: {draws: 1", "likelihood: {scatter: 2, draws: 1")
        project.snakemake("all", "merge")
        finished.prepare()
        (folder / "done").touch()
    return finished
