"""Answer questions given on a command line, and print the answers on the terminal.

Unless the command line says otherwise, model, precision and template are those of the training, and the sampler's
settings those of the experiment, so that a question gets the same answer as in the workflow.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dreamtune.data.prompter import Prompter
from dreamtune.data.tokenizer import load_tokenizer
from dreamtune.device.gpus import take_gpu
from dreamtune.errors import UserError
from dreamtune.files import read_json
from dreamtune.formats.shards import SHARDS_FILE
from dreamtune.generate.answers import answer, completion, own_questions, requests_of
from dreamtune.generate.loading import load_to_generate
from dreamtune.model.adapter_format import is_checkpoint, read_adapter_config, trained_weights
from dreamtune.settings.base import Section
from dreamtune.settings.generate import GenerateConfig, as_trained
from dreamtune.settings.model import ModelConfig
from dreamtune.settings.train import TrainConfig
from dreamtune.shards import read_meta
from dreamtune.workflow.verification import MANIFEST, read_manifest, verify

HEADLINE = "answers/test/greedy/tuned"  # name of the tuned model's headline answers among an experiment's links
CHOSEN = ("attention", "quantization", "dtype", "device")  # settings of the model that are options, too
NOT_ASKED = ("prompts", "max_prompts", "scatter")  # settings that mean nothing for questions that are typed in


@dataclass(frozen=True)
class Known:
    """Facts about a training that its folders state."""

    weights: Path | None = None  # adapter, or checkpoint of full fine-tuning; None: the base model answers
    model: dict[str, Any] = field(default_factory=dict)  # of ModelConfig
    generate: dict[str, Any] = field(default_factory=dict)  # of GenerateConfig, where the experiment is known
    max_tail: int | None = None  # of the training
    shards: Path | None = None


def answer_questions(
    model: ModelConfig,
    weights: Path | None,
    questions: list[str],
    generate: GenerateConfig,
    template: str | None,
    beginning_token: bool = True,
    chat: dict[str, Any] | None = None,
    end_id: int | None = None,
    turn_end_id: int | None = None,
) -> list[str]:
    """Return the completions of `questions`: `generate.samples` for the first question, then for the next.

    Args:
        weights: adapter folder, or checkpoint of full fine-tuning; None for the base model.
        template: text with `{question}`; the prompt ends where reasoning or answer begins.
        beginning_token: whether the tokenizer's beginning token stands before the prompt.
        chat: entry of shards.json on the chat template that renders the prompts; None for the template's text alone.
        end_id: the token behind an answer in training; None takes the tokenizer's end token.
        turn_end_id: the token with which the chat template closes a turn; None for none.

    Raises:
        UserError: a model or adapter that cannot be used.
    """
    take_gpu(model.device)
    tokenizer = load_tokenizer(model.path, model.revision, model.mask_token, not model.causal)
    tokenizer.end_id, tokenizer.turn_end_id = tokenizer.end_id if end_id is None else end_id, turn_end_id
    prompter = Prompter.of(tokenizer, {"template": template, "beginning_token": beginning_token, "chat": chat})
    asked = requests_of(list(own_questions(questions, prompter)), generate)
    loaded = load_to_generate(model, weights, generate.products)
    return [completion(a, tokenizer) for a in answer(loaded, tokenizer, asked, generate)]


def ask(options: argparse.Namespace) -> int:
    """Print the answers to the questions on a command line; return the exit status: 0, or 1 for a user's mistake.

    Args:
        options: parsed by a parser with `add_arguments`.
    """
    try:
        known = Known() if options.adapter is None else known_of(options.adapter)
        model = _model(options, known)
        rendering = _rendering(options, known)
        given = {name: value for name in _sampler_fields() if (value := getattr(options, name, None)) is not None}
        generate = GenerateConfig(**(known.generate | {name: yaml.safe_load(text) for name, text in given.items()}))
        if known.max_tail is not None and "lookahead" not in given:
            generate = as_trained(generate, known.max_tail)
        completions = answer_questions(model, known.weights, options.prompt, generate, **rendering)
    except (ValueError, yaml.YAMLError) as error:  # ours, or that of a setting out of its range
        print(f"ask: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    for number, text in enumerate(completions):
        if number % generate.samples == 0:
            print(f"question: {options.prompt[number // generate.samples]}")
        print(f"answer: {text}\n")
    whose = "the experiment's" if known.generate else "the default"
    print(f"ask: {whose} settings: {', '.join(_shown(generate))}", file=sys.stderr)
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command-line options of `ask`: the question, the model, and one option for each sampler setting."""
    add = parser.add_argument
    add("--prompt", action="append", required=True, metavar="QUESTION", help="may be given several times")
    add(
        "--adapter",
        type=Path,
        metavar="FOLDER",
        help="an experiment (results/latest/NAME), or the adapter or model folder of a training; without it the base",
    )
    add("--model", metavar="PATH", help="folder or hub name of the base model; default: that of the training")
    add("--revision", metavar="COMMIT", help="of the hub repository, 40 hex digits; default: that of the training")
    add(
        "--mask-token",
        metavar="TEXT",
        help="entry of the tokenizer that is the mask token; default: as in the training",
    )
    add("--attention", choices=("bidirectional", "causal"), help="default: that of the training, or bidirectional")
    add("--quantization", choices=("none", "nf4"), help="default: that of the training")
    add("--dtype", choices=("bfloat16", "float32"), help="default: that of the training")
    add("--device", choices=("auto", "cpu", "cuda"), help="default: that of the training")
    add("--template", metavar="TEXT", help="text with {question} that is the prompt; default: that of the training")
    add("--shards", type=Path, metavar="FOLDER", help="output of prepare_shards whose template is taken")
    sampler = parser.add_argument_group("settings of the sampler", "default: those of the experiment, if one is given")
    for name in _sampler_fields():
        about = GenerateConfig.model_fields[name]
        default = json.dumps(about.get_default(call_default_factory=True)).strip('"')
        description = f"{about.description} (without an experiment: {default})".replace("%", "%%")
        sampler.add_argument(f"--{name.replace('_', '-')}", metavar="VALUE", help=description)


