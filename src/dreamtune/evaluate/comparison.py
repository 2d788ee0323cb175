"""Compare base and tuned on the same questions: estimates, intervals and tests, as blocks of plain JSON.

A *block* is the dictionary of one comparison. An estimate in it is {"value", "low", "high", "n", "effective_n"}; a
number for which there are no data is None, never NaN. Where questions are similar to each other, tests and intervals
are over clusters of them (see `clusters`); where each question is a cluster by itself, over questions.
"""

from dataclasses import replace
from math import inf, isfinite
from typing import Any

import numpy as np
import polars as pl

from dreamtune.errors import UserError
from dreamtune.evaluate.clusters import (
    FEWEST,
    Clusters,
    clustered_difference,
    clustered_share,
    effective_number,
)
from dreamtune.evaluate.draws import EVERYTHING, per_example
from dreamtune.evaluate.intervals import (
    Interval,
    mcnemar_exact,
    paired_difference,
    paired_permutation,
    question_difference,
    question_share,
    ratio_interval,
    skewness_corrected,
    wilson,
)
from dreamtune.evaluate.power import detectable_clustered, detectable_gain, detectable_mean, detectable_ratio
from dreamtune.evaluate.votes import majority, numbers_of_tries, pass_at_k
from dreamtune.settings.report import Comparison

Block = dict[str, Any]
CLUSTERED = "clusters of similar questions"


def compare_scores(base: pl.DataFrame, tuned: pl.DataFrame, reading: str, comparison: Comparison) -> Block:
    """Compare the accuracy of base and tuned in one reading, question by question.

    With one sample per question: Wilson's intervals, Newcombe's paired interval and McNemar's exact test. With several,
    or where questions form clusters: the same intervals for the effective number of answers, and a permutation test
    over the questions' means, or the clusters' sums; fewer than `clusters.FEWEST` clusters are not tested. A question
    with an undecided answer of either model is left out for both; `undecided` counts these questions.

    Args:
        base, tuned: the two scores.parquet; the clusters are those of `base`.
        reading: `correct`, `strict` or `lenient`.
        comparison: level of test and intervals, resamples and seed.

    Returns:
        a block: "base" and "tuned", estimates of the share that is right; "gain", the estimate of tuned − base with
        "p", "test", "won" and "lost"; "detectable", and counts.

    Raises:
        UserError: the two do not answer the same questions.
    """
    questions, undecided = counted_questions(base, tuned, reading)
    samples = max(questions["samples"].to_list(), default=0)
    x, y = ((questions[who] / questions["samples"]).to_numpy() for who in ("base", "tuned"))
    return _compare(x, y, Clusters.of(questions["cluster"]), samples, _left_out(base, undecided), comparison)


def compare_samples(base: pl.DataFrame, tuned: pl.DataFrame, comparison: Comparison) -> Block:
    """Compare pass@k and the majority vote of base and tuned, over several samples per question.

    Args:
        base, tuned: the two scores.parquet.
        comparison: level of test and intervals, resamples and seed.

    Returns:
        "pass_at_k": {k: block} for k = 1, 2, 4, … and n; "majority": a block, None for one sample per question. The
        blocks have the form of those of `compare_scores`; a majority is one answer per question, hence McNemar's test.

    Raises:
        UserError: the two do not answer the same questions.
    """
    questions, undecided = counted_questions(base, tuned, "correct")
    samples, left_out = min(questions["samples"].to_list(), default=0), _left_out(base, undecided)
    tried, clusters = questions["samples"].to_numpy(), Clusters.of(questions["cluster"])
    at_k = {}
    for k in numbers_of_tries(samples):
        x, y = (pass_at_k(tried, questions[who].to_numpy(), k) for who in ("base", "tuned"))
        at_k[str(k)] = _compare(x, y, clusters, samples, left_out, comparison)
    voted = None
    if samples > 1 and all("answer_class" in frame.columns for frame in (base, tuned)):
        both = majority(base).join(majority(tuned), on="example_id", suffix="_tuned", maintain_order="left")
        decided = both.drop_nulls()
        x, y = (decided[name].to_numpy().astype(float) for name in ("correct", "correct_tuned"))
        left_out = _left_out(base, both.height - decided.height)
        voted = _compare(x, y, Clusters.of(decided["cluster"]), 1, left_out, comparison) | {"samples": samples}
    return {"pass_at_k": at_k, "majority": voted}


