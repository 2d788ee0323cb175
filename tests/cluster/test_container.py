"""The real image, built from Debian's packages, run by Apptainer: the same bits as outside, and nothing leaks in.

As root on Debian: Apptainer and the image are made where they are missing.
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT
from dreamtune.workflow import containers
from project import Project

pytestmark = pytest.mark.timeout(2400)
DEMO = "config/demo.yaml"
VERDICTS = {"demo": "improved", "demo-copy": "invalid"}
# What the demo's second experiment is given besides: answers that hang on the sampler's noise; and a short training, as
# its gate has refused it before.
SECOND = "  demo-copy:\n"
BESIDES = "    generate: {sampled: {temperature: 0.7, top_p: 0.9}}\n    full: {rows: 64, epochs: 1}\n"
# All else that the stages write holds seconds or names of folders, or is made of such files.
SAME_BITS = {"adapter/adapter_model.safetensors", "answers.parquet", "likelihood.parquet", "scores.parquet"}


@pytest.fixture(scope="module")
def image() -> Path:
    """The image beside the project's own definition of it, built at the first use; a second test process waits."""
    with (ROOT / "containers/build.sh").open() as one_at_a_time:
        fcntl.flock(one_at_a_time, fcntl.LOCK_EX)
        if not shutil.which("apptainer"):
            subprocess.run(["bash", ROOT / "containers/install_apptainer.sh"], check=True)
        subprocess.run(["make", "image", "BASE=debian", f"PYTHON={sys.executable}"], cwd=ROOT, check=True)
    return ROOT / containers.image()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Path]:
    """A folder that a container does not see unless it is bound; /tmp, where the rest of a test lies, it does."""
    folder = Path("/srv") / tmp_path.name
    folder.mkdir(parents=True)
    yield folder
    shutil.rmtree(folder)


