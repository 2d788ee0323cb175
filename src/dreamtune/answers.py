"""Answers of a model to the test split, to a benchmark, or to questions typed in.

`generate_answers` writes OUT/answers.parquet (one row per question and sample), OUT/timings.parquet (seconds, apart
because they differ from run to run) and OUT/generation.json. `by_hand` answers on the terminal.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from dreamtune.adapter_format import read_adapter_config
from dreamtune.errors import UserError
from dreamtune.generate import Answer, Request, denoise, no_mask_left
from dreamtune.generation_model import load_to_generate
from dreamtune.memory import out_of_memory
from dreamtune.model import unwrap
from dreamtune.parquet_rows import open_rows
from dreamtune.progress import Progress
from dreamtune.settings.benchmark import Benchmark
from dreamtune.settings.generate import GenerateConfig
from dreamtune.settings.model import ModelConfig
from dreamtune.shards import read_meta, read_split
from dreamtune.sources import resolve_files
from dreamtune.template import render_prompt
from dreamtune.text import question_hash
from dreamtune.tokenizer import Tokenizer, load_tokenizer

BATCH_ROWS = 2_000
SCHEMA = pl.Schema(
    {
        "example_id": pl.Int64(),  # row of the source or of the benchmark; -1, -2, … for the user's own prompts
        "sample": pl.Int32(),
        "question": pl.String(),
        "answer": pl.String(),  # the reference; null for the user's own prompts
        "prompt_tokens": pl.Int32(),
        "completion": pl.String(),  # up to the end token
        "tokens": pl.List(pl.Int32()),  # up to and including the first end token
        "pieces": pl.List(pl.String()),  # the text each of these adds to the completion
        "ended": pl.Boolean(),
        "steps": pl.Int32(),  # denoising steps until the row was finished
        "passes": pl.Int32(),  # forward passes it took part in
        "unmasked_at": pl.List(pl.Int32),  # the step, from 0, at which each token was revealed
    }
)
TIMES = pl.Schema({"example_id": pl.Int64(), "sample": pl.Int32(), "seconds": pl.Float64()})


@dataclass(frozen=True)
class Question:
    """One question with the tokens of its prompt."""

    example_id: int
    question: str
    answer: str | None
    prompt: list[int]


class Prompter:
    """Turns a question into the tokens a prompt of the shards has."""

    def __init__(self, tokenizer: Tokenizer, template: str, beginning_token: bool) -> None:
        begins = beginning_token and tokenizer.beginning_id is not None
        self.tokenizer, self.template = tokenizer, template
        self.beginning = [tokenizer.beginning_id] if begins and tokenizer.beginning_id is not None else []

    def __call__(self, questions: list[str]) -> list[list[int]]:
        prompts = self.tokenizer.encode_batch([render_prompt(self.template, question) for question in questions])
        return [self.beginning + prompt for prompt in prompts]


def generate_answers(
    generate: GenerateConfig,
    model: ModelConfig,
    shards: Path,
    benchmark: Benchmark | None,
    adapter: Path | None,
    out: Path,
) -> dict[str, Any]:
    """Answer the benchmark, or without one the test split and the user's own prompts; return the counts.

    Raises:
        UserError: a model, adapter or benchmark file that cannot be used.
    """
    meta = read_meta(shards)
    tokenizer = load_tokenizer(model.path, model.revision)
    prompter = Prompter(tokenizer, meta["template"], meta["beginning_token"])
    dropped: dict[str, int] = {}
    if benchmark is None:
        questions = [*_test_questions(shards, meta, generate.max_prompts), *own_questions(generate.prompts, prompter)]
    else:
        questions = list(_benchmark_questions(benchmark, prompter, dropped))[: generate.max_prompts]
    answers, seconds = list[Answer](), 0.0
    if questions:
        with out_of_memory("lower generate.batch_size"):
            loaded = load_to_generate(model, adapter)
            started = time.perf_counter()
            answers = answer(loaded, tokenizer, questions, generate)
            seconds = time.perf_counter() - started
    _write(questions, answers, tokenizer, generate, out)
    tokens, passes = sum(len(a.tokens) for a in answers), sum(a.passes for a in answers)
    summary = {
        "format": 1,
        "settings": generate.by_kind()[0],
        "questions": len(questions),
        "rows": len(answers),
        "dropped": dropped,
        "canaries": [no_mask_left(answers, tokenizer.mask_id)] if answers else [],
        "tokens": tokens,
        "tokens_per_pass": round(tokens / passes, 3) if answers else None,
        "ended": sum(a.ended for a in answers) / len(answers) if answers else None,
        "seconds": round(seconds, 3),
        "tokens_per_s": round(tokens / seconds, 1) if answers else None,
    }
    (out / "generation.json").write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n")
    return {key: summary[key] for key in ("questions", "rows", "dropped", "tokens", "ended", "seconds")}


def answer(
    model: Any, tokenizer: Tokenizer, questions: list[Question], generate: GenerateConfig, label: str = "answers"
) -> list[Answer]:
    """Return `generate.samples` answers of each question, in order, samples of one question side by side."""
    config = unwrap(model).config
    # The tokens of the shards are those the adapter was trained with.
    config.mask_token_id, config.eos_token_id = tokenizer.mask_id, tokenizer.end_id
    requests = [Request(q.prompt, q.example_id, sample) for q in questions for sample in range(generate.samples)]
    answers: list[Answer | None] = [None] * len(requests)
    with Progress(label, len(requests)) as progress:
        for index, done in denoise(model, requests, generate):
            answers[index] = done
            progress.advance(note=f"{len(done.tokens)} tokens in {done.passes} passes")
    return [a for a in answers if a is not None]


def own_questions(prompts: list[str], prompter: Prompter) -> Iterator[Question]:
    """Yield the user's own questions, numbered -1, -2, …; they have no reference answer."""
    for number, (text, tokens) in enumerate(zip(prompts, prompter(prompts), strict=True)):
        yield Question(-1 - number, text, None, tokens)


