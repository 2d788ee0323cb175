"""Containers as far as they need no Apptainer: the image's name, what is bound, what is said when it is missing."""

import os
import shutil
from hashlib import sha256
from pathlib import Path

import pytest

from conftest import ROOT
from dreamtune.errors import UserError
from dreamtune.workflow import containers
from project import MICRO, Project

LOCK = sha256((ROOT / "containers/requirements.lock").read_bytes()).hexdigest()[:12]
# Stands in for Apptainer: notes how it was called, and runs the command on the host.
STAND_IN = """#!/bin/sh
[ "$1" = --version ] && { echo apptainer version 1.4.5; exit; }
echo "$@" >> calls; echo "$APPTAINER_BIND" > binds
for last; do :; done
exec bash -c "PATH=%s:$PATH; $last"
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A work folder, in which the test runs, beside what lies outside of it."""
    of_the_hub = (*containers.HUB_FOLDERS, "HF_TOKEN_PATH", "XDG_CACHE_HOME")
    ours = ("APPTAINER_BIND", "SINGULARITY_BIND", "DREAMTUNE_IMAGE", containers.SHARED, containers.SCRATCH)
    for name in (*of_the_hub, *ours):
        monkeypatch.setenv(name, "")  # so that it is put back after a test that sets it
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = tmp_path / "project" / "work"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(containers, "ROOT", folder)
    return folder


def file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("rows")
    return path


def link(path: Path, target: Path | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)
    return path


def bound(work: Path, *paths: Path, mode: str = "ro") -> list[str]:
    return containers.bind_list(dict.fromkeys(paths, mode), work)


