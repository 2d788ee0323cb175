"""What the attacks share: the seed, a finished experiment, and the account that pytest prints at the end."""

import fcntl
import os
import random
from collections import Counter
from pathlib import Path

import pytest

from attacks.targets import Attacked, Finished, build

SEED = int(os.environ.get("SEED", "15"))
SHARE = float(os.environ.get("SHARE", "1"))  # of the cases, drawn by the seed: CI runs a part


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the seeded share of the attacks; each draws its lot by its own name."""
    mine = [item for item in items if Path(__file__).parent in item.path.parents]
    for item in mine:
        item.add_marker("attack")
    named = any("::" in argument for argument in config.args)
    left = [item for item in mine if not named and random.Random(f"{SEED} {item.nodeid}").random() >= SHARE]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in set(left)]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A finished experiment, made once for all workers."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with (shared / "finished.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return build(shared / "finished")


@pytest.fixture(autouse=True)
def repeat(request: pytest.FixtureRequest) -> None:
    """Print the seed, and the command that repeats this one attack; pytest shows both if the attack is not survived."""
    print(f"seed {SEED}; to repeat: SEED={SEED} pytest -m attack '{request.node.nodeid}'")


@pytest.fixture
def attacked(finished: Finished, request: pytest.FixtureRequest, tmp_path: Path) -> Attacked:
    """The target named by the test's parameter `target`, in the state before its job."""
    return finished.attacked(request.getfixturevalue("target"), tmp_path / "attacked")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count the attacks by what they struck (see `struck`), and those that were lost."""
    for name, value in report.user_properties if report.when == "call" else []:
        if name == "struck":
            TRIED[value] += 1
            LOST[value] += report.failed


TRIED: Counter[str] = Counter()
LOST: Counter[str] = Counter()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for what, tried in sorted(TRIED.items()):
        terminalreporter.write_line(f"attacks: {what}: {tried} tried, {LOST[what]} lost")
    if TRIED:
        terminalreporter.write_line(f"attacks: {sum(TRIED.values())} tried, {sum(LOST.values())} lost; seed {SEED}")
