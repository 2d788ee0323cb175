"""The workflow through a real slurmctld and slurmd, without slurmdbd, with (fake) GPUs, by the profile that ships."""

import json
import math
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from conftest import ROOT
from dreamtune.workflow import containers
from project import MICRO, Project
from tests.cluster import local_slurm
from tests.cluster.local_slurm import LocalSlurm

pytestmark = pytest.mark.timeout(1800)
WITH_A_MODEL = {"train_adapter", "generate_answers", "evaluate_likelihood"}
ONE = "  one: {}\n"
# SLURM looks at a job's memory every two seconds: this much is held until it has looked.
HELD = """    import time

    held = b" " * (300 << 20)
    time.sleep(6)
    del held
    with Stage(__file__, BEFORE)"""
GROUP = "report_render_report_score_answers"
# The ways of asking for a GPU, one for each rule: --gres, --gpus, and what a cluster wants that takes neither.
GPU = {
    "train_adapter": {"gpu": 0, "gres": "gpu:1"},
    "generate_answers": {"gpu": 1},
    "evaluate_likelihood": {"gpu": 0, "slurm_extra": "'--gpus-per-node=1'"},
}


class SlurmProject(Project):
    """A copy of the project whose snakemake submits to the SLURM here, by profiles/slurm with this machine's sizes.

    With an `image`, jobs run in it.
    """

    longest_s = 1500

    def __init__(
        self, folder: Path, slurm: LocalSlurm, config: str, image: Path | None = None, **asked: dict[str, object]
    ) -> None:
        super().__init__(folder)
        self.slurm, self.config = slurm, config
        profile = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())
        for rule, resources in profile["set-resources"].items():
            resources |= {"cpus_per_task": 1} | GPU.get(rule, {}) | asked.get(rule, {})
        profile["default-resources"]["cpus_per_task"] = 1
        profile |= {"slurm-init-seconds-before-status-checks": 2}
        profile |= {"latency-wait": 10}
        if image:
            (folder / containers.image()).symlink_to(image)
            profile |= {"software-deployment-method": "apptainer", "apptainer-args": "--nv"}
        (folder / "profiles/slurm/config.yaml").write_text(yaml.safe_dump(profile))
        seen = "printenv CUDA_VISIBLE_DEVICES > gpu-of-$(printenv SLURM_JOB_ID) || true; "
        self.edit("workflow/rules/common.smk", "set -euo pipefail; ", f"set -euo pipefail; {seen}")

    def command(self, *arguments: str) -> list[str]:
        command = [sys.executable, str(Path(__file__).with_name("impatient.py")), *arguments]
        return [*command, "--workflow-profile", "profiles/slurm", "--configfile", self.config]

    def submitted(self, *arguments: str, fails: bool = False) -> list[dict[str, str]]:
        """Run Snakemake to its end; return what SLURM says of the jobs that this submitted."""
        before = len(self.slurm.jobs())
        self.snakemake(*arguments, fails=fails)
        return self.slurm.jobs()[before:]


def rule_of(job: dict[str, str]) -> str:
    return job["Comment"].removeprefix("rule_").partition("_wildcards_")[0]


def version_of(job: dict[str, str]) -> str:
    return job["Comment"].rpartition("_")[2]


def rules(jobs: list[dict[str, str]]) -> dict[str, int]:
    return dict(Counter(map(rule_of, jobs)))


def mb(amount: str) -> float:
    return float(amount[:-1]) * {"M": 1, "G": 1024}[amount[-1]]


def minutes(limit: str) -> int:
    hours, minutes, seconds = map(int, limit.split(":"))
    assert seconds == 0
    return 60 * hours + minutes


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSlurm]:
    assert find_spec("snakemake_executor_plugin_slurm"), "the executor is not installed; run `make setup-slurm`"
    with LocalSlurm(tmp_path_factory.mktemp("slurm")) as started:
        yield started


