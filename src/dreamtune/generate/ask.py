"""Answers to questions typed in on a command line, printed on the terminal."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from dreamtune.data.tokenizer import load_tokenizer
from dreamtune.device.gpus import take_gpu
from dreamtune.errors import UserError
from dreamtune.generate.answers import Prompter, answer, completion, own_questions, requests_of
from dreamtune.generate.loading import load_to_generate
from dreamtune.model.adapter_format import is_checkpoint, read_adapter_config
from dreamtune.settings.generate import GenerateConfig
from dreamtune.settings.model import ModelConfig
from dreamtune.shards import read_meta


def answer_by_hand(
    model: ModelConfig,
    adapter: Path | None,
    questions: list[str],
    generate: GenerateConfig,
    template: str,
    beginning_token: bool = True,
) -> list[str]:
    """Return the completions of `questions`, `generate.samples` of each side by side."""
    take_gpu(model.device)
    tokenizer = load_tokenizer(model.path, model.revision)
    asked = requests_of(list(own_questions(questions, Prompter(tokenizer, template, beginning_token))), generate)
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
    parser.add_argument("--adapter", type=Path, help="adapter or model folder of a training; default: the base")
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
        if is_checkpoint(options.adapter):  # of full fine-tuning
            known = {"path": str(options.adapter)}
        else:
            adapter = read_adapter_config(options.adapter)
            known = {"path": adapter["base_model_name_or_path"], "revision": adapter["revision"]}
        # results/train_adapter/VERSION/adapter; its frozen config.json names paths relative to the folder of results
        run = options.adapter.resolve().parent
        frozen = json.loads((run / "config.json").read_text()) if (run / "config.json").exists() else {}
        trained = frozen.get("settings", {}).get("model", {}) | frozen.get("runtime", {}).get("model", {})
        settings = known | trained | settings
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
