"""Statistics of the form of answers, whatever they say: length, repetition, and the order of their tokens' reveals.

A model that fine-tuning has broken often repeats itself ("2 × 2 × 2 × 2 …") or gives every question the same answer.
Accuracy shows only that it is wrong; the statistics here show that it has *collapsed*.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import scipy  # which loads scipy.stats, a second's work, at its first use

# ASSUME: thresholds of a judgement, not of a test. Honest answers lie far below them (docs/statistics.md).
ENOUGH_ANSWERS = 10  # fewer answers are not judged
LOOPING = 0.5  # an answer loops if this share of its 4-grams occurred earlier in it
MONOTONOUS_TOKENS, MONOTONOUS = 64, 0.1  # monotonous: at least 64 tokens, and below 0.1 distinct tokens per token
COLLAPSED_SHARE = 0.2  # collapsed if a larger share of the answers loops or is monotonous, or if …
SAME_SHARE = 0.5  # … a larger share of the answers is one text, and …
SAME_AS_REFERENCE = 1.5  # … more than 1.5 times the share of one reference: "yes" may be right for many questions
ENOUGH_CHOICES = 5  # an answer with fewer steps with a choice says nothing about order: "4", then its end token
WRITTEN_IN_ORDER = 0.9  # left to right if a larger share of the steps revealed the leftmost hidden tokens


def left_to_right(unmasked_at: Sequence[int]) -> float | None:
    """Return the share of an answer's steps that revealed the leftmost tokens still hidden; None without a choice.

    A step had a choice if it revealed m of h > m hidden tokens of the answer. It went left to right if those were the
    first m of them. In a random order of L tokens, one a step, (1/2 + … + 1/L) / (L − 1) of the steps do.

    Args:
        unmasked_at: the step at which each token of the answer was revealed, in the order of the text.

    Two steps with a choice, then one that reveals the last token; the first goes left to right, the second does not:

    >>> left_to_right([0, 3, 2])
    0.5
    >>> left_to_right([0, 0, 1, 1, 2]), left_to_right([2, 1, 0]), left_to_right([3])
    (1.0, 0.0, None)
    """
    steps = np.asarray(unmasked_at)
    order = np.unique(steps)  # sorted
    if len(order) < 2:
        return None
    where = np.searchsorted(order, steps)  # [tokens], the rank of each token's step
    positions = np.arange(len(steps))
    first, last = np.full(len(order), len(steps)), np.full(len(order), -1)
    np.minimum.at(first, where, positions)
    np.maximum.at(last, where, positions)
    first_later = np.minimum.accumulate(first[::-1])[::-1][1:]  # the leftmost token that a step leaves hidden
    return float((last[:-1] < first_later).mean())


def order_correlation(unmasked_at: Sequence[int]) -> float | None:
    """Return Kendall's tau-b of position and step: 1 left to right, 0 in no order, −1 right to left.

    Kendall 1945 (Biometrika 33:239). Tokens of one step are tied; None where all tokens are.

    >>> order_correlation([0, 1, 2]), order_correlation([2, 1, 0]), order_correlation([0, 0])
    (1.0, -1.0, None)
    """
    if len(set(unmasked_at)) < 2:
        return None
    return float(scipy.stats.kendalltau(np.arange(len(unmasked_at)), np.asarray(unmasked_at)).statistic)


def summarise_answers(scores: pl.DataFrame, completions: pl.Series, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of scores.json on the form of the answers; a share of no rows is None.

    Args:
        scores: rows of scores.parquet, without the user's own prompts.
        completions: the text of each of these rows.
        settings: the sampler's settings, {} where unknown; those of a causal model, which writes in one order, have no
            `order`.
    """
    one_order = bool(settings) and "order" not in settings
    shares = {
        "truncated": ~pl.col("ended"),
        "looping": pl.col("repetition") > LOOPING,
        "monotonous": _monotonous(),
        "degenerate": (pl.col("repetition") > LOOPING) | _monotonous(),
    }
    found: dict[str, Any] = scores.select(
        pl.median("tokens").alias("tokens_median"),
        pl.quantile("tokens", 0.95, interpolation="linear").alias("tokens_p95"),
        _tokens_per_pass().alias("tokens_per_pass"),
        pl.mean("distinct_1", "order_correlation"),
        _of_all_steps().alias("left_to_right"),
        *(expression.mean().alias(name) for name, expression in shares.items()),
    ).row(0, named=True)
    texts = completions.fill_null("").str.strip_chars()
    found["empty"] = (texts == "").mean()
    found["commonest"] = _commonest(texts)
    found["commonest_answer"] = _commonest(scores["extracted"].drop_nulls())
    reasons = collapse(found, scores, texts)
    chosen = scores.filter(pl.col("choices") >= ENOUGH_CHOICES)
    in_order = chosen.select(_of_all_steps()).item() if chosen.height >= ENOUGH_ANSWERS and not one_order else None
    return found | {
        "left_to_right": None if one_order else found["left_to_right"],
        "collapsed": None if reasons is None else bool(reasons),
        "collapse": reasons or [],
        "warnings": order_warnings(in_order, settings),
    }


