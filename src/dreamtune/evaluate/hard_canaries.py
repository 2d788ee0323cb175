"""The hard canaries of the likelihood: those of training, on the batches from which the result is computed.

Every batch is observed while it is measured (see `observation`), which costs no forward pass: whether targets were
shown, and whether the rows that were read know their tokens. A few batches run again with something replaced on which
no score may depend (see `canaries.leaks`). The evidence is a table with one row per job, so that the canaries do not
depend on how many parts make the likelihood.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import torch

from dreamtune.canaries.alignment import MARGIN, OFFSETS, aligned
from dreamtune.canaries.leaks import other_tokens, separating_sets
from dreamtune.checks import Check, check
from dreamtune.evaluate.elbo import Job, Measure
from dreamtune.evaluate.observation import Seen, owners, row_leads, see, visible_targets
from dreamtune.model.logits import unwrap

# Name of the check -> (the likely fault, what is counted). The columns NAME and NAME_of of the evidence hold, for each
# job, how many scores failed and how many were looked at.
COUNTED = {
    "targets_hidden": (
        "the held-out likelihood showed the model the tokens that it had to predict, so its NLL is too low",
        "targets in the input",
    ),
    "targets_do_not_matter": (
        "held-out predictions changed with the very token that they predict, so the likelihood leaks its targets",
        "scores move with the target",
    ),
    "attends_both_ways": (
        "in the held-out likelihood the model did not see the tokens that follow a mask, as under a causal mask",
        "scores blind to later tokens",
    ),
    "later_tokens_hidden": (
        "in the held-out likelihood a causal model saw tokens that come after the one it had to predict",
        "scores move with later tokens",
    ),
    "attends_back": (
        "in the held-out likelihood a causal model did not see the tokens before the last one",
        "scores blind to earlier tokens",
    ),
    "documents_apart": (
        "rows that share a batch of the held-out likelihood saw each other, so a row's NLL depends on its neighbours",
        "scores move with another row of the batch",
    ),
    "targets_scored": (
        "the held-out likelihood is not the cross entropy of the tokens that were hidden: it scored other tokens",
        "sums that differ from the cross entropy of the hidden tokens",
    ),
}
BIDIRECTIONAL = {"targets_hidden", "attends_both_ways"}  # not for a causal model,
CAUSAL = {"later_tokens_hidden", "attends_back"}  # and only for one
MISREAD = "the held-out likelihood read its predictions at the wrong position: a neighbouring token was scored"
TOLERANCE = 1e-3  # relative difference of two float32 sums of the same cross entropies
COLUMNS = [column for name in COUNTED for column in (name, f"{name}_of")]
LEADS = [f"{kind}_{offset}" for kind in ("leads", "lead") for offset in OFFSETS]  # their numbers, then their sums
EVIDENCE = [*COLUMNS, *LEADS]


@dataclass
class Witness:
    """The evidence of the hard canaries, gathered while the likelihood of some jobs is measured.

    Attributes:
        jobs: all jobs of the task.
        ids: special tokens and vocabulary size, as in shards.json.
        examined: the batches, each by its first job, that run again with something replaced; see `telling_batches`.
        table: [jobs, EVIDENCE] float64, NaN where a job was not looked at; it is filled in.
    """

    jobs: Sequence[Job]
    ids: dict[str, int]
    examined: frozenset[int]
    table: np.ndarray

    @property
    def mask_id(self) -> int | None:
        """The mask token, which hides what is scored."""
        return self.ids["mask_id"]

    def watch(self, model: Any, names: Sequence[str]) -> Measure:
        """Return the function for `evaluate_jobs` that measures a batch and writes down what it sees.

        Whether rows are aligned is judged on the base, which no training has touched. Batches are examined on the last
        side: with an adapter, which is the base's way through the model and more.

        Args:
            model: see `models_of`.
            names: of its sides, "base", "tuned" or both.
        """
        self.ids = {"vocab_size": unwrap(model).config.vocab_size} | self.ids
        last = len(names) - 1
        return lambda side, batch: self.measure(model, list(batch), names[side] == "base", side == last)

    def measure(self, model: Any, batch: list[int], untouched: bool, examine: bool) -> np.ndarray:
        """Return what `summed_cross_entropy` returns for a batch, [B], and write down what was seen.

        Args:
            model: put to the side, base or tuned, that is measured.
            batch: indices of its jobs.
            untouched: whether this side is the base.
            examine: whether the batch runs again with something replaced, if it is one of `examined`.
        """
        jobs = [self.jobs[i] for i in batch]
        with torch.inference_mode():
            seen, owner = see(model, jobs, self.mask_id), owners(jobs)
            found = {}
            if self.mask_id is not None:
                found["targets_hidden"] = by_job(visible_targets(seen, jobs, self.mask_id), owner, len(jobs))
            own = np.bincount(owner, seen.losses.double().cpu().numpy(), len(jobs))
            wrong = ~(np.abs(own - seen.sums) <= TOLERANCE * (1 + np.abs(own)))
            found["targets_scored"] = np.stack([wrong, np.ones(len(jobs))])
            if examine and batch[0] in self.examined:
                found |= self.examine(model, jobs, seen)
            leads = row_leads(model, jobs, seen, self.mask_id is None) if untouched else None
        for name, counts in found.items():
            self._add(batch, COLUMNS.index(name), counts.T)
        if leads is not None:
            self._add(batch, len(COLUMNS), leads.reshape(len(jobs), -1))
        return seen.sums

    def examine(self, model: Any, jobs: list[Job], seen: Seen) -> dict[str, np.ndarray]:
        """Run a batch again with something replaced; return by check [2, B]: how many scores failed, of how many.

        Two forward passes, one more where an example has several masks in the batch, and those of `separating_sets`:
        2 for two rows, 5 for eight, 9 for a hundred.
        """
        count, everyone = len(jobs), np.ones(len(jobs), bool)
        targets = self._moved(model, seen, jobs, [self._other_targets(job, job) for job in jobs], everyone)
        most = most_masked(jobs)
        if len(most) < count:
            watched = [jobs[most[job.example.example_id]] for job in jobs]
            altered = [self._other_targets(job, other) for job, other in zip(jobs, watched, strict=True)]
            targets += self._moved(model, seen, jobs, altered, np.isin(np.arange(count), list(most.values())))
        apart, blind = self._apart(model, seen, jobs), self._blind(model, seen, jobs)
        return {"targets_do_not_matter": targets, "attends_both_ways": blind, "documents_apart": apart}

    def _apart(self, model: Any, seen: Seen, jobs: list[Job]) -> np.ndarray:
        """Return for each job [2, B] how many of its rows differ while other jobs are replaced, of how many."""
        found = np.zeros((2, len(jobs)))
        for chosen in separating_sets(len(jobs)):
            replaced = [self._replaced(job) if i in chosen else job for i, job in enumerate(jobs)]
            found += self._moved(model, seen, jobs, replaced, ~np.isin(np.arange(len(jobs)), chosen))
        return found

    def _moved(
        self, model: Any, seen: Seen, jobs: Sequence[Job], altered: Sequence[Job], watched: np.ndarray
    ) -> np.ndarray:
        """Return for each job [2, B] how many of its rows differ with `altered` jobs in place of `jobs`, of how many.

        Args:
            watched: [B] bool, the jobs whose rows may not differ; they have the same masks in both.
        """
        owner, altered_owner = owners(jobs), owners(altered)
        before = seen.rows[torch.from_numpy(watched[owner])]
        after = see(model, altered, self.mask_id).rows[torch.from_numpy(watched[altered_owner])]
        differ = (before != after).any(dim=-1).cpu().numpy()  # [rows of the watched jobs]
        return by_job(differ, owner[watched[owner]], len(jobs))

    def _blind(self, model: Any, seen: Seen, jobs: Sequence[Job]) -> np.ndarray:
        """Return for each job [2, B] whether the row of its first masked position ignores all tokens after it.

        Those tokens are replaced, and no longer masked. A job whose first masked position is its last is not judged.
        """
        judged = np.array([job.masked[0] < job.example.response - 1 for job in jobs])
        altered = [self._other_later(job) if one else job for job, one in zip(jobs, judged, strict=True)]
        after = see(model, altered, self.mask_id).rows
        first, altered_first = (np.unique(owners(these), return_index=True)[1] for these in (jobs, altered))
        same = (seen.rows[torch.from_numpy(first)] == after[torch.from_numpy(altered_first)]).all(dim=-1)
        return np.stack([same.cpu().numpy() & judged, judged]).astype(float)

    def _other_targets(self, job: Job, other: Job) -> Job:
        """Return a job with other tokens where `other`, a job of the same example, has its masks."""
        places = np.isin(np.arange(job.example.response), other.masked)
        return self._with_tokens(job, np.concatenate([np.zeros(job.example.prompt, bool), places]))

    def _other_later(self, job: Job) -> Job:
        """Return a job with other, visible tokens after its first masked position."""
        later = np.arange(len(job.example.tokens)) > job.example.prompt + job.masked[0]
        return replace(self._with_tokens(job, later), masked=job.masked[:1])

    def _replaced(self, job: Job) -> Job:
        """Return a job of which every token is another one, and visible."""
        return replace(self._with_tokens(job, np.ones(len(job.example.tokens), bool)), masked=())

    def _with_tokens(self, job: Job, places: np.ndarray) -> Job:
        """Return a job with other tokens at `places`, [tokens] bool."""
        tokens = np.array(job.example.tokens)
        changed = np.where(places, other_tokens(tokens, self.ids), tokens)
        return replace(job, example=replace(job.example, tokens=tuple(changed.tolist())))

    def _add(self, batch: list[int], first: int, numbers: np.ndarray) -> None:
        """Add numbers [B, n] to the rows of a batch, in the columns from `first`."""
        columns = slice(first, first + numbers.shape[1])
        self.table[batch, columns] = np.nan_to_num(self.table[batch, columns]) + numbers


def telling_batches(batches: Sequence[Sequence[int]], jobs: Sequence[Job]) -> frozenset[int]:
    """Return which batches to examine, each by its first job: of each shape the one with the fewest jobs.

    A shape is: one row, two, or more; equally long, hence without padding, or not.
    """
    shapes: dict[tuple[int, bool], Sequence[int]] = {}
    for batch in batches:
        shape = min(len(batch), 3), len({len(jobs[i].example.tokens) for i in batch}) == 1
        if len(batch) < len(shapes.setdefault(shape, batch)):
            shapes[shape] = batch
    return frozenset(batch[0] for batch in shapes.values())


def hard_canaries(evidence: pl.DataFrame, causal: bool = False) -> list[Check]:
    """Return the six hard canaries.

    Args:
        evidence: example_id and EVIDENCE of each job; NaN where a job was not looked at.
        causal: whether they are those of a causal model.
    """
    checks, others = [], BIDIRECTIONAL if causal else CAUSAL
    for name, (fault, what) in COUNTED.items():
        if name in others:
            continue
        value, tested = (int(np.nansum(evidence[column].to_numpy())) for column in (name, f"{name}_of"))
        checks.append(check(name, value == 0 if tested else None, value, f"0 of {tested} {what}", fault))
    examples, document = np.unique(evidence["example_id"].to_numpy(), return_inverse=True)
    sums = np.zeros((len(examples), len(LEADS)))
    np.add.at(sums, document, np.nan_to_num(evidence.select(LEADS).to_numpy()))  # in the order of the rows
    expected = f"not surely below -{MARGIN} nats: no row beside the one that is read knows a token better"
    return [*checks, aligned(sums.reshape(len(examples), 2, len(OFFSETS)), expected, MISREAD)]


def most_masked(jobs: Sequence[Job]) -> dict[int, int]:
    """Return for each example of a batch, by its id, the number of the job that masks most of it."""
    most: dict[int, int] = {}
    for number, job in enumerate(jobs):
        best = most.setdefault(job.example.example_id, number)
        if len(job.masked) > len(jobs[best].masked):
            most[job.example.example_id] = number
    return most


def by_job(failed: np.ndarray, owner: np.ndarray, count: int) -> np.ndarray:
    """Return [2, jobs]: how many scores of each job failed, of how many."""
    return np.stack([np.bincount(owner, failed, count), np.bincount(owner, minlength=count)]).astype(float)
