"""How often the verdict and its intervals are right: coverage, false alarms, power, and the likelihood's variance.

    python benchmarks/verdict_statistics.py [results/latest/demo]

Every figure passes through `compare_scores` or `compare_nll`, and `decide`, as the report's do. The real pairs of base
and tuned are those of a finished experiment's folder, or of tests/fixtures/demo_pairs.csv. Prints Markdown tables, each
share with its Monte-Carlo standard error; ends with status 1 if a figure breaks its bound. Some 10 minutes on a core.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import _src  # noqa: F401, puts src on the path
import numpy as np
import polars as pl
import torch
from _tables import broken, share, table

from dreamtune.data.tokenizer import load_tokenizer
from dreamtune.evaluate.comparison import compare_nll, compare_scores, nothing
from dreamtune.evaluate.draws import EVERYTHING, nats_per_token, per_example
from dreamtune.evaluate.elbo import Job, jobs_frame, plan_jobs, summed_cross_entropy
from dreamtune.evaluate.examples import Example
from dreamtune.evaluate.verdict import Name, decide
from dreamtune.model.loading import load
from dreamtune.settings.likelihood import LikelihoodConfig
from dreamtune.settings.model import ModelConfig
from dreamtune.settings.report import Comparison

ROOT = Path(__file__).resolve().parents[1]
PASSED = [{"name": "targets_hidden", "hard": True, "passed": True, "value": 0, "expected": "0", "source": "full"}]
SIZES = (50, 100, 300)
RESAMPLES = 400  # a report takes 10,000; fewer make an interval noisier, not shorter
Rows = tuple[np.ndarray, np.ndarray, np.ndarray]  # tokens, base and tuned NLL in nats, each [rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="?", help="a finished experiment, results/latest/NAME")
    parser.add_argument("--repeats", type=int, default=4000, help="replications of a cell")
    parts = (likelihood_variance, nll_coverage, accuracy_coverage, samples_coverage, false_alarms, power)
    parser.add_argument("--parts", nargs="+", choices=[p.__name__ for p in parts], help="only these tables")
    arguments = parser.parse_args()
    if arguments.repeats < 2:
        parser.error(f"--repeats is {arguments.repeats}, but a spread over replications takes at least 2")
    torch.set_num_threads(1)
    pairs = read_pairs(arguments.results) if arguments.results else pl.read_csv(ROOT / "tests/fixtures/demo_pairs.csv")
    print(f"real pairs: {pairs.height} rows of {arguments.results or 'tests/fixtures/demo_pairs.csv'}", flush=True)
    started = time.process_time()
    for part in parts:
        if arguments.parts is None or part.__name__ in arguments.parts:
            part(arguments.repeats, pairs)
    print(f"\n{time.process_time() - started:.0f} s of CPU")
    sys.exit("\n".join(["out of bounds:", *broken]) if broken else 0)


def read_pairs(results: Path) -> pl.DataFrame:
    """Return one row per held-out row of a finished experiment, as tests/fixtures/demo_pairs.csv has them."""
    pairs = per_example(pl.read_parquet(results / "likelihood/likelihood.parquet"))
    for who in ("base", "tuned"):
        scores = pl.read_parquet(results / f"scores-test-greedy-{who}/scores.parquet").filter(pl.col("sample") == 0)
        names = {f"{reading}_{who}": pl.col(reading).cast(pl.Int8) for reading in ("correct", "lenient")}
        pairs = pairs.join(scores.select("example_id", **names), on="example_id")
    return pairs


# Through the report's own code


def nll_block(rows: Rows, resamples: int = RESAMPLES) -> dict[str, Any]:
    tokens, base, tuned = rows
    ids = np.arange(len(tokens))
    frame = {"example_id": ids, "cluster": ids, "draw": np.zeros_like(ids), "response_tokens": tokens.astype(int)}
    return compare_nll(pl.DataFrame(frame | {"nll_base": base, "nll_tuned": tuned}), Comparison(resamples=resamples))


def nll_says(block: dict[str, Any]) -> Name:
    return decide(Comparison(primary="nll"), nothing("questions"), block, PASSED, {"full": True}).name


def scores_block(base: np.ndarray, tuned: np.ndarray) -> dict[str, Any]:
    """Compare answers that are right or wrong, [questions, samples]."""
    questions, samples = base.shape
    keys = {"example_id": np.repeat(np.arange(questions), samples), "sample": np.tile(np.arange(samples), questions)}
    keys["cluster"] = keys["example_id"]
    sides = [pl.DataFrame(keys | {"correct": x.ravel() > 0}).with_columns(gradable=True) for x in (base, tuned)]
    return compare_scores(*sides, "correct", Comparison(resamples=RESAMPLES))


@cache
def counted(both: int, won: int, lost: int, neither: int) -> tuple[dict[str, Any], Name]:
    """Return block and verdict of a 2×2 table of questions: those right in both, won, lost, right in neither."""
    counts = (both, won, lost, neither)
    base, tuned = np.repeat([1, 0, 1, 0], counts), np.repeat([1, 1, 0, 0], counts)
    block = scores_block(base[:, None], tuned[:, None])
    return block, decide(Comparison(), block, nothing("rows"), PASSED, {"full": True}).name


def covers(estimate: dict[str, Any], truth: float) -> bool:
    return bool(estimate["low"] - 1e-12 <= truth <= estimate["high"] + 1e-12)


# The parts


def likelihood_variance(repeats: int, pairs: pl.DataFrame) -> None:
    """Eight tokens of the embedded model: all 255 masks give the exact value that draws must converge to."""
    row = table("Likelihood of 8 tokens against all 255 masks", "draws", "error / its s.e.", "variance / Bernoulli's")
    folder = ROOT / "resources/tiny-dream"
    model = load(ModelConfig(path=str(folder), quantization="none", dtype="float32", device="cpu", threads=1))
    tokenizer = load_tokenizer(str(folder))
    question, text = pl.read_parquet(folder / "rows.parquet").select("question", "deepseek_thinking_trajectory").row(0)
    prompt, response = tokenizer.encode_batch([f"Question: {question}\n", text])
    example = Example(0, (*prompt, *response[:8]), len(prompt))
    masks = [mask for k in range(1, 9) for mask in itertools.combinations(range(8), k)]
    sums = summed_cross_entropy(model, [Job(example, 0, mask) for mask in masks], tokenizer.mask_id)
    ce = dict(zip(masks, sums, strict=True)) | {(): 0.0}
    exact = float(np.mean([np.mean([ce[m] for m in masks if len(m) == k]) * 8 / k for k in range(1, 9)])) / 8
    rng = np.random.default_rng(0)
    for draws in (1, 4, 16):
        ours = []
        for seed in range(repeats):
            jobs = [j for j in plan_jobs([example], LikelihoodConfig(draws=draws, seed=seed)) if j.draw != EVERYTHING]
            ours.append(nats_per_token(jobs_frame(jobs, nll=np.array([ce[job.masked] for job in jobs]))))
        t = rng.random((repeats, draws))
        hidden = rng.random((repeats, draws, 8)) < t[..., None]
        drawn = np.array([[ce[tuple(np.flatnonzero(mask).tolist())] for mask in masks] for masks in hidden])
        theirs = (drawn / t).mean(axis=1) / 8
        z, ratio = (np.mean(ours) - exact) / (np.std(ours) / repeats**0.5), np.var(ours) / np.var(theirs)
        row(draws, f"{z:+.1f}", f"{ratio:.2f}")
        if abs(z) > 4 or ratio > 0.5:
            broken.append(f"likelihood with {draws} draws: {z:.1f} s.e. off, {ratio:.2f} of Bernoulli's variance")


def nll_coverage(repeats: int, pairs: pl.DataFrame) -> None:
    """Rows as long as reasoning traces; base NLL per token lognormal (σ = 1), its change as named, truly 0."""
    row = table(
        "NLL per token: coverage of the 95 % interval", "change", "rows", "change covered, %", "base covered, %"
    )
    changes: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
        "normal": lambda rng, n: rng.normal(0, 1, n),
        "Student t, 3 df": lambda rng, n: rng.standard_t(3, n),
        "lognormal, σ = 1": lambda rng, n: rng.lognormal(0, 1, n) - np.exp(0.5),
        "real pairs": lambda rng, n: np.zeros(n),
    }
    real = tuple(pairs[name].to_numpy().astype(float) for name in ("response_tokens", "nll_base", "nll_tuned"))
    for kind, n in itertools.product(changes, SIZES):
        rng, hits = np.random.default_rng(n), np.zeros(2)
        if kind == "real pairs":
            truth = (real[2].sum() - real[1].sum()) / real[0].sum(), real[1].sum() / real[0].sum()
        else:
            truth = 0.0, float(np.exp(0.5))
        for _ in range(repeats):
            if kind == "real pairs":
                pick = rng.integers(0, len(real[0]), n)
                rows = real[0][pick], real[1][pick], real[2][pick]
            else:
                tokens = np.clip(rng.lognormal(np.log(400), 0.7, n).round(), 20, 2048)
                base = tokens * rng.lognormal(0, 1, n)
                rows = tokens, base, base + tokens * changes[kind](rng, n)
            block = nll_block(rows)
            hits += [covers(block["delta"], truth[0]), covers(block["base"], truth[1])]
        covered = [
            share(f"NLL, {kind}, {n} rows, {w}", h, repeats, 0.93, 0.97)
            for h, w in zip(hits, ("change", "base"), strict=True)
        ]
        row(kind, n, *covered)


def accuracy_coverage(repeats: int, pairs: pl.DataFrame) -> None:
    title = "Accuracy, one sample: coverage of the 95 % intervals"
    row = table(title, "base → tuned", "changed", "questions", "gain covered, %", "base covered, %", "tuned covered, %")
    for shares in ((0.3, 0.1, 0.1, 0.5), (0.3, 0.2, 0.1, 0.4), (0.05, 0.3, 0.02, 0.63)):
        both, won, lost, _ = shares
        truths = {"gain": won - lost, "base": both + lost, "tuned": both + won}
        for n in SIZES:
            hits = np.zeros(3)
            for counts in np.random.default_rng(n).multinomial(n, shares, repeats).tolist():
                block, _ = counted(*counts)
                hits += [covers(block[name], truth) for name, truth in truths.items()]
            names = [f"accuracy {shares}, {n}, {name}" for name in truths]
            # A share of a few answers jumps in steps that no interval can follow: held to 93 to 97 % from 10 on.
            few = {name: name != "gain" and n * min(truth, 1 - truth) < 10 for name, truth in truths.items()}
            bounds = [(0.9, 0.99) if few[name] else (0.93, 0.97) for name in truths]
            cells = [share(name, hit, repeats, *bound) for name, hit, bound in zip(names, hits, bounds, strict=True)]
            row(f"{truths['base']:.0%} → {truths['tuned']:.0%}", f"{won + lost:.0%}", n, *cells)


def samples_coverage(repeats: int, pairs: pl.DataFrame) -> None:
    """Skills of questions Beta(0.8, 0.8); the tuned model's are 0.85 · skill + 0.13."""
    title = "Accuracy, 4 samples: coverage of the 95 % intervals"
    row = table(title, "questions", "gain covered, %", "base covered, %", "tuned covered, %")
    truths = {"gain": 0.055, "base": 0.5, "tuned": 0.555}
    for n in SIZES:
        rng, hits = np.random.default_rng(n), np.zeros(3)
        for _ in range(repeats):
            skill = rng.beta(0.8, 0.8, (n, 1))
            block = scores_block(rng.random((n, 4)) < skill, rng.random((n, 4)) < 0.85 * skill + 0.13)
            hits += [covers(block[name], truth) for name, truth in truths.items()]
        row(n, *(share(f"4 samples, {n}, {w}", h, repeats, 0.93, 0.97) for h, w in zip(hits, truths, strict=True)))