def collapse(found: Mapping[str, Any], scores: pl.DataFrame, texts: pl.Series) -> list[str] | None:
    """Return how the answers have collapsed, one phrase per way; [] if they have not, None if they are too few.

    Wrong answers are no collapse, nor are short ones, nor one answer to all questions whose references agree as much.

    Args:
        found: shares from `summarise_answers`.
        scores: rows of scores.parquet.
        texts: the text of each of these rows.
    """
    one_each = scores.with_columns(text=texts).unique("example_id", keep="first", maintain_order=True)
    if one_each.height < ENOUGH_ANSWERS:
        return None
    reasons = []
    if found["degenerate"] > COLLAPSED_SHARE:
        counts = {"loop": found["looping"], "use a handful of tokens": found["degenerate"] - found["looping"]}
        reasons += [f"{_percent(share)} {what}" for what, share in counts.items() if share > 0]
    agreeing = _commonest(one_each["reference"].drop_nulls()) or 0.0
    # Several samples of one question may well be the same text: what counts is one text to several questions.
    same = _commonest(one_each["text"]) or 0.0
    if same > max(SAME_SHARE, SAME_AS_REFERENCE * agreeing):
        what = "empty" if (one_each["text"] == "").mean() == same else "the same text"
        reasons.append(f"{_percent(same)} are {what}")
    return reasons


def order_warnings(share: float | None, settings: Mapping[str, Any]) -> list[str]:
    """Return a warning if the answers were written left to right, which no value of `generate.order` asks for.

    Args:
        share: the share of steps that went left to right; None if there were too few.
        settings: the sampler's settings, {} where unknown.
    """
    if share is None or share <= WRITTEN_IN_ORDER:
        return []
    asked = f" although generate.order is {settings['order']}" if "order" in settings else ""
    tempered = settings.get("ranking") == "official" and (settings.get("temperature") or 0) > 0
    remedy = "; ranking after the temperature does that: set generate.ranking to untempered" if tempered else ""
    return [f"the answers were written left to right ({_percent(share)} of the steps){asked}{remedy}"]


def _tokens_per_pass() -> pl.Expr:
    """Tokens of all answers / forward passes that their rows took part in; null where passes are not known."""
    passes = pl.col("passes").sum()
    return pl.when(passes > 0).then(pl.col("tokens").sum() / passes)


def _of_all_steps() -> pl.Expr:
    """The share of left-to-right steps among the steps with a choice, pooled over all answers; null if none had."""
    taken = (pl.col("left_to_right") * pl.col("choices")).sum()
    return pl.when(pl.col("choices").sum() > 0).then(taken / pl.col("choices").sum())


def _monotonous() -> pl.Expr:
    return (pl.col("tokens") >= MONOTONOUS_TOKENS) & (pl.col("distinct_1") < MONOTONOUS)


def _commonest(texts: pl.Series) -> float | None:
    """Return the share of the most frequent text."""
    return int(texts.value_counts()["count"].max()) / len(texts) if len(texts) else None  # type: ignore[arg-type]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
