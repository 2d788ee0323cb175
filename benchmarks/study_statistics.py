"""How often a study is right: false findings over many experiments and over seeds, power, and the best of several.

    python benchmarks/study_statistics.py

Every figure passes through `dreamtune.study`, as a study's do. A question has a difficulty; base and tuned models draw
right or wrong answers by it; a seed moves its adapter's accuracy by a normal number of points. Prints Markdown tables,
each share with its Monte-Carlo standard error; ends with status 1 if a figure breaks its bound. Minutes on a core.
"""

import argparse
import sys
import time
from collections.abc import Callable

import _src  # noqa: F401, puts src on the path
import numpy as np
from _tables import broken, share, table
from scipy.special import expit
from scipy.stats import t as student

from dreamtune.evaluate.clusters import Clusters
from dreamtune.study.choosing import choose, confirm, looked_at_all
from dreamtune.study.curves import Change, fit_curve
from dreamtune.study.effects import Effect, contrast, degrees, method_effect
from dreamtune.study.family import judge

SPREAD = 1.6  # standard deviation of difficulties, in logits: answers of two models correlate with about 0.3
BASE = 0.4  # accuracy of the base
RESAMPLES = 199  # of sign flips; a study takes 10,000
CURVES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "flat": lambda x: 0.3 + 0 * x,
    "6 points per doubling": lambda x: 0.2 + 0.06 * np.log2(x / 125),
    "errors fall as size^-0.25": lambda x: 1 - 0.8 * (x / 125) ** -0.25,
    "towards 60 %, as size^-0.5": lambda x: 0.6 - 0.4 * (x / 125) ** -0.5,
    "S-shaped, with its knee at the end": lambda x: 0.5 * expit(1.2 * np.log2(x / 667)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="replications, as a share of the usual number")
    parts = (family, seeds, estimators, clustered, methods, power, best_of_nine, chosen_methods, equivalence, curves)
    parser.add_argument("--parts", nargs="+", choices=[p.__name__ for p in parts], help="only these tables")
    arguments = parser.parse_args()
    started = time.process_time()
    for part in parts:
        if arguments.parts is None or part.__name__ in arguments.parts:
            part(lambda usual: max(2, round(usual * arguments.scale)))
    print(f"\n{time.process_time() - started:.0f} s of CPU", flush=True)
    sys.exit("\n".join(["out of bounds:", *broken]) if broken else 0)


Repeats = Callable[[int], int]


