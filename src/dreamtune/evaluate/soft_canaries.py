"""The soft canaries, each with a 95 % interval: does the tuned model behave like one that learned honestly?

They measure the tuned model, and never look at the objective's name. One that fails is a warning in the report; the
hard canaries, which make a verdict invalid, look for faults in training and in the likelihood itself. A canary with too
few rows has neither passed nor failed: `passed` is None. Rows with similar questions count as one: intervals are over
clusters of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import hypot

import polars as pl

from dreamtune.checks import Check, check
from dreamtune.evaluate.clusters import Clusters
from dreamtune.evaluate.draws import EVERYTHING, per_example
from dreamtune.evaluate.elbo import Job
from dreamtune.evaluate.examples import Example
from dreamtune.evaluate.intervals import Interval, ratio_interval

ENOUGH = 10  # rows, or clusters of rows with similar questions; fewer are not judged
SMALL_RATE = 0.25  # mask rates up to this one are small
MAX_GAP = 0.1  # nats per token
RESAMPLES = 2_000


def shuffled_prompts(examples: Sequence[Example]) -> list[Job]:
    """Return a job for each example's response behind another example's prompt, of similar length, fully masked.

    With everything masked, only the prompt can tell what the response is.
    """
    order = sorted(examples, key=lambda e: (e.prompt, e.example_id))
    jobs = []
    for mine, other in zip(order, order[1:] + order[:1], strict=True):
        tokens = other.tokens[: other.prompt] + mine.tokens[mine.prompt :]
        exchanged = replace(mine, tokens=tokens, prompt=other.prompt)
        jobs.append(Job(exchanged, EVERYTHING, tuple(range(exchanged.response))))
    return jobs


def soft_canaries(
    heldout: pl.DataFrame, shuffled: pl.DataFrame, training: pl.DataFrame, seed: int, causal: bool = False
) -> list[Check]:
    """Return the three soft canaries; two for a causal model, which has no masks among visible context.

    Args:
        heldout, shuffled, training: tables of `jobs_frame` for held-out rows, for `shuffled_prompts` of them (tuned
            only), and for training rows.
        seed: of the bootstrap.
        causal: whether the model is causal; one job then scores the whole response, as one that masks everything does.
    """
    if causal:
        return [prompt_matters(heldout, shuffled, seed, whole=0), no_gap(heldout, training, seed)]
    return [context_helps(heldout, seed), prompt_matters(heldout, shuffled, seed), no_gap(heldout, training, seed)]


def context_helps(heldout: pl.DataFrame, seed: int) -> Check:
    """Check that a masked token is easier when most of the response is visible: NLL at t = 1 against small t."""
    rate = pl.col("masked") / pl.col("response_tokens")
    cross_entropy = (pl.col("nll_tuned") / pl.col("response_tokens")).alias("ce")  # (L/k)·ΣCE/L = ΣCE/k
    blind = heldout.filter(pl.col("draw") == EVERYTHING).select("example_id", "cluster", cross_entropy)
    sighted = heldout.filter((pl.col("draw") >= 0) & (rate <= SMALL_RATE)).select("example_id", cross_entropy)
    sighted = sighted.group_by("example_id").agg(pl.mean("ce").alias("small"))
    both = blind.join(sighted, on="example_id").sort("example_id")
    return _canary(
        "context helps: NLL at t = 1 minus NLL at small t",
        "above 0 nats per masked token: visible context makes masked tokens easier",
        "the model predicts no better for what stands around a mask",
        _ratio(both["ce"] - both["small"], pl.repeat(1.0, both.height, eager=True), both["cluster"], seed),
        lambda interval: interval.low > 0,
    )


def prompt_matters(heldout: pl.DataFrame, shuffled: pl.DataFrame, seed: int, whole: int = EVERYTHING) -> Check:
    """Check that exchanging the examples' prompts raises the NLL; otherwise the model does not read its prompt.

    Args:
        heldout, shuffled, seed: see `soft_canaries`.
        whole: number of the draw that scores the whole response.
    """
    own = heldout.filter(pl.col("draw") == whole).select("example_id", "cluster", "response_tokens", "nll_tuned")
    both = own.join(shuffled.select("example_id", other="nll_tuned"), on="example_id").sort("example_id")
    return _canary(
        "shuffled prompts hurt: NLL behind another prompt minus NLL behind its own",
        "above 0 nats per token: the answer depends on the question",
        "the model does not read its prompt",
        _ratio(both["other"] - both["nll_tuned"], both["response_tokens"], both["cluster"], seed),
        lambda interval: interval.low > 0,
    )


def no_gap(heldout: pl.DataFrame, training: pl.DataFrame, seed: int) -> Check:
    """Check for memorisation: the NLL gained on training rows is not far above that gained on held-out rows."""
    gains = []
    for frame in (training, heldout):
        rows = per_example(frame)
        gain = rows["nll_base"] - rows["nll_tuned"]
        gains.append(_ratio(gain, rows["response_tokens"], rows["cluster"], seed))
    seen, unseen = gains
    gap = None
    if seen is not None and unseen is not None:  # limits of two independent estimates, squared and added
        low = hypot(seen.value - seen.low, unseen.high - unseen.value)
        high = hypot(seen.high - seen.value, unseen.value - unseen.low)
        value = seen.value - unseen.value
        gap = Interval(value, value - low, value + high, min(seen.n, unseen.n))
    return _canary(
        "train / held-out gap: NLL gained on training rows minus NLL gained on held-out rows",
        f"not surely above {MAX_GAP} nats per token: what was learned holds for unseen rows",
        "the training rows were memorised",
        gap,
        lambda interval: interval.low <= MAX_GAP,
    )


def _ratio(values: pl.Series, tokens: pl.Series, numbers: pl.Series, seed: int) -> Interval | None:
    """Return Σ values / Σ tokens with an interval over the clusters that the numbers name; None for too few."""
    clusters = Clusters.of(numbers)
    if clusters.count < ENOUGH:
        return None
    return ratio_interval(clusters.sums(values), clusters.sums(tokens), RESAMPLES, seed)


def _canary(
    name: str, expected: str, fault: str, interval: Interval | None, holds: Callable[[Interval], bool]
) -> Check:
    if interval is None:
        note = f"not enough data: needs {ENOUGH} rows with different questions"
        return check(name, None, None, expected, fault, hard=False, low=None, high=None, note=note)
    limits = {"low": interval.low, "high": interval.high, "note": f"{interval.n} rows with different questions"}
    return check(name, holds(interval), interval.value, expected, fault, hard=False, **limits)
