"""What all tests share: warm Pythons, the order of the files, where the real data may lie, and the mark without it."""

import gc
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: the tests themselves run side by side
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else each script of a copy of the project would compile it anew
USUAL_GARBAGE = gc.get_threshold()
gc.set_threshold(1_000_000)  # else looking for garbage takes a quarter of the imports' time

import pytest

import warm

ROOT = Path(__file__).resolve().parents[1]
FIXTURES = ROOT / "tests" / "fixtures"
SHARED = ROOT.parent / "shared"
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason=f"needs the real data and checkpoints in {SHARED}")
# Files that take minutes begin first, so that neither of two workers is left with a long one at the end.
LONGEST = ("shipped_runs", "study_run", "workflow", "processes", "full_finetuning_workflow", "kill", "download")
LONGEST += ("scattered", "resuming", "driver")
STOP_SERVERS = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    cluster = any("cluster" in argument for argument in config.args)  # its jobs start outside of pytest
    if not cluster and not hasattr(config, "workerinput"):  # once for all workers, which inherit the environment
        config.stash[STOP_SERVERS] = warm.start()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if warm.VARIABLE in os.environ:
        terminalreporter.write_line(warm.account())


def pytest_collection_finish() -> None:
    gc.freeze()  # what was imported stays: no search for garbage during a test goes through it
    gc.set_threshold(*USUAL_GARBAGE)


def pytest_unconfigure(config: pytest.Config) -> None:
    if STOP_SERVERS in config.stash:
        config.stash[STOP_SERVERS]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {f"test_{name}": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))
