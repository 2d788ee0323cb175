"""Loading a model: as transformers' own class, bidirectional or causal, optionally in NF4 and with an adapter on top.

No code that comes with a checkpoint is executed. Loaded models answer through `logits.token_logits`, whose row i scores
token i in every family.
"""

import os
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from torch import nn
from transformers import LlamaForCausalLM, PretrainedConfig, Qwen2ForCausalLM
from transformers.utils import logging as transformers_logging

from dreamtune.device.caches import job_caches
from dreamtune.device.gpus import resolve_device
from dreamtune.device.memory import numbered
from dreamtune.device.phases import phase
from dreamtune.errors import UserError
from dreamtune.inputs.checkpoint_format import (
    check_attention,
    family_of,
    key_patterns,
    native_fields,
    read_config,
)
from dreamtune.inputs.hub import model_folder
from dreamtune.inputs.shapes import check_shapes
from dreamtune.inputs.special_tokens import NEW, check_rows, special_ids
from dreamtune.inputs.weight_files import read_headers, weight_files
from dreamtune.model import attention as attention_kinds
from dreamtune.model.adapter_format import (
    ADAPTER_WEIGHTS,
    check_loaded,
    is_checkpoint,
    read_adapter_config,
    set_magnitudes,
)
from dreamtune.model.facts import Facts, facts_of, set_facts
from dreamtune.model.new_row import KEY, check_row, set_mean_row
from dreamtune.model.nf4 import forbid_repacking, nf4_config
from dreamtune.model.nf4_cache import Nf4Entry
from dreamtune.model.nonfinite import check_files
from dreamtune.model.official_format import native_config
from dreamtune.settings.lora import LoraSettings
from dreamtune.settings.model import ModelConfig

CLASSES: dict[str, Any] = {
    "dream": Qwen2ForCausalLM,
    "qwen2": Qwen2ForCausalLM,
    "llada": LlamaForCausalLM,
    "llama": LlamaForCausalLM,
}
# transformers warns that a Dream or LLaDA folder is loaded as Qwen2 or Llama, which is intended here. The real danger,
# missing or left-over keys, is an error below.
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")  # PEFT 0.21 asks by that name
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
# MKL reads this at its first product. Left to itself it chooses a kernel by how many rows and threads there are, and a
# row's last bits with it: with AVX2 for 16 and 32 rows, with AVX-512 and two threads for wide layers. Strict mode keeps
# a float32 row's bits whatever stands beside it, at the same speed. Other libraries do not read it.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")


