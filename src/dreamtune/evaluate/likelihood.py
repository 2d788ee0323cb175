"""Measure the held-out negative log-likelihood (NLL) of base and tuned, on identical masks.

The estimator is derived in `elbo.py`; a causal model's NLL is exact. An adapter is loaded with its base once, and
switched off and on; after full fine-tuning, base and tuned are loaded one after the other.

Reads the shards' test split and the adapter or checkpoint. Writes OUT/likelihood.parquet; OUT/likelihood_full.parquet,
for the responses with the tails that training appends (see `formats.likelihood`); and OUT/likelihood.json (sums, bins
by mask rate, canaries). A job that makes one part of a version writes OUT/part.parquet only. Batches are formed
before they are dealt out to the parts, so that an example shares its batch with the same others, and has the same
likelihood to the bit, for any number of parts.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from dreamtune.device.gpus import take_gpu
from dreamtune.device.memory import out_of_memory
from dreamtune.errors import UserError
from dreamtune.evaluate.causal_canaries import CausalWitness
from dreamtune.evaluate.draws import EVERYTHING, nats_per_token, per_example
from dreamtune.evaluate.elbo import (
    Job,
    Side,
    base_and_tuned,
    batches,
    evaluate_jobs,
    jobs_frame,
    plan_jobs,
)
from dreamtune.evaluate.examples import Example, read_examples
from dreamtune.evaluate.hard_canaries import EVIDENCE, Witness, hard_canaries, telling_batches
from dreamtune.evaluate.soft_canaries import shuffled_prompts, soft_canaries
from dreamtune.evaluate.tails import with_tail
from dreamtune.files import read_json, write_json
from dreamtune.formats.likelihood import BINS_FILE, BOUND, EXACT, FULL, FULL_FILE, LIKELIHOOD, LIKELIHOOD_FILE
from dreamtune.formats.training import TRAINING_FILE
from dreamtune.gather import gather
from dreamtune.model.adapter_format import is_checkpoint
from dreamtune.model.loading import load
from dreamtune.model.nonfinite import check_weights
from dreamtune.part import Part
from dreamtune.settings.likelihood import LikelihoodConfig
from dreamtune.settings.model import ModelConfig
from dreamtune.settings.train import TrainConfig
from dreamtune.shards import read_meta

TRAIN_ROWS = 100  # training rows that measure the gap between training and held-out rows
FEW_DRAWS = 4  # mask draws of each of these and of each full response, which need less precision than the headline
BINS = 5  # of the mask rate k / L
PART = "part.parquet"
SIDES = ("base", "tuned")  # in the order of `base_and_tuned`


@dataclass(frozen=True)
class Task:
    """Jobs that are evaluated under the same sides: base and tuned, or one of them."""

    label: str
    jobs: list[Job]
    sides: tuple[str, ...] = SIDES


def evaluate_likelihood(
    likelihood: LikelihoodConfig,
    model: ModelConfig,
    shards: Path,
    trained: Path,
    out: Path,
    part: Part | None = None,
    parts: Sequence[Path] = (),
    train: TrainConfig | None = None,
) -> dict[str, Any]:
    """Measure the likelihood, and write the files (see the module's docstring).

    Args:
        likelihood: mask draws, rows, batch size and seed.
        model: the base model, its precision and device.
        shards: output of prepare_shards.
        trained: adapter or checkpoint in the output of train_adapter, whose training.json says how many rows it saw.
        out: folder for the files.
        part: the part of the version that this job makes; None makes all of it.
        parts: folders of all finished parts, whose rows are gathered without loading the model.
        train: settings of the training, of which those of the tails count; None leaves the table of full responses
            empty, as does a training without tails.

    Returns:
        counts for the manifest: rows, draws, tokens.

    Raises:
        UserError: a likelihood that is not finite, or parts that do not fit together.
    """
    examples = read_examples(shards, "test", likelihood.max_rows)
    tasks = plan_tasks(likelihood, shards, trained, examples, train, model.causal) if examples else []
    if parts:
        table = gather([pl.read_parquet(folder / PART) for folder in parts], sum(len(task.jobs) for task in tasks))
    else:
        take_gpu(model.device)
        with out_of_memory("lower evaluate.likelihood.batch_tokens"):
            table = run_tasks(tasks, likelihood, model, shards, trained, part)
    if part:
        table.write_parquet(out / PART)
        return {"rows": table.height}
    frame, full, canaries = _conclude(tasks, table, likelihood, trained, model.causal)
    frame = frame.with_columns(everything_masked=pl.col("draw") == EVERYTHING)
    for made, schema, file in ((frame, LIKELIHOOD, LIKELIHOOD_FILE), (full, FULL, FULL_FILE)):
        assert made.schema == schema, f"the table has other columns than {schema}: {made.schema}"
        made.write_parquet(out / file)
    summary = summarise(frame, full, likelihood, canaries, model.causal)
    write_json(out / BINS_FILE, summary)
    return {"rows": summary["rows"], "draws": likelihood.draws, "tokens": summary["tokens"]}


def plan_tasks(
    likelihood: LikelihoodConfig,
    shards: Path,
    trained: Path,
    examples: Sequence[Example],
    train: TrainConfig | None = None,
    causal: bool = False,
) -> tuple[Task, Task, Task, Task]:
    """Return the jobs for the headline, for the soft canaries (shuffled prompts, training rows), for full responses.

    There are none for full responses where training appends no tail, as for a causal model.
    """
    few = likelihood.model_copy(update={"draws": min(FEW_DRAWS, likelihood.draws)})
    rows = read_json(trained.parent / TRAINING_FILE)["rows"]
    training = read_examples(shards, "train", min(TRAIN_ROWS, len(examples)), spread_over=rows)
    full = []
    if train and train.longest_tail:
        end_id = read_meta(shards)["tokenizer"]["end_id"]
        full = [with_tail(example, end_id, train, likelihood.seed) for example in examples]
    return (
        Task("likelihood", plan_jobs(examples, likelihood, causal)),
        Task("shuffled prompts", shuffled_prompts(examples), ("tuned",)),
        Task("training rows", [job for job in plan_jobs(training, few, causal) if job.draw != EVERYTHING]),
        Task("full responses", [job for job in plan_jobs(full, few) if job.draw != EVERYTHING]),
    )


def run_tasks(
    tasks: Sequence[Task],
    likelihood: LikelihoodConfig,
    config: ModelConfig,
    shards: Path,
    trained: Path,
    part: Part | None,
) -> pl.DataFrame:
    """Return the ΣCE of every job in nats; with a part, of the jobs in this part's batches.

    Columns: row, base, tuned, and the evidence of the hard canaries, which watch the first task. `row` counts the jobs
    of all tasks, one task after the other: with tasks of 3 and 2 jobs, the second job of the second task has row 4.
    Where a task leaves out a side, or is not watched, a column holds NaN.

    Args:
        tasks: see `plan_tasks`; without any, the table is empty and no model is loaded.
        config: the base model, its precision and device.
        trained: adapter or checkpoint.
    """
    every = [list(batches(task.jobs, likelihood.batch_tokens)) for task in tasks]
    todo = [list(part.deal(mine)) for mine in every] if part else every
    sums = [np.full((len(task.jobs), len(SIDES)), np.nan) for task in tasks]
    evidence = [np.full((len(task.jobs), len(EVIDENCE)), np.nan) for task in tasks]
    if any(todo):
        ids = read_meta(shards)["tokenizer"]
        kind, mask_id = (CausalWitness, None) if config.causal else (Witness, ids["mask_id"])
        witness = kind(tasks[0].jobs, ids, telling_batches(every[0], tasks[0].jobs), evidence[0])
        for model, sides in models_of(config, trained):
            for task, mine, table in zip(tasks, todo, sums, strict=True):
                names = [name for name in task.sides if name in sides]
                chosen = [sides[name] for name in names]
                measure = witness.watch(model, names) if task is tasks[0] else None
                found = evaluate_jobs(model, chosen, task.jobs, mask_id, mine, task.label, measure)
                table[:, [SIDES.index(name) for name in names]] = found.T  # found: [sides, jobs]
    columns = [*SIDES, *EVIDENCE]
    first, tables = 0, [pl.DataFrame(schema={"row": pl.Int64} | dict.fromkeys(columns, pl.Float64))]
    for mine, table in zip(todo, map(np.hstack, zip(sums, evidence, strict=True)), strict=True):
        rows = np.array(sorted(job for batch in mine for job in batch), np.int64)
        tables.append(pl.DataFrame({"row": first + rows, **dict(zip(columns, table[rows].T, strict=True))}))
        first += len(table)
    return pl.concat(tables)


def models_of(config: ModelConfig, trained: Path) -> Iterator[tuple[Any, dict[str, Side]]]:
    """Yield each model with its sides by name: one model with both for an adapter, else base and tuned in turn."""
    if is_checkpoint(trained):
        yield check_weights(load(config)), {"base": nullcontext}
        yield check_weights(load(config, trained)), {"tuned": nullcontext}
    else:
        model = check_weights(load(config, trained))
        yield model, dict(zip(SIDES, base_and_tuned(model), strict=True))


def _conclude(
    tasks: Sequence[Task], table: pl.DataFrame, likelihood: LikelihoodConfig, trained: Path, causal: bool
) -> tuple[pl.DataFrame, pl.DataFrame, list[dict[str, Any]]]:
    """Return the table of the test split (see `jobs_frame`), that of its full responses, and the canaries."""
    if not tasks:
        return jobs_frame([], nll_base=np.zeros(0), nll_tuned=np.zeros(0)), pl.DataFrame(schema=FULL), []
    frames, first = [], 0
    for task in tasks:
        values = table.slice(first, len(task.jobs))
        frames.append(jobs_frame(task.jobs, **{f"nll_{name}": values[name].to_numpy() for name in task.sides}))
        first += len(task.jobs)
    frame, shuffled, training, full = frames
    if not all(np.isfinite(f.select("nll_base", "nll_tuned").to_numpy()).all() for f in (frame, full)):
        raise UserError(f"the likelihood under {trained} is not finite; it or the base model is damaged")
    tails = pl.Series([job.example.tail for job in tasks[-1].jobs], dtype=pl.Int32)
    full = full.with_columns(tail_tokens=tails).select(FULL.names())
    evidence = table.head(len(tasks[0].jobs)).select(EVIDENCE).with_columns(example_id=frame["example_id"])
    soft = soft_canaries(frame, shuffled, training, likelihood.seed, causal)
    return frame, full, [*soft, *hard_canaries(evidence, causal)]


def summarise(
    frame: pl.DataFrame,
    full: pl.DataFrame,
    likelihood: LikelihoodConfig,
    canaries: list[dict[str, Any]],
    causal: bool = False,
) -> dict[str, Any]:
    """Return the content of likelihood.json: point estimates in nats per response token, None for no rows.

    "nll" is up to the first end token and "full" with the tails, each given its length (see `elbo`); "kind" says
    whether they are bounds or, as for a causal model, exact. Such a model has no mask rates.

    The report adds the intervals.
    """
    everything, rows = frame.filter("everything_masked"), per_example(frame)
    tokens = int(rows["response_tokens"].sum())
    names = ("nll_base", "nll_tuned")
    return {
        "format": 1,
        "kind": EXACT if causal else BOUND,
        "rows": rows.height,
        "tokens": tokens,
        "draws": likelihood.draws,
        "seed": likelihood.seed,
        "nll": {name[4:]: nats_per_token(frame, name) if tokens else None for name in names},
        "full": {name[4:]: nats_per_token(full, name) if full.height else None for name in names}
        | {"tail_tokens": int(full.filter(pl.col("draw") == 0)["tail_tokens"].sum())},
        "everything_masked": {
            name[4:]: float(everything[name].sum() / tokens) if everything.height else None for name in names
        },
        "by_mask_rate": [] if causal else by_mask_rate(frame),
        "canaries": canaries,
    }


def by_mask_rate(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Return, for each bin of the mask rate k/L, the mean cross entropy of a masked token in nats: Σ CE / Σ k.

    One draw of a response of 10 tokens, 3 of them masked; the NLL of 20 nats is 10/3 of the cross entropy:

    >>> row = {"draw": [0], "masked": [3], "response_tokens": [10], "nll_base": [20.0], "nll_tuned": [10.0]}
    >>> by_mask_rate(pl.DataFrame(row))
    [{'low': 0.2, 'high': 0.4, 'draws': 1, 'tokens': 3, 'base': 2.0, 'tuned': 1.0}]

    Args:
        frame: likelihood.parquet; rows that mask everything are left out.
    """
    share = pl.col("masked") / pl.col("response_tokens")
    binned = (
        frame.filter(pl.col("draw") >= 0)
        .with_columns(bin=((share * BINS).ceil() - 1).clip(0, BINS - 1).cast(pl.Int32))
        .group_by("bin")
        .agg(pl.len().alias("draws"), pl.sum("masked"), *[(pl.col(n) * share).sum() for n in ("nll_base", "nll_tuned")])
        .sort("bin")
    )
    return [
        {
            "low": row["bin"] / BINS,
            "high": (row["bin"] + 1) / BINS,
            "draws": row["draws"],
            "tokens": row["masked"],
            "base": row["nll_base"] / row["masked"],
            "tuned": row["nll_tuned"] / row["masked"],
        }
        for row in binned.iter_rows(named=True)
    ]
