"""What `make setup` and the other targets do to environments, by the real Makefile and script in a small tree."""

import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import ROOT
from dreamtune.workflow import launch
from small_tree import LOCK, SLURM_LOCK, Tree, listing, wait_for


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "tree", tmp_path / "beside")


def test_setup_builds_once_and_links(tree: Tree) -> None:
    assert ".venv now leads to .venvs/" in tree.make("setup")
    built = tree.link.resolve()
    assert built.parent == tree.folder / ".venvs" and not tree.link.readlink().is_absolute()
    assert (built / ".complete").exists()
    command = subprocess.run([tree.link / "bin/alpha"], capture_output=True, text=True, check=True)
    assert command.stdout == f"alpha 1 {built}/bin/python\n", "commands start by the real path"
    before = listing(built)
    assert tree.said("setup").endswith("is up to date and in use")
    assert listing(built) == before and tree.installed() == 1


def test_a_new_lock_gets_a_new_environment_and_running_jobs_keep_theirs(tree: Tree) -> None:
    tree.make("setup")
    old = tree.link.resolve()
    before = listing(old)
    tree.write("hold", "")
    with tree.start("prune") as job:
        assert job.stdout and "python workflow/scripts/prune.py" in job.stdout.readline()
        assert job.stdout.readline() == "started\n"
        tree.write(LOCK, "alpha==2\n")
        assert f"; .venvs/{old.name} stays, for jobs that run in it" in tree.make("setup")
        assert tree.link.resolve() != old
        (tree.folder / "hold").unlink()
        assert job.stdout.read() == f"alpha 1 {old}\n", "a running job goes on with its own packages"
    assert job.returncode == 0
    assert f"alpha 2 {tree.link.resolve()}" in tree.make("prune")
    assert listing(old) == before
    tree.write(LOCK, "alpha==1\n")
    tree.make("setup")
    assert tree.link.resolve() == old and tree.installed() == 2, "going back installs nothing"


def test_other_targets_make_a_missing_environment_and_never_replace_one(tree: Tree) -> None:
    assert "alpha 1" in tree.make("prune")
    old = tree.link.resolve()
    tree.write(LOCK, "alpha==2\n")
    before = listing(tree.folder)
    output = tree.make("prune")
    assert f"{LOCK} has changed since .venvs/{old.name} was built, " in output
    assert output.count("environment:") == 1 and "`make setup` would update it" in output
    assert f"alpha 1 {old}" in output and listing(tree.folder) == before
    shutil.rmtree(old)
    assert "alpha 2" in tree.make("prune"), "one that was deleted is missing"


def test_every_target_but_two_asks_for_an_environment_that_is_never_replaced(tree: Tree) -> None:
    [names] = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    targets = set(names.split()) - {"setup", "setup-slurm", "browser", "image"}
    for target in targets:
        calls = re.findall(r"environment\.py (\w+)", tree.make("--dry-run", target))
        assert set(calls) == {"build" if target == "test-cluster" else "require"}, target


def test_a_linked_in_environment_is_used_and_not_touched(tree: Tree, tmp_path: Path) -> None:
    other = Tree(tmp_path / "other", tmp_path / "beside")
    other.make("setup")
    elsewhere = other.link.resolve()
    tree.link.symlink_to(other.link)
    time.sleep(0.01)
    tree.write(LOCK, "alpha==2\n")
    before = listing(other.folder)
    output = tree.make("prune")
    assert f"using {elsewhere}, which .venv leads to; " in output and f"may not match {LOCK};" in output
    assert f"alpha 1 {elsewhere}" in output
    for target in ("setup", "setup-slurm"):
        line = tree.said(target, fails=True)
        assert line == f".venv leads to {elsewhere}, outside of .venvs; nothing was touched; delete the link: rm .venv"
    assert tree.link.readlink() == other.link and listing(other.folder) == before
    assert not (tree.folder / ".venvs").exists() and tree.installed() == 1


