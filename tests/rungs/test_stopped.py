"""What is still read, shown and kept once halving has stopped runs."""

import json
from pathlib import Path

import pytest

from dreamtune.errors import UserError
from dreamtune.files import write_json
from dreamtune.overview.members import Member, Members, write_members
from dreamtune.overview.states import state_of
from dreamtune.workflow.prune import prune
from dreamtune.workflow.verification import UNREAD, Undecided, still_read, verify
from versions import finish, freeze, specification

WHY = "stopped: place 2 of 2 by validation NLL (4.113) after 75 % of its steps"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def made(stage: str, name: str, done: bool = True, **reads: Path) -> Path:
    """Make a version of a stage; return its folder."""
    spec = specification(stage, {key.replace("_", ":"): path for key, path in reads.items()}, settings={"name": name})
    folder = freeze(spec)
    if stage == "halve":
        write_json(folder / "halve.json", {"stopped": {"b": WHY}})
    if done:
        finish(folder, spec)
    return folder


def test_decisions_need_no_checkpoints() -> None:
    """They are the largest files of a rung, and the next rung, which does, verifies them."""
    rung = made("train_adapter", "a", done=False)
    (rung / "reached").mkdir()
    for name in ("reached/weights", "rung.json"):
        (rung / name).write_text(name)
    made("train_adapter", "a")
    (rung / "reached/weights").unlink()
    verify(rung, unread=UNREAD["halve"]["train_adapter"])
    with pytest.raises(UserError, match="weights"):
        verify(rung)


def test_a_version_reads_what_is_left_once_it_is_decided() -> None:
    waiting = made("halve", "grid", done=False)
    reads = {"a/full": "A", "a/smoke": "S", "b/full": "B", "ab": "AB", "b": "R", "decided:grid": waiting.as_posix()}
    with pytest.raises(Undecided) as error:
        still_read(reads)
    assert error.value.folder == waiting
    assert made("halve", "grid") == waiting
    assert still_read(reads).keys() == {"a/full", "a/smoke", "ab", "decided:grid"}
    (waiting / "halve.json").write_text(json.dumps({"stopped": {}}))
    with pytest.raises(UserError, match=r"halve\.json of version halve/\w+ was changed|has \d+ bytes instead"):
        still_read(reads)


def test_the_page_says_when_and_why_a_run_was_stopped_also_where_an_earlier_report_is_left() -> None:
    first, second = made("halve", "25", done=False), made("halve", "50", done=False)
    report = made("render_report", "b")
    run = Member("b", "b", "b", 0, None, {}, {"report": report.as_posix()}, "", [first.as_posix(), second.as_posix()])
    assert state_of(run, {}).stand != "ended", "nothing is decided"
    made("halve", "50")
    state = state_of(run, {})
    assert (state.stand, state.summary) == ("ended", {})
    assert state.reason == "it was stopped early: place 2 of 2 by validation NLL (4.113) after 75 % of its steps"


@pytest.mark.parametrize("compared", [True, False])
def test_prune_keeps_decisions_and_rungs_of_the_study_that_was_planned_last(compared: bool) -> None:
    """Also those of runs that were stopped, which nobody published: with them the next point is decided on."""
    a, b, old = (made("train_adapter", name) for name in ("a", "b", "old"))
    decision, stale = made("halve", "grid", a=a, b=b), made("halve", "before", a=old)
    report, never = made("render_report", "a"), made("render_report", "b", done=False)
    study = made("study", "all", done=compared, decided_grid=decision, never=never)
    runs = [
        Member(name, name, "grid", 0, None, {}, {"rung-50": path.as_posix()}, "", [decision.as_posix()])
        for name, path in (("a", a), ("b", b))
    ]
    write_members(Path("results/latest"), Members(runs, [], [], None, "accuracy", study.as_posix()))
    Path("results/latest/a").mkdir()
    write_json(Path("results/latest/a/versions.json"), {"report": report.as_posix()})
    assert set(prune()) == {old, stale}
    assert set(prune(unfinished=True)) == (set() if compared else {study, never})
    assert all(path.exists() for path in (a, b, decision, report))
