"""Which sections of an experiment do not fit together, and what a causal model makes of them.

Each function takes a `config.Experiment` with all its sections, which is typed where it is defined.
"""

import json
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from dreamtune.settings import generate
from dreamtune.settings.base import Section
from dreamtune.settings.rate import FIND

# Settings without a use in a causal model, by section, each with its only value there. Those of denoising keep their
# defaults; the objective follows from the attention, there is no tail behind an answer, and a likelihood is exact.
CAUSAL_TRAIN = {
    "objective": "causal",
    "complementary": False,
    "max_tail": 0,
    "long_tail": 0,
    "tail_loss": "one",
    "padding_tokens": [],
    "cut_share": 0.0,
    "attention_annealing": 0.0,
}
CAUSAL_DRAWS = {"draws": 1}
DENOISING = {
    name: field.get_default(call_default_factory=True)
    for name, field in generate.Decoding.model_fields.items()
    if name in generate.DENOISING
}


def causal_settings(e: Any) -> dict[str, Section]:
    """Return the sections of an experiment that a causal model changes, by name; {} for a bidirectional one."""
    if not e.model.causal:
        return {}
    likelihood = e.evaluate.likelihood.model_copy(update=CAUSAL_DRAWS)
    return {
        "train": e.train.model_copy(update=CAUSAL_TRAIN),
        "evaluate": e.evaluate.model_copy(update={"likelihood": likelihood}),
    }


def causal_problem(e: Any) -> str | None:
    """Return one line that names a setting which the configuration gives and a causal model cannot follow; else None.

    Defaults are not the user's, so they are replaced in silence (`causal_settings`).
    """
    if not e.model.causal:
        if e.train.objective == "causal":
            return (
                "train.objective causal needs a causal model; set model.attention to causal, or the objective to elbo"
            )
        return None
    for name, value, usable in _given(e):
        if value != usable:
            given, wanted = json.dumps(value), json.dumps(usable)  # as YAML writes them: null, false
            return (
                f"model.attention is causal, for which {name} {given} has no meaning (docs/causal.md); give it to the "
                f"bidirectional experiments only, or set it to {wanted} here"
            )
    return None


def _given(e: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield (name, value, the only usable value) of each setting that a causal experiment is given."""
    sections: list[tuple[str, Section, dict[str, Any]]] = [
        ("train.", e.train, CAUSAL_TRAIN),
        ("generate.", e.generate, DENOISING),
        ("evaluate.likelihood.", e.evaluate.likelihood, CAUSAL_DRAWS),
        *((f"evaluate.decoders, {decoder.name}: ", decoder, DENOISING) for decoder in e.evaluate.decoders),
    ]
    for place, section, usable in sections:
        for name in sorted(section.model_fields_set & set(usable)):
            yield place + name, getattr(section, name), usable[name]


def contradiction(e: Any) -> str | None:
    """Return one line that says which sections do not fit together, each valid by itself; None if all fit.

    Args:
        e: a `config.Experiment`.
    """
    if e.train.finetuning == "full" and e.model.quantization != "none":
        return f"train.finetuning full trains no {e.model.quantization} weights; set model.quantization to none"
    if e.train.finetuning == "full" and e.train.optimizer != "adamw":
        return "train.finetuning full needs train.optimizer adamw, whose state can be shared out over GPUs"
    if e.train.finetuning == "full" and e.train.learning_rate == FIND:
        return (
            "train.learning_rate find tries rates on a copy of what is trained, and train.finetuning full has no "
            "memory for a copy of all weights; give a number"
        )
    if e.train.products == "fp8" and e.train.finetuning == "full":
        return "train.products fp8 is for frozen weights, and train.finetuning full has none; set it to bf16"
    if e.train.products == "fp8" and e.train.weights == "packed":
        return "train.products fp8 is made of dequantised weights; set train.weights to auto"
    if e.train.products == "fp8" and (e.model.device == "cpu" or e.model.dtype != "bfloat16"):
        return "train.products fp8 needs model.device auto or cuda, and model.dtype bfloat16; set products to bf16"
    if e.train.attention_annealing and e.train.objective == "copy":
        return "train.attention_annealing is for masked diffusion, and train.objective copy masks nothing; set it to 0"
    if e.train.optimizer == "paged_adamw_8bit" and e.model.device == "cpu":
        return "train.optimizer paged_adamw_8bit needs a GPU, and model.device is cpu; set the optimizer to adamw"
    decoded = [e.generate, *e.evaluate.decoders]
    if e.model.quantization != "nf4" and any(setting.products == "nf4" for setting in decoded):
        return f"products nf4 needs 4-bit weights, and model.quantization is {e.model.quantization}; set it to nf4"
    if (problem := _dora_problem(e)) is not None:
        return problem
    if (problem := _conversation_problem(e)) is not None:
        return problem
    if e.evaluate.few_shot_tuned and not e.evaluate.few_shot:
        return "evaluate.few_shot_tuned needs worked examples; set evaluate.few_shot to their number"
    for decoder in e.evaluate.decoders:
        try:
            decoder.applied_to(e.generate.headline)
        except ValidationError as error:
            return f"evaluate.decoders, {decoder.name}: {error.errors()[0]['msg'].removeprefix('Value error, ')}"
    return None


def _dora_problem(e: Any) -> str | None:
    """Return one line that names a setting which DoRA, in PEFT's own layers, cannot follow; None without one."""
    if e.train.finetuning != "lora" or e.train.lora.variant != "dora":
        return None
    if e.train.lora.shared_dropout:
        return "train.lora.shared_dropout joins products that variant dora has one by one; set it to false"
    if e.train.products != "bf16":
        return f"train.products {e.train.products} keeps no weights whose norms variant dora could take; set it to bf16"
    if few := [s.products for s in (e.generate, *e.evaluate.decoders) if s.products not in (None, "bf16")]:
        return f"products {few[0]} keeps no weights whose norms train.lora.variant dora could take; set it to bf16"
    return None


def _conversation_problem(e: Any) -> str | None:
    """Return one line that names a setting for rows which conversations cannot follow, or the other way round."""
    conversations = e.data.conversations
    if not conversations:
        if e.score.answer is not None:
            return "score.answer is for conversations (data.columns.messages); rows are graded against columns.answer"
        return None
    if e.score.answer is None and e.evaluate.primary == "accuracy" and "primary" in e.evaluate.model_fields_set:
        return (
            "evaluate.primary is accuracy, and conversations have no answers to grade; name a column or an "
            "extractor in score.answer, or leave primary out"
        )
    if e.evaluate.few_shot:
        return "evaluate.few_shot makes worked examples of rows, and the data are conversations; set it to 0"
    return None
