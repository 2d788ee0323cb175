"""A training in the image through a real SLURM, preempted, warned, out of time, killed: the same bits in the end."""

import json
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from project import MICRO, Project
from tests.cluster.local_slurm import LocalSlurm
from tests.cluster.test_container import image  # noqa: F401, a fixture
from tests.cluster.test_slurm import SlurmProject, minutes, rule_of, slurm, version_of  # noqa: F401, a fixture

pytestmark = pytest.mark.timeout(1800)
EPOCHS, ROWS = 5, 320
STEPS = EPOCHS * ROWS // 8
EVERY = 7  # steps between checkpoints
ONLY_TRAINING = ("--omit-from", "generate_answers", "evaluate_likelihood")
MINUTES = 20  # that a training's first attempt asks for
# Time to be interrupted in, while there is such a file; nothing of it is computed with.
SLOW = "takes_its_time"
SLOWER = (
    "    run.optimizer.step()\n",
    f'    run.optimizer.step()\n    import os\n\n    time.sleep(0.8 if os.path.exists("{SLOW}") else 0.0)\n',
)


class Training:
    """The trainings of a project under way, as their SLURM jobs and the full run's log show it."""

    def __init__(self, project: SlurmProject) -> None:
        self.project, self.driver = project, project.start(*ONLY_TRAINING)
        self.stopped: list[str] = []

    @property
    def job(self) -> dict[str, str]:
        """The newest job that trains; before there is one, nothing of it is known."""
        submitted = [job for job in self.project.slurm.jobs() if "Comment" in job]  # the urgent ones have none
        jobs = [job for job in submitted if rule_of(job) == "train_adapter"]
        return jobs[-1] if jobs else {"JobState": "NONE"}

    def said(self) -> str:
        return (self.project.folder / "snakemake.log").read_text()[-3000:]

    def log(self) -> str:
        logs = sorted(self.project.folder.glob("results/train_adapter/*/job.log"), key=lambda p: p.stat().st_mtime)
        return logs[-1].read_text() if logs else ""

    def checkpoints(self) -> set[str]:
        return {path.name for path in self.project.folder.glob("results/train_adapter/*/checkpoints/step-*")}

    def wait_for_steps(self) -> None:
        """Wait until this attempt has taken some."""
        seen = len(self.stopped)

        def goes_on() -> bool:
            assert self.driver.poll() is None, self.said()
            log = self.log()
            steps = [int(n) for n in re.findall(rf"train (\d+)/{STEPS}\b", log)]
            return self.job["JobState"] == "RUNNING" and "stopped by" not in log and len(set(steps)) > 1

        wait(goes_on, 240, f"attempt {seen} takes no step; {self.job}")

    def wait_until_stopped(self) -> None:
        """Wait until this attempt has said that it keeps a checkpoint."""
        wait(lambda: "stopped by" in self.log(), 60, f"nothing was kept: {self.log()[-2000:]}")
        self.stopped.append(self.log().splitlines()[-1])


def preempt(training: Training) -> None:
    """Let an urgent job take the whole node for a moment."""
    training.wait_for_steps()
    command = ["sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=sleep 2"]
    subprocess.run(command, check=True, capture_output=True)
    training.wait_until_stopped()


def start_again(training: Training, partition: str) -> None:
    """Spare the requeued job its two minutes of waiting."""
    number = training.job["JobId"]
    wait(lambda: training.job["JobState"] == "PENDING", 60, f"not requeued: {training.job}")
    change = ["scontrol", "update", f"JobId={number}", f"Partition={partition}", "StartTime=now"]
    wait(lambda: subprocess.run(change, capture_output=True).returncode == 0, 30, "the job cannot be changed")


def run_out_of_time(training: Training) -> None:
    training.wait_for_steps()
    subprocess.run(["scontrol", "update", f"JobId={training.job['JobId']}", "TimeLimit=1"], check=True)
    wait(lambda: "stopped by" in training.log(), 150, f"still runs: {training.job}")
    training.wait_until_stopped()


