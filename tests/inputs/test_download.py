"""Models and data from the hub: fetched once, where there is internet; found, or named, where there is none."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from conftest import ROOT
from dreamtune.errors import UserError
from dreamtune.inputs import download
from dreamtune.inputs.hub import hub_sources
from fake_hub import REVISION, FakeHub, fake_hub
from project import MICRO, Project

TINY, ROWS = f"owner/tiny@{REVISION}", f"hf://datasets/owner/rows@{REVISION}/data/rows.parquet"
TEXTS = {"README.md", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
SHARDS = ["model-1.safetensors", "model-2.safetensors"]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    """A hub with the embedded model, its rows, a model in two shards, and one with pickled weights only."""
    repositories = tmp_path / "hub/owner"
    unneeded = shutil.ignore_patterns("*.py", "*.parquet", "*.jsonl", "*.sha256", "__pycache__")
    shutil.copytree(ROOT / "resources/tiny-dream", repositories / "tiny", ignore=unneeded)
    (repositories / "rows/data").mkdir(parents=True)
    shutil.copy(ROOT / "resources/tiny-dream/rows.parquet", repositories / "rows/data")
    (repositories / "tiny/README.md").write_text("---\nlicense: mit\n---\n")
    for name in ("sharded", "pickled"):
        (repositories / name / "onnx").mkdir(parents=True)
        for file in ("config.json", "pytorch_model.bin", "onnx/model.json"):
            (repositories / name / file).write_text("{}")
    index = {"weight_map": {f"layer.{i}": shard for i, shard in enumerate(SHARDS)}}
    (repositories / "sharded/model.safetensors.index.json").write_text(json.dumps(index))
    for name in [*SHARDS, "consolidated.safetensors"]:
        (repositories / "sharded" / name).write_bytes(name.encode() * 3_000)
    with fake_hub(tmp_path / "hub") as running:
        yield running


def command(*sources: str) -> list[str]:
    return [sys.executable, str(ROOT / "workflow/scripts/download.py"), *sources]


def environment(hub: FakeHub, tmp_path: Path, **more: str) -> dict[str, str]:
    return os.environ | hub.environment | {"HF_HOME": str(tmp_path / "cache")} | more


def fetch(hub: FakeHub, tmp_path: Path, *sources: str, **more: str) -> str:
    """Run the script to its end and return the lines it printed."""
    done = subprocess.run(command(*sources), env=environment(hub, tmp_path, **more), capture_output=True, text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    return done.stdout


def snapshot(tmp_path: Path, repository: str) -> Path:
    return tmp_path / "cache/hub" / f"models--{repository.replace('/', '--')}" / "snapshots" / REVISION


def test_fetches_what_is_read_and_nothing_the_second_time(hub: FakeHub, tmp_path: Path) -> None:
    said = fetch(hub, tmp_path, TINY, ROWS)
    assert set(hub.gets) == TEXTS | {"model.safetensors", "data/rows.parquet"}
    assert "  model.safetensors (2.19 MB)\n" in said and f"{ROWS}: fetched 107 kB in" in said
    assert (snapshot(tmp_path, "owner/tiny") / "model.safetensors").stat().st_size == 2_186_744
    before = hub.requests
    said = fetch(hub, tmp_path, TINY, ROWS)
    assert said.count(": nothing to fetch\n") == 2 and hub.requests == before


def test_a_model_is_checked_right_after_its_download(hub: FakeHub, tmp_path: Path) -> None:
    model = {
        "path": "owner/tiny",
        "revision": REVISION,
        "family": None,
        "mask_token": "<|endoftext|>",
        "attention": "bidirectional",
    }
    source = command("--out", str(tmp_path / "marker"), TINY, "--models", json.dumps(model))
    done = subprocess.run(source, env=environment(hub, tmp_path), capture_output=True, text=True)
    assert done.returncode == 1 and not (tmp_path / "marker").exists()
    assert re.fullmatch(
        r"download: the mask token of \S+ is its end token too \(id 0\); set model\.mask_token .*\n", done.stderr
    )
    assert "model.safetensors" in hub.gets
    fetch(hub, tmp_path, TINY, "--models", json.dumps(model | {"mask_token": None}))


def test_of_many_formats_the_shards_alone_are_fetched(hub: FakeHub, tmp_path: Path) -> None:
    fetch(hub, tmp_path, f"owner/sharded@{REVISION}")
    assert sorted(hub.gets) == ["config.json", *SHARDS, "model.safetensors.index.json"]


def test_the_columns_of_a_data_file_are_checked_as_soon_as_it_is_there(hub: FakeHub, tmp_path: Path) -> None:
    columns = ["--column", ROWS, "question", "--column", ROWS, "answer", "--column", "hf://another", "x"]
    call = command("--out", str(tmp_path / "marker"), ROWS, *columns)
    done = subprocess.run(call, env=environment(hub, tmp_path), capture_output=True, text=True)
    assert done.returncode == 1 and not (tmp_path / "marker").exists()
    [line] = done.stderr.splitlines()
    assert line.startswith("download: ") and "rows.parquet has no column 'answer'" in line


@pytest.mark.parametrize(
    ("source", "variables", "expected"),
    [
        (TINY.replace("0123", "3210"), {}, "owner/tiny has no revision 3210"),
        (TINY.replace("tiny", "nobody"), {}, "the hub has no model owner/nobody, or it is private"),
        (ROWS.replace("rows.p", "row.p"), {}, f"owner/rows at {REVISION} has no file data/row.parquet"),
        (f"owner/pickled@{REVISION}", {}, "no file model.safetensors, only pickled weights (pytorch_model.bin)"),
        (f"owner/sharded@{REVISION}", {}, "owner/sharded is gated: ask for access at http"),
        (TINY, {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE forbids to fetch it"),
        (TINY, {"HF_HOME": "/sys/cache"}, "cannot write to the hub's cache /sys/cache/hub: "),
    ],
)
def test_a_mistake_is_one_line(
    hub: FakeHub, tmp_path: Path, source: str, variables: dict[str, str], expected: str
) -> None:
    hub.gated.add("owner/sharded")
    done = subprocess.run(
        command("--out", str(tmp_path / "marker"), source),
        env=environment(hub, tmp_path, **variables),
        capture_output=True,
        text=True,
    )
    *warnings, line = done.stderr.splitlines()  # the hub's library warns of a cache that it cannot write to
    assert bool(warnings) == ("HF_HOME" in variables) and "Traceback" not in done.stderr
    assert line.startswith("download: ") and expected in line and done.returncode == 1
    assert not (tmp_path / "marker").exists()


def test_without_internet_it_says_so_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unreachable(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("no such file in the cache") from OSError("Name or service\nnot known")

    monkeypatch.setattr(download.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(download, "hf_hub_download", unreachable)
    monkeypatch.setattr(download.time, "sleep", lambda _: pytest.fail("the hub's library has waited long enough"))
    with pytest.raises(UserError, match=r"cannot be fetched from https://\S+ \(Name or service not known\); run this"):
        download.download([ROWS])


def test_a_broken_connection_is_taken_up_again(hub: FakeHub, tmp_path: Path) -> None:
    hub.cut.add("model.safetensors")
    fetch(hub, tmp_path, TINY)
    assert hub.gets.count("model.safetensors") == 2
    weights = snapshot(tmp_path, "owner/tiny") / "model.safetensors"
    assert weights.read_bytes() == (hub.folder / "owner/tiny/model.safetensors").read_bytes()


def test_killed_in_the_middle_it_goes_on_with_the_file_it_was_at(hub: FakeHub, tmp_path: Path) -> None:
    hub.slow.add(SHARDS[1])
    killed = subprocess.Popen(command(f"owner/sharded@{REVISION}"), env=environment(hub, tmp_path))
    blobs = snapshot(tmp_path, "owner/sharded").parents[1] / "blobs"
    end = time.monotonic() + 60
    while not (SHARDS[1] in hub.gets and list(blobs.glob("*.incomplete"))):
        assert time.monotonic() < end and killed.poll() is None, "it was never at the second shard"
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    hub.slow.clear()
    [half] = blobs.glob("*.incomplete")
    os.utime(half, (0, 0))

    hub.gets.clear()
    fetch(hub, tmp_path, f"owner/sharded@{REVISION}")
    assert hub.gets == [SHARDS[1]]
    assert (snapshot(tmp_path, "owner/sharded") / SHARDS[1]).read_bytes() == SHARDS[1].encode() * 3_000
    assert not list(blobs.glob("*.incomplete"))


def test_scripts_keep_the_libraries_off_the_network(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'workflow/scripts')!r}); import _src\n"
        "import datasets, huggingface_hub; print(datasets.config.HF_HUB_OFFLINE, huggingface_hub.is_offline_mode())"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]


def test_only_what_lies_on_the_hub_is_a_source() -> None:
    local = {"config.json": "0" * 64, "model.safetensors": "1" * 64}
    assert hub_sources({"model": local, "data": ["2" * 64]}) == []
    assert hub_sources({"model": TINY, "tokenizer": TINY, "data": ["2" * 64, ROWS]}) == [TINY, ROWS]


@pytest.fixture
def project(hub: FakeHub, tmp_path: Path) -> Project:
    """A project whose model and data lie on the hub."""
    (tmp_path / "project").mkdir()
    project = Project(tmp_path / "project", real=True)  # the hub's library reads its variables when it is imported
    project.environment |= environment(hub, tmp_path)
    project.edit(MICRO, "path: resources/tiny-dream", f"path: owner/tiny\n  revision: '{REVISION}'")
    project.edit(MICRO, "resources/tiny-dream/rows.parquet", ROWS)
    project.edit(MICRO, "  sampled: {temperature: 0.7, top_p: 0.9}\n", "")
    return project


@pytest.mark.slow
def test_with_internet_the_first_job_that_needs_it_waits_for_the_download(project: Project, tmp_path: Path) -> None:
    assert project.jobs("--until", "prepare_shards") == {"download_source": 2, "prepare_shards": 1}
    output = project.snakemake("--until", "prepare_shards")
    assert "model.safetensors (2.19 MB)" in output and len(project.manifests()) == 1
    assert not [path for path in (project.folder / "results/downloads").iterdir() if path.suffix != ".log"]


@pytest.mark.slow
def test_the_whole_workflow_without_internet(project: Project, hub: FakeHub, tmp_path: Path) -> None:
    """The hub is gone after the download, and all runs from the cache; then that is gone, and nothing re-runs."""
    project.snakemake("download")
    assert project.manifests() == {}
    hub.shutdown()
    hub.server_close()

    [shards] = (project.folder / "results/prepare_shards").iterdir()
    weights = snapshot(tmp_path, "owner/tiny") / "model.safetensors"
    weights.rename(tmp_path / "aside")
    output = project.snakemake(
        *("--target-jobs", f"prepare_shards:version={shards.name}", "--allowed-rules", "prepare_shards"),
        *("--mode", "remote", "--force", "--nolock", "--ignore-incomplete"),
        fails=True,
    )  # as Snakemake is started on a node
    [line] = [line for line in output.splitlines() if line.startswith("prepare_shards: ")]
    missing = rf"owner/tiny at {REVISION}: model\.safetensors is not in the hub's cache \S+/cache/hub; "
    assert re.search(missing + "fetch it where there is internet: snakemake download --cores 1", line)
    assert "Traceback" not in output and {path.name for path in shards.iterdir()} == {"config.json", "job.log"}
    (tmp_path / "aside").rename(weights)

    project.snakemake()
    assert (project.folder / "results/latest/one/report.html").exists()
    assert not [path for path in (project.folder / "results").rglob("*") if "lock" in path.name]
    shutil.rmtree(tmp_path / "cache")
    assert project.jobs() == {}
    project.edit(MICRO, "examples: 5", "examples: 6")
    assert project.jobs() == {"render_report": 1, "publish": 1}
    project.edit(MICRO, "learning_rate: 1e-3", "learning_rate: 2e-3")
    assert project.jobs()["download_source"] == 1, "training reads the model, and no more the rows"
