"""A training that SLURM requeues, as after the failure of a node, while the old process is still alive: one result."""

import subprocess
import sys
from pathlib import Path

import pytest

from dreamtune.files import read_json
from dreamtune.workflow.verification import verify
from project import MICRO
from tests.cluster.local_slurm import LocalSlurm
from tests.cluster.test_preemption import SLOW, SLOWER, STEPS, Training, full_run, prepare, start_again
from tests.cluster.test_slurm import SlurmProject, slurm, version_of  # noqa: F401, a fixture

pytestmark = pytest.mark.timeout(900)
FILED = "another job has filed version"


def test_a_requeued_training_goes_on_and_one_of_two_writers_files_it(
    slurm: LocalSlurm,  # noqa: F811
    tmp_path: Path,
) -> None:
    """A second training, started by hand, stands for the one on a node that SLURM has lost and cannot stop."""
    project = SlurmProject(tmp_path, slurm, MICRO)
    prepare(project)
    project.edit("src/dreamtune/train/steps.py", *SLOWER)
    (project.folder / SLOW).touch()
    training, lost = Training(project), None
    try:
        training.wait_for_steps()
        version = version_of(training.job)
        with (tmp_path / "lost.log").open("wb") as log:
            command = [sys.executable, "workflow/scripts/train_adapter.py", "--out", f"results/train_adapter/{version}"]
            lost = subprocess.Popen(command, cwd=project.folder, env=project.environment, stdout=log, stderr=log)
        subprocess.run(["scontrol", "requeue", training.job["JobId"]], check=True)
        training.wait_until_stopped()
        start_again(training, "main")
        training.wait_for_steps()
        assert lost.poll() is None, (tmp_path / "lost.log").read_text()
        (project.folder / SLOW).unlink()
        assert training.driver.wait(300) == 0, training.said()
        assert lost.wait(60) == 0, (tmp_path / "lost.log").read_text()
    finally:
        training.driver.kill()
        if lost:
            lost.kill()
    folder = full_run(project)
    requeued = (folder / "job.log").read_text()
    assert (FILED in requeued) != (FILED in (tmp_path / "lost.log").read_text())
    verify(folder)
    assert not list(folder.glob(".out-*")) and not (folder / ".lock").exists()
    [job] = [job for job in slurm.jobs() if "Comment" in job and version_of(job) == folder.name]
    assert (job["Restarts"], job["JobState"]) == ("1", "COMPLETED")
    result = read_json(folder / "training.json")
    assert result["steps"] == STEPS
    assert "resuming from step-" in requeued, "from the checkpoint that it wrote when SLURM ended it"