@pytest.fixture(scope="module")
def micro(slurm: LocalSlurm, tmp_path_factory: pytest.TempPathFactory) -> tuple[SlurmProject, list[dict[str, str]]]:
    """A project in which two experiments of the smallest configuration have run once, and the jobs that took."""
    project = SlurmProject(tmp_path_factory.mktemp("micro"), slurm, MICRO)
    project.edit(MICRO, "  sampled: {temperature: 0.7, top_p: 0.9}\n", "")
    project.edit(MICRO, ONE, f"{ONE}  two: {{train: {{objective: copy, on_failed_gate: continue}}}}\n")
    return project, project.submitted()


def test_each_stage_is_a_job_and_the_light_ones_share_one(micro: tuple[SlurmProject, list[dict[str, str]]]) -> None:
    """Two experiments share shards and the base's answers; how many seconds SLURM adds is printed with -s."""
    project, jobs = micro
    counts = {"prepare_shards": 1, "audit_references": 1, "train_adapter": 4}
    counts |= {"generate_answers": 3, "evaluate_likelihood": 2, GROUP: 1}
    assert rules(jobs) == counts
    assert {job["JobState"] for job in jobs} == {"COMPLETED"}
    latest = project.folder / "results/latest"
    assert {path.parent.name for path in latest.glob("*/report.html")} == {"one", "two"}
    assert json.loads((latest / "two/summary.json").read_text())["verdict"] == "invalid"
    grouped = [job for job in jobs if rule_of(job) == GROUP]
    assert (grouped[0]["CPUs/Task"], mb(grouped[0]["MinMemoryNode"])) == ("1", 4096), "one at a time within the job"
    elapsed_s = [
        _seconds(job["RunTime"]) - json.loads(path.read_text())["wall_s"]
        for job in jobs
        for path in project.folder.glob(f"results/{rule_of(job)}/{version_of(job)}/manifest.json")
    ]
    print(f"seconds of a SLURM job beyond its stage's own: {sorted(round(s, 1) for s in elapsed_s)}")


def _seconds(clock: str) -> int:
    hours, minutes, seconds = map(int, clock.split(":"))
    return 3600 * hours + 60 * minutes + seconds


def test_gpus_are_asked_for_in_each_way_and_reach_the_job(micro: tuple[SlurmProject, list[dict[str, str]]]) -> None:
    project, jobs = micro
    for job in jobs:
        asked = job.get("TresPerNode") or job.get("TresPerJob")
        visible = (project.folder / f"gpu-of-{job['JobId']}").read_text().strip()
        if rule_of(job) in WITH_A_MODEL:
            assert asked == "gres:gpu:1" and visible in {"0", "1"}, job
        else:
            assert asked is None and visible == "", job


def test_it_works_where_sacct_does_not(micro: tuple[SlurmProject, list[dict[str, str]]]) -> None:
    assert shutil.which("sacct") is None or subprocess.run(["sacct"], capture_output=True).returncode != 0


def test_the_full_run_asks_for_what_smoke_measured(micro: tuple[SlurmProject, list[dict[str, str]]]) -> None:
    project, jobs = micro
    runs = {}
    for job in jobs:
        if rule_of(job) == "train_adapter":
            folder = project.folder / "results/train_adapter" / version_of(job)
            manifest = json.loads((folder / "manifest.json").read_text())
            settings = manifest["settings"]
            measured = json.loads((folder / "training.json").read_text())
            runs[settings["train"]["objective"], settings["run"]] = job, manifest, measured
    for objective in ("elbo", "copy"):
        job, _, full = runs[objective, "full"]
        smoke_job, manifest, smoke = runs[objective, "smoke"]
        asked = minutes(smoke_job["TimeLimit"]), mb(smoke_job["MinMemoryNode"])
        assert asked == (60, 4096), "nothing was measured yet"
        assert mb(job["MinMemoryNode"]) == math.ceil(1024 * (2.0 * smoke["host_memory_gib"] + 0.5)) < 4096
        # two validations each; the full run has about twice smoke's tokens
        start_s = manifest["wall_s"] - smoke["fit_s"]
        wall_s = start_s + full["tokens"] * smoke["seconds_per_token"] + 3 * smoke["validation_s"] / 2
        assert abs(minutes(job["TimeLimit"]) - (2.0 * wall_s / 60 + 2)) < 1


