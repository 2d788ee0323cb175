"""Measure the figures of docs/performance.md again on this machine's GPUs: benchmarks in groups, a card for each group.

Groups run side by side where there are several cards, and one after the other where there is one; each writes
OUT/GROUP.log, from which the tables at its end are printed. Ratios are measured within one process, `--times` times. A
group whose files are not given is left out and named. A whole measurement takes about forty minutes of one card.

usage   python benchmarks/measure.py --work /tmp/measured --out measured --data s1k.parquet --tokenizer FOLDER \\
            --smollm2 FOLDER --gsm8k gsm8k_train.parquet
        ... --groups training generation         of them all
        ... --dry-run                            only says what would run
"""

import argparse
import os
import queue
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import _src  # noqa: F401, puts src on the path
import torch

ROOT = Path(__file__).resolve().parents[1]
SHAPE = ["--work", "{work}"]
# The commands of each group. Those marked with ! are repeated `--times` times. {…} is what the user gave.
GROUPS: dict[str, Sequence[Sequence[str]]] = {
    "workflow": [
        ["workflow_time.py", "--data", "{data}", "--tokenizer", "{tokenizer}", *SHAPE, "--again"],
    ],
    "training": [
        ["!train_throughput.py", *SHAPE, "--only", "notebook", "full rows", "full rows, fp8"],
        ["train_throughput.py", *SHAPE, "--only", "4,096-token rows, all-linear", "4,096-token rows, all-linear, fp8"],
        ["!trainer_baseline.py", *SHAPE],
    ],
    "small": [
        ["step_profile.py", *SHAPE],
        ["!train_throughput.py", *SHAPE, "--only", "SmolLM2 shape"],
        ["step_profile.py", *SHAPE, "--rows", "full rows"],
    ],
    "generation": [
        ["!generate_throughput.py", *SHAPE],
    ],
    "memory": [
        ["nf4_cache.py", *SHAPE],
        ["longest_row.py", *SHAPE],
    ],
    "quality": [
        ["fp8_quality.py", *SHAPE, "--model", "{smollm2}", "--data", "{gsm8k}"],
    ],
}


def main() -> int:
    """Run the groups; return 1 if a benchmark failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints (15 GB a card) and outputs")
    parser.add_argument("--out", type=Path, required=True, help="folder for the logs")
    parser.add_argument("--groups", nargs="+", default=list(GROUPS), choices=list(GROUPS), help="of them all")
    parser.add_argument("--times", type=int, default=3, help="how often each ratio is measured")
    parser.add_argument("--data", type=Path, help="parquet file of training rows, for the workflow's time")
    parser.add_argument("--tokenizer", type=Path, help="folder of Dream's tokenizer, for the same")
    parser.add_argument("--smollm2", type=Path, help="folder of SmolLM2-135M, for the quality of FP8")
    parser.add_argument("--gsm8k", type=Path, help="parquet file of GSM8K's training rows, for the same")
    parser.add_argument("--dry-run", action="store_true", help="print the commands")
    options = parser.parse_args()
    given = {name: str(path.resolve()) for name, path in vars(options).items() if isinstance(path, Path)}
    lacking = {group: missing(GROUPS[group], {*given, "work"}) for group in options.groups}
    for group, names in lacking.items():
        if names:
            print(f"{group}: left out, it needs {', '.join(f'--{name}' for name in names)}", file=sys.stderr)
    groups = [group for group in options.groups if not lacking[group]]
    if options.dry_run:
        for group in groups:
            print("\n".join(f"{group}: {' '.join(command)}" for command in commands(group, given, options.times)))
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    cards: queue.Queue[int] = queue.Queue()
    for card in range(torch.cuda.device_count()):
        cards.put(card)
    if cards.empty():
        print("torch sees no GPU; each benchmark's --toy shows on a CPU that it runs", file=sys.stderr)
        return 1

    def on_a_card(group: str) -> bool:
        card = cards.get()
        try:
            todo = commands(group, given | {"work": str(options.work.resolve() / f"card{card}")}, options.times)
            return measured(todo, options.out / f"{group}.log", card)
        finally:
            cards.put(card)

    with ThreadPoolExecutor(cards.qsize()) as pool:
        fine = list(pool.map(on_a_card, groups))
    for group in groups:
        print(f"\n## {group}\n{tables(options.out / f'{group}.log')}")
    return int(not all(fine))


def missing(todo: Sequence[Sequence[str]], given: set[str]) -> list[str]:
    """Return what commands need and the user did not give."""
    words = [word[1:-1] for command in todo for word in command if word.startswith("{")]
    return sorted(set(words) - given)


def commands(group: str, given: Mapping[str, str], times: int) -> list[list[str]]:
    """Return a group's commands, file names filled in and repeated ones repeated."""
    found = []
    for program, *words in GROUPS[group]:
        command = [sys.executable, str(ROOT / "benchmarks" / program.lstrip("!")), *(w.format(**given) for w in words)]
        found += [command] * (times if program.startswith("!") else 1)
    return found


def measured(todo: Sequence[Sequence[str]], log: Path, card: int) -> bool:
    """Run commands on a card, one after the other, whatever fails; return whether none did."""
    fine, shown = True, os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": shown[card] if any(shown) else str(card)}
    with log.open("w", encoding="utf-8") as to:
        for command in todo:
            start = time.monotonic()
            to.write(f"$ {' '.join(command)}\n")
            to.flush()
            status = subprocess.run(command, stdout=to, stderr=subprocess.STDOUT, env=environment).returncode
            to.write(f"exit status {status} after {time.monotonic() - start:.0f} s, card {card}\n")
            to.flush()
            fine &= not status
    return fine


def tables(log: Path) -> str:
    """Return a log's commands, tables, and how each command ended."""
    lines = log.read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if line.startswith(("$ ", "| ", "|-", "exit status ")))


if __name__ == "__main__":
    sys.exit(main())