def counted_questions(base: pl.DataFrame, tuned: pl.DataFrame, reading: str) -> tuple[pl.DataFrame, int]:
    """Return example_id, cluster, the number of samples, and how many are right in base and in tuned, by question.

    A gradable question counts if the reading exists (is not null) for every sample of both models; the others are left
    out. The second value is the number of gradable questions with an undecided sample: those in which `correct`, if it
    is the reading, is null.
    """
    keys = [frame.filter(pl.col("example_id") >= 0).select("example_id", "sample") for frame in (base, tuned)]
    if not keys[0].sort("example_id", "sample").equals(keys[1].sort("example_id", "sample")):
        raise UserError(
            f"base answers {keys[0].height} questions and tuned {keys[1].height}, and they are not the same ones; "
            "both must come from the same test split: generate both again"
        )
    both = base.join(tuned, on=["example_id", "sample"], suffix="_tuned").filter("gradable").sort("example_id")
    pair = both.select("example_id", "cluster", "sample", base=reading, tuned=f"{reading}_tuned")
    unread = pair.filter(pl.any_horizontal(pl.col("base", "tuned").is_null())).select("example_id").unique()
    counted = pair.join(unread, on="example_id", how="anti", maintain_order="left")
    questions = counted.group_by("example_id", maintain_order=True).agg(
        pl.first("cluster"), pl.col("base", "tuned").cast(pl.Float64).sum(), pl.len().alias("samples")
    )
    return questions, unread.height if reading == "correct" else 0


def _compare(
    x: np.ndarray, y: np.ndarray, clusters: Clusters, samples: int, left_out: dict[str, int], comparison: Comparison
) -> Block:
    """Return the block of a comparison of base x and tuned y, [questions] in 0 to 1."""
    if not len(x):
        return nothing("questions") | left_out
    if not clusters.single:
        block = _clustered(x, y, clusters, samples, comparison)
    else:
        block = _single(x, y, comparison) if samples == 1 else _several(x, y, samples, comparison)
    counts = {"questions": len(x), "clusters": clusters.count, "samples": samples}
    return block | counts | left_out | {"level": 1 - comparison.alpha}


def compare_nll(frame: pl.DataFrame, comparison: Comparison) -> Block:
    """Compare the held-out NLL of base and tuned, Σ NLL / Σ tokens in nats per response token; lower is better.

    The interval and the test, which allows for skewness, are over rows, or over clusters of them. Fewer than
    `clusters.FEWEST` are not tested.

    Args:
        frame: likelihood.parquet (see `formats.likelihood`).
        comparison: level of test and intervals, resamples and seed.

    Returns:
        a block like that of `compare_scores`, with "delta" in place of "gain", and "everything_masked": base and tuned
        at mask rate 1.
    """
    rows = per_example(frame)
    if not rows.height:
        return nothing("rows")
    clusters, tokens = Clusters.of(rows["cluster"]), rows["response_tokens"].to_numpy()
    base, tuned = rows["nll_base"].to_numpy(), rows["nll_tuned"].to_numpy()
    change, size = clusters.sums(tuned - base), clusters.sums(tokens)
    delta = _ratio(tuned - base, tokens, clusters, comparison)
    unit, tested = "rows" if clusters.single else CLUSTERED, clusters.count >= FEWEST
    known = delta if tested or clusters.single else _without_limits(delta)
    return {
        "base": estimate(_ratio(base, tokens, clusters, comparison)),
        "tuned": estimate(_ratio(tuned, tokens, clusters, comparison)),
        "delta": estimate(known)
        | {
            "p": skewness_corrected(change, size) if tested else None,
            "test": f"skewness-corrected t test over {unit}" if tested else f"no test: fewer than {FEWEST} {unit}",
        },
        "everything_masked": _everything_masked(frame.filter(pl.col("draw") == EVERYTHING), comparison),
        "detectable": detectable_ratio(delta, change, size) if tested else None,
        "rows": rows.height,
        "clusters": clusters.count,
        "tokens": int(tokens.sum()),
        "unit": "nats per response token",
        "level": 1 - comparison.alpha,
    }


def compare_full(frame: pl.DataFrame | None, comparison: Comparison) -> Block | None:
    """Compare the NLL of base and tuned over full responses: with the tails of end tokens that training appends.

    In nats per response token like `compare_nll`'s: the tail adds to the NLL, not to the tokens. Nothing is tested.

    Args:
        frame: likelihood_full.parquet (see `formats.likelihood`), or None.
        comparison: level of the intervals, resamples and seed.

    Returns:
        "base", "tuned" and "delta", estimates, with "tail_tokens"; None without rows.
    """
    if frame is None or not frame.height:
        return None
    rows = per_example(frame)
    clusters, tokens = Clusters.of(rows["cluster"]), rows["response_tokens"].to_numpy()
    nll = {"base": rows["nll_base"].to_numpy(), "tuned": rows["nll_tuned"].to_numpy()}
    nll["delta"] = nll["tuned"] - nll["base"]
    block = {name: estimate(_ratio(values, tokens, clusters, comparison)) for name, values in nll.items()}
    tails = frame.group_by("example_id").agg(pl.first("tail_tokens"))["tail_tokens"]
    return block | {"tail_tokens": int(tails.sum()), "level": 1 - comparison.alpha}


