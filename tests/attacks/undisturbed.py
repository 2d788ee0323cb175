"""What a job makes that nothing disturbs, how long that takes, and the seeded random numbers of each attack."""

import random
from dataclasses import dataclass
from pathlib import Path

from attacks.conftest import SEED
from attacks.targets import Attacked, Finished

KNOWN: dict[str, "Undisturbed"] = {}


@dataclass(frozen=True)
class Undisturbed:
    """What a job leaves, its CPU time, and how many operations on files it does."""

    content: dict[str, str]
    cpu_s: float
    instants: int
    added_bytes: int  # by which results/ grow


def undisturbed(finished: Finished, name: str, folder: Path) -> Undisturbed:
    """Return what a target does, found once by running its job in `folder`."""
    if name not in KNOWN:
        job = finished.attacked(name, folder)
        before = size(job)
        status, said = job.run("nothing", "0")
        assert status == 0, said
        cpu_s, instants = said.split()[-2:]
        KNOWN[name] = Undisturbed(job.content(), float(cpu_s), int(instants), size(job) - before)
    return KNOWN[name]


def size(job: Attacked) -> int:
    return sum(path.stat().st_size for path in (job.folder / "results").rglob("*") if path.is_file())


def draw(*of: object) -> random.Random:
    """Return the generator of random numbers of one attack, which depends only on the seed and its name."""
    return random.Random(" ".join(map(str, (SEED, *of))))


def check_finished(job: Attacked, expected: Undisturbed) -> None:
    """Run a job again to its end, and check that it is as if it had never been disturbed, with nothing left behind."""
    kept = job.checkpoints()
    was_finished = job.is_finished()
    print(job.finish())
    job.check_whole()
    if kept and not was_finished:
        resumed = job.read("training.json")["resumed_from"]
        assert resumed and resumed[-1] >= kept[-1], f"checkpoints {kept} were there, and it went on from {resumed}"
    after = job.content()
    assert {name: found for name, found in after.items() if expected.content.get(name) != found} == {}, "left or other"
    assert expected.content.keys() - after.keys() == set(), "missing"
