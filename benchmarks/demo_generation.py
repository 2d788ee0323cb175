"""The end of `make demo`: its generation against one full pass per token, on its own adapter and questions.

Both sides of each model run after each other in one process, on the demo's number of threads; the ratio is of the
seconds that generation.json counts, base and tuned together. Answers are graded as the demo grades them.

usage   make demo; python benchmarks/demo_generation.py --demo results/latest/demo --check
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import _src  # noqa: F401, puts src on the path
import polars as pl

from dreamtune.config import load_config
from dreamtune.generate.answers import generate_answers
from dreamtune.scoring.score import score_answers

ROOT = Path(__file__).parents[1]
EXACT = {"block_length": None, "refresh": "step", "threshold": None, "steps": None}
FASTER = 3.0


def main() -> int:
    """Print a line of JSON for each model and way, and the ratio; with --check return 1 where it is below 3."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, required=True, help="results/latest/demo of a finished demo")
    parser.add_argument("--prompts", type=int, help="only the first so many questions")
    parser.add_argument("--check", action="store_true", help="exit with 1 where the ratio is below 3")
    arguments = parser.parse_args()
    settings = load_config(ROOT / "config/demo.yaml").experiments["demo"]
    headline = settings.generations()["greedy"].model_copy(update={"max_prompts": arguments.prompts})
    seconds = {"demo": 0.0, "exact": 0.0}
    for model, adapter in (("base", None), ("tuned", arguments.demo / "full/adapter")):
        for way, changes in (("demo", {}), ("exact", EXACT)):
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder)
                generate = headline.model_copy(update=changes)
                generate_answers(generate, settings.model, arguments.demo / "shards", None, adapter, out)
                score_answers(settings.score, out, out)
                said = json.loads((out / "generation.json").read_text())
                correct = int(pl.read_parquet(out / "scores.parquet")["correct"].sum())
            seconds[way] += said["seconds"]
            found = {name: said[name] for name in ("questions", "tokens", "tokens_per_pass", "seconds")}
            print(json.dumps({"model": model, "way": way, "correct": correct} | found), flush=True)
    ratio = seconds["exact"] / seconds["demo"]
    print(json.dumps({"ratio": round(ratio, 2), "at least": FASTER}))
    return int(arguments.check and ratio < FASTER)


if __name__ == "__main__":
    sys.exit(main())
