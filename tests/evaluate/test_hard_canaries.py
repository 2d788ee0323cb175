"""Faults planted in the likelihood of a tiny model, and the hard canary that names each."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from dreamtune.canaries.alignment import OFFSETS
from dreamtune.evaluate import elbo, likelihood
from dreamtune.evaluate import hard_canaries as watching
from dreamtune.evaluate.draws import EVERYTHING
from dreamtune.evaluate.elbo import Job, base_and_tuned, batches, evaluate_jobs, plan_jobs
from dreamtune.evaluate.examples import Example
from dreamtune.evaluate.hard_canaries import CAUSAL, COUNTED, EVIDENCE, Witness, hard_canaries, telling_batches
from dreamtune.evaluate.observation import owners, row_leads, see
from dreamtune.model import logits
from dreamtune.settings.likelihood import LikelihoodConfig
from tests.evaluate.test_likelihood import END, MASK, evaluate, examples, tuned_model

IDS = {"mask_id": MASK, "end_id": END}
HARD = COUNTED.keys() - CAUSAL
NAMES = {*HARD, "rows_aligned"}


def judge(model: Any, jobs: Sequence[Job], batch_tokens: int = 60) -> tuple[dict[str, dict[str, Any]], np.ndarray]:
    """Measure jobs as the stage does; return the hard canaries by name, and what was measured."""
    todo = list(batches(jobs, batch_tokens))
    table = np.full((len(jobs), len(EVIDENCE)), np.nan)
    witness = Witness(jobs, IDS, telling_batches(todo, jobs), table)
    sides = base_and_tuned(model)
    sums = evaluate_jobs(model, sides, jobs, MASK, todo, "test", witness.watch(model, ["base", "tuned"]))
    evidence = pl.DataFrame(dict(zip(EVIDENCE, table.T, strict=True)))
    ids = pl.Series([job.example.example_id for job in jobs])
    return {check["name"]: check for check in hard_canaries(evidence.with_columns(example_id=ids))}, sums


def jobs_of(count: int = 12, draws: int = 3) -> list[Job]:
    return plan_jobs(examples(count), LikelihoodConfig(draws=draws))


def failing(checks: dict[str, dict[str, Any]]) -> set[str]:
    return {name for name, check in checks.items() if check["passed"] is False}


def test_without_a_fault_all_pass_and_nothing_is_measured_differently() -> None:
    model, jobs = tuned_model(), jobs_of()
    checks, sums = judge(model, jobs)
    assert checks.keys() == NAMES and failing(checks) == set()
    assert all(check["hard"] and check["fault"] for check in checks.values())
    assert all(checks[name]["passed"] for name in HARD)
    assert all(int(checks[name]["expected"].split()[2]) > 10 for name in HARD)
    plain = evaluate_jobs(model, base_and_tuned(model), jobs, MASK, list(batches(jobs, 60)), "test")
    assert (sums == plain).all()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


Shown = Callable[[torch.Tensor, Sequence[Job]], torch.Tensor]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Callable[[Shown], None]:
    """Return a function that changes what the model is shown, in each call that measures a batch."""
    original = elbo.summed_cross_entropy

    def plant(change: Shown) -> None:
        def faulty(model: Any, jobs: Sequence[Job], mask_id: int) -> np.ndarray:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(
                    elbo, "hidden_states", lambda m, ids, seen: logits.hidden_states(m, change(ids.clone(), jobs), seen)
                )
                return original(model, jobs, mask_id)

        monkeypatch.setattr(elbo, "summed_cross_entropy", faulty)

    return plant


def every_target(ids: torch.Tensor, jobs: Sequence[Job]) -> torch.Tensor:
    for row, job in enumerate(jobs):
        ids[row, : len(job.example.tokens)] = torch.tensor(job.example.tokens)
    return ids


def one_target(ids: torch.Tensor, jobs: Sequence[Job]) -> torch.Tensor:
    """Only the last position of rows that mask everything: one in four, and one place in five."""
    for row, job in enumerate(jobs):
        if len(job.masked) == job.example.response:
            ids[row, len(job.example.tokens) - 1] = job.example.tokens[-1]
    return ids


def next_target(ids: torch.Tensor, jobs: Sequence[Job]) -> torch.Tensor:
    """No target stands at its own place: the token before it, which is visible, says what it is."""
    for row, job in enumerate(jobs):
        for place in job.masked:
            if place and place - 1 not in job.masked:
                ids[row, job.example.prompt + place - 1] = job.example.tokens[job.example.prompt + place]
    return ids


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (every_target, {"targets_hidden", "targets_do_not_matter"}),
        (one_target, {"targets_hidden", "targets_do_not_matter"}),
        (next_target, {"targets_do_not_matter"}),
    ],
)
def test_targets_that_are_shown(shown: Callable[[Shown], None], change: Shown, expected: set[str]) -> None:
    shown(change)
    checks, _ = judge(tuned_model(), jobs_of())
    assert failing(checks) - {"rows_aligned"} == expected


def test_a_causal_mask() -> None:
    model = tuned_model()
    model.get_base_model().config.is_causal = True
    checks, _ = judge(model, jobs_of())
    assert failing(checks) == {"attends_both_ways"}


Pairs = Callable[[int], list[tuple[int, int]]]  # rows of a batch -> (row that reads, row it sees)
LEAKS: dict[str, Pairs] = {
    "each odd row sees the one before it": lambda count: [(n, n - 1) for n in range(1, count, 2)],
    "each even row sees the one before it": lambda count: [(n, n - 1) for n in range(2, count, 2)],
    "each row sees the next": lambda count: [(n, n + 1) for n in range(count - 1)],
    "the first sees the last": lambda count: [(0, count - 1)] if count > 2 else [],
    "the last sees the first": lambda count: [(count - 1, 0)] if count > 2 else [],
    "only in batches of two": lambda count: [(1, 0)] if count == 2 else [],
}


@pytest.mark.parametrize("place", [slice(None), slice(-1, None)], ids=["whole rows", "the last position only"])
@pytest.mark.parametrize("name", LEAKS)
def test_rows_of_a_batch_that_see_each_other(monkeypatch: pytest.MonkeyPatch, name: str, place: slice) -> None:
    """Rows of one example stand side by side: what one draw hides, another shows."""

    def faulty(model: Any, ids: torch.Tensor, seen: Any) -> torch.Tensor:
        hidden = logits.hidden_states(model, ids, seen)
        mixed = hidden.clone()
        for reader, source in LEAKS[name](len(ids)):
            mixed[reader, place] += 1e-3 * model.get_input_embeddings()(ids[source]).mean(dim=0)
        return mixed

    monkeypatch.setattr(elbo, "hidden_states", faulty)
    checks, _ = judge(tuned_model(), jobs_of(13), batch_tokens=26 if "two" in name else 60)
    assert "documents_apart" in failing(checks) <= {"documents_apart", "targets_do_not_matter"}


def test_a_target_that_another_draw_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """As between complementary masks in training: the row that masks everything reads the others of its example."""

    def faulty(model: Any, ids: torch.Tensor, seen: Any) -> torch.Tensor:
        hidden = logits.hidden_states(model, ids, seen)
        return hidden + 1e-3 * model.get_input_embeddings()(ids).mean(dim=(0, 1))

    monkeypatch.setattr(elbo, "hidden_states", faulty)
    checks, _ = judge(tuned_model(), jobs_of(3))
    assert failing(checks) == {"documents_apart", "targets_do_not_matter"}


@pytest.mark.parametrize("step", [1, -1, 2])
def test_sums_over_other_tokens(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """The rows are right, and are scored on the targets of other rows."""
    original = elbo.row_losses
    monkeypatch.setattr(elbo, "row_losses", lambda m, rows, targets, n: original(m, rows, targets.roll(step), n))
    checks, _ = judge(tuned_model(), jobs_of())
    assert failing(checks) == {"targets_scored"}


def test_the_verdict_on_the_stages_own_file(
    shown: Callable[[Shown], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """likelihood.json carries the hard canaries beside the soft ones."""
    _, honest = evaluate(tmp_path, monkeypatch, tuned_model())
    assert {check["name"] for check in honest["canaries"] if check["hard"]} == NAMES
    assert all(check["passed"] is not False for check in honest["canaries"] if check["hard"])
    shown(every_target)
    (tmp_path / "again").mkdir()
    _, content = evaluate(tmp_path / "again", monkeypatch, tuned_model())
    failed = {check["name"] for check in content["canaries"] if check["hard"] and check["passed"] is False}
    assert failed >= {"targets_hidden", "targets_do_not_matter"}


def test_what_they_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The batches that are measured are watched for nothing; a few run again."""
    calls = 0
    original = elbo.summed_cross_entropy

    def counted(*given: Any) -> np.ndarray:
        nonlocal calls
        calls += 1
        return original(*given)

    looks: list[int] = []
    monkeypatch.setattr(elbo, "summed_cross_entropy", counted)
    monkeypatch.setattr(watching, "row_leads", lambda *given: looks.append(1) or row_leads(*given))
    jobs = jobs_of(40)
    todo = list(batches(jobs, 60))
    telling = telling_batches(todo, jobs)
    judge(tuned_model(), jobs)
    assert calls - 2 * len(todo) <= 8 * len(telling) and len(telling) <= 3 < len(todo)
    assert len(looks) == len(todo)  # once for each batch, on the base


