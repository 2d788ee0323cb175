"""Does decoding several tokens at a time, from cached keys and values, cost accuracy? And how much does it save?

    PYTHONPATH=src python benchmarks/generation_accuracy.py --work /tmp/generation [--check]

Prepares rows of long_problems.py, fine-tunes the embedded model on them as the workflow does, and answers the held-out
questions under each of `SETTINGS`. Every setting is compared, question by question, with both exact modes, in which
every pass sees the whole text and reveals one token: the official one, and the same blocks from left to right. Prints
a line of JSON per setting, then a table. What is in --work already is not made again.

    --check              fail where the setting loses more than a point of accuracy: the 95 % interval must exclude it
    --real-rows FILE     besides: tokens per pass on real questions. The embedded model answers next to none of them
                         correctly, and many of their words are unknown to it, so nothing is said of accuracy.
"""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import long_problems
import polars as pl

from dreamtune.answers import generate_answers
from dreamtune.comparison import compare_scores
from dreamtune.prepare import prepare_shards
from dreamtune.scoring import score_answers
from dreamtune.settings.data import Columns, DataConfig, Split
from dreamtune.settings.generate import GenerateConfig
from dreamtune.settings.lora import LoraSettings
from dreamtune.settings.model import ModelConfig
from dreamtune.settings.report import Comparison
from dreamtune.settings.score import ScoreConfig
from dreamtune.settings.train import TrainConfig
from dreamtune.tokenizer import load_tokenizer
from dreamtune.training import train_adapter

ROOT = Path(__file__).resolve().parents[1]
BLOCK, TOKENS_PER_STEP = 32, 2
LONG = 2 * BLOCK + 1  # tokens of an answer that reaches into a third block
MARGIN, QUESTIONS = -0.01, 4000
COLUMNS = ["question", "gemini_thinking_trajectory", "solution"]  # of real rows, as s1K-1.1 names them
OFFICIAL, BLOCKS, RECOMMENDED = "exact", "exact, blocks", "cached 8, 0.99"
CACHED: dict[str, Any] = {"block_length": BLOCK, "refresh": "block"}
# What each changes of the exact mode. "halved" stands for two tokens per step, however unsure; without it a step
# reveals one token and, with a threshold, whatever else is sure. The first two besides the exact ones tell apart what
# the stored keys and values cost and what the tokens revealed together cost.
SETTINGS: dict[str, dict[str, Any]] = {
    OFFICIAL: {},
    BLOCKS: {"block_length": BLOCK},
    "one, cached": CACHED,
    "sure 0.95": {"threshold": 0.95, "block_length": BLOCK},
    "two": {"steps": "halved", "block_length": BLOCK},
    "two, cached": {"steps": "halved", **CACHED},
    "two, cached, 0.9": {"steps": "halved", "threshold": 0.9, **CACHED},
    **{f"cached {BLOCK}, {bound}": {"threshold": bound, **CACHED} for bound in (0.99, 0.95, 0.9, 0.8)},
    **{f"cached 8, {bound}": {"threshold": bound, **CACHED, "block_length": 8} for bound in (0.99, 0.95, 0.9, 0.8)},
}


def main() -> None:
    arguments = parse()
    model = ModelConfig(
        path=str(ROOT / "resources/tiny-dream"), dtype="float32", device=arguments.device, threads=arguments.threads
    )
    arguments.work.mkdir(parents=True, exist_ok=True)
    split = Split(validation=0.01, test=0.2)
    held_out = max(QUESTIONS, arguments.questions)  # a trial with fewer questions is of the same training
    version = hashlib.sha256(Path(long_problems.__file__).read_bytes()).hexdigest()[:8]
    made_up = arguments.work / f"rows-{version}-{arguments.rows}-{held_out}.parquet"
    once(made_up, lambda: long_problems.write_rows(made_up, split, arguments.rows, held_out))
    data = DataConfig(files=[str(made_up)], template=long_problems.TEMPLATE, split=split, max_tokens=160)
    lines = compare(arguments, model, tuned(arguments, model, data, arguments.steps))
    print(f"\n{markdown(lines)}")
    if arguments.real_rows:
        columns = dict(zip(("question", "reasoning", "answer"), arguments.columns, strict=True))
        real = DataConfig(
            files=[str(arguments.real_rows)],
            columns=Columns(**columns),
            template=long_problems.TEMPLATE,
            max_tokens=256,
        )
        print(f"\n{real_rows(arguments, model, real)}")
    if arguments.check and (faults := check(lines, arguments.setting)):
        sys.exit("\n".join(faults))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for what is made; a second call goes on in it")
    parser.add_argument("--questions", type=int, default=QUESTIONS, help="held-out questions")
    parser.add_argument("--rows", type=int, default=20_000, help="training rows")
    parser.add_argument("--steps", type=int, default=3000, help="optimiser steps")
    parser.add_argument("--batch", type=int, default=16, help="rows of an optimiser step")
    parser.add_argument("--rank", type=int, default=64, help="rank of the adapter")
    parser.add_argument("--learning-rate", type=float, default=5e-3, help="peak learning rate")
    parser.add_argument("--new-tokens", type=int, default=3 * BLOCK, help="tokens generated per question")
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS), metavar="NAME")
    parser.add_argument("--setting", default=RECOMMENDED, choices=list(SETTINGS), help="what --check judges")
    parser.add_argument("--check", action="store_true", help="fail where accuracy may be lost")
    parser.add_argument("--real-rows", type=Path, help="parquet file of real rows, such as GSM8K's")
    parser.add_argument("--columns", nargs=3, default=COLUMNS, help="their question, reasoning and answer")
    parser.add_argument("--real-steps", type=int, default=300, help="optimiser steps on real rows")
    parser.add_argument("--real-questions", type=int, default=200, help="real questions asked")
    parser.add_argument("--batch-size", type=int, default=64, help="rows denoised together")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or auto")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    arguments = parser.parse_args()
    arguments.settings = list(dict.fromkeys([OFFICIAL, BLOCKS, *arguments.settings]))
    return arguments


