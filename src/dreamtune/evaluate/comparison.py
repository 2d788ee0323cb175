"""Compare base and tuned on the same questions: estimates, intervals and tests, as blocks of plain JSON.

A *block* is the dictionary of one comparison. An estimate in it is {"value", "low", "high", "n"}; a number for which
there are no data is None, never NaN.
"""

from math import isfinite
from typing import Any

import numpy as np
import polars as pl

from dreamtune.errors import UserError
from dreamtune.evaluate.draws import EVERYTHING, per_example
from dreamtune.evaluate.intervals import (
    Interval,
    detectable_gain,
    detectable_mean,
    mcnemar_exact,
    paired_difference,
    paired_permutation,
    question_difference,
    question_share,
    ratio_interval,
    wilson,
)
from dreamtune.evaluate.votes import majority, numbers_of_tries, pass_at_k
from dreamtune.settings.report import Comparison

Block = dict[str, Any]


def compare_scores(base: pl.DataFrame, tuned: pl.DataFrame, reading: str, comparison: Comparison) -> Block:
    """Compare the accuracy of base and tuned in one reading, question by question.

    With one sample per question: Wilson's intervals, Newcombe's paired interval and McNemar's exact test. With several:
    the same intervals for the effective number of answers, and a permutation test over the questions' means. A question
    with an undecided answer of either model is left out for both; `undecided` counts these questions.

    Args:
        base, tuned: the two scores.parquet.
        reading: `correct`, `strict` or `lenient`.
        comparison: level of test and intervals, resamples and seed.

    Returns:
        a block: "base" and "tuned", estimates of the share that is right; "gain", the estimate of tuned − base with
        "p", "test", "won" and "lost"; "detectable", and counts.

    Raises:
        UserError: the two do not answer the same questions.
    """
    questions, undecided = _by_question(base, tuned, reading)
    samples = max(questions["samples"].to_list(), default=0)
    x, y = ((questions[who] / questions["samples"]).to_numpy() for who in ("base", "tuned"))
    return _compare(x, y, samples, _left_out(base, undecided), comparison)


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
    questions, undecided = _by_question(base, tuned, "correct")
    samples, left_out = min(questions["samples"].to_list(), default=0), _left_out(base, undecided)
    tried = questions["samples"].to_numpy()
    at_k = {}
    for k in numbers_of_tries(samples):
        x, y = (pass_at_k(tried, questions[who].to_numpy(), k) for who in ("base", "tuned"))
        at_k[str(k)] = _compare(x, y, samples, left_out, comparison)
    voted = None
    if samples > 1 and all("answer_class" in frame.columns for frame in (base, tuned)):
        both = majority(base).join(majority(tuned), on="example_id", suffix="_tuned", maintain_order="left")
        decided = both.drop_nulls()
        x, y = (decided[name].to_numpy().astype(float) for name in ("correct", "correct_tuned"))
        left_out = _left_out(base, both.height - decided.height)
        voted = _compare(x, y, 1, left_out, comparison) | {"samples": samples}
    return {"pass_at_k": at_k, "majority": voted}


def _by_question(base: pl.DataFrame, tuned: pl.DataFrame, reading: str) -> tuple[pl.DataFrame, int]:
    """Return example_id, the number of samples, and how many are right in base and in tuned, for each question.

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
    pair = both.select("example_id", "sample", base=reading, tuned=f"{reading}_tuned")
    unread = pair.filter(pl.any_horizontal(pl.col("base", "tuned").is_null())).select("example_id").unique()
    counted = pair.join(unread, on="example_id", how="anti", maintain_order="left")
    questions = counted.group_by("example_id", maintain_order=True).agg(
        pl.col("base", "tuned").cast(pl.Float64).sum(), pl.len().alias("samples")
    )
    return questions, unread.height if reading == "correct" else 0


def _compare(x: np.ndarray, y: np.ndarray, samples: int, left_out: dict[str, int], comparison: Comparison) -> Block:
    """Return the block of a comparison of base x and tuned y, [questions] in 0 to 1."""
    if not len(x):
        return nothing("questions") | left_out
    block = _single(x, y, comparison) if samples == 1 else _several(x, y, samples, comparison)
    return block | {"questions": len(x), "samples": samples, **left_out, "level": 1 - comparison.alpha}


def compare_nll(frame: pl.DataFrame, comparison: Comparison) -> Block:
    """Compare the held-out NLL of base and tuned, Σ NLL / Σ tokens in nats per response token; lower is better.

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
    tokens = rows["response_tokens"].to_numpy()
    base, tuned = rows["nll_base"].to_numpy(), rows["nll_tuned"].to_numpy()
    everything_masked = frame.filter(pl.col("draw") == EVERYTHING)
    p = paired_permutation(tuned - base, comparison.resamples, comparison.seed) if len(tokens) > 1 else None
    return {
        "base": estimate(_ratio(base, tokens, comparison)),
        "tuned": estimate(_ratio(tuned, tokens, comparison)),
        "delta": estimate(_ratio(tuned - base, tokens, comparison)) | {"p": p, "test": "paired permutation over rows"},
        "everything_masked": _everything_masked(everything_masked, comparison),
        "detectable": detectable_mean(tuned - base, tokens, comparison.alpha),
        "rows": rows.height,
        "tokens": int(tokens.sum()),
        "unit": "nats per response token",
        "level": 1 - comparison.alpha,
    }


def estimate(interval: Interval) -> Block:
    """Return the interval as an estimate; an infinite limit becomes None."""
    limits = {name: _finite(getattr(interval, name)) for name in ("value", "low", "high")}
    return {**limits, "n": interval.n}


def nothing(what: str) -> Block:
    """Return the block of a comparison without data; `what` is "rows" for the NLL, "questions" for accuracy."""
    empty = {"value": None, "low": None, "high": None, "n": 0}
    gain = {"delta" if what == "rows" else "gain": empty | {"p": None, "test": None}}
    return {"base": dict(empty), "tuned": dict(empty), **gain, "detectable": None, what: 0}


def _everything_masked(rows: pl.DataFrame, comparison: Comparison) -> Block:
    """Return the estimates of base and tuned on the draws that mask the whole response."""
    if not rows.height:
        empty = nothing("rows")
        return {"base": empty["base"], "tuned": empty["tuned"]}
    tokens = rows["response_tokens"].to_numpy()
    return {n: estimate(_ratio(rows[f"nll_{n}"].to_numpy(), tokens, comparison)) for n in ("base", "tuned")}


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


def _ratio(x: np.ndarray, y: np.ndarray, comparison: Comparison) -> Interval:
    return ratio_interval(x, y, comparison.resamples, comparison.seed, comparison.alpha)


def _left_out(scores: pl.DataFrame, undecided: int) -> dict[str, int]:
    """Return how many questions are not compared, by reason."""
    ungradable = scores.filter((pl.col("example_id") >= 0) & ~pl.col("gradable"))["example_id"].n_unique()
    return {"ungradable": ungradable, "undecided": undecided}


def _finite(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) else None
