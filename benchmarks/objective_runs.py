"""Trainings under each way to mask, at equal tokens and steps, over several seeds, for benchmarks/objectives.py."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import _src
import numpy as np
import polars as pl
from objective_ways import BIASED, WAYS
from scipy.stats import t as student

from dreamtune.config import Experiment
from dreamtune.evaluate.draws import nats_per_token
from dreamtune.evaluate.elbo import heldout_nll
from dreamtune.evaluate.examples import read_examples
from dreamtune.generate.answers import generate_answers
from dreamtune.model.loading import load, load_adapter
from dreamtune.scoring.score import score_answers
from dreamtune.settings.train import TrainConfig
from dreamtune.shards import read_meta
from dreamtune.train.train import train_adapter

RESULTS = ("nll", "accuracy")


def run_settings(train: TrainConfig, way: str, density: dict[str, list[float]], seed: int, steps: int) -> TrainConfig:
    """Return the settings of one training: pairs take half the rows per step, so that every way sees as many tokens.

    The learning rate's course and the number of steps are the same for all.
    """
    changes = dict(WAYS[way])
    if "rate_density" in changes:
        changes["rate_density"] = density[changes["rate_density"]]
    halves = 2 if changes.get("complementary") else 1
    batch = max(1, train.global_batch // halves)
    given = train.model_dump() | {"objective": "elbo", "validation_rows": 0} | changes
    return TrainConfig(**(given | {"seed": seed, "max_steps": steps, "global_batch": batch}))


def compare(
    experiment: Experiment,
    shards: Path,
    work: Path,
    ways: Sequence[str],
    seeds: int,
    steps: int,
    density: dict[str, list[float]],
    report: Callable[..., None],
) -> list[dict[str, Any]]:
    """Train and evaluate every way under every seed; what `work` holds already is not made again. Return the table.

    Seed by seed: a run that is stopped leaves whole comparisons.
    """
    lines: list[dict[str, Any]] = []
    for seed in range(seeds):
        for way in ways:
            out = work / f"{way.replace(' ', '-').replace(',', '')}-{seed}-{steps}"
            if not out.exists():
                _run(out, experiment, run_settings(experiment.train, way, density, seed, steps), shards)
            lines.append({"way": way, "seed": seed} | json.loads((out / "found.json").read_text()))
            report("run", **lines[-1])
    return summary(pl.DataFrame(lines), ways)


@_src.whole
def _run(out: Path, experiment: Experiment, train: TrainConfig, shards: Path) -> None:
    found = trained(experiment, train, shards, out)
    (out / "found.json").write_text(json.dumps(found))


def trained(experiment: Experiment, train: TrainConfig, shards: Path, out: Path) -> dict[str, float]:
    """Train an adapter, and return the held-out NLL in nats per token, the accuracy, tokens and seconds."""
    steps_an_epoch = -(-read_meta(shards)["splits"]["train"]["rows"] // train.global_batch)
    train = train.model_copy(update={"epochs": -(-int(train.max_steps or 1) // steps_an_epoch)})
    made, answers = out / "adapter-run", out / "answers"
    for folder in (made, answers):
        folder.mkdir(parents=True, exist_ok=True)
    counted = train_adapter(train, experiment.model, shards, made, out)
    model = load_adapter(load(experiment.model), made / "adapter")
    examples = read_examples(shards, "test", experiment.evaluate.likelihood.max_rows)
    mask_id = read_meta(shards)["tokenizer"]["mask_id"]
    nll = nats_per_token(heldout_nll(model, examples, experiment.evaluate.likelihood, mask_id))
    generate = experiment.generations()["greedy"]
    generate_answers(generate, experiment.model, shards, None, made / "adapter", answers)
    score_answers(experiment.score, answers, answers)
    accuracy = float(pl.read_parquet(answers / "scores.parquet")["correct"].mean() or 0.0)  # type: ignore[arg-type]
    return {"nll": nll, "accuracy": accuracy, "tokens": counted["tokens"]}


def summary(runs: pl.DataFrame, ways: Sequence[str]) -> list[dict[str, Any]]:
    """Return a line for each way: the mean over seeds, and its difference to the first way, each with 95 % limits.

    Differences are paired by seed, which gives both the same adapter to begin with and the same order of rows.
    """
    lines = []
    for way in ways:
        mine = runs.filter(pl.col("way") == way).sort("seed")
        base = runs.filter(pl.col("way") == ways[0]).sort("seed")
        line: dict[str, Any] = {"way": way, "seeds": mine.height, "biased": way in BIASED}
        for name in RESULTS:
            line[name] = interval(mine[name].to_numpy())
            line[f"{name} against {ways[0]}"] = interval(mine[name].to_numpy() - base[name].to_numpy())
        lines.append(line | {"tokens": float(mine["tokens"].mean() or 0.0)})  # type: ignore[arg-type]
    return lines


def interval(values: np.ndarray) -> list[float]:
    """Return mean, lower and upper 95 % limit by Student's t.

    >>> interval(np.array([1.0, 2.0, 3.0]))
    [2.0, -0.4841, 4.4841]
    """
    mean = float(values.mean())
    error = 0.0
    if len(values) > 1:
        error = float(student.isf(0.025, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)
    return [round(mean, 4), round(mean - error, 4), round(mean + error, 4)]