def test_what_is_seen_is_what_went_in_and_out() -> None:
    model, jobs = tuned_model().eval(), jobs_of(2)[:3]
    seen = see(model, jobs, MASK)
    first = jobs[0]
    expected = [MASK if n - first.example.prompt in first.masked else t for n, t in enumerate(first.example.tokens)]
    assert seen.shown[0, : len(expected)].tolist() == expected
    assert seen.hidden.shape[:2] == seen.shown.shape and len(seen.rows) == sum(len(job.masked) for job in jobs)
    assert torch.bincount(torch.from_numpy(owners(jobs)), seen.losses).numpy() == pytest.approx(seen.sums, rel=1e-5)
    assert (seen.sums == elbo.summed_cross_entropy(model, jobs, MASK)).all()


def test_the_smallest_batch_of_each_shape() -> None:
    jobs = [Job(Example(n, tuple(range(8 + n % 3)), 3), 0, (1,)) for n in range(20)]
    todo = [[0], [1, 4], [2, 3], [5, 8, 11, 14], [6, 7, 9], [10, 13, 16], [12]]
    assert telling_batches(todo, jobs) == {0, 1, 2, 10, 6}
    assert telling_batches([], []) == frozenset()


def test_nothing_to_look_at_is_no_verdict() -> None:
    none = pl.DataFrame({name: [float("nan")] for name in EVIDENCE}).with_columns(example_id=0)
    assert {check["passed"] for check in hard_canaries(none)} == {None}
    assert likelihood.hard_canaries is hard_canaries


@pytest.mark.parametrize("step", [0, 1, -2])
def test_rows_are_found_again_by_their_bits(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """The neighbours are those of the row that was read, wherever it was read; rows outside of a job do not count."""
    model, jobs = tuned_model().eval(), jobs_of(6)
    original = elbo.hidden_states
    monkeypatch.setattr(elbo, "hidden_states", lambda *given: original(*given).roll(-step, dims=1))
    seen = see(model, jobs, MASK)
    found = row_leads(model, jobs, seen)  # [jobs, 2, offsets]
    job = jobs[0]
    assert 2 * len(job.masked) <= job.example.response
    read = [job.example.prompt + place - 1 + step for place in job.masked]  # in a shifted family
    inside = [sum(0 <= row + offset < len(job.example.tokens) for row in read) for offset in OFFSETS]
    assert found[0, 0].tolist() == inside
    assert not found[[n for n, job in enumerate(jobs) if job.draw == EVERYTHING]].any()