def test_the_image_is_named_by_the_lock(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert containers.image() == f"containers/dreamtune-{LOCK}.sif"
    monkeypatch.setenv("DREAMTUNE_IMAGE", "/images/mine.sif")
    assert containers.image() == "/images/mine.sif"


def test_an_image_with_an_address_is_left_to_snakemake(work: Path) -> None:
    containers.require("docker://registry.example/dreamtune:1")
    with pytest.raises(UserError, match=r"there is no image mine\.sif; `make image` builds it"):
        containers.require("mine.sif")
    with pytest.raises(UserError, match=r"each of the 2 nodes .* `apptainer pull NAME\.sif docker://registry"):
        containers.require("docker://registry.example/dreamtune:1", nodes=2)


def test_the_folder_of_a_file_outside_is_bound_and_none_inside(work: Path, tmp_path: Path) -> None:
    inside, outside = file(work / "data/a.parquet"), file(tmp_path / "data/a.parquet")
    assert bound(work, inside) == []
    assert bound(work, outside, file(tmp_path / "data/b.parquet")) == [f"{tmp_path}/data:{tmp_path}/data:ro"]


def test_a_link_in_the_work_folder_binds_where_it_leads(work: Path, tmp_path: Path) -> None:
    file(tmp_path / "archive/rows.parquet")
    link(work / "rows.parquet", tmp_path / "archive/rows.parquet")
    link(work / "data", "../../archive")
    expected = [f"{tmp_path}/archive:{tmp_path}/archive:ro"]
    assert bound(work, work / "rows.parquet") == expected
    assert bound(work, work / "data/rows.parquet") == expected


def test_every_link_of_a_chain_is_bound(work: Path, tmp_path: Path) -> None:
    real = file(tmp_path / "c/real.parquet").parent
    link(tmp_path / "b/rows.parquet", "../c/real.parquet")
    link(tmp_path / "a", tmp_path / "b")
    assert bound(work, tmp_path / "a/rows.parquet") == [
        f"{tmp_path}/b:{tmp_path}/a:ro",
        f"{tmp_path}/b:{tmp_path}/b:ro",
        f"{real}:{real}:ro",
    ]


def test_a_file_beside_the_work_folder_is_bound_alone(work: Path, tmp_path: Path) -> None:
    """Its folder holds the work folder, which must stay writable."""
    rows = file(tmp_path / "project/rows.parquet")
    assert bound(work, rows) == [f"{rows}:{rows}:ro"]


@pytest.mark.parametrize("folder", ["/opt", "/tmp", "/"])
def test_a_file_in_a_folder_of_the_images_is_bound_alone(work: Path, folder: str) -> None:
    rows = Path(folder, "rows.parquet")
    assert bound(work, rows) == [f"{rows}:{rows}:ro"]


@pytest.mark.parametrize("sign", [",", ":"])
def test_a_name_that_a_bind_cannot_express_is_refused(work: Path, tmp_path: Path, sign: str) -> None:
    with pytest.raises(UserError, match="takes no path with a comma or a colon; rename it"):
        bound(work, file(tmp_path / f"a{sign}b/rows.parquet"))


def test_named_are_data_benchmarks_and_a_models_files(work: Path, tmp_path: Path) -> None:
    """A hub's snapshot is a folder of links into another."""
    weights = file(tmp_path / "hub/blobs/0a1b")
    link(tmp_path / "hub/snapshots/1/model.safetensors", weights)
    spec = {
        "data": {"files": [str(file(tmp_path / "a/x.parquet")), "hf://datasets/a/b@c/d.parquet"], "batch_rows": 1},
        "benchmark": {"files": [f"{tmp_path}/b/*.parquet"]},
        "model": {"path": str(tmp_path / "hub/snapshots/1"), "threads": 1},
    }
    file(tmp_path / "b/y.parquet")
    paths = list(containers.named_paths([{"runtime": spec}, {"runtime": {"model": {"path": "owner/name"}}}]))
    assert bound(work, *paths) == [
        f"{tmp_path}/{name}:{tmp_path}/{name}:ro" for name in ("a", "b", "hub/blobs", "hub/snapshots/1")
    ]


def test_the_workflows_code_is_bound_where_it_lies_elsewhere(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers, "ROOT", tmp_path / "clone")
    file(tmp_path / "clone/workflow/Snakefile")
    containers.bind([])
    assert os.environ["APPTAINER_BIND"] == f"{tmp_path}/clone:{tmp_path}/clone:ro"
    assert containers.image() == f"{tmp_path}/clone/containers/dreamtune-{LOCK}.sif"


def test_of_code_around_the_work_folder_only_its_parts_are_bound(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The work folder in it must stay writable."""
    monkeypatch.setattr(containers, "ROOT", work.parent)
    containers.bind([])
    parts = [f"{work.parent}/{part}:{work.parent}/{part}:ro" for part in ("src", "workflow")]
    assert os.environ["APPTAINER_BIND"] == ",".join(parts)


def test_the_hubs_cache_is_bound_for_writing_and_what_the_user_binds_is_kept(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("SINGULARITY_BIND", "/scratch")
    containers.bind([])
    assert os.environ["APPTAINER_BIND"] == f"/scratch,{tmp_path}/hub:{tmp_path}/hub:rw"
    assert (tmp_path / "hub").is_dir(), "only what exists can be bound"


def test_what_jobs_keep_for_each_other_is_bound_for_writing_where_it_lies_outside(work: Path, tmp_path: Path) -> None:
    """A container's own disk is read-only. A folder that cannot be made costs the cache, and no job."""
    kept = [tmp_path / "kept", work / "results/.cache", file(tmp_path / "taken") / "cache"]
    specs = [{"inputs": {}, "runtime": {"model": {"cache": cache}}} for cache in (*map(str, kept), None)]
    containers.bind([*specs, {"inputs": {}, "runtime": {}}])
    assert os.environ["APPTAINER_BIND"] == f"{tmp_path}/kept:{tmp_path}/kept:rw"
    assert kept[0].is_dir() and not kept[1].exists()


def test_without_hf_home_the_hubs_cache_is_in_the_work_folder(work: Path) -> None:
    containers.bind([])
    assert os.environ["HF_HOME"] == f"{work}/.cache/huggingface"
    assert os.environ["APPTAINER_BIND"] == ""


def test_a_hub_folder_that_cannot_be_made_is_one_line(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(file(tmp_path / "a file") / "hub"))
    with pytest.raises(UserError, match=r"HF_HUB_CACHE: cannot make .*: Not a directory; give another folder"):
        containers.bind([])


OF_THE_HUB = {"inputs": {"model": f"owner/name@{'0' * 40}"}, "runtime": {}}
LOCAL = {"inputs": {"model": {"config.json": "0" * 64}}, "runtime": {}}


@pytest.mark.parametrize(
    ("variable", "value", "place"),
    [
        ("HOME", "{}", ".cache/huggingface/token"),
        ("XDG_CACHE_HOME", "{}", "huggingface/token"),
        ("HF_TOKEN_PATH", "{}/mine", "mine"),
        ("HF_TOKEN_PATH", "$HOME/mine", "home/mine"),
        ("HF_TOKEN_PATH", "~/mine", "home/mine"),
    ],
)
def test_the_hubs_token_is_bound_alone_and_on_the_driver_alone(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, place: str
) -> None:
    monkeypatch.setenv(variable, value.format(tmp_path))
    token = file(tmp_path / place)
    file(token.with_name("stored_tokens"))
    containers.bind([LOCAL, OF_THE_HUB])
    assert os.environ["APPTAINER_BIND"] == f"{token}:/mnt/hub-token:ro"
    assert os.environ["HF_TOKEN_PATH"] == "/mnt/hub-token"
    containers.bind_here()
    assert os.environ["APPTAINER_BIND"] == "", "a node's home folder may be another, and what is not there stops a job"


@pytest.mark.parametrize("why", ["nothing of the hub", "no token", "beside the cache"])
def test_no_token_is_bound_where_none_is_needed(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    token = tmp_path / "home/.cache/huggingface/token"
    if why != "no token":
        file(token)
    if why == "beside the cache":
        monkeypatch.setenv("HF_HOME", str(token.parent))
    containers.bind([LOCAL if why == "nothing of the hub" else OF_THE_HUB])
    assert containers.TOKEN not in os.environ["APPTAINER_BIND"]
    assert "HF_TOKEN_PATH" not in os.environ


def test_each_machine_binds_its_own_scratch(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node's variable is known there alone, where a job reads the Snakefile anew before its container starts."""
    monkeypatch.setenv("DREAMTUNE_SCRATCH", "$NODE_DISK/x")
    monkeypatch.setenv("APPTAINER_BIND", "/mine")
    containers.bind([])
    assert os.environ["APPTAINER_BIND"] == "/mine"
    folder = tmp_path / "disk/x"
    folder.mkdir(parents=True)
    monkeypatch.setenv("NODE_DISK", str(folder.parent))
    for _ in range(2):  # on a node Snakemake starts Snakemake
        containers.bind_here()
        assert os.environ["APPTAINER_BIND"] == f"/mine,{folder}:{folder}:rw"
    folder.rmdir()
    containers.bind_here()
    assert os.environ["APPTAINER_BIND"] == "/mine", "it is the job's to say that its folder is not there"


def test_what_a_site_binds_is_kept_where_the_drivers_environment_is_not(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APPTAINER_BIND", "/site")
    containers.bind_here()
    assert os.environ["APPTAINER_BIND"] == "/site"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A copy of the project on a machine that has something called apptainer."""
    project = Project(tmp_path / "work")
    command = file(tmp_path / "bin/apptainer")
    command.write_text(STAND_IN % project.environment["PATH"].partition(":")[0])
    command.chmod(0o755)
    project.environment["PATH"] = f"{command.parent}:{project.environment['PATH']}"
    return project


def test_a_missing_image_is_one_line_before_any_job(project: Project) -> None:
    output = project.snakemake("--use-singularity", fails=True)
    assert f"dreamtune: there is no image containers/dreamtune-{LOCK}.sif; `make image` builds it" in output
    assert "Traceback" not in output
    assert not (project.folder / "calls").exists() and not (project.folder / "results/prepare_shards").exists()
    assert project.jobs("--use-singularity")["prepare_shards"] == 1, "a plan needs no image"


@pytest.mark.parametrize("how", [["--use-singularity"], ["--workflow-profile", "profiles/apptainer"]])
def test_jobs_run_in_the_image_with_what_lies_outside(project: Project, tmp_path: Path, how: list[str]) -> None:
    rows = tmp_path / "rows.parquet"
    shutil.move(project.folder / "resources/tiny-dream/rows.parquet", rows)
    project.edit(MICRO, "resources/tiny-dream/rows.parquet", str(rows))
    file(project.folder / f"containers/dreamtune-{LOCK}.sif")
    project.snakemake(*how, "--until", "prepare_shards")
    assert (project.folder / "binds").read_text() == f"{rows}:{rows}:ro\n"
    call = (project.folder / "calls").read_text()
    assert call.startswith(f"exec --home {project.folder} --nv ")
    assert f" containers/dreamtune-{LOCK}.sif bash -c " in call
    assert "unset PYTHONPATH PYTHONHOME PYTHON_EXEC" in call and str(ROOT / ".venv") not in call


def test_a_job_on_a_node_has_the_nodes_scratch_bound(project: Project, tmp_path: Path) -> None:
    """Its own Snakemake adds to what it inherits of the driver, on whose machine the variable means nothing."""
    file(project.folder / f"containers/dreamtune-{LOCK}.sif")
    project.environment["DREAMTUNE_SCRATCH"] = "$NODE_DISK"
    output = project.snakemake("--use-singularity", "--until", "prepare_shards", fails=True)
    assert "prepare_shards: DREAMTUNE_SCRATCH is '$NODE_DISK', but $NODE_DISK is no folder on" in output
    [shards] = (project.folder / "results/prepare_shards").iterdir()
    disk = tmp_path / "disk"
    disk.mkdir()
    project.environment |= {"NODE_DISK": str(disk), containers.SHARED: "/of/the/driver"}
    project.snakemake(
        *("--target-jobs", f"prepare_shards:version={shards.name}", "--allowed-rules", "prepare_shards"),
        *("--mode", "remote", "--force", "--nolock", "--ignore-incomplete", "--use-singularity"),
    )
    assert (project.folder / "binds").read_text() == f"/of/the/driver,{disk}:{disk}:rw\n"
    assert (shards / "manifest.json").exists() and not list(disk.iterdir())
