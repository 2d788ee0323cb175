"""What the runs of a study measured: each question's value under each run, matched between runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from dreamtune.errors import UserError
from dreamtune.evaluate.clusters import Clusters
from dreamtune.evaluate.comparison import counted_questions
from dreamtune.evaluate.draws import per_example
from dreamtune.evaluate.faults import find_faults
from dreamtune.evaluate.intervals import Floats
from dreamtune.formats.likelihood import BINS_FILE, BOUND, LIKELIHOOD_FILE
from dreamtune.formats.names import BASE, HEADLINE, TUNED
from dreamtune.formats.reads import Reads, collect_canaries, gates_of
from dreamtune.formats.scores import SCORES_FILE
from dreamtune.formats.training import TRAINING_FILE
from dreamtune.study.points import Point, by_method

Primary = Literal["accuracy", "nll"]
KEYS = ("example_id", "cluster", "weight", "reference", "base", "tuned")


@dataclass(frozen=True)
class Run:
    """One run's values on the test split.

    Attributes:
        name: of the run.
        values: `KEYS` by question; base and tuned are shares of right answers and the weight 1, or the NLL in nats and
            the weight its tokens. By the reference answer (null for the NLL) questions are known to be the same.
        kind: "accuracy", or the kind of the NLL, "bound" or "exact"; different kinds are never compared.
        fault: why its numbers mean nothing; None if its canaries and gates passed.
        rows: number of rows it trained on; None if it left no record of that.
    """

    name: str
    values: pl.DataFrame
    kind: str
    fault: str | None
    rows: int | None


@dataclass(frozen=True)
class Matched:
    """Values of several runs on the questions that count in all of them: base and tuned are [runs, questions]."""

    clusters: Clusters
    weights: Floats
    base: Floats
    tuned: Floats


def reads_of_run(reads: Mapping[str, Path], run: str) -> Reads:
    """Return the version folders of one run, from those of a study by "RUN/NAME"."""
    return Reads({key.removeprefix(f"{run}/"): path for key, path in reads.items() if key.startswith(f"{run}/")})


def read_run(name: str, reads: Reads, primary: Primary) -> Run:
    """Return what a run measured, from its version folders.

    Raises:
        UserError: base and tuned do not answer the same questions, or there are no answers (no likelihood).
    """
    values, kind = _accuracy(name, reads) if primary == "accuracy" else _likelihood(name, reads)
    faults = find_faults(collect_canaries(reads), gates_of(reads))
    rows = reads.json("full", TRAINING_FILE).get("rows")
    return Run(name, values.select(KEYS), kind, faults[0].wrong if faults else None, rows)


def runs_by_method(members: Sequence[Point], runs: Mapping[str, Run]) -> dict[str, list[Run]]:
    """Return the finished runs of each method; [] of one whose runs all ended."""
    return {
        name: [runs[point.name] for point in found if point.name in runs] for name, found in by_method(members).items()
    }


def match(runs: Sequence[Run]) -> Matched:
    """Return the values of several runs on the questions that count in all of them.

    A question that is undecided under one run is left out of all.

    Raises:
        UserError: no question counts in all runs, or two runs group the questions differently, so that they are not the
            same ones.
    """
    same = ("cluster", "weight", "reference")
    joined = runs[0].values.select("example_id", *same)
    for number, run in enumerate(runs):
        own = run.values.rename({name: f"{name}_{number}" for name in KEYS[1:]})
        joined = joined.join(own, on="example_id", maintain_order="left")
        differs = [pl.col(name).ne_missing(pl.col(f"{name}_{number}")) for name in same]
        if joined.filter(pl.any_horizontal(differs)).height or not joined.height:
            raise UserError(
                f"the runs {runs[0].name} and {run.name} were not measured on the same questions; compare runs with "
                "equal data.files and data.split"
            )
    sides = (np.stack([joined[f"{who}_{i}"].to_numpy() for i in range(len(runs))]) for who in ("base", "tuned"))
    return Matched(Clusters.of(joined["cluster"]), joined["weight"].to_numpy().astype(float), *sides)


def _accuracy(name: str, reads: Reads) -> tuple[pl.DataFrame, str]:
    base, tuned = (reads.table(f"scores/test/{HEADLINE}/{who}", SCORES_FILE) for who in (BASE, TUNED))
    if base is None or tuned is None:
        raise UserError(f"the run {name} has no graded answers to the test split, which study.primary: accuracy needs")
    questions, _ = counted_questions(base, tuned, "correct")
    share = (pl.col(who) / pl.col("samples") for who in ("base", "tuned"))
    references = base.group_by("example_id").agg(pl.first("reference"))
    known = questions.join(references, on="example_id", maintain_order="left")
    return known.with_columns(*share, weight=pl.lit(1.0)), "accuracy"


def _likelihood(name: str, reads: Reads) -> tuple[pl.DataFrame, str]:
    draws = reads.table("likelihood", LIKELIHOOD_FILE)
    if draws is None or not draws.height:
        raise UserError(f"the run {name} has no held-out likelihood, which study.primary: nll needs")
    named = per_example(draws).rename({"nll_base": "base", "nll_tuned": "tuned", "response_tokens": "weight"})
    kind = reads.json("likelihood", BINS_FILE).get("kind", BOUND)
    return named.with_columns(reference=pl.lit(None, pl.String)), str(kind)
