"""What does faster decoding cost? Accuracy against speed, for every way of `WAYS`, in one table and one picture.

The task is the one where decoding fast costs most (`generation_accuracy.py --problems chains`): five steps, each on the
result of the one before, which the embedded model gets right in some four fifths of the cases when it decodes exactly.
Speed is that of the exact mode in the same run over the way's own: CPU seconds of answering on a CPU, which neighbours
do not lengthen, and seconds of the forward passes on a GPU. Accuracy is compared question by question, with a 95 %
interval. A further call trains no more, but answers all anew: speeds compare within a run only.

    python benchmarks/accuracy_speed.py --work /tmp/chains --check         trains first, eight minutes on one core
    python benchmarks/accuracy_speed.py --work /tmp/chains --adapter FOLDER --picture docs/images/accuracy_speed.svg
    python benchmarks/accuracy_speed.py --work /tmp/bf16 --adapter FOLDER --device cuda --dtype bfloat16 \\
        --questions 4000 --batch-size 1024 --ways "dual, 0.99" "dual, 0.99, nf4" "dual, 0.99, fp8"

--check fails unless a way at least `FASTER` times as fast as the exact mode loses at most `POINTS` points.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import _src  # noqa: F401, puts src on the path
import accuracy_table
import altair as alt
import generation_accuracy
import polars as pl
import vl_convert
from accuracy_table import OFFICIAL, report

from dreamtune.evaluate.comparison import compare_scores
from dreamtune.generate.answers import generate_answers
from dreamtune.scoring.score import score_answers
from dreamtune.settings.generate import GenerateConfig
from dreamtune.settings.model import ModelConfig
from dreamtune.settings.report import Comparison
from dreamtune.settings.score import ScoreConfig

FASTER, POINTS = 4.0, 3.0  # what --check demands of one way
BLOCK = generation_accuracy.BLOCK
BLOCKS: dict[str, Any] = {"block_length": BLOCK}
DUAL = BLOCKS | {"refresh": "block"}
PREFIX = DUAL | {"cache": "prefix"}
HALF: dict[str, Any] = {"steps": "halved"}
SURE: dict[str, Any] = {"threshold": 0.99}
WAYS: dict[str, dict[str, Any]] = {
    OFFICIAL: {},
    "0.99": SURE,
    "blocks, 0.99": BLOCKS | SURE,
    "blocks, 0.9": BLOCKS | {"threshold": 0.9},
    "dual": DUAL,
    "dual, two a step": DUAL | HALF,
    "dual, every 4": DUAL | {"refresh_steps": 4},
    "prefix": PREFIX,
    "neighbours 16": DUAL | {"neighbours": 16},
    "dual, 0.99": DUAL | SURE,
    "dual, 0.99, every 4": DUAL | SURE | {"refresh_steps": 4},
    "dual, 0.99, unsure": DUAL | SURE | {"refresh_unsure": True},
    "dual, 0.99, lookahead 16": DUAL | SURE | {"lookahead": 16},
    "dual, 0.99 falling by 0.05": DUAL | SURE | {"threshold_fall": 0.05},
    "dual, 0.9": DUAL | {"threshold": 0.9},
    "dual, factor 0.1": DUAL | {"factor": 0.1},
    "prefix, 0.99": PREFIX | SURE,
    "dual, 0.99, fp8": DUAL | SURE | {"products": "fp8"},
    "dual, 0.99, nf4": DUAL | SURE | {"products": "nf4"},
}


def main() -> int:
    """Answer under every way, print a line of JSON for each and the table, draw the picture; return the status."""
    arguments = parse()
    model = ModelConfig(
        path=str(generation_accuracy.ROOT / "resources/tiny-dream"),
        quantization=arguments.quantization,
        dtype=arguments.dtype,
        device=arguments.device,
        threads=arguments.threads,
    )
    shards, adapter = generation_accuracy.task(arguments, model)
    lines = compared(arguments, model, shards, adapter)
    print(f"\n{table(lines)}")
    if arguments.picture:
        arguments.picture.write_text(picture(lines), encoding="utf-8")
    good = [line for line in lines if line["speed"] >= FASTER and 100 * line["change"]["value"] >= -POINTS]
    best = max(good, key=lambda line: line["speed"])["way"] if good else None
    report("fastest", way=best, at_least=FASTER, points=POINTS)
    return int(arguments.check and not good)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    generation_accuracy.add_task_options(parser)
    parser.add_argument("--questions", type=int, default=200, help="held-out questions asked")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS), metavar="NAME", help="of them all")
    parser.add_argument("--quantization", default="nf4", choices=("none", "nf4"), help="of the base model")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="of the model")
    parser.add_argument("--picture", type=Path, help="SVG file to draw")
    parser.add_argument("--check", action="store_true", help="fail where no way is fast and accurate enough")
    arguments = parser.parse_args()
    arguments.problems = "chains"
    arguments.ways = list(dict.fromkeys([OFFICIAL, *arguments.ways]))
    return arguments


def compared(arguments: argparse.Namespace, model: ModelConfig, shards: Path, adapter: Path) -> list[dict[str, Any]]:
    """Return accuracy, change against the exact mode and speed of every way, printed as they come."""
    lines: list[dict[str, Any]] = []
    exact, slow = pl.DataFrame(), 0.0
    for way in arguments.ways:
        out = arguments.work / "answers" / way.replace(", ", "-").replace(" ", "_")
        seconds = answered(way, arguments, model, shards, adapter, out)
        scores = pl.read_parquet(out / "scores.parquet")
        exact, slow = (scores, seconds) if way == OFFICIAL else (exact, slow)
        # The problems are drawn independently, however much their words resemble each other.
        pair = (answers.with_columns(cluster=pl.col("example_id")) for answers in (exact, scores))
        change = compare_scores(*pair, "correct", Comparison())["gain"]
        line = {"way": way, "questions": scores.height, "accuracy": float(scores["correct"].mean())}  # type: ignore[arg-type]
        line |= {"change": {name: change[name] for name in ("value", "low", "high")}, "speed": slow / seconds}
        speed = accuracy_table.speed(out)
        lines.append(
            line | {"seconds": seconds, "passes": speed["passes"], "tokens_per_pass": speed["tokens_per_pass"]}
        )
        report("way", **lines[-1])
    return lines


def answered(
    way: str, arguments: argparse.Namespace, model: ModelConfig, shards: Path, adapter: Path, out: Path
) -> float:
    """Answer and grade in one way; return the seconds, see the module's docstring."""
    out.mkdir(parents=True, exist_ok=True)
    start = time.process_time()
    said = generate_answers(settings_of(way, arguments), model, shards, None, adapter, out)
    cpu = time.process_time() - start
    score_answers(ScoreConfig(extractors=["final_answer"], marker=ScoreConfig().marker), out, out)
    return float(said["seconds"]) if arguments.device != "cpu" else cpu