# Making what is asked


def once(path: Path, make: Callable[[], Any]) -> Path:
    """Return `path`, made now if an earlier call has not."""
    if not path.exists():
        make()
    return path


def tuned(arguments: argparse.Namespace, model: ModelConfig, data: DataConfig, steps: int) -> Path:
    """Prepare and train; return the folder that holds shards/ and trained/, named by a digest of the settings."""
    train = TrainConfig(
        lora=LoraSettings(rank=arguments.rank, alpha=2 * arguments.rank, dropout=0.0, target_modules=["all-linear"]),
        learning_rate=arguments.learning_rate,
        betas=[0.9, 0.98],
        max_tail=arguments.new_tokens - LONG,  # an answer's canvas holds as many end tokens behind the first
        global_batch=arguments.batch,
        micro_batch=arguments.batch,
        max_steps=steps,
        epochs=1000,
        validation_rows=0,
        log_every=20,
    )
    named = [data.by_kind()[0], Path(data.files[0]).name, train.by_kind()[0], model.by_kind()[0]]
    folder: Path = arguments.work / hashlib.sha256(json.dumps(named).encode()).hexdigest()[:12]
    shards, trained = folder / "shards", folder / "trained"
    once(shards / "shards.json", lambda: prepare_shards(data, model, made(shards)))
    started = time.perf_counter()
    once(trained / "gate.json", lambda: train_adapter(train, model, shards, made(trained), folder))
    summary = json.loads((trained / "training.json").read_text())
    loss = {name: round(summary[name], 4) for name in ("first_loss", "last_loss")}
    report("trained", rows=summary["rows"], steps=summary["steps"], **loss, seconds=time.perf_counter() - started)
    return folder


