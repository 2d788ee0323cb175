r"""Negative log-likelihood of a masked diffusion model: mask counts, their masks, and the summed cross entropy.

**Estimator.** A masked diffusion model bounds −log p(response | prompt) by the ELBO, whose form over the mask *count*
is (Nie et al. 2025, Large Language Diffusion Models, eq. 6 and appendix A; there the count is called l):

    E_{k ~ U{1..L}}  E_{S ⊂ {1..L}, |S| = k}  (L/k) Σ_{i∈S} −log p(x_i | prompt, x outside S)

It equals the integral over t of (1/t) E_{masks ~ Bernoulli(t)} ΣCE. Under Bernoulli(t) a given set S of k positions
has probability t^k (1−t)^(L−k), and ∫₀¹ t^(k−1) (1−t)^(L−k) dt = (k−1)! (L−k)! / L! = (1/k) / C(L, k): each set
weighs 1/k over the number of sets of its size, which is the expression above, with L from averaging k over 1..L.
Fixing k removes the variance of the masked count, and with it that of the weight 1/t. Besides, the `draws` of an
example are stratified: draw d takes k = 1 + ⌊L·(d + u)/draws⌋ with its own u in [0, 1). Each stratum is sampled
uniformly, so the mean over the draws stays unbiased.

**Masks** are a function of (seed, example id, draw, position) alone: the k positions of smallest hash are masked, the
same for base and tuned, in any batch. One further row per example masks everything (t = 1).

**Reported** is Σ NLL / Σ tokens in nats per response token, up to the first end token, inclusive. A row whose answer
was cut has no end token and counts up to its cut.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch

from dreamtune.evaluate.draws import EVERYTHING
from dreamtune.evaluate.examples import Example
from dreamtune.model.logits import hidden_states, row_losses
from dreamtune.noise import open_uniforms
from dreamtune.progress import Progress
from dreamtune.settings.likelihood import LikelihoodConfig

AT_ONCE = 1024  # rows that pass the head together; twice `loss.HEAD_ROWS`, as nothing is kept for a backward pass
Reading = Callable[[], AbstractContextManager[Any]]  # puts the model into a state: adapter off, adapter on


@dataclass(frozen=True)
class Job:
    """One forward pass of one row: which response positions are masked."""

    example: Example
    draw: int
    masked: tuple[int, ...]  # positions within the response


def mask_positions(seed: int, example_id: int, draw: int, draws: int, length: int) -> tuple[int, ...]:
    """Return the masked response positions of a draw: k of `length`, k stratified over the draws."""
    share = (draw + open_uniforms(seed, example_id, draw, -1).item()) / draws
    count = min(length, 1 + int(length * share))
    order = np.argsort(open_uniforms(seed, example_id, draw, np.arange(length)), kind="stable")
    return tuple(sorted(order[:count].tolist()))


def plan_jobs(examples: Sequence[Example], likelihood: LikelihoodConfig) -> list[Job]:
    """Return every draw of every example, and the row that masks everything."""
    jobs = []
    for e in examples:
        for draw in range(likelihood.draws):
            masked = mask_positions(likelihood.seed, e.example_id, draw, likelihood.draws, e.response)
            jobs.append(Job(e, draw, masked))
        jobs.append(Job(e, EVERYTHING, tuple(range(e.response))))
    return jobs


def batches(jobs: Sequence[Job], batch_tokens: int) -> Iterator[list[int]]:
    """Yield indices of jobs of similar length, at most `batch_tokens` padded tokens together (at least one job)."""
    order = sorted(range(len(jobs)), key=lambda i: (len(jobs[i].example.tokens), i))
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) + 1) * len(jobs[i].example.tokens) > batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


@torch.inference_mode()
def summed_cross_entropy(model: Any, jobs: Sequence[Job], mask_id: int) -> np.ndarray:
    """Return ΣCE over the masked positions of each job, [jobs], in nats and float64."""
    longest = max(len(job.example.tokens) for job in jobs)
    inputs = torch.zeros(len(jobs), longest, dtype=torch.long)  # [B, L]; padding is hidden, so its id is irrelevant
    seen = torch.zeros(len(jobs), longest, dtype=torch.long)
    for row, job in enumerate(jobs):
        inputs[row, : len(job.example.tokens)] = torch.tensor(job.example.tokens)
        seen[row, : len(job.example.tokens)] = 1
    rows = torch.tensor([row for row, job in enumerate(jobs) for _ in job.masked])  # [M]
    columns = torch.tensor([job.example.prompt + p for job in jobs for p in job.masked])  # [M]
    targets = inputs[rows, columns]  # [M]
    inputs[rows, columns] = mask_id
    device = next(model.parameters()).device
    hidden = hidden_states(model, inputs.to(device), None if bool(seen.all()) else seen.to(device))  # [B, L, D]
    picked = hidden[rows.to(device), columns.to(device)]  # [M, D]
    losses = row_losses(model, picked, targets.to(device), AT_ONCE).double().cpu()
    return torch.zeros(len(jobs), dtype=torch.float64).index_add_(0, rows, losses).numpy()


def evaluate_jobs(
    model: Any,
    readings: Sequence[Reading],
    jobs: Sequence[Job],
    mask_id: int,
    todo: Sequence[Sequence[int]],
    label: str,
) -> np.ndarray:
    """Return ΣCE of each job under each reading of the model (see `base_and_tuned`), [readings, jobs], in nats.

    `todo` are the `batches` of jobs that pass the model; a job that is in none of them keeps NaN.
    """
    model.eval()
    sums = np.full((len(readings), len(jobs)), np.nan)
    with Progress(label, sum(map(len, todo))) as progress:
        for batch in todo:
            for row, reading in enumerate(readings):
                with reading():
                    sums[row, batch] = summed_cross_entropy(model, [jobs[i] for i in batch], mask_id)
            progress.advance(len(batch))
    return sums


def base_and_tuned(model: Any) -> list[Reading]:
    """Return the two readings of one loaded PeftModel: its adapter off, then on."""
    return [model.disable_adapter, nullcontext]


def heldout_nll(model: Any, examples: Sequence[Example], likelihood: LikelihoodConfig, mask_id: int) -> pl.DataFrame:
    """Return the NLL per example and draw of `model` as it stands (one reading, whatever adapter is on).

    Columns: those of `jobs_frame`, and nll = (L/k)·ΣCE in nats.
    """
    jobs = plan_jobs(examples, likelihood)
    todo = list(batches(jobs, likelihood.batch_tokens))
    sums = evaluate_jobs(model, [nullcontext], jobs, mask_id, todo, "likelihood")
    return jobs_frame(jobs, nll=sums[0])


def jobs_frame(jobs: Sequence[Job], **sums: np.ndarray) -> pl.DataFrame:
    """Return example_id, draw (−1: everything masked), masked (k), response_tokens (L) and each sum times L/k."""
    masked = np.array([len(job.masked) for job in jobs], np.int32)
    length = np.array([job.example.response for job in jobs], np.int32)
    return pl.DataFrame(
        {
            "example_id": np.array([job.example.example_id for job in jobs], np.int64),
            "draw": np.array([job.draw for job in jobs], np.int32),
            "masked": masked,
            "response_tokens": length,
            **{name: values * length / masked for name, values in sums.items()},
        }
    )
