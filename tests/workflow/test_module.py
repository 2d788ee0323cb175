"""As a module of a workflow in an empty folder: from a local path, and from git with the package installed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import warm
from conftest import ROOT
from project import MICRO, Project, environment

MODULE = """configfile: "config.yaml"


module dreamtune:
    snakefile: "{snakefile}"
    config: config
    {more}


use rule * from dreamtune as dreamtune_*


onsuccess:
    dreamtune.print_verdicts()
"""
# As snakedeploy writes it, without a prefix, in a workflow that has rules of its own, the same wildcard among theirs.
WITH_OTHER_RULES = """configfile: "config.yaml"


rule mine:
    output: "mine.txt"
    input: "of-{version}.txt".format(version="today")


module dreamtune:
    snakefile: "%s"
    config: config["ours"]


use rule * from dreamtune


rule of_version:
    output: "of-{version}.txt"
    shell: "cut --version >/dev/null | grep -q nothing | cat; unset NONE; echo \\"$NONE\\" > {output}"
"""
SAMPLED = "  sampled: {temperature: 0.7, top_p: 0.9}\n"  # left out, for it takes time and shows nothing here


class User(Project):
    """Somebody's folder, which holds nothing but a Snakefile and the smallest configuration of every stage."""

    def __init__(self, folder: Path, snakefile: str, more: str = "") -> None:
        self.folder = folder
        self.python = warm.python()
        self.options = ("--cores", "2")
        self.environment = environment(self.python)
        folder.mkdir()
        (folder / "Snakefile").write_text(MODULE.format(snakefile=snakefile, more=more))
        micro = (ROOT / "tests/fixtures/micro.yaml").read_text().replace(SAMPLED, "")
        (folder / "config.yaml").write_text(micro.replace("resources/", f"{ROOT}/resources/"))

    def written(self) -> list[str]:
        return sorted(path.parent.name for path in self.folder.glob("results/*/*/config.json"))


def planned(folder: Path) -> dict[str, str]:
    """Return the version folders that the project itself plans, by name."""
    project = Project(folder)
    project.edit(MICRO, SAMPLED, "")
    return {name: str(path) for name, path in project.plan()[1]["one"].items()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> User:
    user = User(tmp_path_factory.mktemp("module") / "empty", f"{ROOT}/workflow/Snakefile")
    user.said = user.snakemake("-n")
    assert "dreamtune_render_report" in user.said and user.written() == [], "a dry run freezes nothing"
    user.said = user.snakemake()
    return user


@pytest.fixture
def user(tmp_path: Path) -> User:
    return User(tmp_path / "empty", f"{ROOT}/workflow/Snakefile")


@pytest.mark.slow
def test_an_empty_folder_becomes_a_report(finished: User) -> None:
    summary = json.loads((finished.folder / "results/latest/one/summary.json").read_text())
    assert f"one: {summary['sentence']}\n  " in finished.said
    assert (finished.folder / "results/latest/one/report.html").stat().st_size > 10_000
    assert {path.name for path in finished.folder.iterdir()} <= {
        *("Snakefile", "config.yaml", "results", ".snakemake", ".cache")
    }
    assert finished.jobs() == {}


@pytest.mark.slow
def test_versions_are_those_of_the_project(finished: User, tmp_path: Path) -> None:
    """Whoever changes from one to the other makes nothing again."""
    assert finished.published("one") == planned(tmp_path)


def test_a_users_own_rules_are_left_alone(user: User) -> None:
    """Their first rule stays the default, and no strict mode, environment or constraint of ours holds for them."""
    (user.folder / "Snakefile").write_text(WITH_OTHER_RULES % f"{ROOT}/workflow/Snakefile")
    config = (user.folder / "config.yaml").read_text().splitlines()
    (user.folder / "config.yaml").write_text("\n".join(["ours:", *(f"  {line}" for line in config)]))
    jobs = user.jobs()
    assert jobs == {"mine": 1, "of_version": 1}
    assert user.jobs("all")["render_report"] == 1


def test_what_stops_a_run_is_one_line_before_anything_is_frozen(user: User) -> None:
    user.edit("config.yaml", "  max_tail: 4", "  max_tail: 4\n  gpus: 2")
    user.edit("config.yaml", "  device: cpu", "  device: auto")
    output = user.snakemake("--resources", "gpu=1", fails=True)
    assert "dreamtune: a training takes 2 GPUs (train.gpus is 2, train.nodes 1) and this run offers gpu=1" in output
    assert "Traceback" not in output and "Exception" not in output
    assert user.written() == []


def test_a_prefix_and_a_mistake_in_the_configuration_are_one_line(user: User, tmp_path: Path) -> None:
    other = User(tmp_path / "other", f"{ROOT}/workflow/Snakefile", 'prefix: "mine"')
    assert "dreamtune: the module's prefix turns results/report into mine/results/report" in other.snakemake(
        "-n", fails=True
    )
    user.edit("config.yaml", "learning_rate:", "learning_rate: 1e-3\n  learning_rate:")
    assert "dreamtune: config.yaml: train.learning_rate is given twice" in user.snakemake("-n", fails=True)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository of what makes the workflow and the package."""
    folder = tmp_path_factory.mktemp("repository")
    for part in ("workflow", "src", "profiles"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    (folder / "containers").mkdir()
    for name in ("setup.py", "pyproject.toml", "LICENSE", "containers/requirements.lock"):
        shutil.copy2(ROOT / name, folder / name)
    us = ("-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
    for command in (["init", "-q", "-b", "main"], ["add", "."], [*us, "commit", "-q", "-m", "all"]):
        subprocess.run(["git", "-C", str(folder), *command], check=True)
    return folder


def test_without_the_package_rules_from_git_say_what_to_install(repository: Path, tmp_path: Path) -> None:
    user = User(tmp_path / "empty", f"git+file://{repository}/workflow/Snakefile@main")
    user.environment.pop("PYTHONPATH", None)  # in which a pytest of several workers has the package
    output = user.snakemake("-n", fails=True)
    assert "brings the rules and no Python code; install the package of the same version" in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_from_git_with_the_package_installed(repository: Path, tmp_path: Path) -> None:
    """In a container, too, the scripts find the package beside which they are installed, without PYTHONPATH."""
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(site), str(repository)], check=True)
    files = {path.relative_to(repository / "src") for path in (repository / "src/dreamtune").rglob("*.*")}
    assert {str(file) for file in files if not (site / file).exists()} == set()
    user = User(tmp_path / "empty", f"git+file://{repository}/workflow/Snakefile@main")
    user.environment["PYTHONPATH"] = str(site)
    user.snakemake()
    assert (user.folder / "results/latest/one/report.html").stat().st_size > 10_000
    assert user.published("one") == planned(tmp_path / "project")

    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    script = site / "dreamtune/workflow/scripts/print_verdict.py"
    done = subprocess.run([sys.executable, str(script), "one"], cwd=user.folder, env=alone, capture_output=True)
    assert done.returncode == 0 and b"report.html" in done.stdout, done.stderr


@pytest.mark.parametrize("snakefile", ["Snakefile", "workflow/Snakefile"])
def test_without_a_snakefile_of_ones_own_any_folder_will_do(user: User, snakefile: str) -> None:
    (user.folder / "Snakefile").unlink()
    output = user.snakemake("-n", "--snakefile", str(ROOT / snakefile), "--configfile", "config.yaml")
    assert "render_report" in output and "publish" in output, "the default target is `all`"
    assert f"{Path(ROOT, snakefile).parent}/profiles/default" in output, "which has gpu: 1 and --nv"
