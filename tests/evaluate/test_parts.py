"""One version made by K jobs: the same bytes for any K, and nothing of a part that is not finished or not its own."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from dreamtune.errors import UserError
from dreamtune.evaluate import likelihood
from dreamtune.formats.likelihood import BINS_FILE, FULL_FILE, LIKELIHOOD_FILE
from dreamtune.gather import gather
from dreamtune.generate.answers import generate_answers
from dreamtune.part import Part
from dreamtune.settings.generate import GenerateConfig
from dreamtune.settings.likelihood import LikelihoodConfig
from dreamtune.settings.model import ModelConfig
from dreamtune.settings.train import TrainConfig
from dreamtune.workflow.code import ROOT, code_digest
from dreamtune.workflow.parts import parts_of
from dreamtune.workflow.plan import Plan
from dreamtune.workflow.stage import Stage
from tests.evaluate.test_likelihood import END, Example, examples, tuned_model, write_shards
from tests.generate.test_answers import adapter, base, shards  # noqa: F401, fixtures

COUNTS = (2, 3, 7, 40)  # the last is more than there are rows
SCRIPT = str(ROOT / "workflow/scripts/generate_answers.py")


def scattered(count: int, folder: Path, make: Callable[..., Any]) -> tuple[Path, Any]:
    """Make each part, then gather them; return the folder of the whole and what `make` returned for it."""
    folders = []
    for number in range(1, count + 1):
        folders.append(folder / str(number))
        folders[-1].mkdir(parents=True)
        make(folders[-1], Part(number, count), ())
        assert [path.name for path in folders[-1].iterdir()] == ["part.parquet"]
    whole = folder / "whole"
    whole.mkdir()
    return whole, make(whole, None, folders)


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"max_new_tokens": 6}, 7),
        ({"max_new_tokens": 8, "block_length": 4, "refresh": "block", "threshold": 0.2}, 3),
        ({"max_new_tokens": 6, "temperature": 0.9, "top_p": 0.95, "samples": 2}, 2),
        ({"max_new_tokens": 2}, 40),
    ],
    ids=["greedy", "blocks", "sampled", "more parts than rows"],
)
def test_answers_are_the_same_bytes(
    base: ModelConfig,  # noqa: F811
    shards: Path,  # noqa: F811
    adapter: Path,  # noqa: F811
    tmp_path: Path,
    options: dict[str, Any],
    count: int,
) -> None:
    """Prompts of several lengths, so that rows stand in canvases of several widths and leave at different steps."""
    prompts = [" ".join(f"w{i % 90}" for i in range(length)) for length in (1, 90, 40, 200, 7)]
    settings = GenerateConfig(**options, batch_size=4, prompts=prompts)

    def make(out: Path, part: Part | None, parts: Any) -> Any:
        return generate_answers(settings, base, shards, None, adapter, out, part, parts)

    (tmp_path / "one").mkdir()
    expected = make(tmp_path / "one", None, ())
    whole, counts = scattered(count, tmp_path / "parts", make)
    assert (whole / "answers.parquet").read_bytes() == (tmp_path / "one/answers.parquet").read_bytes()
    assert without_times(counts) == without_times(expected)
    assert summary(whole) == summary(tmp_path / "one")
    assert pl.read_parquet(whole / "timings.parquet")["seconds"].min() > 0


def summary(out: Path) -> dict[str, Any]:
    return without_times(json.loads((out / "generation.json").read_text()))


def without_times(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in ("seconds", "tokens_per_s")}


def test_a_mask_left_in_one_part_fails_the_canary_of_the_whole(
    base: ModelConfig,  # noqa: F811
    shards: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    def make(out: Path, part: Part | None, parts: Any) -> Any:
        settings = GenerateConfig(max_new_tokens=4)
        made = generate_answers(settings, base, shards, None, None, out, part, parts)
        if part == Part(2, 3):
            table = pl.read_parquet(out / "part.parquet")
            hidden = table["tokens"].list.eval(pl.element() * 0 + 500)
            table.with_columns(tokens=hidden).write_parquet(out / "part.parquet")
        return made

    whole, _ = scattered(3, tmp_path, make)
    [canary] = summary(whole)["canaries"]
    assert canary["name"] == "no_mask_left" and not canary["passed"]


@pytest.fixture
def evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return a function that evaluates the likelihood, or a part of it; batches are small and there are many."""
    test = examples(20)
    train = [Example(1000 + e.example_id, (*e.tokens[::-1][1:], END), e.prompt) for e in test]
    folder = write_shards(tmp_path / "shards", {"train": train, "validation": [], "test": test})
    monkeypatch.setattr(likelihood, "load", lambda config, trained: tuned_model())
    (tmp_path / "training.json").write_text(json.dumps({"rows": 20}))
    settings = LikelihoodConfig(draws=4, batch_tokens=50)

    def make(out: Path, part: Part | None = None, parts: Any = ()) -> Any:
        config = ModelConfig(path="tiny")
        trained, tails = tmp_path / "adapter", TrainConfig(max_tail=4)
        return likelihood.evaluate_likelihood(settings, config, folder, trained, out, part, parts, tails)

    return make


