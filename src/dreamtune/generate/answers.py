"""Answers of a model to the questions of the test split or of a benchmark.

`generate_answers` writes OUT/answers.parquet (one row per question and sample), OUT/timings.parquet (seconds, apart
because they differ from run to run) and OUT/generation.json. A job that makes one part of a version writes
OUT/part.parquet only. Questions typed on a command line are answered by `dreamtune.generate.ask`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import polars as pl

from dreamtune.contamination.questions import question_hash
from dreamtune.contamination.templates import Templates, first_members
from dreamtune.contamination.words import read_words
from dreamtune.data.prompter import Prompter
from dreamtune.data.tokenizer import Tokenizer, load_tokenizer
from dreamtune.device.compiled_code import compiled_code
from dreamtune.device.gpus import resolve_device, take_gpu
from dreamtune.device.memory import out_of_memory
from dreamtune.files import write_json
from dreamtune.formats.answers import ANSWERS, ANSWERS_FILE, GENERATION_FILE, TIMINGS, TIMINGS_FILE
from dreamtune.generate.few_shot import WorkedExamples, check_fit
from dreamtune.generate.layers import pays_to_compile, prepare_for_generation
from dreamtune.generate.left_to_right import write_on
from dreamtune.generate.loading import load_to_generate
from dreamtune.generate.parts import read_parts, write_part
from dreamtune.generate.sampler import Answer, Request, denoise, no_mask_left
from dreamtune.inputs.checkpoint_format import context_tokens, read_config
from dreamtune.inputs.files import resolve_files
from dreamtune.inputs.hub import model_folder
from dreamtune.inputs.rows import open_rows
from dreamtune.model.facts import loaded_as_causal
from dreamtune.model.logits import unwrap
from dreamtune.part import Part
from dreamtune.progress import Progress
from dreamtune.settings.benchmark import Benchmark
from dreamtune.settings.few_shot import FewShot
from dreamtune.settings.generate import DENOISING, GenerateConfig
from dreamtune.settings.model import ModelConfig
from dreamtune.shards import limited, read_meta, read_split

BATCH_ROWS = 2_000  # rows of a benchmark that are read and tokenised together


@dataclass(frozen=True)
class Question:
    """One question with the tokens of its prompt.

    Attributes:
        cluster: as in `formats.answers`; None until it is worked out.
        shots: example ids of the worked examples in the prompt.
    """

    example_id: int
    question: str
    answer: str | None
    prompt: list[int]
    cluster: int | None = None
    shots: Sequence[int] = ()


def generate_answers(
    generate: GenerateConfig,
    model: ModelConfig,
    shards: Path,
    benchmark: Benchmark | None,
    adapter: Path | None,
    out: Path,
    part: Part | None = None,
    parts: Sequence[Path] = (),
    few_shot: FewShot | None = None,
    split: Literal["test", "validation"] = "test",
) -> dict[str, Any]:
    """Answer the questions of a benchmark or of a held-out split, and write the files (see the module's docstring).

    Args:
        generate: settings of the sampler.
        model: the base model, its precision and device.
        shards: output of prepare_shards: its held-out split, template and tokenizer.
        benchmark: the questions to answer; None for those of the split and the user's own `generate.prompts`.
        adapter: an adapter, or the checkpoint of full fine-tuning; None for the base model.
        out: folder for the files.
        part: the part of the version that this job makes; None makes all of it.
        parts: folders of all finished parts, whose answers are gathered without loading the model.
        few_shot: the worked training examples before each question; None for none.
        split: which held-out rows are asked, where no benchmark is given; validation chooses among a study's runs.

    Returns:
        counts for the manifest: questions, rows, dropped, tokens, share ended, seconds.

    Raises:
        UserError: a model, adapter or benchmark file that cannot be used, parts that do not fit together, or worked
            examples that do not fit into the model's context, which is known before the model is loaded.
    """
    meta = read_meta(shards)
    tokenizer = load_tokenizer(model.path, model.revision, model.mask_token, not model.causal)
    tokenizer.end_id = meta["tokenizer"]["end_id"]  # behind an answer in training; a chat's may be another than eos
    tokenizer.turn_end_id = meta["tokenizer"].get("turn_end_id")
    prompter = Prompter.of(tokenizer, meta)
    dropped: dict[str, int] = {}
    if benchmark is None:
        questions = [*_held_out(shards, split, meta, generate.max_prompts), *own_questions(generate.prompts, prompter)]
    else:
        questions = list(_benchmark_questions(benchmark, prompter, dropped))[: generate.max_prompts]
    worked = None
    if few_shot:
        worked = WorkedExamples(few_shot, shards, meta, tokenizer, generate.seed)
        questions = [_with_examples(question, worked) for question in questions]
        context = context_tokens(read_config(model_folder(model.path, model.revision)))
        check_fit([question.prompt for question in questions], generate.max_new_tokens, context, few_shot)
    requests = requests_of(questions, generate)
    rows = part.deal(range(len(requests))) if part else range(len(requests))
    if parts:
        answers = read_parts(parts, requests)
    elif rows:
        take_gpu(model.device)
        with out_of_memory("lower generate.batch_size"), compiled_code(resolve_device(model.device)):
            chosen = [requests[row] for row in rows]
            loaded = load_to_generate(model, adapter, generate.products)
            answers = answer(loaded, tokenizer, chosen, generate, len(requests))
    else:
        answers = []
    if part:
        write_part(rows, answers, out)
        return {"rows": len(rows)}
    if benchmark is not None:
        questions = clustered(questions)
    _write(questions, answers, tokenizer, generate, out)
    summary = summarise(questions, answers, dropped, None if model.causal else tokenizer.mask_id, generate)
    summary["few_shot"] = worked.describe(question.prompt for question in questions) if worked else None
    write_json(out / GENERATION_FILE, summary)
    return {key: summary[key] for key in ("questions", "rows", "dropped", "tokens", "ended", "seconds")}


def summarise(
    questions: list[Question],
    answers: list[Answer],
    dropped: dict[str, int],
    mask_id: int | None,
    generate: GenerateConfig,
) -> dict[str, Any]:
    """Return the content of generation.json; `seconds` is the time of all forward passes, over all parts.

    `mask_id` is the mask token, which no answer may hold; None for a causal model, to which it means nothing. Nor do
    the settings of denoising, which are then left out of `settings`.
    """
    settings = generate.by_kind()[0]
    if mask_id is None:
        settings = {name: value for name, value in settings.items() if name not in DENOISING}
    tokens, passes = sum(len(a.tokens) for a in answers), sum(a.passes for a in answers)
    seconds = sum(a.seconds for a in answers)
    return {
        "format": 1,
        "settings": settings,
        "questions": len(questions),
        "rows": len(answers),
        "dropped": dropped,
        "canaries": [no_mask_left(answers, mask_id)] if answers and mask_id is not None else [],
        "tokens": tokens,
        "tokens_per_pass": round(tokens / passes, 3) if answers else None,
        "ended": sum(a.ended for a in answers) / len(answers) if answers else None,
        "seconds": round(seconds, 3),
        "tokens_per_s": round(tokens / seconds, 1) if answers else None,
    }


def requests_of(questions: list[Question], generate: GenerateConfig) -> list[Request]:
    """Return `generate.samples` requests for each question, one after the other."""
    return [Request(q.prompt, q.example_id, sample) for q in questions for sample in range(generate.samples)]


def answer(
    model: Any, tokenizer: Tokenizer, requests: list[Request], generate: GenerateConfig, planned: int | None = None
) -> list[Answer]:
    """Return the answer to each request, in the order of `requests`.

    Args:
        model, tokenizer: from `load_to_generate` and `load_tokenizer`.
        requests, generate: see `denoise`, and `write_on` for a causal model.
        planned: requests of all parts together, so that a GPU computes each in the same way; by default of this one.
    """
    base = unwrap(model)
    config = base.config
    if not (causal := loaded_as_causal(config)):
        prepare_for_generation(base, pays_to_compile(planned or len(requests), generate, config.num_hidden_layers))
    # Mask and end token are the ones in the shards, which the adapter was trained with.
    config.mask_token_id, config.eos_token_id = tokenizer.mask_id, tokenizer.end_id
    if causal and tokenizer.turn_end_id is not None:
        config.eos_token_id = [tokenizer.end_id, tokenizer.turn_end_id]
    answers: list[Answer | None] = [None] * len(requests)
    with Progress("answers", len(requests)) as progress:
        for index, done in (write_on if causal else denoise)(model, requests, generate):
            answers[index] = done
            progress.advance(note=f"{len(done.tokens)} tokens in {done.passes} passes")
    return [a for a in answers if a is not None]


def _with_examples(question: Question, worked: WorkedExamples) -> Question:
    prompt, shots = worked.before(question.example_id, question.question, question.prompt)
    return replace(question, prompt=prompt, shots=shots)


def own_questions(prompts: list[str], prompter: Prompter) -> Iterator[Question]:
    """Yield the user's own questions, without a reference answer; their example ids are -1, -2, …"""
    for number, (text, tokens) in enumerate(zip(prompts, prompter(prompts), strict=True)):
        yield Question(-1 - number, text, None, tokens, cluster=-1 - number)


def clustered(questions: list[Question]) -> list[Question]:
    """Return a benchmark's questions with their clusters, which are the templates they are made from."""
    templates = Templates()
    templates.add(read_words([question.question for question in questions]))
    templates.finish()
    first = first_members(templates.numbers)
    return [replace(q, cluster=questions[i].example_id) for q, i in zip(questions, first, strict=True)]


def _held_out(shards: Path, split: str, meta: dict[str, Any], max_prompts: int | None) -> Iterator[Question]:
    if not meta["splits"][split]["rows"]:
        return
    rows = read_split(shards, split)
    for row in map(rows.__getitem__, limited(meta, len(rows), max_prompts).tolist()):
        prompt = list(row["input_ids"][: row["prompt_tokens"]])
        yield Question(row["example_id"], row["question"], row["answer"], prompt, row["cluster"])


def _benchmark_questions(benchmark: Benchmark, prompter: Prompter, dropped: dict[str, int]) -> Iterator[Question]:
    """Yield each question of the benchmark once; count the rows that are left out in `dropped`, by reason."""
    columns = [benchmark.question, benchmark.answer]
    number, asked = 0, set[int]()
    for batch in open_rows(resolve_files(benchmark.files), columns, BATCH_ROWS).batches(columns):
        pairs = list(zip(batch[benchmark.question], batch[benchmark.answer], strict=True))
        prompts = prompter([question or "" for question, _ in pairs])
        for (question, reference), prompt in zip(pairs, prompts, strict=True):
            reason = _drop_reason(question, reference, asked)
            if not reason and prompter.spells_control(question or ""):
                reason = "special_token_in_text"
            if reason or question is None:
                dropped[reason] = dropped.get(reason, 0) + 1
            else:
                asked.add(question_hash(question))
                yield Question(number, question, reference, prompt)
            number += 1


def _drop_reason(question: str | None, reference: str | None, asked: set[int]) -> str:
    """Return why a benchmark's row is left out; an empty text if its question is to be asked."""
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
            "cluster": question.cluster,
            "sample": a.request.sample,
            "question": question.question,
            "answer": question.answer,
            "prompt_tokens": len(question.prompt),
            "shots": list(question.shots),
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
    pl.DataFrame(rows, schema=ANSWERS).write_parquet(out / ANSWERS_FILE)
    pl.DataFrame(times, schema=TIMINGS).write_parquet(out / TIMINGS_FILE)


def completion(a: Answer, tokenizer: Tokenizer) -> str:
    """Return the text of an answer, without the end token."""
    return tokenizer.decode(a.tokens[:-1] if a.ended else a.tokens)