def known_of(folder: Path) -> Known:
    """Read the folders of an experiment or of a training, once the training's files are verified.

    Args:
        folder: results/latest/NAME, or the adapter or model folder of a training, whether or not its path leads through
            an experiment's links.

    Raises:
        UserError: there is no adapter and no checkpoint, or a file is not what the training's manifest says.
    """
    places = (folder, *folder.absolute().parents)
    experiment = next((place for place in places if (place / "versions.json").exists()), None)
    weights = trained_weights(folder / "full") if folder == experiment else folder
    run = weights.resolve().parent
    spec = verify(run) if _is_version(run, "train_adapter") else {}
    if is_checkpoint(weights):  # of full fine-tuning
        model: dict[str, Any] = {"path": str(weights)}
    else:
        adapter = read_adapter_config(weights)
        model = {"path": adapter["base_model_name_or_path"], "revision": adapter["revision"]}
    if not spec:  # an adapter that lies by itself
        return Known(weights, model)
    top = run.parents[2]  # of top/results/train_adapter/VERSION
    model |= _section(spec, "model", ModelConfig)
    if (top / model["path"]).is_dir():  # else a name on the hub
        model["path"] = str(top / model["path"])
    generate: dict[str, Any] = {}
    if experiment is not None and (headline := _versions(experiment).get(HEADLINE)):
        generate = _section(read_manifest(top / headline), "generate", GenerateConfig) | {"prompts": []}
    tail = TrainConfig(**_section(spec, "train", TrainConfig)).max_tail if "train" in spec["settings"] else None
    shards = top / spec["reads"]["shards"] if "shards" in spec["reads"] else None
    return Known(weights, model, generate, tail, shards)


def _is_version(folder: Path, stage: str) -> bool:
    """Return whether a folder is a version of a stage, and not something that lies by itself, such as a copy."""
    return folder.parent.name == stage and any((folder / name).exists() for name in (MANIFEST, "config.json"))


def _versions(experiment: Path) -> dict[str, str]:
    """Return the version folders of an experiment by name, relative to the folder that holds results/."""
    path = experiment / "versions.json"
    try:
        return dict(read_json(path))
    except (OSError, TypeError, ValueError):
        raise UserError(f"{path} does not name versions; delete {experiment} and start snakemake again") from None


def _section(spec: dict[str, Any], name: str, kind: type[Section]) -> dict[str, Any]:
    """Return one section of a frozen configuration, without fields that a later release has removed."""
    values = spec["settings"].get(name, {}) | spec["runtime"].get(name, {})
    return {field: value for field, value in values.items() if field in kind.model_fields}


def _model(options: argparse.Namespace, known: Known) -> ModelConfig:
    given = {name: getattr(options, name) for name in ("revision", "mask_token", *CHOSEN)}
    settings = known.model | {name: value for name, value in given.items() if value is not None}
    if options.model is not None:
        settings |= {"path": options.model, "revision": options.revision}
    if "path" not in settings:
        raise UserError("give --model, or an --adapter whose adapter_config.json names its base model")
    return ModelConfig(**settings)


def _rendering(options: argparse.Namespace, known: Known) -> dict[str, Any]:
    """Return how a question becomes a prompt: the last arguments of `answer_questions`."""
    shards = options.shards or known.shards
    if shards is not None and _is_version(shards.resolve(), "prepare_shards"):
        verify(shards.resolve(), SHARDS_FILE)
    meta = read_meta(shards) if shards is not None else {}
    if options.template is None and "template" not in meta:
        raise UserError("no template is known: give --template 'Question: {question} …' or --shards FOLDER")
    chat = meta.get("chat") if options.template is None else None
    return {
        "template": options.template or meta.get("template"),
        "beginning_token": meta.get("beginning_token", True),
        "chat": chat,
        "end_id": meta["tokenizer"]["end_id"] if chat else None,
        "turn_end_id": meta["tokenizer"].get("turn_end_id") if chat else None,
    }


def _sampler_fields() -> Sequence[str]:
    return [name for name in GenerateConfig.model_fields if name not in NOT_ASKED]


def _shown(generate: GenerateConfig) -> list[str]:
    """Return max_new_tokens and each setting that differs from its default, as `name value`."""
    usual = GenerateConfig()
    values = {name: getattr(generate, name) for name in _sampler_fields()}
    return [f"{k} {v}" for k, v in values.items() if k == "max_new_tokens" or v != getattr(usual, k)]
