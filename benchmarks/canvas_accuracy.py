"""Does accuracy depend on the limit of an answer? The demo's questions under several limits, question by question.

Answers the demo's 340 held-out questions with its tuned model under each limit (`generate.max_new_tokens`), once with
the demo's lookahead and once with the whole canvas in view, as it was shown before there was a lookahead. Prints a line
of JSON for each: correct answers, early ends, the paired change against the first limit with its 95 % interval, and
what is warned of before training.

usage   make demo; python benchmarks/canvas_accuracy.py --demo results/latest/demo --check
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import _src  # noqa: F401, puts src on the path
import polars as pl

from dreamtune.canvas import Canvas, canvas_warnings
from dreamtune.config import load_config
from dreamtune.evaluate.comparison import compare_scores
from dreamtune.generate.answers import generate_answers
from dreamtune.scoring.score import score_answers
from dreamtune.settings.generate import GenerateConfig, with_limit

ROOT = Path(__file__).parents[1]
WITHIN = 0.03  # of each other, as shares of the questions


def main() -> int:
    """Print a line of JSON for each view and limit; with --check return 1 where the lookahead's differ by more."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, required=True, help="results/latest/demo of a finished demo")
    parser.add_argument("--adapter", type=Path, help="another adapter than the demo's")
    parser.add_argument("--limits", type=int, nargs="+", default=[32, 48, 64, 80], help="max_new_tokens")
    parser.add_argument("--lookahead", type=int, help="another lookahead than the demo's")
    parser.add_argument("--prompts", type=int, help="only the first so many questions")
    parser.add_argument("--check", action="store_true", help="exit with 1 where limits differ by more than 3 points")
    arguments = parser.parse_args()
    settings = load_config(ROOT / "config/demo.yaml").experiments["demo"]
    responses = json.loads((arguments.demo / "shards/audit.json").read_text())["response_tokens"]["train"]
    headline = settings.generations()["greedy"].model_copy(update={"max_prompts": arguments.prompts})
    ahead = headline.lookahead if arguments.lookahead is None else arguments.lookahead
    shares: list[float] = []
    for lookahead in (ahead, None):
        first = pl.DataFrame()
        for limit in arguments.limits:
            generate = with_limit(headline, limit).model_copy(update={"lookahead": lookahead})
            line, scores = answered(generate, settings, arguments)
            first = scores if first.is_empty() else first
            paired = compare_scores(first, scores, "correct", settings.evaluate.comparison)["gain"]
            against = {name: round(100 * paired[name], 1) for name in ("value", "low", "high")}
            canvas = Canvas.of(settings.train.model_dump(), generate.model_dump())
            warned = canvas_warnings(responses, canvas)
            print(json.dumps({"limit": limit, "lookahead": lookahead, **line, "against_first": against}))
            print(json.dumps({"warnings": warned}), flush=True)
            shares += [line["correct"] / line["questions"]] if lookahead is not None else []
    spread = max(shares) - min(shares)
    print(json.dumps({"spread_points": round(100 * spread, 1), "at_most": 100 * WITHIN}))
    return int(arguments.check and spread > WITHIN)


def answered(
    generate: GenerateConfig, settings: Any, arguments: argparse.Namespace
) -> tuple[dict[str, Any], pl.DataFrame]:
    """Answer and grade the questions of the demo; return the counts, and scores.parquet."""
    adapter = arguments.adapter or arguments.demo / "full/adapter"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        generate_answers(generate, settings.model, arguments.demo / "shards", None, adapter, out)
        score_answers(settings.score, out, out)
        said = json.loads((out / "scores.json").read_text())
        scores = pl.read_parquet(out / "scores.parquet")
    counts = {"questions": said["gradable"], **{name: said[name] for name in ("correct", "early_ends")}}
    return counts | {"ended": round(said["ended"], 3), "tokens": round(said["tokens"], 2)}, scores


if __name__ == "__main__":
    sys.exit(main())