def warn(training: Training) -> None:
    """As --signal=TERM@… does before the time is up. (Of USR1 the Snakemake within the job dies at once, and SLURM
    then kills what it has started.)"""
    training.wait_for_steps()
    subprocess.run(["scancel", "--signal=TERM", training.job["JobId"]], check=True)
    training.wait_until_stopped()


def kill(training: Training) -> None:
    training.wait_for_steps()
    known = training.checkpoints()
    wait(lambda: bool(training.checkpoints() - known), 60, "no checkpoint is written")  # else it resumes where it did
    killed = 0
    for process in psutil.process_iter(["cmdline", "cwd"]):
        at_work = process.info["cwd"] == str(training.project.folder)
        if at_work and any("train_adapter.py" in part for part in (process.info["cmdline"] or [])[1:2]):
            process.kill()
            killed += 1
    assert killed, "there was nothing left to kill"


def test_whatever_stops_a_training_it_ends_in_the_same_bits(
    slurm: LocalSlurm,  # noqa: F811
    image: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    """The uninterrupted one runs outside of the image, without SLURM, at the same time."""
    for name in ("alone", "slurm"):
        (tmp_path / name).mkdir()
    alone = Project(tmp_path / "alone", cores=1)
    prepare(alone)
    asked = {"slurm_partition": "preemptable", "runtime": f"{MINUTES} * attempt"}
    project = SlurmProject(tmp_path / "slurm", slurm, MICRO, image, train_adapter=asked)
    prepare(project)
    project.edit("src/dreamtune/train/steps.py", *SLOWER)
    (project.folder / SLOW).touch()
    project.edit("profiles/slurm/config.yaml", "retries: 2", "retries: 9")
    under_way, training = alone.start(*ONLY_TRAINING), Training(project)
    try:
        preempt(training)  # without a grace time: requeued under its number
        start_again(training, "preemptable-grace")
        preempt(training)  # with one: Snakemake's inner process ends, the job has failed, and is submitted anew
        preempt(training)
        start_again(training, "preemptable")
        warn(training)
        run_out_of_time(training)
        kill(training)
        (project.folder / SLOW).unlink()
        assert training.driver.wait(600) == 0, training.said()
        assert under_way.wait(Project.longest_s) == 0, (alone.folder / "snakemake.log").read_text()[-3000:]
    finally:
        training.driver.kill()
        under_way.terminate()
    said = [re.sub(r"step \d+ of", "step … of", line) for line in training.stopped]
    kept = f"; a checkpoint after step … of {STEPS} is kept; start snakemake again to go on from there"
    assert said == [f"train_adapter: stopped by SIGTERM{kept}"] * 5
    assert adapter(project) == adapter(alone)
    resumed = json.loads((full_run(project) / "training.json").read_text())["resumed_from"]
    assert len(resumed) == 6 and resumed == sorted(resumed), resumed
    assert any(step % EVERY for step in resumed), "they were written when asked for, not only in between"
    jobs = [job for job in slurm.jobs() if "Comment" in job and version_of(job) == full_run(project).name]
    ended = [(minutes(job["TimeLimit"]), job["JobState"]) for job in jobs]
    assert ended[2] == (1, "TIMEOUT") and ended[-1][1] == "COMPLETED", ended
    assert [limit for limit, _ in ended] == [MINUTES, 2 * MINUTES, 1, 4 * MINUTES, 5 * MINUTES], ended


def prepare(project: Project) -> None:
    project.edit(MICRO, "full: {rows: 16, epochs: 1,", f"full: {{rows: {ROWS}, epochs: {EPOCHS},")
    project.edit(MICRO, "validation_rows: 8", f"validation_rows: 0\n  checkpoint_steps: {EVERY}")
    project.edit(MICRO, ", margin: 2.0}", "}")


def full_run(project: Project) -> Path:
    [folder] = [
        manifest.parent
        for manifest in project.folder.glob("results/train_adapter/*/manifest.json")
        if json.loads(manifest.read_text())["settings"]["run"] == "full"
    ]
    return folder


def adapter(project: Project) -> bytes:
    return (full_run(project) / "adapter/adapter_model.safetensors").read_bytes()


def wait(condition: Callable[[], bool], seconds: float, otherwise: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, otherwise
        time.sleep(0.3)
