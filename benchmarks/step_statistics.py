"""How often the forecast over steps is right: what twice the steps would give, from the curves of a few seeds.

    python benchmarks/step_statistics.py

Every figure passes through `dreamtune.study.steps`, as a study's do. A seed shifts its curve, stretches its fall, and
adds noise to each validation, half of which it keeps until the next one. Prints Markdown tables, each share with its
Monte-Carlo standard error; ends with status 1 if a figure breaks its bound. A minute on a core.
"""

import argparse
import sys
from collections.abc import Callable

import _src  # noqa: F401, puts src on the path
import numpy as np
from _tables import broken, share, table
from scipy.special import expit

from dreamtune.study.steps import fit_course

STEPS, EVERY = 1600, 50
COURSES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "flat": lambda s: 2.0 + 0 * s,
    "0.1 nats per doubling": lambda s: 3.0 - 0.1 * np.log2(s),
    "falls as step^-0.25": lambda s: 4.0 * s**-0.25,
    "towards 1.2, as step^-0.5": lambda s: 1.2 + 6.0 * s**-0.5,
    "overfits: turns after 400 steps": lambda s: 1.5 + 0.05 * np.log2(s / 400) ** 2,
    "S-shaped, with its knee at the end": lambda s: 2.5 - expit(1.5 * np.log2(s / 1600)),
    "falls off a ledge after 2,000 steps": lambda s: 2.0 - 0.5 * expit(12 * np.log2(s / 2000)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="replications, as a share of the usual number")
    courses(max(2, round(1000 * parser.parse_args().scale)))
    sys.exit("\n".join(["out of bounds:", *broken]) if broken else 0)


def courses(times: int) -> None:
    columns = ("curve", "seeds", "noise, nats", "truth, nats", "foretold, %", "covered, %", "median width, nats")
    row = table("What twice the steps would give; 1,600 steps, validated at every 50th", *columns)
    for seeds in (3, 5):
        for noise in (0.002, 0.02):
            for name, truth in COURSES.items():
                rng = np.random.default_rng([seeds, round(1000 * noise)])
                change = float(truth(np.array(2.0 * STEPS)) - truth(np.array(float(STEPS))))
                widths, hits = [], 0
                for _ in range(times):
                    ahead = fit_course(trainings(rng, truth, seeds, noise), constant=True).twice
                    if ahead:
                        widths.append(ahead.high - ahead.low)
                        hits += ahead.low <= change <= ahead.high
                cells = [share("", len(widths), times), "–", "–"]
                if widths:
                    bound = 0.0 if "ledge" in name else 0.93
                    cells[1:] = [share(name, hits, len(widths), low=bound, errors=2), f"{np.median(widths):.2g}"]
                row(name, seeds, noise, f"{change:+.3f}", *cells)


def trainings(
    rng: np.random.Generator, truth: Callable[[np.ndarray], np.ndarray], seeds: int, noise: float
) -> list[dict[int, float]]:
    """Return the validation NLL by step of each seed's training."""
    steps = np.arange(EVERY, STEPS + 1, EVERY)
    found = []
    for _ in range(seeds):
        kept, left = 0.0, []
        for shock in rng.normal(0, noise, len(steps)):
            kept = 0.5 * kept + shock
            left.append(kept)
        mean = truth(steps.astype(float))
        curve = mean[-1] + rng.normal(0, 0.05) + (mean - mean[-1]) * rng.normal(1, 0.1) + np.array(left)
        found.append(dict(zip(steps.tolist(), curve.tolist(), strict=True)))
    return found


if __name__ == "__main__":
    main()