def apptainer(image: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    run = ["apptainer", "exec", "--home", str(Path.cwd()), str(image), *command]
    return subprocess.run(run, env=os.environ | environment, capture_output=True, text=True)


def manifests(project: Project) -> dict[str, dict[str, Any]]:
    """Return the manifest of every finished version."""
    return {
        path.parent.relative_to(project.folder).as_posix(): json.loads(path.read_text()) for path in project.manifests()
    }


def run_both(inside: Project, outside: Project, *arguments: str) -> None:
    """Run the one with `--use-singularity` and further arguments, the other without, each on a core of its own."""
    under_way = outside.start()
    try:
        inside.snakemake("--use-singularity", *arguments)
        assert under_way.wait(outside.longest_s) == 0, (outside.folder / "snakemake.log").read_text()[-3000:]
    finally:
        under_way.terminate()


def assert_same(inside: Project, outside: Project, image: str) -> None:
    """Assert the same versions, packages and bits, and that the one ran in `image` and the other in none."""
    one, other = manifests(inside), manifests(outside)
    assert one.keys() == other.keys()
    compared = set()
    for name in one:
        assert one[name]["packages"] == other[name]["packages"]
        assert (one[name]["image"], other[name]["image"]) == (image, None)
        for file in SAME_BITS & one[name]["outputs"].keys():
            assert one[name]["outputs"][file] == other[name]["outputs"][file], f"{name}/{file}"
            compared.add(file)
    assert compared == SAME_BITS


def lock() -> str:
    return containers.image().removesuffix(".sif")[-12:]


def test_the_demo_is_the_same_bits_inside_and_outside(image: Path, tmp_path: Path, store: Path) -> None:
    """Inside without network and with all inputs elsewhere: data by a link in the work folder, a model as the hub
    stores it; under another image name; and with none of the host's packages, which PYTHONPATH offers, nor its home.
    """
    outside, inside = (Project(tmp_path / name, DEMO, cores=1) for name in ("outside", "inside"))
    for project in (outside, inside):
        project.edit(DEMO, SECOND, SECOND + BESIDES)
        project.longest_s = 1500
    resources = inside.folder / "resources/tiny-dream"
    (store / "data").mkdir()
    shutil.move(resources / "rows.parquet", store / "data/rows.parquet")
    (inside.folder / "rows.parquet").symlink_to(store / "data/rows.parquet")
    inside.edit(DEMO, "resources/tiny-dream/rows.parquet", "rows.parquet")
    inside.edit(DEMO, "path: resources/tiny-dream", f"path: {_as_the_hub_stores_it(resources, store / 'hub')}")
    for package in ("torch", "polars", "pyarrow"):  # what the driver does not import
        (tmp_path / "poison" / package).mkdir(parents=True)
        (tmp_path / "poison" / package / "__init__.py").write_text("raise ImportError('of the host')")
    named = tmp_path / "mine.sif"
    named.symlink_to(image)
    inside.environment |= {"PYTHONPATH": str(tmp_path / "poison"), "DREAMTUNE_IMAGE": str(named)}
    run_both(inside, outside, "--apptainer-args=--net --network none")
    assert_same(inside, outside, f"mine.sif, lock {lock()}")
    latest = inside.folder / "results/latest"
    summaries = {path.parent.name: json.loads(path.read_text()) for path in latest.glob("*/summary.json")}
    assert {name: summary["verdict"] for name, summary in summaries.items()} == VERDICTS
    assert "Improved" in (latest / "demo/report.html").read_text()


def _as_the_hub_stores_it(folder: Path, hub: Path) -> Path:
    """Move a checkpoint to `hub` as blobs, and return a snapshot: a folder of links to them."""
    snapshot = hub / "snapshots/1"
    snapshot.mkdir(parents=True)
    shutil.move(folder, hub / "blobs")
    for blob in (hub / "blobs").iterdir():
        (snapshot / blob.name).symlink_to(f"../../blobs/{blob.name}")
    return snapshot


def test_the_image_holds_the_lock_and_is_read_only(image: Path) -> None:
    pinned = {
        line.split("==")[0]: line.split()[0].split("==")[1]
        for line in containers.LOCK.read_text().splitlines()
        if "==" in line and not line.startswith("#")
    }
    code = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
    found = json.loads(apptainer(image, "python3", "-c", code).stdout)
    installed = {name.lower().replace("_", "-"): version.partition("+")[0] for name, version in found.items()}
    assert pinned.items() <= installed.items()
    assert "dreamtune" not in installed
    assert "Read-only file system" in apptainer(image, "touch", "/opt/dreamtune-venv/new").stderr
    assert apptainer(image, "id", "-u").stdout == f"{os.getuid()}\n"
    for name in ("PYTHONPATH", "PYTHONHOME"):
        assert apptainer(image, "sh", "-c", f'echo "<${name}>"', **{name: "/host"}).stdout == "<>\n"


def test_what_is_bound_is_seen_under_every_name(
    image: Path, tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such layouts as in tests/workflow/test_containers.py, where the lists are asserted."""
    work = tmp_path / "project/work"
    work.mkdir(parents=True)
    monkeypatch.chdir(work)
    (store / "real.parquet").write_text("rows")
    (store / "link.parquet").symlink_to("real.parquet")
    (store / "folder").symlink_to(store)
    (work / "data").symlink_to(store / "folder")
    (tmp_path / "project/beside.parquet").write_text("rows")
    paths = [store / "link.parquet", store / "folder/link.parquet", Path("data/link.parquet")]
    paths += [tmp_path / "project/beside.parquet"]
    binds = ",".join(containers.bind_list(dict.fromkeys(paths, "ro"), work))
    for path in paths:
        assert apptainer(image, "cat", str(path), APPTAINER_BIND=binds).stdout == "rows", path
        assert apptainer(image, "touch", str(path), APPTAINER_BIND=binds).returncode != 0, f"{path} is writable"
    assert apptainer(image, "touch", "new", APPTAINER_BIND=binds).returncode == 0


def test_the_hubs_token_and_local_scratch_are_seen(
    image: Path, tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver's container reads the token and may not write it; a node's has none, and that node's scratch."""
    work, token, disk = tmp_path / "work", store / ".cache/huggingface/token", store / "disk"
    for folder in (work, token.parent, disk):
        folder.mkdir(parents=True)
    token.write_text("of the test\n")
    monkeypatch.chdir(work)
    for name in ("HF_HOME", "HF_HUB_CACHE", "HF_TOKEN", "HF_TOKEN_PATH", "XDG_CACHE_HOME", containers.SHARED):
        monkeypatch.setenv(name, "")  # so that it is put back after the test
        monkeypatch.delenv(name)
    for name in ("APPTAINER_BIND", "SINGULARITY_BIND"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("HOME", str(store))
    monkeypatch.setenv("DREAMTUNE_SCRATCH", "$NODE_DISK")
    read = ["python3", "-c", "from huggingface_hub import get_token; print(get_token())"]

    containers.bind([{"inputs": {"model": f"owner/name@{'0' * 40}"}, "runtime": {}}])
    assert apptainer(image, *read).stdout == "of the test\n"
    assert "Read-only file system" in apptainer(image, "touch", containers.TOKEN).stderr
    assert apptainer(image, "ls", str(store)).returncode != 0, "nothing else of its folder is seen"

    monkeypatch.setenv("NODE_DISK", str(disk))
    containers.bind_here()
    assert apptainer(image, *read).stdout == "None\n"
    assert apptainer(image, "touch", str(disk / "new")).returncode == 0 and (disk / "new").exists()
