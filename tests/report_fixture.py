"""A small, complete set of version folders as the stages write them, made without a model."""

import json
import math
import random
import re
import zlib
from pathlib import Path
from typing import Any

import polars as pl

from dreamtune.scoring.score import score_answers
from dreamtune.settings.score import ScoreConfig

HOSTILE = '</script><script>document.title="owned"</script><img src=x onerror=alert(1)>'
BIDI = "\u202edrawkcab\u2066\u200b"
GRADED: dict[tuple[bytes, ...], dict[str, bytes]] = {}  # by the files that are graded
TEMPLATE = "so {n} + {m} = {sum}\nTherefore, the final answer is: {sum}"


def write_reads(
    root: Path,
    questions: int = 100,
    base: float = 0.12,
    tuned: float = 0.74,
    leak: bool = False,
    samples: int = 1,
    few_shot: dict[str, float] | None = None,
) -> dict[str, Path]:
    """Write every folder of an experiment; return the reads.

    Args:
        leak: smoke's hard canaries fail.
        few_shot: by who answered with two worked examples, the share of right answers.
    """
    reads = {"shards": _shards(root), "smoke": _training(root, "smoke", leak), "full": _training(root, "full", leak)}
    reads["likelihood"] = _likelihood(root, questions)
    for setting, n in {"greedy": 1, "sampled": samples}.items() if samples > 1 else {"greedy": 1}.items():
        worked = (few_shot or {}) if setting == "greedy" else {}
        for who, share in {"base": base, "tuned": tuned, **worked}.items():
            key = f"test/{setting}/{who}"
            reads[f"answers/{key}"] = write_answers(root, key, questions, share, n)
            if who in worked:
                add_examples(reads[f"answers/{key}"])
            reads[f"scores/{key}"] = _folder(root, f"scores/{key}", "score_answers")
            _grade(reads[f"answers/{key}"], reads[f"scores/{key}"])
    return reads


def _grade(answers: Path, out: Path) -> None:
    """Grade answers as the stage does; equal ones, which most tests have for the base, once in a process."""
    asked = tuple((answers / name).read_bytes() for name in ("answers.parquet", "generation.json"))
    if asked not in GRADED:
        score_answers(ScoreConfig(extractors=["final_answer"]), answers, out)
        GRADED[asked] = {name: (out / name).read_bytes() for name in ("scores.parquet", "scores.json")}
    for name, content in GRADED[asked].items():
        (out / name).write_bytes(content)


def write_answers(root: Path, key: str, questions: int, share: float, samples: int = 1) -> Path:
    """Write answers.parquet for `questions` sums, of which `share` are right, and one prompt of the user's own."""
    setting = {"generate": {"max_new_tokens": 32, "order": "entropy", "temperature": 0.0, "seed": 0}}
    folder = _folder(root, f"answers/{key}", "generate_answers", setting)
    rows: list[dict[str, Any]] = []
    for i in range(questions):
        for sample in range(samples):
            right = ((i * 37 + sample * 11) % questions) < share * questions
            total = 2 * i + 3
            text = TEMPLATE.format(n=i, m=i + 3, sum=total if right else total + 1)
            text += "" if rows else f"\n{HOSTILE} {BIDI}"
            rows.append(_answer(i, sample, f"What is {i} + {i + 3}?", str(total), text))
    rows[0]["question"] += HOSTILE
    rows.append(_answer(-1, 0, "Who are you?", None, "a model " * 40))
    pl.DataFrame(rows, schema_overrides={"sample": pl.Int32, "answer": pl.String}).write_parquet(
        folder / "answers.parquet"
    )
    timing = {"rows": len(rows), "tokens": 20 * len(rows), "seconds": 12.5, "tokens_per_s": 1.6 * len(rows)}
    _json(folder / "generation.json", timing | {"ended": 0.9, "settings": setting["generate"]})
    return folder


