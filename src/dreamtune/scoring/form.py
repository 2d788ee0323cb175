"""How the answers look, whatever they say: their lengths, their repetitions, the order they were written in.

A model that fine-tuning has broken often repeats itself ("2 × 2 × 2 × 2 …") or says one thing to every question.
Accuracy only shows that it is wrong; here it is said to have collapsed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import scipy  # which loads scipy.stats, a second's work, at its first use

# ASSUME: thresholds of a judgement, not of a test. Honest answers lie far below them (docs/statistics.md).
ENOUGH_ANSWERS = 10  # fewer are not judged
LOOPING = 0.5  # of an answer's 4-grams occurred before in it
MONOTONOUS_TOKENS, MONOTONOUS = 64, 0.1  # at least so many tokens, and fewer distinct ones per token
COLLAPSED_SHARE = 0.2  # of the answers loop or are monotonous
SAME_SHARE = 0.5  # of the answers are one text, …
SAME_AS_REFERENCE = 1.5  # … and so many times more than references are one text: "yes" may be a good answer to many
ENOUGH_CHOICES = 5  # steps with a choice, below which an answer's order says nothing: "4", then its end token
WRITTEN_IN_ORDER = 0.9  # of the steps took the leftmost hidden tokens


def left_to_right(unmasked_at: Sequence[int]) -> float | None:
    """Return the share of an answer's steps that revealed the leftmost tokens still hidden; None without a choice.

    A step counts where it had a choice: it revealed m of h > m hidden tokens of the answer. It is left to right if
    those were the first m of them. Of a random order of L tokens, one at a time, (1/2 + … + 1/L) / (L − 1) of the
    steps are. Tokens behind the first end token are not part of the answer and are not looked at.

    Args:
        unmasked_at: the step at which each token was revealed, in the order of the text.

    >>> left_to_right([0, 0, 1, 1, 2]), left_to_right([2, 1, 0]), left_to_right([0, 2, 1]), left_to_right([3])
    (1.0, 0.0, 0.5, None)
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
    """Return Kendall's tau-b of position and step: 1 left to right, 0 in no order, −1 right to left; None if no order.

    Kendall 1945 (Biometrika 33:239); tokens of one step are tied.
    """
    if len(set(unmasked_at)) < 2:
        return None
    return float(scipy.stats.kendalltau(np.arange(len(unmasked_at)), np.asarray(unmasked_at)).statistic)


def summarise_answers(scores: pl.DataFrame, completions: pl.Series, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what scores.json says of the answers' form; shares of rows, null where there are none.

    Args:
        scores: rows of scores.parquet, the user's own prompts left out.
        completions: their texts, in the same order.
        settings: of the generation, {} where unknown.
    """
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
    in_order = chosen.select(_of_all_steps()).item() if chosen.height >= ENOUGH_ANSWERS else None
    return found | {
        "collapsed": None if reasons is None else bool(reasons),
        "collapse": reasons or [],
        "warnings": order_warnings(in_order, settings),
    }


def collapse(found: Mapping[str, Any], scores: pl.DataFrame, texts: pl.Series) -> list[str] | None:
    """Return in what way the answers have collapsed, [] if they have not, and None if there are too few to say.

    Being wrong is no collapse, nor are short answers, nor one answer to all questions where the references agree as
    much.
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
    """Return a warning where answers were written left to right: no `order` that can be configured asks for that."""
    if share is None or share <= WRITTEN_IN_ORDER:
        return []
    asked = f" although generate.order is {settings['order']}" if "order" in settings else ""
    tempered = settings.get("ranking") == "official" and (settings.get("temperature") or 0) > 0
    remedy = "; ranking after the temperature does that: set generate.ranking to untempered" if tempered else ""
    return [f"the answers were written left to right ({_percent(share)} of the steps){asked}{remedy}"]


def _tokens_per_pass() -> pl.Expr:
    """Tokens of all answers for each pass that their rows took part in; null where passes are not known."""
    passes = pl.col("passes").sum()
    return pl.when(passes > 0).then(pl.col("tokens").sum() / passes)


def _of_all_steps() -> pl.Expr:
    """The share of left-to-right steps among all that had a choice, whatever answer they belong to; null for none."""
    taken = (pl.col("left_to_right") * pl.col("choices")).sum()
    return pl.when(pl.col("choices").sum() > 0).then(taken / pl.col("choices").sum())


def _monotonous() -> pl.Expr:
    return (pl.col("tokens") >= MONOTONOUS_TOKENS) & (pl.col("distinct_1") < MONOTONOUS)


def _commonest(texts: pl.Series) -> float | None:
    """Return the share of the most frequent text."""
    return int(texts.value_counts()["count"].max()) / len(texts) if len(texts) else None  # type: ignore[arg-type]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