class World:
    """Questions with difficulties, and models that answer them."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        many = np.random.default_rng(0).normal(0, SPREAD, 20_000)
        self.skills = np.linspace(-8, 8, 401)
        self.accuracies = np.array([expit(many + skill).mean() for skill in self.skills])

    def questions(self, n: int) -> np.ndarray:
        """Return difficulties in logits, [n]."""
        return self.rng.normal(0, SPREAD, n)

    def answers(self, difficulty: np.ndarray, accuracy: np.ndarray | float) -> np.ndarray:
        """Return right (1) and wrong (0) answers, [*accuracy, questions], of models of these accuracies."""
        skill = np.interp(accuracy, self.accuracies, self.skills)
        chance = expit(np.asarray(skill)[..., None] + difficulty)
        return (self.rng.random(chance.shape, dtype=np.float32) < chance).astype(float)

    def gains(self, n: int, seeds: int, gain: float, spread: float) -> tuple[np.ndarray, np.ndarray]:
        """Return tuned − base, [seeds, n], and the true gain of each adapter, [seeds]."""
        difficulty = self.questions(n)
        true = gain + self.rng.normal(0, spread, seeds) if spread else np.full(seeds, gain)
        return self.answers(difficulty, BASE + true) - self.answers(difficulty, BASE), true


def found(effect: Effect) -> str:
    """Return the word on the only comparison of a study."""
    return judge({"only": effect}, {})["only"].word


def family(repeats: Repeats) -> None:
    row = table("Null experiments on one base, 340 questions", "experiments", "any 'improved', %", "without Holm, %")
    times = repeats(1000)
    for m in (3, 9, 27):
        world, any_word, any_raw = World(m), 0, 0
        for _ in range(times):
            difficulty = world.questions(340)
            base = world.answers(difficulty, BASE)
            tuned = world.answers(difficulty, np.full(m, BASE))
            effects = {str(i): method_effect(tuned[i : i + 1] - base) for i in range(m)}
            judged = judge(effects, {}).values()
            any_word += any(one.word == "improved" for one in judged)
            any_raw += any(e.p is not None and e.p < 0.05 and e.value > 0 for e in effects.values())
        row(m, share(f"{m} nulls", any_word, times, high=0.05, errors=2), share("", any_raw, times))


def seeds(repeats: Repeats) -> None:
    columns = ("questions", "seeds", "seed SD, points", "'improved', %", "'worse', %", "over questions alone, %")
    row = table("A method without effect", *columns)
    times = repeats(2000)
    for n in (340, 1319):
        for count in (3, 5):
            for spread in (0, 3, 5):
                world, words, alone = World(n + count + spread), [], 0
                for _ in range(times):
                    effect = method_effect(world.gains(n, count, 0.0, spread / 100)[0], resamples=RESAMPLES)
                    words.append(found(effect))
                    alone += effect.value > 1.967 * effect.error_questions
                cells = (words.count(word) for word in ("improved", "worse"))
                what = f"{n} questions, {count} seeds of SD {spread}"
                row(
                    n, count, spread, *(share(what, cell, times, high=0.035) for cell in cells), share("", alone, times)
                )


def estimators(repeats: Repeats) -> None:
    """Compare what the standard error and its degrees of freedom could have been, where all errors are normal.

    Questions have a squared error of 1, answers one of `noise`, which is in both parts, and seeds one of `ratio`.
    """
    columns = ("seeds", "noise", "plain Satterthwaite, %", "as it is, %", "without the noise's second share, %")
    row = table("False findings each way, the largest over seven ratios of seeds to questions", *columns)
    times = repeats(40_000)
    for count in (3, 5):
        for noise in (0.0, 0.25):
            world, largest = World(count), np.zeros(3)
            for ratio in (0.5, 1, 2, 4, 8, 20, 60):
                questions, seeds_part = 1 + noise, (ratio + noise) * world.rng.chisquare(count - 1, times) / (count - 1)
                errors = world.rng.normal(0, (1 + noise + ratio) ** 0.5, times)
                total, less = questions + seeds_part, questions + np.maximum(seeds_part - noise, 0)
                plain = total**2 / (questions**2 / 339 + seeds_part**2 / (count - 1))
                own = np.array([degrees(questions, 339, [(part, count - 1)]) for part in seeds_part])
                other = np.array([degrees(questions, 339, [(part, count - 1)]) for part in less - questions])
                squares = ((total, plain), (total, own), (less, other))
                found_each = [(errors > student.isf(0.025, df) * se2**0.5).mean() for se2, df in squares]
                largest = np.maximum(largest, found_each)
            row(count, noise, *(f"{100 * value:.1f}" for value in largest))


def clustered(repeats: Repeats) -> None:
    columns = ("clusters", "seed SD, points", "'improved', %", "'worse', %", "if taken for unrelated, %")
    row = table("A method without effect, 3 seeds, questions of one template alike", *columns)
    times, numbers = repeats(1000), np.repeat(np.arange(30), 10)
    for spread in (0, 5):
        world, words, wrong = World(spread), [], []
        for _ in range(times):
            difficulty = world.questions(300)
            skills = world.rng.normal(0, 1.5, (2, 30))[:, numbers]  # of base and of all seeds' adapters, by template
            base = world.answers(difficulty + skills[0], BASE)
            tuned = world.answers(difficulty + skills[1], BASE + world.rng.normal(0, spread / 100, 3))
            words.append(found(method_effect(tuned - base, Clusters.of(numbers), resamples=RESAMPLES)))
            wrong.append(found(method_effect(tuned - base, resamples=RESAMPLES)))
        cells = [share(f"clusters, SD {spread}", words.count(w), times, high=0.035) for w in ("improved", "worse")]
        row("30 × 10", spread, *cells, share("", wrong.count("improved"), times))


def methods(repeats: Repeats) -> None:
    row = table("Two methods of equal worth, 340 questions", "seeds", "seed SD, points", "'improved', %", "'worse', %")
    times = repeats(1000)
    for counts in ((3, 3), (5, 3)):
        for spread in (0, 3, 5):
            world, words = World(sum(counts) + spread), []
            for _ in range(times):
                both = world.gains(340, sum(counts), 0.05, spread / 100)[0]
                words.append(found(contrast(both[: counts[0]], both[counts[0] :], resamples=RESAMPLES)))
            cells = (words.count(word) for word in ("improved", "worse"))
            row(f"{counts[0]} and {counts[1]}", spread, *(share("two methods", c, times, high=0.035) for c in cells))


def power(repeats: Repeats) -> None:
    row = table("Power, 340 questions, seed SD 2 points", "seeds", "true gain, points", "'improved', %")
    times = repeats(1000)
    for count in (1, 3, 5):
        world = World(count)
        effects = [method_effect(world.gains(340, count, 0.1, 0.02)[0], resamples=RESAMPLES) for _ in range(times)]
        hits = sum(found(effect) == "improved" for effect in effects)
        row(count, 10, share(f"power, {count} seeds", hits, times, low=0.7 if count == 3 else 0.0))


def best_of_nine(repeats: Repeats) -> None:
    columns = ("questions", "how", "bias of the stated gain, points", "covered, %")
    row = table("The best of nine points of equal worth (gain 5 points), adapters differing by SD 1", *columns)
    times = repeats(2000)
    for n in (340, 1319):
        world, errors, naive, hits = World(n), [], [], {"confirmed": 0, "naive": 0, "simultaneous": 0, "all": 0}
        for _ in range(times):
            true = BASE + 0.05 + world.rng.normal(0, 0.01, 9)
            validation = world.answers(world.questions(200), true)
            difficulty = world.questions(n)
            test = world.answers(difficulty, true) - world.answers(difficulty, BASE)
            effects = {str(i): method_effect(test[i : i + 1]) for i in range(9)}
            choice = choose({str(i): validation[i : i + 1] for i in range(9)})
            stated, best = confirm(choice, effects[choice.winner]), looked_at_all(effects)
            worth = {str(i): float(true[i]) - BASE for i in range(9)}
            errors.append(stated.effect.value - worth[choice.winner])
            naive.append(best.effect.value - worth[best.choice.winner])
            hits["confirmed"] += covers(stated.limits, worth[choice.winner])
            hits["naive"] += covers(best.effect.limits(), worth[best.choice.winner])
            hits["simultaneous"] += covers(best.limits, worth[best.choice.winner])
            hits["all"] += all(covers(effect.limits(0.05 / 9), worth[name]) for name, effect in effects.items())
        bias = points(f"confirmed on {n}", errors, 0.5)
        row(n, "chosen on 200 validation questions", bias, share("confirmed", hits["confirmed"], times, low=0.94))
        row(n, "looked at all, as if at one", points("", naive, 100), share("", hits["naive"], times))
        row(n, "looked at all, simultaneous", "the same", share("best", hits["simultaneous"], times, low=0.94))
        row(n, "all nine at once, simultaneous", "–", share("all nine", hits["all"], times, low=0.94))


def chosen_methods(repeats: Repeats) -> None:
    columns = ("seed SD, points", "of the adapters, points", "of the method, points")
    row = table("Bias of the best of nine equal methods of 3 seeds, chosen on 200 validation questions", *columns)
    times = repeats(500)
    for spread in (0, 2):
        world, adapters, method = World(spread), [], []
        for _ in range(times):
            true = BASE + 0.05 + world.rng.normal(0, spread / 100, (9, 3))
            validation, difficulty = world.answers(world.questions(200), true), world.questions(340)
            choice = choose({str(i): validation[i] for i in range(9)})
            won = true[int(choice.winner)]
            gains = world.answers(difficulty, won) - world.answers(difficulty, BASE)
            stated = confirm(choice, method_effect(gains, resamples=2)).effect.value
            adapters.append(stated - float(won.mean()) + BASE)
            method.append(stated - 0.05)
        row(spread, points("adapters", adapters, 0.5), points("", method, 100))


def equivalence(repeats: Repeats) -> None:
    columns = ("questions", "seeds", "seed SD, points", "true gain, points", "'no worse' or 'equivalent', %")
    row = table("No worse than 3 points", *columns)
    times = repeats(1000)
    for n, count, spread, gain in (
        (340, 3, 2, -3),
        (1319, 3, 2, -3),
        (1319, 5, 0, -3),
        (1319, 3, 1, 0),
        (1319, 5, 1, 0),
    ):
        world, hits = World(n + count), 0
        for _ in range(times):
            effect = method_effect(world.gains(n, count, gain / 100, spread / 100)[0], resamples=2)
            judged = judge({"only": effect}, {}, margin=0.03)["only"].equivalence
            hits += judged is not None and judged.answer != "not shown"
        row(n, count, spread, gain, share("no worse", hits, times, high=0.035 if gain <= -3 else 1.0))


def curves(repeats: Repeats) -> None:
    columns = ("curve", "runs", "truth, points", "foretold, %", "covered, %", "median width, points")
    columns += ("covered by a line going on, %",)
    row = table("What twice the data would give; 340 questions, seed SD 2 points", *columns)
    times = repeats(300)
    for sizes in ([125, 250, 500, 1000] * 3, [125, 250, 500, 1000, 2000] * 3):
        x = np.array(sizes, float)
        for name, truth in CURVES.items():
            world, widths, hits, line = World(len(x)), [], 0, 0
            change = float(truth(2 * x.max()) - truth(x.max()))
            for _ in range(times):
                accuracy = np.clip(truth(x) + world.rng.normal(0, 0.02, len(x)), 0.01, 0.99)
                curve = fit_curve(x, world.answers(world.questions(340), accuracy))
                line += curve.per_doubling is not None and covers(limits_of(curve.per_doubling), change)
                if forecast := curve.next_doubling:
                    widths.append(forecast.high - forecast.low)
                    hits += covers(limits_of(forecast), change)
            cells = [share("", len(widths), times), "–", "–"]
            if widths:
                cells[1:] = [share("", hits, len(widths)), f"{100 * np.median(widths):.0f}"]
            row(name, f"{len(x) // 3} sizes × 3", f"{100 * change:.1f}", *cells, share("", line, times))


def limits_of(change: Change) -> tuple[float, float]:
    return change.low, change.high


def covers(limits: tuple[float, float], truth: float) -> bool:
    return bool(limits[0] <= truth <= limits[1])


def points(what: str, errors: list[float], bound: float) -> str:
    """Return the mean error in points with its standard error; note it as broken if it is above the bound."""
    mean, error = 100 * float(np.mean(errors)), 100 * float(np.std(errors)) / len(errors) ** 0.5
    if abs(mean) > bound:
        broken.append(f"{what}: bias {mean:.2f} points, expected at most {bound:g}")
    return f"{mean:+.2f} ± {error:.2f}"


if __name__ == "__main__":
    main()