def false_alarms(repeats: int, pairs: pl.DataFrame) -> None:
    """Base and tuned of every real pair exchanged by the toss of a coin: nothing is left to find."""
    row = table("Real pairs, exchanged at random: false 'improved'", "decided by", "rows", "nulls", "'improved', %")
    for n in (50, pairs.height):
        for reading in ("correct", "lenient"):
            rng, says = np.random.default_rng(n), 0
            base, tuned = (pairs[f"{reading}_{who}"].to_numpy()[:n] for who in ("base", "tuned"))
            for _ in range(repeats):
                flip = rng.random(n) < 0.5
                x, y = np.where(flip, tuned, base), np.where(flip, base, tuned)
                cells = (int(((x == a) & (y == b)).sum()) for a, b in ((1, 1), (0, 1), (1, 0), (0, 0)))
                says += counted(*cells)[1] == "improved"
            row(f"accuracy ({reading})", n, repeats, share(f"nulls of {reading}, {n}", says, repeats, 0, 0.035))
        rng, says, fewer = np.random.default_rng(n), 0, max(1, repeats // 2)
        tokens, base, tuned = (pairs[c].to_numpy()[:n] for c in ("response_tokens", "nll_base", "nll_tuned"))
        for _ in range(fewer):
            flip = rng.random(n) < 0.5
            says += (
                nll_says(nll_block((tokens, np.where(flip, tuned, base), np.where(flip, base, tuned)))) == "improved"
            )
        row("NLL", n, fewer, share(f"nulls of NLL, {n}", says, fewer, 0, 0.035))


def power(repeats: int, pairs: pl.DataFrame) -> None:
    row = table("Power of 'improved'", "measure", "rows", "changed", "true gain", "found, %")
    points = [(300, 0.3, 0.1), (300, 0.3, 0.05), (300, 0.1, 0.05), (100, 0.3, 0.1), (1319, 0.3, 0.05)]
    stated = [(n, changed, None) for n, changed in ((50, 0.3), (100, 0.1), (300, 0.1), (300, 0.3))]
    for n, changed, gain in points + stated:
        count = round(changed * n)
        effect = gain or counted(0, count - count // 2, count // 2, n - count)[0]["detectable"]
        moved = max(changed if gain else (count + 1) / (n + 1), effect)
        draws = np.random.default_rng(1).multinomial(
            n, [(moved + effect) / 2, (moved - effect) / 2, 1 - moved], repeats
        )
        says = sum(
            counted(same // 2, won, lost, same - same // 2)[1] == "improved" for won, lost, same in draws.tolist()
        )
        low, high = (0.8 if (n, changed, gain) == points[0] else 0.0, 1.0) if gain else (0.77, 0.83)
        found = share(f"power at {n}, {changed}, {effect:.3f}", says, repeats, low, high)
        row("accuracy", n, f"{changed:.0%}", f"{100 * effect:.1f} points{'' if gain else ' (as stated)'}", found)
    tokens, base, tuned = (pairs[c].to_numpy().astype(float) for c in ("response_tokens", "nll_base", "nll_tuned"))
    noise = tuned - base - (tuned - base).sum() / tokens.sum() * tokens
    for n in (50, pairs.height):
        rng, says, fewer = np.random.default_rng(n), 0, max(1, repeats // 4)
        effect = nll_block((tokens[:n], base[:n], tuned[:n]))["detectable"]
        spread = noise[:n] - noise[:n].sum() / tokens[:n].sum() * tokens[:n]
        for _ in range(fewer):
            pick = rng.integers(0, n, n)
            change = spread[pick] - effect * tokens[pick]
            says += nll_says(nll_block((tokens[pick], base[pick], base[pick] + change))) == "improved"
        found = share(f"NLL power at {n}", says, fewer, 0.77, 0.83)
        row("NLL", n, "—", f"{effect:.3f} nats (as stated)", found)


if __name__ == "__main__":
    main()
