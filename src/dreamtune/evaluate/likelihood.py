"""Held-out negative log-likelihood of base and tuned, on identical masks: in one model load, if an adapter was trained.

The estimator and its derivation stand in `elbo.py`. Reads the shards' test split and what was trained; writes
OUT/likelihood.parquet (example_id, draw, masked, response_tokens, nll_base, nll_tuned, everything_masked; nats, with
draw −1 for the row that masks everything) and OUT/likelihood.json (sums, bins by mask rate, soft canaries); of a part
of a version OUT/part.parquet alone. Batches are formed first and dealt out to the parts whole, so that a row's company,
and with it every bit of its likelihood, is the same for any number of parts.
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
from dreamtune.evaluate.draws import EVERYTHING, nats_per_token
from dreamtune.evaluate.elbo import (
    Job,
    Reading,
    base_and_tuned,
    batches,
    evaluate_jobs,
    jobs_frame,
    plan_jobs,
)
from dreamtune.evaluate.examples import Example, read_examples
from dreamtune.evaluate.soft_canaries import shuffled_prompts, soft_canaries
from dreamtune.files import read_json, write_json
from dreamtune.formats.likelihood import BINS_FILE, LIKELIHOOD, LIKELIHOOD_FILE
from dreamtune.formats.training import TRAINING_FILE
from dreamtune.gather import gather
from dreamtune.model.adapter_format import is_checkpoint
from dreamtune.model.loading import load
from dreamtune.part import Part
from dreamtune.settings.likelihood import LikelihoodConfig
from dreamtune.settings.model import ModelConfig
from dreamtune.shards import read_meta

TRAIN_ROWS = 100  # training rows that measure the gap between training and held-out rows
TRAIN_DRAWS = 4  # and their draws: the gap needs less precision than the headline
BINS = 5  # of the mask rate k / L
PART = "part.parquet"
READINGS = ("base", "tuned")  # as `base_and_tuned` has them


@dataclass(frozen=True)
class Task:
    """Jobs whose likelihood is read under the same readings of the model."""

    label: str
    jobs: list[Job]
    readings: tuple[str, ...] = READINGS


def evaluate_likelihood(
    likelihood: LikelihoodConfig,
    model: ModelConfig,
    shards: Path,
    trained: Path,
    out: Path,
    part: Part | None = None,
    parts: Sequence[Path] = (),
) -> dict[str, Any]:
    """Write likelihood.parquet and likelihood.json (see the module's docstring); return the counts.

    Args:
        trained: adapter or checkpoint in the output of train_adapter, whose training.json says how many rows it saw.
        part: evaluate only this part's batches, and write those.
        parts: folders of all parts, whose rows are put together without loading the model.

    Raises:
        UserError: a likelihood that is not finite, or parts that do not fit together.
    """
    examples = read_examples(shards, "test", likelihood.max_rows)
    tasks = plan_tasks(likelihood, shards, trained, examples) if examples else []
    if parts:
        table = gather([pl.read_parquet(folder / PART) for folder in parts], sum(len(task.jobs) for task in tasks))
    else:
        take_gpu(model.device)
        with out_of_memory("lower evaluate.likelihood.batch_tokens"):
            table = run_tasks(tasks, likelihood, model, shards, trained, part)
    if part:
        table.write_parquet(out / PART)
        return {"rows": table.height}
    frame, canaries = _conclude(tasks, table, likelihood, trained)
    frame = frame.with_columns(everything_masked=pl.col("draw") == EVERYTHING)
    assert frame.schema == LIKELIHOOD, f"the table has other columns than {LIKELIHOOD}: {frame.schema}"
    frame.write_parquet(out / LIKELIHOOD_FILE)
    summary = summarise(frame, likelihood, canaries)
    write_json(out / BINS_FILE, summary)
    return {"rows": summary["rows"], "draws": likelihood.draws, "tokens": summary["tokens"]}


def plan_tasks(
    likelihood: LikelihoodConfig, shards: Path, trained: Path, examples: Sequence[Example]
) -> tuple[Task, Task, Task]:
    """Return what the headline needs, and what the soft canaries need besides."""
    few = likelihood.model_copy(update={"draws": min(TRAIN_DRAWS, likelihood.draws)})
    rows = read_json(trained.parent / TRAINING_FILE)["rows"]
    training = read_examples(shards, "train", min(TRAIN_ROWS, len(examples)), spread_over=rows)
    return (
        Task("likelihood", plan_jobs(examples, likelihood)),
        Task("shuffled prompts", shuffled_prompts(examples), ("tuned",)),
        Task("training rows", [job for job in plan_jobs(training, few) if job.draw != EVERYTHING]),
    )


def run_tasks(
    tasks: Sequence[Task],
    likelihood: LikelihoodConfig,
    config: ModelConfig,
    shards: Path,
    trained: Path,
    part: Part | None,
) -> pl.DataFrame:
    """Return ΣCE of every job, or of those in this part's batches, in nats.

    Columns: row (the job's place among those of all tasks), base, tuned (NaN where a task has no such reading).
    """
    todo = [list(batches(task.jobs, likelihood.batch_tokens)) for task in tasks]
    todo = [list(part.deal(mine)) for mine in todo] if part else todo
    sums = [np.full((len(task.jobs), len(READINGS)), np.nan) for task in tasks]
    if any(todo):
        mask_id = read_meta(shards)["tokenizer"]["mask_id"]
        for model, readings in models_of(config, trained):
            for task, mine, table in zip(tasks, todo, sums, strict=True):
                names = [name for name in task.readings if name in readings]
                chosen = [readings[name] for name in names]
                found = evaluate_jobs(model, chosen, task.jobs, mask_id, mine, task.label)  # [readings, jobs]
                table[:, [READINGS.index(name) for name in names]] = found.T
    first, tables = 0, [pl.DataFrame(schema={"row": pl.Int64, "base": pl.Float64, "tuned": pl.Float64})]
    for mine, table in zip(todo, sums, strict=True):
        rows = np.array(sorted(job for batch in mine for job in batch), np.int64)
        tables.append(pl.DataFrame({"row": first + rows, **dict(zip(READINGS, table[rows].T, strict=True))}))
        first += len(table)
    return pl.concat(tables)


def models_of(config: ModelConfig, trained: Path) -> Iterator[tuple[Any, dict[str, Reading]]]:
    """Yield the models to be read, and in which states: one with its adapter off and on, or base and tuned in turn."""
    if is_checkpoint(trained):
        yield load(config), {"base": nullcontext}
        yield load(config, trained), {"tuned": nullcontext}
    else:
        model = load(config, trained)
        yield model, dict(zip(READINGS, base_and_tuned(model), strict=True))


def _conclude(
    tasks: Sequence[Task], table: pl.DataFrame, likelihood: LikelihoodConfig, trained: Path
) -> tuple[pl.DataFrame, list[dict[str, Any]]]:
    """Return the rows of the test split, and the soft canaries."""
    if not tasks:
        return jobs_frame([], nll_base=np.zeros(0), nll_tuned=np.zeros(0)), []
    frames, first = [], 0
    for task in tasks:
        values = table.slice(first, len(task.jobs))
        frames.append(jobs_frame(task.jobs, **{f"nll_{name}": values[name].to_numpy() for name in task.readings}))
        first += len(task.jobs)
    frame, shuffled, training = frames
    if not np.isfinite(frame.select("nll_base", "nll_tuned").to_numpy()).all():
        raise UserError(f"the likelihood under {trained} is not finite; it or the base model is damaged")
    return frame, soft_canaries(frame, shuffled, training, seed=likelihood.seed)


def summarise(frame: pl.DataFrame, likelihood: LikelihoodConfig, canaries: list[dict[str, Any]]) -> dict[str, Any]:
    """Return likelihood.json: point estimates in nats per token (the report adds intervals), null for no rows."""
    everything = frame.filter("everything_masked")
    tokens = int(everything["response_tokens"].sum())
    names = ("nll_base", "nll_tuned")
    return {
        "format": 1,
        "rows": everything.height,
        "tokens": tokens,
        "draws": likelihood.draws,
        "seed": likelihood.seed,
        "nll": {name[4:]: nats_per_token(frame, name) if tokens else None for name in names},
        "everything_masked": {name[4:]: float(everything[name].sum() / tokens) if tokens else None for name in names},
        "by_mask_rate": by_mask_rate(frame),
        "canaries": canaries,
    }


def by_mask_rate(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Return, per bin of the mask rate k/L, the mean cross entropy of a masked token in nats: Σ CE / Σ k."""
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
