"""How often the verdict is right where questions are similar to each other, and where the NLL's changes are skewed.

    python benchmarks/cluster_statistics.py

Every figure but those of the first table, which compares tests that could have been chosen, passes through
`compare_scores` or `compare_nll`, and `decide`, as the report's do. Prints Markdown tables, each share with its
Monte-Carlo standard error; ends with status 1 if a figure breaks its bound. 10 minutes on a core.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Callable
from typing import Any

import _src  # noqa: F401, puts src on the path
import numpy as np
import polars as pl
from _tables import broken, share, table
from scipy.stats import t as student
from verdict_statistics import PASSED, RESAMPLES, covers

from dreamtune.evaluate.clusters import Clusters, clustered_difference
from dreamtune.evaluate.comparison import compare_nll, compare_scores, nothing
from dreamtune.evaluate.intervals import paired_permutation, ratio_interval
from dreamtune.evaluate.verdict import Name, decide
from dreamtune.settings.report import Comparison

# Clusters of questions by their sizes.
DESIGNS = {
    "30 × 10": [10] * 30,
    "15 × 10": [10] * 15,
    "10 × 10": [10] * 10,
    "6 × 10": [10] * 6,
    "95 (5 pairs)": [1] * 90 + [2] * 5,
    "10, one with half": [90] + [10] * 9,
    "30, one with half": [290] + [10] * 29,
}
# How alike the questions of a cluster are: the intraclass correlation of their changes, 1 / (2a + 1) for skills of base
# and tuned that are drawn per cluster from Beta(a, a).
LIKENESS = {"0.05": 9.5, "0.27": 1.35, "0.83": 0.1}
MAIN = "30 × 10"
Draw = Callable[[np.random.Generator, int], np.ndarray]
CHANGES: dict[str, Draw] = {
    "normal": lambda rng, n: rng.normal(0, 1, n),
    "Student t, 3 df": lambda rng, n: rng.standard_t(3, n),
    "lognormal, σ = 1": lambda rng, n: rng.lognormal(0, 1, n) - np.exp(0.5),
    "a tenth loses": lambda rng, n: np.where(rng.random(n) < 0.1, rng.normal(1.8, 0.5, n), rng.normal(-0.2, 0.2, n)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1000, help="replications of a cell")
    parts = (methods, accuracy_nulls, nll_nulls, skewed_nulls, power)
    parser.add_argument("--parts", nargs="+", choices=[p.__name__ for p in parts], help="only these tables")
    arguments = parser.parse_args()
    started = time.process_time()
    for part in parts:
        if arguments.parts is None or part.__name__ in arguments.parts:
            part(arguments.repeats)
    print(f"\n{time.process_time() - started:.0f} s of CPU")
    sys.exit("\n".join(["out of bounds:", *broken]) if broken else 0)


# Through the report's own code


def scores_block(base: np.ndarray, tuned: np.ndarray, numbers: np.ndarray) -> dict[str, Any]:
    """Compare answers that are right or wrong, [questions], in the clusters that `numbers` [questions] names."""
    keys = {"example_id": np.arange(len(base)), "cluster": numbers, "sample": np.zeros(len(base), int)}
    sides = [pl.DataFrame(keys | {"correct": x > 0}).with_columns(gradable=True) for x in (base, tuned)]
    return compare_scores(*sides, "correct", Comparison(resamples=RESAMPLES))


def nll_block(change: np.ndarray, tokens: np.ndarray, numbers: np.ndarray) -> dict[str, Any]:
    """Compare rows whose NLL per token changes by `change` [rows]."""
    keys = {"example_id": np.arange(len(change)), "cluster": numbers, "draw": np.zeros(len(change), int)}
    nll = {"response_tokens": tokens.astype(int), "nll_base": 5 * tokens, "nll_tuned": (5 + change) * tokens}
    return compare_nll(pl.DataFrame(keys | nll), Comparison(resamples=RESAMPLES))


def says(block: dict[str, Any]) -> Name:
    gates = {"full": True}
    if "gain" in block:
        return decide(Comparison(), block, nothing("rows"), PASSED, gates).name
    return decide(Comparison(primary="nll"), nothing("questions"), block, PASSED, gates).name


def answers(rng: np.random.Generator, numbers: np.ndarray, a: float, gain: float = 0.0) -> list[np.ndarray]:
    """Return base and tuned answers [questions]: skills Beta(a, a) per cluster, moved apart by `gain` on average."""
    base, tuned = rng.beta(a, a, (2, numbers.max() + 1))
    skills = (1 - gain) * base, gain + (1 - gain) * tuned
    return [(rng.random(len(numbers)) < skill[numbers]).astype(float) for skill in skills]


def row_tokens(rng: np.random.Generator, n: int) -> np.ndarray:
    """Return the lengths of n rows as long as reasoning traces."""
    return np.clip(rng.lognormal(np.log(400), 0.7, n).round(), 20, 2048)


def fewer(repeats: int, by: int) -> int:
    """Return the replications of a cell that takes longer than others: `repeats` over `by`, and at least one.

    >>> fewer(1000, 4), fewer(2, 4)
    (250, 1)
    """
    return max(1, repeats // by)


# The parts


def methods(repeats: int) -> None:
    """Compare three tests of the same sums over clusters, without change and with a gain of 15 points."""
    head = ("clusters", "true gain", "sign flips", "t, CR2 and Satterthwaite", "bootstrap-t", "flips, and the interval")
    row, count = table("Tests over clusters: found, %, ICC 0.27", *head), fewer(repeats, 2)
    for name, gain in itertools.product(DESIGNS, (0.0, 0.15)):
        numbers, rng = np.repeat(np.arange(len(DESIGNS[name])), DESIGNS[name]), np.random.default_rng(3)
        clusters, hits = Clusters.of(numbers), np.zeros(4)
        for seed in range(count):
            base, tuned = answers(rng, numbers, LIKENESS["0.27"], gain)
            sums, sizes = clusters.sums(tuned - base), clusters.sizes
            flips = paired_permutation(sums, RESAMPLES, seed) < 0.05
            bootstrap, interval = ratio_interval(sums, sizes, 200, seed), clustered_difference(base, tuned, clusters, 1)
            outside = [not found.low <= 0 <= found.high for found in (bootstrap, interval)]
            hits += [flips, cr2(sums, sizes) < 0.05, outside[0], flips and outside[1]]
        row(name, f"{100 * gain:.0f} points", *(share("", hit, count) for hit in hits))


def cr2(sums: np.ndarray, sizes: np.ndarray) -> float:
    """Return the p of a t test over clusters: CR2 standard error, Satterthwaite's degrees of freedom.

    Bell and McCaffrey 2002 (Survey Methodology 28:169), for a mean, with clusters whose questions are all alike.
    """
    part = sizes / sizes.sum()
    residuals = (sums - sums.sum() * part) / sizes.sum()
    error = float(np.sqrt((residuals**2 / (1 - part)).sum()))
    deviations = np.diag(part) - np.outer(part, part)
    form = deviations.T @ np.diag(1 / (1 - part)) @ deviations
    freedom = np.trace(form) ** 2 / np.trace(form @ form)
    return 2 * float(student.sf(abs(sums.sum() / sizes.sum()) / error, freedom)) if error else 1.0


def accuracy_nulls(repeats: int) -> None:
    """Base and tuned skills of each cluster are drawn alike, so that nothing changed on average."""
    head = ("clusters", "ICC", "'improved', %", "'worse', %", "gain covered, %", "base covered, %", "n counts as")
    row = table("Accuracy, clustered questions, nothing changed", *head, "'improved' if taken for unrelated, %")
    for (name, sizes), (icc, a) in itertools.product(DESIGNS.items(), LIKENESS.items()):
        numbers, rng = np.repeat(np.arange(len(sizes)), sizes), np.random.default_rng(len(sizes))
        count = repeats if name == MAIN else fewer(repeats, 2)
        hits, unaware, counts_as = np.zeros(4), 0, []
        for number in range(count):
            base, tuned = answers(rng, numbers, a)
            block = scores_block(base, tuned, numbers)
            said = says(block)
            covered = covers(block["gain"], 0.0), covers(block["base"], 0.5)
            hits += [said == "improved", said == "worse", *covered]
            counts_as.append(block["gain"]["effective_n"])
            if number < fewer(count, 4):
                unaware += says(scores_block(base, tuned, np.arange(len(base)))) == "improved"
        most = 0.035 if name == MAIN else 0.046  # three standard errors above 2.5 % for half as many replications
        bounds = [(0.0, most), (0.0, most), (0.9, 1.0), (0.9, 1.0)]
        what = f"accuracy, {name}, ICC {icc}"
        cells = [share(what, hit, count, *bound) for hit, bound in zip(hits, bounds, strict=True)]
        row(name, icc, *cells, f"{np.mean(counts_as):.0f} of {len(numbers)}", share("", unaware, fewer(count, 4)))


def nll_nulls(repeats: int) -> None:
    """The change per token is a cluster's own and a row's own, each of the named distribution with mean 0."""
    head = ("clusters", "change", "ICC", "'improved', %", "'worse', %", "change covered, %")
    row = table("NLL, clustered rows, nothing changed", *head)
    for (name, sizes), kind, icc in itertools.product(DESIGNS.items(), ("normal", "a tenth loses"), (0.1, 0.7)):
        numbers, rng, hits = np.repeat(np.arange(len(sizes)), sizes), np.random.default_rng(len(sizes)), np.zeros(3)
        count = repeats if name == MAIN else fewer(repeats, 2)
        for _ in range(count):
            own, shared = (CHANGES[kind](rng, n) for n in (len(numbers), len(sizes)))
            change = np.sqrt(icc) * shared[numbers] + np.sqrt(1 - icc) * own
            block = nll_block(change, row_tokens(rng, len(numbers)), numbers)
            said = says(block)
            hits += [said == "improved", said == "worse", covers(block["delta"], 0.0)]
        bounds = [(0.0, 0.035)] * 2 + [(0.92, 1.0)] if kind == "normal" else [(0.0, 1.0)] * 3
        cells = [share(f"NLL, {name}, {kind}, {icc}", h, count, *b) for h, b in zip(hits, bounds, strict=True)]
        row(name, kind, icc, *cells)


def skewed_nulls(repeats: int) -> None:
    """Unrelated rows as long as reasoning traces: both tails, by the test alone and with the interval."""
    title = "NLL, unrelated rows, nothing changed"
    row = table(title, "change", "rows", "p < 0.05: better / worse, %", "'improved', %", "'worse', %")
    for kind, n in itertools.product(CHANGES, (50, 100, 300)):
        rng, hits = np.random.default_rng(n), np.zeros(4)
        for _ in range(repeats):
            block = nll_block(CHANGES[kind](rng, n), row_tokens(rng, n), np.arange(n))
            said, delta = says(block), block["delta"]
            found = delta["p"] < 0.05
            hits += [found and delta["value"] < 0, found and delta["value"] > 0, said == "improved", said == "worse"]
        low, high, improved, worse = (share("", hit, repeats) for hit in hits)
        row(kind, n, f"{low} / {high}", improved, worse)


def power(repeats: int) -> None:
    """Where likeness is 0, testing clusters costs little; a change as stated to be detectable is mostly found."""
    title = "Power between clusters"
    row = table(title, "measure", "clusters", "ICC", "true gain", "'improved', %", "McNemar over questions, %")
    count, few = fewer(repeats, 2), fewer(repeats, 4)
    for name in (MAIN, "95 (5 pairs)"):
        sizes, rng, found, unaware = DESIGNS[name], np.random.default_rng(0), 0, 0
        numbers, gain = np.repeat(np.arange(len(sizes)), sizes), 0.12 if name == MAIN else 0.25
        for _ in range(count):
            right = [(rng.random(len(numbers)) < skill).astype(float) for skill in (0.5 - gain / 2, 0.5 + gain / 2)]
            found += says(scores_block(*right, numbers)) == "improved"
            unaware += says(scores_block(*right, np.arange(len(numbers)))) == "improved"
        row("accuracy", name, 0, f"{100 * gain:.0f} points", share("", found, count), share("", unaware, count))
    for (name, sizes), icc in itertools.product(DESIGNS.items(), ("0.05", "0.27")):
        numbers, rng, found = np.repeat(np.arange(len(sizes)), sizes), np.random.default_rng(1), 0
        stated = [scores_block(*answers(rng, numbers, LIKENESS[icc], 0.2), numbers)["detectable"] for _ in range(20)]
        gain = float(np.median([1.0 if size is None else size for size in stated]))
        for _ in range(few):
            found += says(scores_block(*answers(rng, numbers, LIKENESS[icc], gain), numbers)) == "improved"
        row("accuracy", name, icc, f"{100 * gain:.1f} points (as stated)", share("", found, few), "—")
    for name, sizes in DESIGNS.items():
        numbers, rng, found = np.repeat(np.arange(len(sizes)), sizes), np.random.default_rng(2), 0

        def block(effect: float, numbers: np.ndarray = numbers, rng: np.random.Generator = rng) -> dict[str, Any]:
            shared, own = rng.normal(size=numbers.max() + 1)[numbers], rng.normal(size=len(numbers))
            change = np.sqrt(0.3) * shared + np.sqrt(0.7) * own - effect
            return nll_block(change, row_tokens(rng, len(numbers)), numbers)

        effect = float(np.median([block(0.0)["detectable"] for _ in range(20)]))
        for _ in range(few):
            found += says(block(effect)) == "improved"
        row("NLL", name, 0.3, f"{effect:.2f} nats (as stated)", share("", found, few), "—")


if __name__ == "__main__":
    main()
