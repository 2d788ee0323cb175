"""K jobs and a gather through real Snakemake: the same files as one job, and finished parts are not made again."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from project import MICRO, Project

pytestmark = pytest.mark.slow
SCATTERED = ("prepare_shards", "evaluate_likelihood", "generate_answers")
# What a run's clock gets into, and what is not an output.
TIMED = {"timings.parquet", "generation.json", "manifest.json", "config.json", "job.log", "benchmark.tsv"}


def versions(project: Project) -> dict[str, Path]:
    """Return the version folder of each stage that is scattered; of the answers, the tuned model's greedy ones."""
    project.snakemake("--until", "prepare_shards")  # freezes every version that is planned and not there
    found: dict[str, Path] = {}
    for path in (project.folder / "results").glob("*/*/config.json"):
        spec = json.loads(path.read_text())
        sampled = spec["settings"].get("generate", {"temperature": 0})["temperature"] > 0
        base = spec["stage"] == "generate_answers" and "adapter" not in spec["reads"]
        if spec["stage"] in SCATTERED and not sampled and not base:
            assert spec["stage"] not in found
            found[spec["stage"]] = path.parent
    assert found.keys() == set(SCATTERED)
    return found


def missing(folders: dict[str, Path], project: Project) -> list[str]:
    """Return the manifests that are still to be made; a finished version is no target."""
    paths = [folder / "manifest.json" for folder in folders.values()]
    return [str(path.relative_to(project.folder)) for path in paths if not path.exists()]


def outputs(folder: Path) -> dict[str, Any]:
    """Return the digests that a manifest states, of the files that the clock does not get into."""
    stated = json.loads((folder / "manifest.json").read_text())["outputs"]
    there = {path.name for path in folder.iterdir()}
    assert there - TIMED == {name.split("/")[0] for name in stated} - TIMED, "nothing is left there, parts least of all"
    return {name: output for name, output in stated.items() if name not in TIMED}


@pytest.fixture(scope="module")
def scattered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, dict[str, Path], dict[str, Any]]:
    """A copy of the project, its versions, and the digests of what one job each made of them, which is then deleted."""
    project = Project(tmp_path_factory.mktemp("scatter"))
    project.edit(MICRO, "  max_tokens: 64", "  max_tokens: 64\n  batch_rows: 100")
    folders = versions(project)
    project.snakemake(*missing(folders, project))
    made = {stage: outputs(folder) for stage, folder in folders.items()}
    for folder in folders.values():
        shutil.rmtree(folder)
    project.edit(MICRO, "max_new_tokens: 8", "scatter: 3\n  max_new_tokens: 8")
    project.edit(MICRO, "likelihood: {draws: 1", "likelihood: {scatter: 3, draws: 1")
    project.edit(MICRO, "  max_tokens: 64", "  max_tokens: 64\n  scatter: 3")
    return project, folders, made


def test_three_jobs_make_what_one_makes(scattered: tuple[Project, dict[str, Path], dict[str, Any]]) -> None:
    project, folders, one = scattered
    parts = {f"{stage}_part": 3 for stage in SCATTERED}
    assert project.jobs(*missing(folders, project)) == dict.fromkeys(SCATTERED, 1) | parts
    assert versions(project) == folders, "the number of jobs is no part of a version"  # and the shards are made

    later = missing(folders, project)
    planned = project.snakemake("-n", *later).split()
    part = next(word for word in planned if word.startswith("results/generate_") and word.endswith("/part.json"))
    project.snakemake(part)
    left = {"evaluate_likelihood": 1, "evaluate_likelihood_part": 3, "generate_answers": 1, "generate_answers_part": 2}
    assert project.jobs(*later) == left, "the part that is finished is not made again"
    project.edit(MICRO, "  one: {}", "  one: {}\n  two: {report: {examples: 6}}")  # and shares it
    assert project.jobs(*later) == left, "nor when another experiment comes to share it"

    project.snakemake(*later)
    for stage, folder in folders.items():
        assert outputs(folder) == one[stage]
        made_by = json.loads((folder / "manifest.json").read_text())["parts"]
        assert [part["part"] for part in made_by] == ["1-of-3", "2-of-3", "3-of-3"]