@pytest.mark.parametrize("count", COUNTS)
def test_likelihoods_are_the_same_bytes(evaluate: Callable[..., Any], tmp_path: Path, count: int) -> None:
    (tmp_path / "one").mkdir()
    expected = evaluate(tmp_path / "one")
    whole, counts = scattered(count, tmp_path / "parts", evaluate)
    assert counts == expected
    for name in (LIKELIHOOD_FILE, FULL_FILE, BINS_FILE):  # the canaries too, which are judged over all rows
        assert (whole / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    canaries = json.loads((whole / "likelihood.json").read_text())["canaries"]
    judged = [canary for canary in canaries if canary["name"] != "rows_aligned"]  # random weights are no evidence
    assert len(canaries) == 9 and len(judged) == 8 and all(canary["passed"] is not None for canary in judged)


def test_a_row_that_is_missing_or_stands_twice_is_an_error() -> None:
    first, second = pl.DataFrame({"row": [0, 2]}), pl.DataFrame({"row": [1]})
    assert gather([first, second], 3)["row"].to_list() == [0, 1, 2]
    with pytest.raises(UserError, match="2 of 3 rows, in 2 entries"):
        gather([first], 3)
    with pytest.raises(UserError, match="3 of 3 rows, in 5 entries"):
        gather([first, second, first], 3)


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/", "a/b", "-1/3"])
def test_what_is_no_part(text: str) -> None:
    with pytest.raises(ValueError, match="write 2/7"):
        Part.parse(text)


@pytest.fixture
def version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return a function that plans and freezes a version in so many parts; it is always the same version."""
    monkeypatch.chdir(tmp_path)

    def plan(scatter: int = 2, **runtime: Any) -> Path:
        made = Plan()
        folder = made.add("generate_answers", {"generate": GenerateConfig(scatter=scatter, **runtime)})
        made.freeze()
        return folder

    return plan


def stage(folder: Path, part: str | None = None) -> Stage:
    return Stage(SCRIPT, code_digest(SCRIPT), ["--out", str(folder), *(["--part", part] if part else [])])


def make_part(folder: Path, part: str) -> Path:
    with stage(folder, part) as job:
        (job.out / "part.parquet").write_text(part)
    return job.folder


def test_parts_are_gathered_and_then_removed(version: Callable[..., Path]) -> None:
    folder = version(2)
    made = [make_part(folder, part) for part in ("1/2", "2/2")]
    assert not (folder / "manifest.json").exists()
    with stage(folder) as job:
        assert job.parts() == made
        (job.out / "answers").write_text("all")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [part["part"] for part in manifest["parts"]] == ["1-of-2", "2-of-2"] and list(manifest["outputs"]) == [
        "answers"
    ]
    assert sorted(path.name for path in folder.iterdir()) == ["answers", "config.json", "manifest.json"]


def test_parts_that_another_job_has_gathered_meanwhile_are_not_missed(
    version: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """As when a driver is killed, the job that it leaves ends a moment after the next driver has begun another."""
    folder = version(2)
    for part in ("1/2", "2/2"):
        make_part(folder, part)
    late = stage(folder)
    with stage(folder) as first:
        first.parts()
        (first.out / "answers").write_text("all")
    filed = (folder / "manifest.json").read_bytes()
    with pytest.raises(SystemExit) as ended, late as job:
        job.parts()
    assert ended.value.code == 0 and "another job has filed version" in capsys.readouterr().err
    assert (folder / "manifest.json").read_bytes() == filed
    assert sorted(path.name for path in folder.iterdir()) == ["answers", "config.json", "manifest.json"]


def test_a_part_that_failed_leaves_nothing_and_the_others_are_kept(
    version: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = version(2)
    finished = make_part(folder, "1/2")
    with pytest.raises(ZeroDivisionError), stage(folder, "2/2") as job:
        (job.out / "part.parquet").write_text(str(1 / 0))
    assert list(job.folder.iterdir()) == []
    with pytest.raises(SystemExit), stage(folder) as whole:
        whole.parts()
    assert "part 2-of-2 is not finished" in capsys.readouterr().err
    assert (finished / "part.json").exists() and not (folder / "manifest.json").exists()


def test_a_part_that_was_changed_is_refused(version: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder = version(2)
    for part in ("1/2", "2/2"):
        made = make_part(folder, part)
    (made / "part.parquet").write_text("other")
    with pytest.raises(SystemExit), stage(folder) as job:
        job.parts()
    said = capsys.readouterr().err
    assert f"{made}/part.parquet of part 2-of-2 of generate_answers/{folder.name} has 5 bytes instead of 3" in said
    assert f"rm -r {made}" in said


def test_parts_of_another_cut_are_not_mixed_in(version: Callable[..., Path]) -> None:
    """Another number of parts, or other batches: the same version, other parts."""
    folder = version(2)
    made = {make_part(folder, "1/2")}
    assert version(3) == folder
    made.add(make_part(folder, "1/3"))
    assert version(2, batch_size=5) == folder
    made.add(make_part(folder, "1/2"))
    assert len(made) == 3
    assert version(2) == folder
    make_part(folder, "2/2")
    with stage(folder) as job:
        assert [(path / "part.parquet").read_text() for path in job.parts()] == ["1/2", "2/2"]
    assert not (folder / "parts").exists(), "those of the other cuts go too"


def test_a_part_that_is_no_longer_planned_is_one_line(
    version: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = version(1)
    with pytest.raises(SystemExit):
        stage(folder, "2/7")
    assert "there is no part 2-of-7" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_one_piece_has_no_parts(version: Callable[..., Path]) -> None:
    folder = version(1)
    assert parts_of(json.loads((folder / "config.json").read_text())) == []