def settings_of(way: str, arguments: argparse.Namespace) -> GenerateConfig:
    """Return the settings of a way; half as many steps as tokens are two tokens a step."""
    changes = dict(WAYS[way])
    if changes.get("steps") == "halved":
        changes["steps"] = arguments.new_tokens // 2
    asked = {"max_new_tokens": arguments.new_tokens, "max_prompts": arguments.questions}
    return GenerateConfig(**asked, batch_size=arguments.batch_size, **changes)


def table(lines: list[dict[str, Any]]) -> str:
    """Return the Markdown table, the slowest way first."""
    rows = [
        [
            line["way"],
            f"{line['speed']:.1f}",
            f"{100 * line['accuracy']:.1f}",
            "—" if line["way"] == OFFICIAL else accuracy_table.points(line["change"]),
            f"{line['passes']:.1f}",
            f"{line['tokens_per_pass']:.2f}",
        ]
        for line in sorted(lines, key=lambda line: line["speed"])
    ]
    head = ["way", "speed, x exact", "correct, %", "against exact, points (95 %)", "passes", "tokens per pass"]
    return accuracy_table.table(head, rows)


def picture(lines: list[dict[str, Any]]) -> str:
    """Return an SVG of accuracy, with the interval of its change, against speed on a logarithmic axis."""
    exact = lines[0]["accuracy"]
    points = [
        {"way": line["way"], "speed": line["speed"], "accuracy": 100 * line["accuracy"]}
        | {name: 100 * (exact + (line["change"][name] or 0.0)) for name in ("low", "high")}
        for line in lines
    ]
    data = alt.Chart(alt.Data(values=points))
    speed = alt.X("speed:Q", title="speed, times the exact mode", scale=alt.Scale(type="log"))
    correct = alt.Y("accuracy:Q", title="correct, %", scale=alt.Scale(zero=False))
    limits = data.mark_rule(opacity=0.35).encode(x=speed, y=alt.Y("low:Q"), y2="high:Q")
    allowed = alt.Chart(alt.Data(values=[{"accuracy": 100 * exact - POINTS}])).mark_rule(strokeDash=[4, 4])
    names = data.mark_text(align="left", dx=7, fontSize=11).encode(x=speed, y=correct, text="way:N")
    layers = (
        limits + allowed.encode(y=correct) + data.mark_point(filled=True, size=50).encode(x=speed, y=correct) + names
    )
    drawn: str = vl_convert.vegalite_to_svg(layers.properties(width=760, height=420).to_dict())
    return drawn


if __name__ == "__main__":
    sys.exit(main())