def estimate(interval: Interval) -> Block:
    """Return the interval as an estimate; an infinite limit becomes None."""
    limits = {name: _finite(getattr(interval, name)) for name in ("value", "low", "high")}
    return {**limits, "n": interval.n, "effective_n": interval.effective_n or interval.n}


def nothing(what: str) -> Block:
    """Return the block of a comparison without data; `what` is "rows" for the NLL, "questions" for accuracy."""
    empty = {"value": None, "low": None, "high": None, "n": 0, "effective_n": 0}
    gain = {"delta" if what == "rows" else "gain": empty | {"p": None, "test": None}}
    return {"base": dict(empty), "tuned": dict(empty), **gain, "detectable": None, what: 0, "clusters": 0}


def _everything_masked(rows: pl.DataFrame, comparison: Comparison) -> Block:
    """Return the estimates of base and tuned on the draws that mask the whole response."""
    if not rows.height:
        empty = nothing("rows")
        return {"base": empty["base"], "tuned": empty["tuned"]}
    tokens, clusters = rows["response_tokens"].to_numpy(), Clusters.of(rows["cluster"])
    return {n: estimate(_ratio(rows[f"nll_{n}"].to_numpy(), tokens, clusters, comparison)) for n in ("base", "tuned")}


def _single(x: np.ndarray, y: np.ndarray, comparison: Comparison) -> Block:
    """Compare base x and tuned y, [questions] of 0 or 1: one answer per question."""
    won, lost = int(((x == 0) & (y == 1)).sum()), int(((x == 1) & (y == 0)).sum())
    gain = estimate(paired_difference(x, y, comparison.alpha))
    test = {"p": mcnemar_exact(lost, won), "test": "exact McNemar", "won": won, "lost": lost}
    return {
        "base": estimate(wilson(float(x.sum()), len(x), comparison.alpha)),
        "tuned": estimate(wilson(float(y.sum()), len(y), comparison.alpha)),
        "gain": gain | test,
        "detectable": detectable_gain(len(x), won + lost, comparison.alpha),
    }


def _several(x: np.ndarray, y: np.ndarray, samples: int, comparison: Comparison) -> Block:
    """Compare base x and tuned y, [questions] in 0 to 1: the mean over `samples` answers per question."""
    alpha = comparison.alpha
    test = {
        "p": paired_permutation(y - x, comparison.resamples, comparison.seed),
        "test": "paired permutation over questions",
        "won": int((y > x).sum()),
        "lost": int((y < x).sum()),
    }
    return {
        "base": estimate(question_share(x, samples, alpha)),
        "tuned": estimate(question_share(y, samples, alpha)),
        "gain": estimate(question_difference(x, y, samples, alpha)) | test,
        "detectable": detectable_mean(y - x, alpha=alpha),
    }


def _clustered(x: np.ndarray, y: np.ndarray, clusters: Clusters, samples: int, comparison: Comparison) -> Block:
    """Compare base x and tuned y, [questions] in 0 to 1, between clusters of similar questions."""
    alpha, tested = comparison.alpha, clusters.count >= FEWEST
    gain = clustered_difference(x, y, clusters, samples, alpha)
    test = {
        "p": paired_permutation(clusters.sums(y - x), comparison.resamples, comparison.seed) if tested else None,
        "test": f"paired permutation over {CLUSTERED}" if tested else f"no test: fewer than {FEWEST} {CLUSTERED}",
        "won": int((y > x).sum()),
        "lost": int((y < x).sum()),
    }
    return {
        "base": estimate(clustered_share(x, clusters, samples, alpha)),
        "tuned": estimate(clustered_share(y, clusters, samples, alpha)),
        "gain": estimate(gain if tested else _without_limits(gain)) | test,
        "detectable": detectable_clustered(y - x, clusters, gain, alpha) if tested else None,
    }


def _ratio(x: np.ndarray, y: np.ndarray, clusters: Clusters, comparison: Comparison) -> Interval:
    """Return Σx / Σy over rows, with an interval over clusters of them."""
    sums = clusters.sums(x), clusters.sums(y)
    interval = ratio_interval(*sums, comparison.resamples, comparison.seed, comparison.alpha)
    return replace(interval, n=len(x), effective_n=effective_number(x, clusters, y))


def _without_limits(interval: Interval) -> Interval:
    return replace(interval, low=-inf, high=inf)


def _left_out(scores: pl.DataFrame, undecided: int) -> dict[str, int]:
    """Return how many questions are not compared, by reason."""
    ungradable = scores.filter((pl.col("example_id") >= 0) & ~pl.col("gradable"))["example_id"].n_unique()
    return {"ungradable": ungradable, "undecided": undecided}


def _finite(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) else None
