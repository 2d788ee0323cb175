"""Held-out negative log-likelihood of base and tuned, on identical masks, in one model load.

The estimator and its derivation stand in `dreamtune.elbo`. Reads the shards' test split and an adapter; writes
OUT/likelihood.parquet (example_id, draw, masked, response_tokens, nll_base, nll_tuned, everything_masked; nats, with
draw −1 for the row that masks everything) and OUT/likelihood.json (sums, bins by mask rate, soft canaries).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from dreamtune.draws import EVERYTHING, nats_per_token
from dreamtune.elbo import Example, base_and_tuned, evaluate_jobs, heldout_nll, jobs_frame, plan_jobs
from dreamtune.errors import UserError
from dreamtune.memory import out_of_memory
from dreamtune.model import load
from dreamtune.settings.likelihood import LikelihoodConfig
from dreamtune.settings.model import ModelConfig
from dreamtune.shards import read_meta, read_split
from dreamtune.soft_canaries import shuffled_prompts, soft_canaries

__all__ = ["Example", "evaluate_likelihood", "heldout_nll", "nats_per_token", "read_examples"]

TRAIN_ROWS = 100  # training rows that measure the gap between training and held-out rows
TRAIN_DRAWS = 4  # and their draws: the gap needs less precision than the headline
BINS = 5  # of the mask rate k / L


def read_examples(
    shards: Path, split: str, max_rows: int | None = None, spread_over: int | None = None
) -> list[Example]:
    """Return the rows of a split up to the first end token of their response; [] for an empty split.

    The first `max_rows`, or, with `spread_over`, so many at even distances among the first `spread_over` rows.
    """
    meta = read_meta(shards)
    end_id = meta["tokenizer"]["end_id"]
    if meta["splits"][split]["rows"] == 0:
        return []
    rows = read_split(shards, split)
    among = min(spread_over or len(rows), len(rows))
    count = min(max_rows or among, among)
    chosen = rows.select(np.linspace(0, among - 1, count).astype(int) if spread_over else range(count))
    examples = []
    for row in chosen:
        tokens, prompt = row["input_ids"], row["prompt_tokens"]
        stop = tokens.index(end_id, prompt) + 1 if end_id in tokens[prompt:] else len(tokens)
        if stop > prompt:
            examples.append(Example(row["example_id"], tuple(tokens[:stop]), prompt))
    return examples


def evaluate_likelihood(
    likelihood: LikelihoodConfig, model: ModelConfig, shards: Path, adapter: Path, out: Path
) -> dict[str, Any]:
    """Write likelihood.parquet and likelihood.json (see the module's docstring); return the counts.

    Args:
        adapter: PEFT folder within the output of train_adapter, whose training.json says how many rows it saw.
    """
    examples = read_examples(shards, "test", likelihood.max_rows)
    if examples:
        with out_of_memory("lower evaluate.likelihood.batch_tokens"):
            frame, canaries = _measure(likelihood, model, shards, adapter, examples)
    else:
        frame, canaries = jobs_frame([], nll_base=np.zeros(0), nll_tuned=np.zeros(0)), []
    frame = frame.with_columns(everything_masked=pl.col("draw") == EVERYTHING)
    frame.write_parquet(out / "likelihood.parquet")
    summary = summarise(frame, likelihood, canaries)
    (out / "likelihood.json").write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n")
    return {"rows": summary["rows"], "draws": likelihood.draws, "tokens": summary["tokens"]}


def _measure(
    likelihood: LikelihoodConfig, config: ModelConfig, shards: Path, adapter: Path, examples: Sequence[Example]
) -> tuple[pl.DataFrame, list[dict[str, Any]]]:
    mask_id = read_meta(shards)["tokenizer"]["mask_id"]
    model = load(config, adapter=adapter)
    readings = base_and_tuned(model)
    batch_tokens = likelihood.batch_tokens

    jobs = plan_jobs(examples, likelihood)
    base, tuned = evaluate_jobs(model, readings, jobs, mask_id, batch_tokens, "likelihood")
    frame = jobs_frame(jobs, nll_base=base, nll_tuned=tuned)
    if not np.isfinite(frame.select("nll_base", "nll_tuned").to_numpy()).all():
        raise UserError(f"the likelihood under {adapter} is not finite; the adapter or the base model is damaged")

    exchanged = shuffled_prompts(examples)
    [shuffled] = evaluate_jobs(model, readings[1:], exchanged, mask_id, batch_tokens, "shuffled prompts")

    few = likelihood.model_copy(update={"draws": min(TRAIN_DRAWS, likelihood.draws)})
    trained = json.loads((adapter.parent / "training.json").read_text(encoding="utf-8"))["rows"]
    training = read_examples(shards, "train", min(TRAIN_ROWS, len(examples)), spread_over=trained)
    seen = [job for job in plan_jobs(training, few) if job.draw != EVERYTHING]
    base, tuned = evaluate_jobs(model, readings, seen, mask_id, batch_tokens, "training rows")

    frames = jobs_frame(exchanged, nll_tuned=shuffled), jobs_frame(seen, nll_base=base, nll_tuned=tuned)
    return frame, soft_canaries(frame, *frames, seed=likelihood.seed)


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