def test_a_jobs_usage_names_what_slurm_was_asked_for(micro: tuple[SlurmProject, list[dict[str, str]]]) -> None:
    project, jobs = micro
    seen = 0
    for job in jobs:
        for path in project.folder.glob(f"results/{rule_of(job)}/{version_of(job)}/manifest.json"):
            usage, seen = json.loads(path.read_text())["usage"], seen + 1
            asked = {"by": "SLURM", "cpus": int(job["CPUs/Task"]), "minutes": minutes(job["TimeLimit"])}
            assert usage["asked"] == asked | {"memory_gib": round(mb(job["MinMemoryNode"]) / 1024, 4)}
            assert 0 < usage["memory_gib"] < usage["asked"]["memory_gib"] and usage["cpu_s"] > 0
    assert seen == len(jobs) - 1, "all but the group, which is no stage"
    said = next((project.folder / "results/train_adapter").glob("*/job.log")).read_text().splitlines()[-1]
    assert re.fullmatch(r"train_adapter: used .* of memory, .* of 1 CPUs, .* minutes; asked for by SLURM", said)


def test_nothing_asks_for_more_than_the_configuration_allows(micro: tuple[SlurmProject, list[dict[str, str]]]) -> None:
    _, jobs = micro
    alone = [job for job in jobs if rule_of(job) != GROUP]
    assert max(minutes(job["TimeLimit"]) for job in alone) == 100
    assert max(mb(job["MinMemoryNode"]) for job in jobs) == 4096


def test_again_submits_nothing_and_a_change_only_what_is_stale(
    micro: tuple[SlurmProject, list[dict[str, str]]],
) -> None:
    """What a new learning rate makes anew is only planned: it would take as long as the whole."""
    project, _ = micro
    assert project.submitted() == []
    project.edit(MICRO, ONE, "  one: {report: {examples: 6}}\n")
    assert rules(project.submitted()) == {"report_render_report": 1}
    project.edit(MICRO, "examples: 6}}", "examples: 6}, train: {learning_rate: 2e-3}}")
    light = {"score_answers": 1, "render_report": 1, "publish": 1}
    stale = {"train_adapter": 2, "generate_answers": 1, "evaluate_likelihood": 1, **light}
    assert project.jobs() == stale
    project.edit(MICRO, "  one: {report: {examples: 6}, train: {learning_rate: 2e-3}}\n", ONE)
    assert project.submitted() == []


def test_a_job_that_runs_out_of_memory_is_given_more(slurm: LocalSlurm, tmp_path: Path) -> None:
    project = SlurmProject(tmp_path, slurm, MICRO)
    project.edit("src/dreamtune/workflow/demand.py", '"prepare_shards": (60, 8)', '"prepare_shards": (60, 0.25)')
    project.edit("workflow/scripts/prepare_shards.py", "    with Stage(__file__, BEFORE)", HELD)
    jobs = project.submitted("--until", "prepare_shards")
    asked = [mb(job["MinMemoryNode"]) for job in jobs]
    assert len(asked) > 1 and asked == [256 * attempt for attempt in range(1, len(asked) + 1)]
    # Without cgroups SLURM samples the memory and calls such a job failed.
    assert [job["JobState"] for job in jobs] == ["FAILED"] * (len(jobs) - 1) + ["COMPLETED"]
    log = (slurm.folder / "slurmd-node1.log").read_text()
    assert all(re.search(rf"StepId={job['JobId']}\.\S+ exceeded memory limit", log) for job in jobs[:-1])


def test_a_folder_whose_name_is_too_long_for_sockets_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_slurm, "ETC", tmp_path)
    folder = tmp_path / ("long" * 20)
    with pytest.raises(RuntimeError, match=r"too long for a socket; give a shorter --folder"):
        LocalSlurm(folder).start()
    assert not folder.exists() and not (tmp_path / "slurm.conf").exists()


def test_another_slurm_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slurm.conf").write_text("ClusterName=ours\n")
    monkeypatch.setattr(local_slurm, "ETC", tmp_path)
    with pytest.raises(RuntimeError, match=re.escape(f"{tmp_path}/slurm.conf belongs to another SLURM")):
        LocalSlurm(tmp_path / "state").start()
    LocalSlurm(tmp_path / "state").stop()
    assert (tmp_path / "slurm.conf").read_text() == "ClusterName=ours\n"
