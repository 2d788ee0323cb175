r"""Estimate the negative log-likelihood (NLL) of responses under a masked diffusion model.

**Estimator.** A masked diffusion model bounds −log p(response | prompt) by the ELBO, whose form over the mask *count*
is (Nie et al. 2025, Large Language Diffusion Models, eq. 6 and appendix A; there the count is called l):

    E_{k ~ U{1..L}}  E_{S ⊂ {1..L}, |S| = k}  (L/k) Σ_{i∈S} −log p(x_i | prompt, x outside S)

It equals the integral over t of (1/t) E_{masks ~ Bernoulli(t)} ΣCE. Under Bernoulli(t) a given set S of k positions
has probability t^k (1−t)^(L−k), and ∫₀¹ t^(k−1) (1−t)^(L−k) dt = (k−1)! (L−k)! / L! = (1/k) / C(L, k): each set
weighs 1/k over the number of sets of its size, which is the expression above, with L from averaging k over 1..L.
Fixing k removes the variance of the number of masked tokens, and with it that of the weight 1/t. Besides, the draws of
an example are stratified: with D draws, draw d takes k = 1 + ⌊L·(d + u)/D⌋, where u in [0, 1) is drawn for it. Each
stratum is sampled uniformly, so the mean over the draws stays unbiased.

**Masks** are a function of (seed, example id, draw, position) alone: the k positions with the smallest hashes are
masked. So they are the same for base and tuned, and in any batch. One further row per example masks everything (t = 1).

**Reported** is Σ NLL / Σ tokens in nats per response token. A masked response shows how many tokens it has, so every
such number is given the length of what can be masked. There are two readings:

- *up to the first end*, the headline: what can be masked is the response up to and including its first end token, and
  the model sees that nothing follows. So it says how likely the words are once their number is known.
- *full*: behind the first end token stands a tail of further end tokens, as many as training draws, and is masked and
  scored with the response. The model must find out where the response ends. The sum over both is divided by the same
  number as before, the response's tokens without the tail, so that the two readings differ by the price of the tail.

A row whose answer was cut has no end token and no tail, and counts up to its cut.

**A causal model** needs no estimate: Σ −log p(x_i | prompt, x before i) over the response and its end token is the
negative log-likelihood itself. It is one job, under which every position is scored and none is hidden (a mask token of
None). This number is exact and pays for the length, the bound above is given the length, so the two are not compared.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import polars as pl
import torch

from dreamtune.errors import UserError
from dreamtune.evaluate.draws import EVERYTHING
from dreamtune.evaluate.examples import Example
from dreamtune.model.logits import hidden_states, row_losses
from dreamtune.model.nonfinite import first_nonfinite
from dreamtune.noise import open_uniforms
from dreamtune.progress import Progress
from dreamtune.settings.likelihood import LikelihoodConfig

AT_ONCE = 1024  # rows that pass the head together; twice `loss.HEAD_ROWS`, as nothing is kept for a backward pass
Measure = Callable[[int, Sequence[int]], np.ndarray]
Side = Callable[[], AbstractContextManager[Any]]  # makes a model base or tuned within a `with`: adapter off, or on


@dataclass(frozen=True)
class Job:
    """One example with one mask, for one forward pass; a causal model has one job per example, without a mask.

    Attributes:
        example: prompt and response.
        draw: number of the mask, from 0, or EVERYTHING.
        masked: the masked positions, counted from the start of the response; for a causal model all of them, which
            are scored and not masked.
    """

    example: Example
    draw: int
    masked: tuple[int, ...]


def mask_positions(seed: int, example_id: int, draw: int, draws: int, length: int) -> tuple[int, ...]:
    """Return the masked positions of one draw, ascending, counted from the start of a response of `length` tokens.

    Their number k is stratified over the draws (see the module's docstring). Of 8 tokens and two draws, the first masks
    1 to 4 and the second 5 to 8:

    >>> [len(mask_positions(seed=0, example_id=7, draw=draw, draws=2, length=8)) for draw in (0, 1)]
    [1, 7]
    """
    share = (draw + open_uniforms(seed, example_id, draw, -1).item()) / draws
    count = min(length, 1 + int(length * share))
    order = np.argsort(open_uniforms(seed, example_id, draw, np.arange(length)), kind="stable")
    return tuple(sorted(order[:count].tolist()))


def plan_jobs(examples: Sequence[Example], likelihood: LikelihoodConfig, causal: bool = False) -> list[Job]:
    """Return a job for each draw of each example, and one per example that masks everything.

    A causal model has one job per example, number 0.
    """
    if causal:
        return [Job(e, 0, tuple(range(e.response))) for e in examples]
    jobs = []
    for e in examples:
        for draw in range(likelihood.draws):
            masked = mask_positions(likelihood.seed, e.example_id, draw, likelihood.draws, e.response)
            jobs.append(Job(e, draw, masked))
        jobs.append(Job(e, EVERYTHING, tuple(range(e.response))))
    return jobs


def batches(jobs: Sequence[Job], batch_tokens: int) -> Iterator[list[int]]:
    """Yield batches, as indices of jobs of similar length.

    A batch has at most `batch_tokens` tokens with its padding, unless a single job has more.
    """
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
def summed_cross_entropy(model: Any, jobs: Sequence[Job], mask_id: int | None) -> np.ndarray:
    """Return each job's cross entropy summed over its masked positions (ΣCE), [jobs] float64, in nats.

    Args:
        model: from `dreamtune.model.loading`.
        jobs: one batch.
        mask_id: the mask token; None hides nothing, for a causal model.
    """
    longest = max(len(job.example.tokens) for job in jobs)
    inputs = torch.zeros(len(jobs), longest, dtype=torch.long)  # [B, L]; padding is hidden, so any id will do
    seen = torch.zeros(len(jobs), longest, dtype=torch.long)
    for row, job in enumerate(jobs):
        inputs[row, : len(job.example.tokens)] = torch.tensor(job.example.tokens)
        seen[row, : len(job.example.tokens)] = 1
    rows = torch.tensor([row for row, job in enumerate(jobs) for _ in job.masked])  # [M]
    columns = torch.tensor([job.example.prompt + p for job in jobs for p in job.masked])  # [M]
    targets = inputs[rows, columns]  # [M]
    if mask_id is not None:
        inputs[rows, columns] = mask_id
    device = next(model.parameters()).device
    hidden = hidden_states(model, inputs.to(device), None if bool(seen.all()) else seen.to(device))  # [B, L, D]
    picked = hidden[rows.to(device), columns.to(device)]  # [M, D]
    losses = row_losses(model, picked, targets.to(device), AT_ONCE).double().cpu()
    return torch.zeros(len(jobs), dtype=torch.float64).index_add_(0, rows, losses).numpy()


def evaluate_jobs(
    model: Any,
    sides: Sequence[Side],
    jobs: Sequence[Job],
    mask_id: int | None,
    todo: Sequence[Sequence[int]],
    label: str,
    measure: Measure | None = None,
) -> np.ndarray:
    """Return each job's ΣCE under each side of the model, [sides, jobs] float64, in nats.

    Args:
        model: from `dreamtune.model.loading`; it is put into evaluation mode.
        sides: see `base_and_tuned`.
        jobs: all jobs.
        mask_id: see `summed_cross_entropy`.
        todo: the `batches` of jobs to evaluate; jobs in none of them get NaN.
        label: name of the progress bar.
        measure: takes a side's number and a batch, and returns what `summed_cross_entropy` returns for it; the default.

    Raises:
        UserError: a likelihood that is not finite; where NaN or infinity first appears is named.
    """
    model.eval()
    sums = np.full((len(sides), len(jobs)), np.nan)
    with Progress(label, sum(map(len, todo))) as progress:
        for batch in todo:
            plain = partial(summed_cross_entropy, model, [jobs[i] for i in batch], mask_id)
            for row, side in enumerate(sides):
                with side():
                    sums[row, batch] = measure(row, batch) if measure else plain()
                    if not np.isfinite(sums[row, batch]).all():
                        raise UserError(f"the likelihood is not finite: {first_nonfinite(model, plain)}")
            progress.advance(len(batch))
    return sums


def base_and_tuned(model: Any) -> list[Side]:
    """Return the two sides of a PeftModel: its adapter off, then on."""
    return [model.disable_adapter, nullcontext]


def heldout_nll(
    model: Any, examples: Sequence[Example], likelihood: LikelihoodConfig, mask_id: int | None
) -> pl.DataFrame:
    """Return the NLL of each example and draw under `model` as it is, whether or not an adapter is on.

    Columns: those of `jobs_frame`, and nll = (L/k)·ΣCE in nats.
    """
    jobs = plan_jobs(examples, likelihood, causal=mask_id is None)
    todo = list(batches(jobs, likelihood.batch_tokens))
    sums = evaluate_jobs(model, [nullcontext], jobs, mask_id, todo, "likelihood")
    return jobs_frame(jobs, nll=sums[0])


def jobs_frame(jobs: Sequence[Job], **sums: np.ndarray) -> pl.DataFrame:
    """Return one row per job: example_id, cluster, draw, masked (k), response_tokens, each of `sums` times L/k.

    L is the number of tokens that can be masked, and `response_tokens` is L without the tail. `sums` are columns by
    name, [jobs]: ΣCE in nats.
    """
    examples = [job.example for job in jobs]
    masked = np.array([len(job.masked) for job in jobs], np.int32)
    length = np.array([e.response for e in examples], np.int32)
    clusters = [e.example_id if e.cluster is None else e.cluster for e in examples]
    return pl.DataFrame(
        {
            "example_id": np.array([e.example_id for e in examples], np.int64),
            "cluster": np.array(clusters, np.int64),
            "draw": np.array([job.draw for job in jobs], np.int32),
            "masked": masked,
            "response_tokens": length - np.array([e.tail for e in examples], np.int32),
            **{name: values * length / masked for name, values in sums.items()},
        }
    )