@phase("loading")
def load_model(
    path: str | Path,
    *,
    quantization: str = "none",
    dtype: str = "bfloat16",
    device: str = "cpu",
    revision: str | None = None,
    adapter: str | Path | None = None,
    family: str | None = None,
    mask_token: str | None = None,
    kept: bool = False,
    attention: str = "bidirectional",
) -> Any:
    """Return the model in evaluation mode; `model(input_ids=, attention_mask=).logits` are the official raw logits.

    Args:
        path: a folder in the official format (config.json and safetensors), or a hub name with `revision`.
        quantization: "none", or "nf4" for QLoRA (arXiv 2305.14314): linear layers in 4-bit NormalFloat, double
            quantised. Embeddings, norms and head stay in `dtype`.
        dtype: "bfloat16" or "float32", of the computation and of all weights that are not quantised.
        device: "cpu", "cuda" or "cuda:N".
        revision: the hub commit, 40 hex digits.
        adapter: a PEFT folder; the adapter is put on top, not merged.
        family: "dream", "llada", "qwen2" or "llama", where config.json's model_type leaves it open.
        mask_token: text of the tokenizer's entry that is the mask token, in place of the one that the files name; "new"
            for a row of the embeddings that has no token.
        kept: whether the checkpoint is the base model of the job, whose caches may hold it in NF4.
        attention: "bidirectional", or "causal" for a qwen2 or llama checkpoint as the autoregressive model that it is.

    Raises:
        UserError: no such checkpoint, not in a known format or not of that family, no safetensors, a tensor of another
            shape than the model's, an adapter that does not fit, or NaN or infinity in a file that is quantised.
    """
    _check(quantization, ("none", "nf4"), "quantization")
    _check(dtype, tuple(DTYPES), "dtype")
    _check(attention, ("bidirectional", "causal"), "attention")
    folder = model_folder(str(path), revision)
    raw = read_config(folder)
    kind, causal = family_of(raw, family, folder), attention == "causal"
    check_attention(kind, attention, folder)
    files = weight_files(folder)
    headers = read_headers(files)
    check_shapes(folder, native_fields(raw, kind), kind, headers)  # before any number of layers is built
    check_shapes(folder, native_config(raw, kind).to_dict(), kind, headers)  # with transformers' defaults
    described = partial(native_config, raw, kind, causal)
    read = partial(_from_pretrained, described=described, family=kind, dtype=DTYPES[dtype], device=numbered(device))
    entry = Nf4Entry.of(job_caches(), kind, DTYPES[dtype], numbered(device)) if kept and quantization == "nf4" else None
    model = entry.read(read) if entry else None
    if model is None:
        model = read(folder, quantization)
        if quantization == "nf4":
            check_files(files, numbered(device))
        if entry:
            entry.keep(model)
    model.name_or_path = str(path)
    ids = special_ids(folder, raw, mask_token)
    check_rows(folder, ids, len(model.get_input_embeddings().weight), mask_token)
    new_row = ids["mask"] if mask_token == NEW else None
    set_facts(model.config, Facts(kind, revision, attention_kinds.flash_runs(model.device), new_row, causal))
    model.config.mask_token_id, model.config.eos_token_id = ids["mask"], ids["eos"]
    if new_row is not None:
        set_mean_row(model.get_input_embeddings().weight, new_row)
    if kind == "dream":
        model.register_forward_pre_hook(_hide_padding_queries, with_kwargs=True)
    return model.eval() if adapter is None else load_adapter(model, Path(adapter)).eval()