def _test_questions(shards: Path, meta: dict[str, Any], max_prompts: int | None) -> Iterator[Question]:
    if not meta["splits"]["test"]["rows"]:
        return
    rows = read_split(shards, "test")
    for row in rows.select(range(min(len(rows), max_prompts or len(rows)))):
        prompt = list(row["input_ids"][: row["prompt_tokens"]])
        yield Question(row["example_id"], row["question"], row["answer"], prompt)


def _benchmark_questions(benchmark: Benchmark, prompter: Prompter, dropped: dict[str, int]) -> Iterator[Question]:
    """Yield the benchmark's questions, each once; count in `dropped` what is left out, by reason."""
    columns = [benchmark.question, benchmark.answer]
    number, asked = 0, set[int]()
    for batch in open_rows(resolve_files(benchmark.files), columns, BATCH_ROWS).batches(columns):
        pairs = list(zip(batch[benchmark.question], batch[benchmark.answer], strict=True))
        prompts = prompter([question or "" for question, _ in pairs])
        for (question, reference), prompt in zip(pairs, prompts, strict=True):
            reason = _left_out(question, reference, asked)
            if reason or question is None:
                dropped[reason] = dropped.get(reason, 0) + 1
            else:
                asked.add(question_hash(question))
                yield Question(number, question, reference, prompt)
            number += 1


def _left_out(question: str | None, reference: str | None, asked: set[int]) -> str:
    """Return why a row is not asked, or an empty text."""
    if not (question or "").strip():
        return "no_question"
    if not (reference or "").strip():
        return "no_answer"
    return "repeated_question" if question_hash(question or "") in asked else ""


def _write(
    questions: list[Question], answers: list[Answer], tokenizer: Tokenizer, generate: GenerateConfig, out: Path
) -> None:
    by_answer = [question for question in questions for _ in range(generate.samples)]
    rows = [
        {
            "example_id": question.example_id,
            "sample": a.request.sample,
            "question": question.question,
            "answer": question.answer,
            "prompt_tokens": len(question.prompt),
            "completion": completion(a, tokenizer),
            "tokens": a.tokens,
            "pieces": tokenizer.pieces(a.tokens),
            "ended": a.ended,
            "steps": a.steps,
            "passes": a.passes,
            "unmasked_at": a.unmasked_at,
        }
        for question, a in zip(by_answer, answers, strict=True)
    ]
    times = [
        {"example_id": row["example_id"], "sample": row["sample"], "seconds": a.seconds}
        for row, a in zip(rows, answers, strict=True)
    ]
    pl.DataFrame(rows, schema=SCHEMA).write_parquet(out / "answers.parquet")
    pl.DataFrame(times, schema=TIMES).write_parquet(out / "timings.parquet")