def test_links_to_nowhere_are_refused(tree: Tree, tmp_path: Path) -> None:
    tree.link.symlink_to(tmp_path / "nothing")
    for target in ("setup", "prune"):
        assert tree.said(target, fails=True).startswith(f".venv leads to {tmp_path}/nothing, ")
    tree.link.unlink()
    tree.link.symlink_to(".venv")  # round in a circle
    assert "delete the link: rm .venv" in tree.said("setup", fails=True)
    assert not (tmp_path / "nothing").exists() and not (tree.folder / ".venvs").exists()


@pytest.mark.parametrize("target", ["setup", "prune", "test-cluster"])
def test_nothing_is_built_through_a_link(tree: Tree, tmp_path: Path, target: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tree.folder / ".venvs").symlink_to(outside)
    line = tree.said(target, fails=True)
    assert line == f".venvs leads to {outside}; nothing was touched; delete the link: rm .venvs"
    assert not list(outside.iterdir()) and not tree.link.is_symlink()


def test_a_setup_that_was_killed_is_begun_again_once_its_pip_has_ended(tree: Tree, tmp_path: Path) -> None:
    tree.write(LOCK, f"alpha==1\nwait {tmp_path}/go\nbeta==1\n")
    killed = tree.start("setup")
    wait_for(lambda: list(tree.folder.glob(".venvs/*/bin/alpha")))
    [left] = tree.folder.glob(".venvs/[!.]*")
    (left / "rest").touch()
    [script] = subprocess.run(["pgrep", "-P", str(killed.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(script), signal.SIGKILL)  # pip is left behind, and writes on
    killed.wait()
    with tree.start("setup") as again:
        assert again.stdout
        assert "another call is building an environment; waiting" in again.stdout.readline()
        assert not tree.link.is_symlink() and (left / "rest").exists()
        (tmp_path / "go").touch()
        assert ".venv now leads to" in again.stdout.read()
    assert tree.link.resolve() == left and not (left / "rest").exists() and (left / "bin/beta").exists()
    assert tree.installed() == 2


def test_setups_side_by_side_build_once(tree: Tree, tmp_path: Path) -> None:
    tree.write(LOCK, f"alpha==1\nwait {tmp_path}/go\n")
    calls = [tree.start("setup") for _ in range(3)]
    wait_for(lambda: list(tree.folder.glob(".venvs/*/bin/alpha")))
    (tmp_path / "go").touch()
    outputs = [call.communicate(timeout=60)[0] for call in calls]
    assert [call.returncode for call in calls] == [0, 0, 0], outputs
    assert tree.installed() == 1 and tree.link.exists() and not list(tree.folder.glob(".venv-*"))


def test_a_switch_that_is_cut_short_leaves_the_link_alone(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but one step happen beside the link; that one is a rename, which readers see done or not done."""
    script = runpy.run_path(str(tree.folder / "containers/environment.py"))
    tree.link.symlink_to(".venvs/old")
    monkeypatch.setattr(Path, "replace", stop_here)
    with pytest.raises(Cut):
        script["_switch"](tree.folder / ".venvs/new")
    assert str(tree.link.readlink()) == ".venvs/old"
    monkeypatch.undo()
    (tree.folder / f".venv-{os.getpid()}").unlink()
    script["_switch"](tree.folder / ".venvs/new")
    assert str(tree.link.readlink()) == ".venvs/new"


class Cut(Exception):
    pass


def stop_here(*_: object) -> None:
    raise Cut


def test_a_failed_or_interrupted_setup_leaves_the_link_alone(tree: Tree, tmp_path: Path) -> None:
    tree.make("setup")
    old = tree.link.resolve()
    tree.write(LOCK, "fails\n")
    output = tree.make("setup", fails=True)
    assert "no such package" in output and "; .venv is as it was, and the next call begins again" in output
    tree.write(LOCK, f"beta==1\nwait {tmp_path}/never\n")
    stopped = tree.start("setup")
    wait_for(lambda: list(tree.folder.glob(".venvs/*/bin/beta")))
    os.killpg(stopped.pid, signal.SIGINT)
    output, _ = stopped.communicate(timeout=60)
    assert "environment: interrupted; .venv is as it was" in output and stopped.returncode
    assert tree.link.resolve() == old and "alpha 1" in tree.make("prune")


@pytest.fixture
def earlier(tree: Tree) -> Iterator[Path]:
    """A folder .venv as earlier versions of the project made it; a test fails if anything is changed in it."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tree.link], check=True)
    [packages] = tree.link.glob("lib/python3*/site-packages")
    (packages / "alpha.py").write_text("version = '0'")
    (tree.link / ".complete").touch()
    before = listing(tree.link)
    yield tree.link
    assert listing(tree.link) == before and not tree.installed()


def test_the_folder_of_an_earlier_version_is_used_while_it_is_up_to_date(tree: Tree, earlier: Path) -> None:
    assert tree.said("setup").endswith("is up to date")
    assert "environment:" not in tree.make("prune")
    assert "delete it (rm -r .venv)" in tree.said("setup-slurm", fails=True), "nothing is installed into it"


def test_the_folder_of_an_earlier_version_is_never_replaced(tree: Tree, earlier: Path) -> None:
    later = time.time() + 60
    os.utime(tree.folder / LOCK, (later, later))
    line = tree.said("setup", fails=True)
    assert line == (
        ".venv is a folder from an earlier version of this project; nothing was touched; "
        "once no job runs in it, delete it (rm -r .venv) and call again"
    )
    output = tree.make("prune")
    assert "has changed since .venv was built, which is used all the same" in output and "alpha 0" in output


@pytest.mark.parametrize("target", ["setup", "prune"])
def test_a_folder_that_nobody_finished_is_refused(tree: Tree, target: str) -> None:
    (tree.link / "bin").mkdir(parents=True)
    assert ".venv is neither a link nor complete; nothing was touched" in tree.said(target, fails=True)
    assert (tree.link / "bin").exists()


def test_slurm_has_an_environment_of_its_own(tree: Tree) -> None:
    tree.make("setup")
    plain = tree.link.resolve()
    before = listing(plain)
    output = tree.make("test-cluster")
    assert tree.link.resolve() == plain, "test-cluster leaves .venv alone"
    assert f"pytest slurm {tree.folder}/.venvs/" in output
    tree.make("setup-slurm")
    assert tree.link.resolve() != plain and listing(plain) == before and tree.installed() == 2
    assert "environment:" not in tree.make("prune")
    tree.write(SLURM_LOCK, "alpha==2\n")
    assert "`make setup-slurm` would update it" in tree.make("prune")


def test_a_copied_environment_is_refused(tree: Tree, tmp_path: Path) -> None:
    """Its commands would start the original's Python."""
    tree.make("setup")
    built = tree.link.resolve()
    tree.folder = shutil.copytree(tree.folder, tmp_path / "copy", symlinks=True)
    for target in ("setup", "prune"):
        line = tree.said(target, fails=True)
        assert (
            line
            == f".venvs/{built.name} was built as {built} and cannot be used elsewhere; call: rm -r .venvs/{built.name}"
        )
    shutil.rmtree(tree.folder / ".venvs")
    assert f"alpha 1 {tree.folder}" in tree.make("prune")


def test_an_old_python_is_refused_in_one_line(tree: Tree) -> None:
    tree.environment["OLD_PYTHON"] = "1"
    line = tree.said("setup", fails=True)
    assert line == "Python 3.11 or newer is needed, this is 3.9.2; call: make PYTHON=/path/to/python3.11"
    assert not list(tree.folder.glob(".venvs/[!.]*"))
    del tree.environment["OLD_PYTHON"]
    tree.make("setup")
    tree.environment["OLD_PYTHON"] = "1"
    assert "alpha 1" in tree.make("prune"), "it is only needed to build"


def test_jobs_find_their_packages_by_the_real_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Snakemake may have been started through the link, as `.venv/bin/python -m snakemake`."""
    (tmp_path / "built/bin").mkdir(parents=True)
    (tmp_path / "built/bin/python").symlink_to(sys.executable)
    (tmp_path / ".venv").symlink_to("built")
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv/bin/python"))
    assert launch.own_environment() == f"export PATH={tmp_path}/built/bin:$PATH"
