"""The links people open, and what may be deleted."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from dreamtune.errors import UserError
from dreamtune.overview.members import Member, Members, write_members
from dreamtune.workflow.prune import prune
from dreamtune.workflow.publish import publish
from dreamtune.workflow.verification import verify
from dreamtune.writers import writer_name
from versions import finish, freeze, specification


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path("results")


def version(
    stage: str,
    name: str,
    *reads: Path,
    gate: Path | None = None,
    finished: bool = True,
    summary: str = "{}",
    weights: str = "adapter",
) -> Path:
    """Make a version of a stage, told from its others by a setting `name`."""
    spec = specification(
        stage,
        {str(number): read for number, read in enumerate(reads)},
        {"gate": gate} if gate else {},
        settings={"name": name},
    )
    folder = freeze(spec)
    if stage == "render_report":
        (folder / "report.html").write_text(name)
        (folder / "summary.json").write_text(summary)
        (folder / "README.md").write_text(f"card of {name}")
        (folder / "lm-eval/base").mkdir(parents=True, exist_ok=True)
        (folder / "lm-eval/base/results_1.json").write_text("{}")
    if stage == "train_adapter" and weights:
        (folder / weights).mkdir()
        (folder / weights / "adapter_config.json").write_text(f"settings of {name}")
        (folder / weights / "weights.safetensors").write_bytes(name.encode())
    if finished:
        finish(folder, spec)
    return folder


def published(name: str, marker: str, **folders: Path) -> None:
    links = {key: str(folder) for key, folder in folders.items()}
    publish(Path(f"results/latest/{name}/.published-{marker}"), links)


def test_links_follow_and_those_that_are_no_more_go(results: Path) -> None:
    first, second = version("render_report", "r1"), version("render_report", "r2")
    sampled = version("score_answers", "s1")
    published("one", "aa", **{"report": first, "scores/test/sampled/base": sampled})
    latest = results / "latest/one"
    assert (latest / "report.html").read_text() == "r1" and (latest / "scores-test-sampled-base").exists()
    published("one", "bb", report=second)
    assert (latest / "report.html").read_text() == "r2"
    names = {".published-bb", "lm-eval", "report", "report.html", "summary.json", "versions.json"}
    assert {path.name for path in latest.iterdir()} == names


def test_the_weights_lie_in_one_folder_with_their_card_at_no_cost(results: Path) -> None:
    full, report = version("train_adapter", "full"), version("render_report", "r1")
    published("one", "aa", report=report, full=full)
    folder = results / "latest/one/adapter"
    assert {path.name for path in folder.iterdir()} == {"README.md", "adapter_config.json", "weights.safetensors"}
    assert not any(path.is_symlink() for path in [folder, *folder.iterdir()]), "also cp -r and tar take the files"
    assert (folder / "README.md").read_text() == "card of r1"
    assert (folder / "weights.safetensors").samefile(full / "adapter/weights.safetensors"), "it is a hard link"
    assert not (folder / "adapter_config.json").samefile(full / "adapter/adapter_config.json"), "it may be edited"
    assert (results / "latest/one/lm-eval/base/results_1.json").exists()
    verify(full)
    verify(report)


def test_a_later_card_and_the_weights_of_full_finetuning_take_the_folders_place(results: Path) -> None:
    full = version("train_adapter", "full")
    published("one", "aa", report=version("render_report", "r1"), full=full)
    published("one", "bb", report=version("render_report", "r2"), full=full)
    latest = results / "latest/one"
    assert (latest / "adapter/README.md").read_text() == "card of r2"
    published("one", "cc", report=version("render_report", "r3"), full=version("train_adapter", "all", weights="model"))
    assert (latest / "model/weights.safetensors").read_bytes() == b"all" and not (latest / "adapter").exists()
    assert not [path for path in latest.iterdir() if path.name.startswith(".weights")]


def test_weights_are_copied_where_there_are_no_hard_links(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", none)
    full = version("train_adapter", "full")
    published("one", "aa", report=version("render_report", "r1"), full=full)
    copied = results / "latest/one/adapter/weights.safetensors"
    assert copied.read_bytes() == b"full" and not copied.samefile(full / "adapter/weights.safetensors")


def test_damaged_weights_are_not_published(results: Path) -> None:
    full = version("train_adapter", "full")
    (full / "adapter/weights.safetensors").write_bytes(b"ful1")
    with pytest.raises(UserError, match=r"adapter/weights\.safetensors of version train_adapter/.* was changed"):
        published("one", "aa", report=version("render_report", "r1"), full=full)
    assert not (results / "latest").exists()


def test_a_configuration_that_takes_the_place_of_another_under_its_name_says_so(results: Path) -> None:
    first, second = (str(version("render_report", name)) for name in ("r1", "r2"))
    marker = "results/latest/one/.published-{}"
    assert publish(Path(marker.format("aa")), {"report": first}, "mine.yaml") is None
    assert publish(Path(marker.format("bb")), {"report": second}, "mine.yaml") is None, "an edit is no replacement"
    Path(marker.format("bb.log")).write_text("what Snakemake's job printed")
    line = publish(Path(marker.format("aa")), {"report": first}, "config/theirs.yaml")
    assert line is not None and "\n" not in line
    assert line.startswith(f"results/latest/one showed the experiment one of mine.yaml ({second}), and now shows ")
    assert f"that of config/theirs.yaml ({first})" in line
    Path(marker.format("aa")).write_text("")  # as of an earlier release
    assert publish(Path(marker.format("bb")), {"report": second}, "mine.yaml") is None


def test_the_index_lists_every_experiment_whatever_its_name_and_summary(results: Path) -> None:
    side = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 40}
    change = {"value": 0.1, "low": None, "high": None}
    summary = {
        "format": 1,
        "verdict": "improved",
        "accuracy": {"base": side, "tuned": side, "gain": change},
        "nll": {"base": side, "tuned": side, "delta": change},
        "canaries": [{"hard": True, "passed": True}, {"hard": True, "passed": False}, {"hard": False, "passed": False}],
    }
    summaries = {name: json.dumps(summary) for name in ("good", "<b>x", "damaged")}
    summaries |= {"old": json.dumps(summary | {"format": 0}), "broken": "{"}
    for name, text in summaries.items():
        published(name, "aa", report=version("render_report", name, summary=text))
    damaged = (results / "latest/damaged/summary.json").resolve()
    damaged.write_text(damaged.read_text().replace("improved", "improves"))
    published("good", "bb", report=version("render_report", "good", summary=summaries["good"]))
    page = (results / "latest/index.html").read_text()
    assert 'href="good/report.html">good</a>' in page and "1 of 2 passed" in page and "n = 40" in page
    assert 'href="%3Cb%3Ex/report.html">&lt;b&gt;x</a>' in page and "<b>x" not in page
    assert "has format 0, not 1" in page and "cannot be read (JSONDecodeError)" in page
    assert f"{damaged.relative_to(results.resolve().parent)} of version" in page and "was changed" in page
    assert "5 experiments" in page and "improves" not in page


def test_the_index_sees_an_experiment_published_while_it_was_written(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published("one", "aa", report=version("render_report", "r1"))
    replace = Path.replace

    def another_at_the_same_time(path: Path, target: Path) -> Path:
        if Path(target).name == "index.html" and not (results / "latest/two").exists():
            monkeypatch.setattr(Path, "replace", replace)
            monkeypatch.setattr("os.getpid", lambda: 1)  # it is another process
            published("two", "aa", report=version("render_report", "r2"))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", another_at_the_same_time)
    published("one", "bb", report=version("render_report", "r3"))
    assert 'href="two/report.html"' in (results / "latest/index.html").read_text()


def test_a_kill_between_the_links_leaves_no_marker(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published("one", "aa", report=version("render_report", "r1"))
    second = version("render_report", "r2")

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dreamtune.overview.page._write", killed)
    with pytest.raises(KeyboardInterrupt):
        published("one", "bb", report=second)
    assert not list((results / "latest/one").glob(".published-*"))


def test_prune_keeps_what_is_linked_read_merged_compared_or_unfinished(results: Path) -> None:
    shards, old = version("prepare_shards", "p1"), version("prepare_shards", "p0")
    smoke = version("train_adapter", "smoke", shards)
    full = version("train_adapter", "full", shards, gate=smoke)
    merged = version("merge_adapter", "m1", shards, full)
    stale = version("train_adapter", "stale", old)
    dead = version("merge_adapter", "m0", old, stale)
    compared, dead_study = version("study", "s1", full), version("study", "s0", full, stale)
    never_asked_for = version("merge_adapter", "m2", old, stale, finished=False)
    waiting = version("train_adapter", "waiting", shards, finished=False)
    unseen = version("train_adapter", "unseen", shards)
    report = version("render_report", "new", unseen, finished=False)
    published("one", "aa", report=version("render_report", "r1", full), full=full, shards=shards)
    for folder in (full, waiting):
        (folder / "checkpoints/step-000001").mkdir(parents=True)
    assert set(prune()) == {old, stale, dead, dead_study, never_asked_for, full / "checkpoints"}
    assert (waiting / "checkpoints/step-000001").exists() and not (full / "checkpoints").exists()
    assert all(folder.exists() for folder in (shards, smoke, full, merged, compared, waiting, unseen, report))
    cache = results / ".cache/nf4/entry"
    cache.mkdir(parents=True)
    assert set(prune(unfinished=True)) == {waiting, unseen, report}
    assert cache.exists()  # is no version


def test_prune_keeps_what_an_ended_run_of_the_last_study_has_finished(results: Path) -> None:
    """Its smoke run says that its gate failed; without that, the next call would train it again."""
    shards = version("prepare_shards", "p1")
    smoke, other = version("train_adapter", "smoke", shards), version("train_adapter", "other", shards)
    unfinished = version("train_adapter", "begun", shards, finished=False)
    published("one", "aa", report=version("render_report", "r1", shards))
    folders = {"smoke": smoke.as_posix(), "full": unfinished.as_posix()}
    run = Member("copies", "copies", "copies", 0, None, {}, folders, ended="its smoke run failed its gate: why")
    write_members(results / "latest", Members([run], [], [], None, "accuracy", "results/study/s1"))
    assert set(prune(unfinished=True)) == {other, unfinished} and smoke.exists()


def test_prune_that_is_killed_leaves_no_half_deleted_version(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would still have its manifest, and pass for finished."""
    shards, old = version("prepare_shards", "p1"), version("prepare_shards", "p0")
    published("one", "aa", report=version("render_report", "r1", shards))
    place, number, start = writer_name().split("-")
    monkeypatch.setattr("dreamtune.writers.writer_name", lambda: f"{place}-{number}-{int(start) + 1}")

    def killed(path: Path, **_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
        patch.setattr("dreamtune.writers.shutil.rmtree", killed)
        prune()
    assert not old.exists() and len(list(old.parent.iterdir())) == 2
    assert prune() == [] and list(old.parent.iterdir()) == [shards]


def test_prune_refuses_to_delete_everything(results: Path) -> None:
    kept = version("train_adapter", "full")
    with pytest.raises(UserError, match="no published experiment"):
        prune()
    assert kept.exists()


@pytest.mark.parametrize("content", ["{}", "[1]", '{"reads": 1}', "half of a fi", ""])
@pytest.mark.parametrize("file", ["manifest.json", "config.json"])
def test_prune_deletes_nothing_beside_a_damaged_record(results: Path, content: str, file: str) -> None:
    """A finished version says in its manifest what it reads, an unfinished one in its frozen config."""
    published("one", "aa", report=version("render_report", "r1"))
    stale = version("train_adapter", "stale")
    damaged = version("train_adapter", "damaged", finished=file == "manifest.json")
    (damaged / file).write_text(content)
    with pytest.raises(UserError, match=rf"nothing was deleted: {damaged}/{file}"):
        prune()
    assert stale.exists()


def test_prune_deletes_nothing_beside_a_damaged_list_of_versions(results: Path) -> None:
    published("one", "aa", report=version("render_report", "r1"))
    (results / "latest/one/versions.json").write_text("{")
    with pytest.raises(UserError, match=r"one/versions\.json does not name"):
        prune()
    assert (results / "render_report").exists()


@pytest.mark.parametrize("file", ["report.html", "summary.json", "manifest.json"])
def test_a_damaged_report_is_not_published(results: Path, file: str) -> None:
    published("one", "aa", report=version("render_report", "r1"))
    report = version("render_report", "r2")
    (report / file).write_text("other")
    with pytest.raises(UserError, match=f"{report}/{file}"):
        published("one", "bb", report=report)
    assert (results / "latest/one/report.html").read_text() == "r1"
    assert [path.name for path in (results / "latest/one").glob(".published-*")] == [".published-aa"]


def test_a_version_that_is_not_finished_is_not_published(results: Path) -> None:
    smoke = version("train_adapter", "smoke", finished=False)
    with pytest.raises(UserError, match=f"{smoke} is not finished"):
        published("one", "aa", report=version("render_report", "r1"), smoke=smoke)
    assert not (results / "latest").exists()