def completion(a: Answer, tokenizer: Tokenizer) -> str:
    """Return the text of an answer, without the end token."""
    return tokenizer.decode(a.tokens[:-1] if a.ended else a.tokens)


def answer_by_hand(
    model: ModelConfig,
    adapter: Path | None,
    questions: list[str],
    generate: GenerateConfig,
    template: str,
    beginning_token: bool = True,
) -> list[str]:
    """Return the completions of `questions`, `generate.samples` of each side by side."""
    tokenizer = load_tokenizer(model.path, model.revision)
    asked = list(own_questions(questions, Prompter(tokenizer, template, beginning_token)))
    return [completion(a, tokenizer) for a in answer(load_to_generate(model, adapter), tokenizer, asked, generate)]


def by_hand(argv: list[str]) -> int:
    """Print the answers to the questions on a command line; return the exit status.

    Model, precision and template are those of the training whose result the adapter folder belongs to, as far as they
    are not given.
    """
    options = _parser().parse_args(argv)
    try:
        base, template, beginning_token = _trained_with(options)
        generate = GenerateConfig(
            max_new_tokens=options.max_new_tokens,
            steps=options.steps,
            temperature=options.temperature,
            top_p=options.top_p,
            samples=options.samples,
            seed=options.seed,
        )
        completions = answer_by_hand(base, options.adapter, options.prompt, generate, template, beginning_token)
    except ValueError as error:  # ours, or that of a setting out of its range
        print(f"generate_answers: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    for number, text in enumerate(completions):
        if number % generate.samples == 0:
            print(f"question: {options.prompt[number // generate.samples]}")
        print(f"answer: {text}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="generate_answers.py", description="Answer questions on the terminal.")
    parser.add_argument("--prompt", action="append", required=True, help="a question; may be given several times")
    parser.add_argument("--adapter", type=Path, help="adapter folder of a training; without one the base model answers")
    parser.add_argument("--model", help="folder or hub name of the base model; default: the adapter's")
    parser.add_argument("--revision", help="commit of the hub repository, 40 hex digits; default: the adapter's")
    parser.add_argument("--shards", type=Path, help="folder of prepare_shards whose template is used")
    parser.add_argument("--template", help="template with {question}; default: that of the training")
    parser.add_argument("--quantization", choices=("none", "nf4"), help="default: that of the training")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), help="default: that of the training")
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--steps", type=int, help="denoising steps; default: one per new token")
    parser.add_argument("--temperature", type=float, default=0.0, help="default: 0, greedy")
    parser.add_argument("--top-p", type=float)
    parser.add_argument("--samples", type=int, default=1, help="answers per question")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def _trained_with(options: argparse.Namespace) -> tuple[ModelConfig, str, bool]:
    """Return base model, template and whether a beginning token stands before it."""
    given = {name: getattr(options, name) for name in ("revision", "quantization", "dtype")}
    settings: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    shards: Path | None = options.shards
    if options.adapter is not None:
        adapter = read_adapter_config(options.adapter)
        # results/train_adapter/VERSION/adapter; its frozen config.json names paths relative to the folder of results
        run = options.adapter.resolve().parent
        frozen = json.loads((run / "config.json").read_text()) if (run / "config.json").exists() else {}
        trained = frozen.get("settings", {}).get("model", {}) | frozen.get("runtime", {}).get("model", {})
        settings = {"path": adapter["base_model_name_or_path"], "revision": adapter["revision"]} | trained | settings
        if shards is None and "shards" in frozen.get("reads", {}):
            shards = run.parents[2] / frozen["reads"]["shards"]
    if options.model is not None:
        settings["path"] = options.model
        settings["revision"] = options.revision
    if "path" not in settings:
        raise UserError("give --model, or an --adapter whose adapter_config.json names its base model")
    meta = read_meta(shards) if shards is not None else {}
    template = options.template or meta.get("template")
    if template is None:
        raise UserError("no template is known: give --template 'Question: {question} …' or --shards FOLDER")
    return ModelConfig(**settings), template, meta.get("beginning_token", True)