def made(folder: Path) -> Path:
    """Return the folder, which now exists."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def settings_of(name: str, arguments: argparse.Namespace, questions: int) -> GenerateConfig:
    """Return a setting by its name in `SETTINGS`."""
    changes = dict(SETTINGS[name])
    if changes.get("steps") == "halved":
        changes["steps"] = arguments.new_tokens // TOKENS_PER_STEP
    return GenerateConfig(
        max_new_tokens=arguments.new_tokens, max_prompts=questions, batch_size=arguments.batch_size, **changes
    )


def answers_of(name: str, arguments: argparse.Namespace, model: ModelConfig, folder: Path, questions: int) -> Path:
    """Answer and grade under a setting; return the folder with answers.parquet, scores.parquet and generation.json."""
    generate = settings_of(name, arguments, questions)
    digest = hashlib.sha256(json.dumps(generate.by_kind()[0]).encode()).hexdigest()[:8]
    out = folder / "answers" / digest
    adapter = folder / "trained/adapter"
    once(
        out / "generation.json", lambda: generate_answers(generate, model, folder / "shards", None, adapter, made(out))
    )
    score = ScoreConfig(extractors=["final_answer"], marker=ScoreConfig().marker)
    once(out / "scores.json", lambda: score_answers(score, out, out))
    return out


# Judging it


def speed(out: Path) -> dict[str, Any]:
    """Return passes, tokens per pass and seconds of a folder of answers; tokens count up to the end token."""
    answers = pl.read_parquet(out / "answers.parquet")
    tokens, passes = answers["tokens"].list.len(), int(answers["passes"].sum())
    return {
        "passes": passes / answers.height,
        "tokens_per_pass": int(tokens.sum()) / passes,
        "long": int((tokens >= LONG).sum()) / answers.height,
        "seconds": json.loads((out / "generation.json").read_text())["seconds"],
    }


def compare(arguments: argparse.Namespace, model: ModelConfig, folder: Path) -> list[dict[str, Any]]:
    """Return accuracy, losses and speed of every setting, printed as they come."""
    scores: dict[str, pl.DataFrame] = {}
    lines = []
    for name in arguments.settings:
        out = answers_of(name, arguments, model, folder, arguments.questions)
        scores[name] = pl.read_parquet(out / "scores.parquet")
        line: dict[str, Any] = {"setting": name, "questions": scores[name].height}
        line["accuracy"] = float(scores[name]["correct"].sum()) / scores[name].height
        exact_ones = [exact for exact in (OFFICIAL, BLOCKS) if exact in scores and exact != name]
        line["against"] = {exact: paired(scores[exact], scores[name]) for exact in exact_ones}
        lines.append(line | speed(out))
        report("setting", **lines[-1])
    return lines


def paired(exact: pl.DataFrame, other: pl.DataFrame) -> dict[str, Any]:
    """Return other − exact accuracy on the questions whose exact answer reaches into a third block.

    What the exact mode answers decides, not what the other does: an answer that it cut short must count as its loss.
    """
    long = exact.filter(pl.col("tokens") >= LONG)
    block: dict[str, Any] = compare_scores(
        long, other.join(long, on=["example_id", "sample"], how="semi"), "correct", Comparison()
    )
    gain: dict[str, Any] = block["gain"]
    return gain | {"left_out": exact.height - long.height}


def check(lines: list[dict[str, Any]], setting: str) -> list[str]:
    """Return what speaks against a setting; the lines of both exact ones must be among `lines`."""
    found = next((line for line in lines if line["setting"] == setting), None)
    if found is None:
        return [f"{setting!r} was not run; name it in --settings"]
    faults = []
    for exact, gain in found["against"].items():
        if gain["n"] < QUESTIONS:
            faults.append(f"{gain['n']} questions with long answers against {exact!r}; {QUESTIONS} are needed")
        if gain["low"] is None or gain["low"] < MARGIN:
            faults.append(f"{setting!r} against {exact!r}: the interval starts at {gain['low']}, not above {MARGIN}")
    return faults


def real_rows(arguments: argparse.Namespace, model: ModelConfig, data: DataConfig) -> str:
    """Return the table of tokens per pass on real rows, and how much of the answers is the unknown token."""
    folder = tuned(arguments, model, data, arguments.real_steps)
    unknown, rows = load_tokenizer(model.path).unknown_id, []
    for name in arguments.settings:
        out = answers_of(name, arguments, model, folder, arguments.real_questions)
        tokens = pl.read_parquet(out / "answers.parquet")["tokens"].explode()
        line = {"setting": name} | speed(out) | {"unknown": float((tokens == unknown).sum()) / len(tokens)}
        report("real rows", **line)
        cells = [f"{line['tokens_per_pass']:.2f}", f"{line['passes']:.1f}", f"{100 * line['unknown']:.0f}"]
        rows.append([name, *cells, f"{line['seconds']:.0f}"])
    return table(["real rows", "tokens per pass", "passes", "unknown tokens, %", "seconds"], rows)


# Printing it


def markdown(lines: list[dict[str, Any]]) -> str:
    """Return the table of all settings."""
    rows = [
        [
            line["setting"],
            f"{100 * line['accuracy']:.2f}",
            *(points(line["against"].get(exact)) for exact in (OFFICIAL, BLOCKS)),
            f"{line['tokens_per_pass']:.2f}",
            f"{line['passes']:.1f}",
            f"{100 * line['long']:.1f}",
            f"{line['seconds']:.0f}",
        ]
        for line in lines
    ]
    head = ["setting", "accuracy, %", "against exact, points", "against exact blocks, points"]
    return table([*head, "tokens per pass", "passes", "three blocks, %", "seconds"], rows)


def points(gain: dict[str, Any] | None) -> str:
    """Return a difference in percentage points with its interval."""
    if gain is None or gain["value"] is None:
        return "—"
    value, low, high = (100 * gain[name] for name in ("value", "low", "high"))
    return f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def report(what: str, **values: Any) -> None:
    """Print one line of JSON."""
    rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in values.items()}
    print(json.dumps({"what": what} | rounded), flush=True)


if __name__ == "__main__":
    main()