def add_examples(folder: Path) -> None:
    """Let generation.json say that two worked examples stood before each question."""
    made = {"shots": 2, "rows": 480, "form": "plain text", "between": "\n\n", "longest_prompt": 131}
    content = json.loads((folder / "generation.json").read_text())
    _json(folder / "generation.json", content | {"few_shot": made, "settings": {"seed": 7}})


def _answer(example_id: int, sample: int, question: str, answer: str | None, completion: str) -> dict[str, Any]:
    pieces = re.findall(r"\s*\S+", completion)
    tokens = [zlib.crc32(piece.encode()) % 1000 for piece in pieces]
    steps = [i * 7 % len(pieces) for i in range(len(pieces))]
    fields = {"example_id": example_id, "cluster": example_id, "sample": sample, "question": question, "answer": answer}
    made = {"completion": completion, "tokens": tokens, "pieces": pieces, "unmasked_at": steps}
    return fields | made | {"ended": example_id >= 0}


def _shards(root: Path) -> Path:
    folder = _folder(root, "shards", "prepare_shards", {"data": {"max_tokens": 64, "files": ["data/sums.parquet"]}})
    rng = random.Random(0)
    tokens = [min(120, max(12, round(rng.gauss(48, 16)))) for _ in range(600)]
    split = ["test" if i % 6 == 0 else "train" for i in range(600)]
    kept = [min(n, 64) for n in tokens]
    lengths = {"example_id": range(600), "split": split, "prompt_tokens": [10] * 600, "tokens": tokens}
    pl.DataFrame(lengths | {"kept_tokens": kept}).write_parquet(folder / "lengths.parquet")
    lost = {"shorten_reasoning": 4, "drop": 91, "truncate": 80}
    pair = {"train": 7, "heldout": 9, "text": f"shared words {HOSTILE}", "train_question": BIDI}
    contamination = {"policy": "keep", "ngram": 13, "pairs": [pair | {"heldout_question": "What is 1 + 4?"}]}
    audit = {
        "max_tokens": 64,
        "too_long": "shorten_reasoning",
        "source_rows": 600,
        "rows_with_text": 598,
        "rows": {"train": 500, "validation": 0, "test": 100},
        "dropped": {"answer_does_not_fit": 4},
        "policies": {p: {"rows_lost": n, "answers_lost": n, "rows_shortened": 9} for p, n in lost.items()},
        "response_tokens": {"train": {"p05": 12, "median": 38, "p95": 54, "max": 54}, "test": {}},
        "duplicates": {"policy": "keep", "rows": 3, "questions": 2},
        "contamination": contamination | {"question_copies": 0, "train_rows": 1, "kept_share": 1.0},
        "flags": {"html": {"rows": 2, "examples": [3, 5]}, "mojibake": {"rows": 0, "examples": []}},
        "scripts": {"Latin": 590, "none": 8},
        "tokens": {"prompt_tokens": {"median": 21, "p95": 33.5, "max": 47}},
        "characters": {"question_characters": {"median": 81, "p95": 99, "max": 1234}},
        "warnings": ["the validation split is empty"],
    }
    _json(folder / "audit.json", audit)
    return folder


