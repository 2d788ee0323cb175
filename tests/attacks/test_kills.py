"""Each kind of job is killed at its operations on files, and at moments drawn at random; then it runs again.

A kill is lost if a version is filed that is not whole, if the next run fails, if what it makes differs in any byte from
what an undisturbed job makes, if anything else is left behind, or if a training begins anew although it had a
checkpoint.
"""

from pathlib import Path
from typing import Any

import pytest

from attacks.targets import TARGETS, Attacked, Finished
from attacks.undisturbed import Undisturbed, check_finished, draw, undisturbed

# How many operations on files a job does; `test_the_instants_are_all_known` tells the number after a change.
INSTANTS = {
    "prepare_shards": 23,
    "audit_references": 11,
    "audit_contamination": 12,
    "smoke": 41,
    "full": 99,
    "generate_answers": 13,
    "likelihood_part": 14,
    "likelihood_gather": 21,
    "score_answers": 12,
    "render_report": 40,
    "merge_adapter": 28,
    "publish": 103,
    "prune": 58,
}
MOST = 24  # of them that are attacked, drawn by the seed
MOMENTS = 4  # drawn for each target, uniformly over the CPU time that its undisturbed job takes
SIGNALS = ("SIGKILL", "SIGKILL", "SIGKILL", "SIGTERM", "SIGINT")


def strike(job: Attacked, expected: Undisturbed, signal: str, when: str, record: Any) -> None:
    """Kill a job, and check what lies there then, and what the next run makes of it."""
    status, said = job.run(signal, when)
    record("struck", f"{job.target.name}: {signal}" if status else "over before the moment came")
    print(f"{signal} at {when}, status {status}:\n{said}")
    assert signal == "SIGKILL" or "Traceback" not in said
    job.check_whole()
    check_finished(job, expected)


@pytest.mark.parametrize("target", TARGETS)
def test_the_instants_are_all_known(target: str, finished: Finished, tmp_path: Path) -> None:
    assert undisturbed(finished, target, tmp_path).instants == INSTANTS[target]


def drawn() -> list[tuple[str, int]]:
    """Return the targets with the instants at which they are attacked."""
    lots = {name: draw("instants", name).sample(range(1, n + 1), min(n, MOST)) for name, n in INSTANTS.items()}
    return [(name, instant) for name, lot in lots.items() for instant in sorted(lot)]


@pytest.mark.parametrize(("target", "instant"), drawn())
def test_killed_before_an_operation_on_a_file(
    target: str, instant: int, attacked: Attacked, finished: Finished, tmp_path: Path, record_property: Any
) -> None:
    expected = undisturbed(finished, target, tmp_path / "undisturbed")
    strike(attacked, expected, draw(target, instant).choice(SIGNALS), str(instant), record_property)


@pytest.mark.parametrize("moment", range(MOMENTS))
@pytest.mark.parametrize("target", TARGETS)
def test_killed_at_a_random_moment(
    target: str, moment: int, attacked: Attacked, finished: Finished, tmp_path: Path, record_property: Any
) -> None:
    expected = undisturbed(finished, target, tmp_path / "undisturbed")
    lot = draw("moment", target, moment)
    strike(attacked, expected, lot.choice(SIGNALS), f"{lot.uniform(0, expected.cpu_s):.3f}s", record_property)
