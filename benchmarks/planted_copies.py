"""How many edited copies of a benchmark's questions are found, and how long 50,000 training rows take to compare.

    python benchmarks/planted_copies.py --benchmark gsm8k_test.parquet question solution \\
        --benchmark math500.parquet problem answer --rows gsm8k_train.parquet question

Each question is edited in several ways, and the edited questions are compared with the original ones as training rows
would be. A copy has a word changed (two, sentences swapped, a number written otherwise, words put before it); with
another name or number it is a new question of the same template. Then --count rows made from --rows, in each of which
one word is new so that hardly two have the same skeleton, are compared with all benchmarks on one core.
"""

import argparse
import random
import re
import resource
import time
from collections.abc import Callable
from pathlib import Path

import _src  # noqa: F401, puts src on the path
import numpy as np
import polars as pl

from dreamtune.contamination.benchmark import BATCH_ROWS, BenchmarkOverlap
from dreamtune.contamination.copies import Copies
from dreamtune.contamination.templates import Templates
from dreamtune.contamination.words import COMMON, NUMERALS, read_words
from dreamtune.settings.benchmark import Benchmark

Edit = Callable[[str, random.Random], str | None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    three = ("FILE", "QUESTION", "ANSWER")
    parser.add_argument("--benchmark", nargs=3, action="append", required=True, metavar=three, help="file and columns")
    parser.add_argument("--rows", nargs=2, required=True, metavar=("FILE", "QUESTION"), help="rows to make others from")
    parser.add_argument("--count", type=int, default=50_000, help="rows to make")
    arguments = parser.parse_args()
    for file, question, answer in arguments.benchmark:
        rows = pl.read_parquet(file)
        for name, edit in EDITS.items():
            print(f"{Path(file).stem}, {name}: {plant(rows[question].to_list(), rows[answer].to_list(), edit)}")
    print(timed(arguments.benchmark, pl.read_parquet(arguments.rows[0])[arguments.rows[1]].to_list(), arguments.count))


def plant(questions: list[str], answers: list[str], edit: Edit) -> str:
    """Compare edited questions with the original ones; return how many are found as copies, and share a template."""
    rng = random.Random(0)
    edited = {i: text for i, question in enumerate(questions) if (text := edit(question, rng)) not in (None, question)}
    templates = Templates()
    mine, theirs = (templates.add(read_words(texts)) for texts in (list(edited.values()), questions))
    templates.finish()
    copies = Copies(
        np.arange(len(questions)),
        templates.identities[theirs],
        templates.identities[mine],
        lambda ids: {i: questions[i] for i in ids},
        lambda ids: {i: answers[i] for i in ids},
    )
    ids = np.array(list(edited))
    copies.look_up(templates.identities[mine], list(edited.values()), [answers[i] for i in edited], ids)
    right = {train for train, asked in zip(copies.train, copies.asked, strict=True) if train == asked}
    same = int((templates.numbers[mine] == templates.numbers[theirs][ids]).sum())
    wrong = sum(train != asked for train, asked in zip(copies.train, copies.asked, strict=True))
    share = f"{len(right)} of {len(edited)} found as copies ({len(right) / len(edited):.1%})"
    return f"{share}, {wrong} pairs of different questions; {same} share the template"


def timed(benchmarks: list[list[str]], questions: list[str], count: int) -> str:
    """Compare `count` made-up training rows with the benchmarks; return the CPU time and the peak memory."""
    rng = random.Random(1)
    rows = []
    for i in range(count):
        words = questions[i % len(questions)].split()
        words[rng.randrange(len(words))] = "".join(rng.choices("abcdefghij", k=6))
        rows.append(" ".join(words))
    started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    templates = Templates()
    against = [
        BenchmarkOverlap(Benchmark(name=f"b{i}", files=[file], question=question, answer=answer), 13, templates)
        for i, (file, question, answer) in enumerate(benchmarks)
    ]
    first = templates.rows
    for start in range(0, count, BATCH_ROWS):
        templates.add(read_words(rows[start : start + BATCH_ROWS]))
    templates.finish()
    for benchmark in against:
        benchmark.expect(templates, slice(first, templates.rows))
        for start in range(0, count, BATCH_ROWS):
            batch = rows[start : start + BATCH_ROWS]
            identities = templates.identities[first + start :][: len(batch)]
            benchmark.look_up(identities, batch, ["1"] * len(batch), batch, np.arange(start, start + len(batch)))
        benchmark.counts()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    seconds = time.process_time() - started
    asked = " + ".join(str(benchmark.source.rows) for benchmark in against)
    return f"{count:,} rows against {asked} questions: {seconds:.0f} s of CPU time, {grown:.0f} MiB more at the peak"


def change_word(question: str, rng: random.Random) -> str | None:
    """Replace a word of four lower-case letters and more, which is no number."""
    words = question.split(" ")
    places = [i for i, word in enumerate(words) if re.fullmatch(r"[a-z]{4,}", word) and word not in NUMERALS]
    if not places:
        return None
    words[rng.choice(places)] = "quite"
    return " ".join(words)


def change_two_words(question: str, rng: random.Random) -> str | None:
    once = change_word(question, rng)
    return once and change_word(once, rng)


def swap_sentences(question: str, rng: random.Random) -> str | None:
    """Swap two neighbouring sentences before the last one."""
    sentences = re.split(r"(?<=[.?!])\s+", question.strip())
    if len(sentences) < 3:
        return None
    i = rng.randrange(len(sentences) - 2)
    sentences[i : i + 2] = sentences[i + 1], sentences[i]
    return " ".join(sentences)


def write_number_otherwise(question: str, rng: random.Random) -> str | None:
    """Write a whole number with or without commas, in a word, or with decimals."""
    found = list(re.finditer(r"(?<![\w.,{}])(?:\d{1,3}(?:,\d{3})+|\d+)(?![\w,{}]|\.\d)", question))
    if not found:
        return None
    number = rng.choice(found)
    value, words = number.group().replace(",", ""), {int(digits): word for word, digits in NUMERALS.items()}
    other = f"{int(value):,}" if int(value) >= 1000 else words.get(int(value), f"{value}.00")
    other = value if "," in number.group() else other
    return question[: number.start()] + other + question[number.end() :]


def put_words_before(question: str, rng: random.Random) -> str:
    return f"Solve this problem. {question}"


def change_name(question: str, rng: random.Random) -> str | None:
    names = [name for name in re.findall(r"(?<=[a-z,] )[A-Z][a-z]{2,}", question) if name.lower() not in COMMON]
    return re.sub(rf"\b{names[0]}\b", "Wilhelmina", question) if names else None


def change_number(question: str, rng: random.Random) -> str | None:
    found = list(re.finditer(r"\d+", question))
    if not found:
        return None
    number = rng.choice(found)
    return question[: number.start()] + str(int(number.group()) + 1) + question[number.end() :]


EDITS: dict[str, Edit] = {
    "one word changed": change_word,
    "two words changed": change_two_words,
    "sentences swapped": swap_sentences,
    "a number written otherwise": write_number_otherwise,
    "words before it": put_words_before,
    "another name (no copy)": change_name,
    "another number (no copy)": change_number,
}


if __name__ == "__main__":
    main()