def _training(root: Path, run: str, leak: bool) -> Path:
    train = {"learning_rate": 2e-5, "max_tail": 8, "lora": {"rank": 16}, "objective": "elbo", "finetuning": "lora"}
    train |= {"schedule": "cosine", "global_batch": 8}
    folder = _folder(root, run, "train_adapter", {"train": train, "model": {"quantization": "nf4"}})
    checks = [
        {
            "name": "targets_hidden",
            "hard": True,
            "passed": not leak,
            "value": 812 if leak else 0,
            "expected": "0 of 812",
            "fault": "the model was shown the tokens it had to predict",
        },
        {"name": "loss_finite", "hard": True, "passed": True, "value": 2.3, "expected": "a finite cross entropy"},
        {"name": "loss_plausible", "hard": False, "passed": True, "value": 2.3, "expected": "between 0.01 and 7"},
    ]
    _json(folder / "gate.json", {"passed": not leak, "checks": checks})
    rng = random.Random(1)
    losses = [3 * math.exp(-step / 60) + 0.4 + rng.gauss(0, 0.12) for step in range(1, 376)]
    log = [
        {"step": i, "loss": loss, "lr": 2e-3 * (1 - i / 376), "tokens_per_s": 900 + i, "wall_s": i / 4}
        for i, loss in enumerate(losses, 1)
    ]
    log += [{"step": 125 * i, "validation_nll": 1.6 / i} for i in (1, 2, 3)]
    (folder / "train_log.jsonl").write_text("\n".join(map(json.dumps, log)) + '\n{"step": 37')
    summary = {"first_loss": losses[0], "last_loss": losses[-1], "steps": 375, "tokens": 98_765, "epochs": 3}
    summary |= {"trainable": 20_000, "parameters": 1_000_000, "peak_memory_gib": 0.8, "seconds_per_step": 0.21}
    summary |= {"rows": 500, "processes": 1, "ran_as": {"device": "cpu"}}
    _json(folder / "training.json", summary | {"predicted_minutes": float("nan")}, strict=False)
    return folder


def _likelihood(root: Path, questions: int) -> Path:
    folder = _folder(root, "likelihood", "evaluate_likelihood", {"likelihood": {"draws": 4}})
    rng, rows = random.Random(2), []
    for i in range(questions):
        for draw in (0, 1, 2, 3, -1):
            masked = 20 if draw < 0 else 3 + 5 * draw
            nll = 20 * (0.5 + 0.3 * masked / 20 + rng.random() / 5)
            row = {
                "example_id": i,
                "cluster": i,
                "draw": draw,
                "masked": masked,
                "response_tokens": 20,
                "nll_base": nll,
            }
            rows.append(row | {"nll_tuned": nll * 0.6, "everything_masked": draw < 0})
    schema = {
        "example_id": pl.Int64,
        "cluster": pl.Int64,
        "draw": pl.Int32,
        "masked": pl.Int32,
        "response_tokens": pl.Int32,
    }
    floats = {"nll_base": pl.Float64, "nll_tuned": pl.Float64, "everything_masked": pl.Boolean}
    pl.DataFrame(rows, schema=schema | floats).write_parquet(folder / "likelihood.parquet")
    bins = [
        {"low": i / 5, "high": (i + 1) / 5, "draws": 80, "base": 0.5 + i / 10, "tuned": 0.3 + i / 20} for i in range(5)
    ]
    canary = {"name": "shuffled prompts hurt", "hard": False, "passed": True, "value": 0.41, "low": 0.3, "high": 0.5}
    content = {"draws": 4, "by_mask_rate": bins, "everything_masked": {"base": 1.0, "tuned": 0.6}}
    _json(folder / "likelihood.json", content | {"canaries": [canary | {"expected": "above 0 nats"}]})
    return folder


def _folder(root: Path, name: str, stage: str, settings: dict[str, Any] | None = None) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    manifest = {
        "format": 1,
        "stage": stage,
        "version": f"{zlib.crc32(name.encode()):012x}",
        "settings": (settings or {}) | {"run": name},  # a section's fields, or a plain value
        "runtime": {"model": {"path": "resources/tiny"}},
        "git": {"commit": "0123456789abcdef", "dirty": False},
        "packages": {"polars": "2.1.0"},
        "python": "3.11.4",
        "host": "node1",
        "cpu": "a processor",
        "gpu": None,
        "image": None,
        "wall_s": 12.5,
        "started": "2026-01-02T03:04:05+00:00",
    }
    _json(folder / "manifest.json", manifest)
    return folder


def _json(path: Path, content: Any, strict: bool = True) -> None:
    path.write_text(json.dumps(content, allow_nan=not strict))