def load(config: ModelConfig, trained: Path | None = None) -> Any:
    """Load the model that the `model` section of a configuration describes, and set torch's number of CPU threads.

    Args:
        config: as `load_model` takes it; device "auto" means the GPU where there is one.
        trained: folder of a finished training's weights: an adapter is put on top of the base, a checkpoint of full
            fine-tuning is loaded in its place.

    Raises:
        UserError: see `load_model`.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    tuned = trained is not None and is_checkpoint(trained)
    return load_model(
        str(trained) if tuned else config.path,
        quantization=config.quantization,
        dtype=config.dtype,
        device=resolve_device(config.device),
        revision=None if tuned else config.revision,
        adapter=None if tuned else trained,
        family=config.family,
        mask_token=None if tuned else config.mask_token,  # a checkpoint names the one that it was trained with
        kept=not tuned,
        attention=config.attention,
    )


@phase("loading")
def load_adapter(model: Any, adapter: Path) -> PeftModel:
    """Return the model with the adapter of a PEFT folder on top, frozen.

    Raises:
        UserError: a file of the adapter is missing or damaged, or its weights do not fit the model.
    """
    said = read_adapter_config(adapter)
    try:
        with safe_open(adapter / ADAPTER_WEIGHTS, "pt") as file:
            saved = file.get_tensor(KEY) if KEY in file.keys() else None  # noqa: SIM118, it is no dictionary
        check_row(model, said, saved, adapter)
        settings = LoraConfig.from_pretrained(str(adapter))
        settings.trainable_token_indices = None  # the model has the row already
        tuned = PeftModel.from_pretrained(model, str(adapter), is_trainable=False, config=settings)
    except (UserError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # of safetensors, PEFT or torch, by what is wrong with the files
        problem = " ".join(str(error).split())[:200]
        raise UserError(f"the adapter in {adapter} does not fit the model {model.name_or_path}: {problem}") from error
    check_loaded(tuned, adapter)
    return tuned


def attach_lora(model: Any, lora: LoraSettings, seed: int) -> PeftModel:
    """Return the model with a new LoRA adapter (Hu et al. 2021, arXiv 2106.09685); only its float32 weights train.

    The initial weights depend on `seed` alone: they are drawn on the CPU, whatever the device. B is zero, so that the
    adapter adds nothing before the first step.

    Raises:
        UserError: `lora.target_modules` names a module that the model does not have.
    """
    targets: Any = "all-linear" if lora.target_modules == ["all-linear"] else list(lora.target_modules)
    settings = LoraConfig(
        target_modules=targets, bias="none", revision=facts_of(model.config).revision, **lora.as_peft()
    )
    linear = sorted({name.rsplit(".", 1)[-1] for name, m in model.model.named_modules() if isinstance(m, nn.Linear)})
    unknown = [] if targets == "all-linear" else [name for name in targets if name not in linear]
    if unknown:
        raise UserError(
            f"lora.target_modules has {unknown[0]!r}, which the model lacks; it has {', '.join(linear)}, or all-linear"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tuned = get_peft_model(model, settings)
    assert isinstance(tuned, PeftModel)
    set_magnitudes(tuned)
    return tuned


def count_parameters(model: Any) -> tuple[int, int]:
    """Return (trainable, total) numbers of parameters; a 4-bit weight counts as the matrix it stands for."""
    trainable = total = 0
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        size = parameter.numel() if state is None else state.shape.numel()
        total += size
        trainable += size if parameter.requires_grad else 0
    return trainable, total


def empty_model(raw: dict[str, Any], dtype: str = "bfloat16") -> Any:
    """Return the model that a config.json describes on torch's meta device: shapes without weights.

    Callers count its parameters and predict its memory.

    Args:
        raw: the content of config.json.
    """
    family = family_of(raw)
    with torch.device("meta"):
        model: Any = CLASSES[family](native_config(raw, family)).to(DTYPES[dtype])
    set_facts(model.config, Facts(family))
    return model


def _check(value: str, allowed: tuple[str, ...], name: str) -> None:
    if value not in allowed:
        raise UserError(f"{name} is {value!r}; expected one of {', '.join(allowed)}")


def _from_pretrained(
    folder: Path,
    quantization: str,
    described: Callable[[], PretrainedConfig],
    family: str,
    dtype: torch.dtype,
    device: str,
) -> Any:
    """Load by transformers' own class; `quantization` may also be "kept": as `nf4_cache` has written the files."""
    options: dict[str, Any] = {"quantization_config": nf4_config(dtype)} if quantization == "nf4" else {}
    config, kept = described(), quantization == "kept"
    if kept:
        config.quantization_config = nf4_config(dtype).to_dict()
    try:
        model, found = CLASSES[family].from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            device_map={"": device},
            attn_implementation=attention_kinds.NAME,
            key_mapping=None if kept else key_patterns(family) or None,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
    except torch.OutOfMemoryError:
        raise  # the files are not at fault; a caller that knows which setting to lower catches it
    except Exception as error:  # a cut file, a shape that differs: the library's own first line says which
        raise UserError(f"cannot read the weights in {folder}: {str(error).strip().splitlines()[0]}") from error
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if found[problem]:  # transformers would go on with random weights
            names = sorted(map(str, found[problem]))
            hint = f"; model.family is {family}: is that its architecture?"
            raise UserError(
                f"the weights in {folder} do not fit its config.json: {len(names)} {problem}, {names[0]}{hint}"
            )
    forbid_repacking(model)
    return model


def _hide_padding_queries(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Before a forward pass: let queries at padding attend to nothing, as the official Dream code does.

    Only the logits at padding depend on it. With it they agree with the official ones too.
    """
    mask = kwargs.get("attention_mask")
    if mask is not None and mask.ndim == 2:
        seen = mask.bool()
        kwargs["attention_mask"] = seen[:, None, None, :] & seen[:, None, :, None]  # [B, 1, L, L]
    return args, kwargs
