"""Write the model in a GGUF file as a checkpoint folder: config.json, safetensors and tokenizer.

GGUF (github.com/ggml-org/ggml/blob/master/docs/gguf.md) holds a whole model in one file, its weights often in few bits.
transformers reads it by the package `gguf`, and unpacks the weights. A job would do so each time, and planning could
look into no header, so it is done once, by a command.
"""

import importlib.metadata
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from dreamtune.errors import UserError
from dreamtune.files import usual_mode
from dreamtune.inputs.checkpoint_format import CAUSAL
from dreamtune.inputs.model_check import check_model
from dreamtune.inputs.weight_files import MODEL_WEIGHTS
from dreamtune.model.loading import DTYPES

HEAD, EMBEDDINGS = "lm_head.weight", "model.embed_tokens.weight"


def convert_gguf(file: Path, folder: Path, dtype: str = "bfloat16") -> str:
    """Write the model of a GGUF file into a new folder that `model.path` can name; return one line that describes it.

    Args:
        file: the GGUF file, of a Qwen2 or Llama model.
        folder: that is made, last of all steps, so that it is whole.
        dtype: "bfloat16" or "float32", of the weights that are written.

    Raises:
        UserError: the package `gguf` is missing, the file cannot be read or holds another architecture, or the folder
            is there already.
    """
    if folder.exists():
        raise UserError(f"{folder} is there already; name a new folder, or delete it")
    if not file.is_file():
        raise UserError(f"there is no file {file}")
    try:
        importlib.metadata.version("gguf")  # transformers looks for the metadata, too
    except importlib.metadata.PackageNotFoundError:
        raise UserError("GGUF files are read by the package gguf; install it: pip install gguf") from None
    try:
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=DTYPES[dtype])
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except Exception as error:  # of gguf or transformers, by what is wrong with the file
        raise UserError(f"cannot read {file}: {str(error).strip().splitlines()[0]}") from error
    kind, beside = model.config.model_type, folder.with_name(f".{folder.name}.unfinished")
    if kind not in CAUSAL:
        raise UserError(f"{file} holds a model of type {kind}; expected {' or '.join(CAUSAL)}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    write_folder(model, tokenizer, beside)
    check_model(beside, attention="causal")  # as planning will, but for a mask token
    beside.rename(folder)
    return f"{folder} holds a {kind} model of {model.num_parameters():,} parameters in {dtype}"


def write_folder(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a model and its tokenizer, both of transformers, into a folder; a head that is the embeddings is left out.

    Args:
        model: its weights are unpacked, whatever its configuration says of a quantisation.
    """
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    weights = dict(model.state_dict())
    if model.config.tie_word_embeddings or weights[HEAD].data_ptr() == weights[EMBEDDINGS].data_ptr():
        model.config.tie_word_embeddings = True
        del weights[HEAD]
    model.config.save_pretrained(folder)
    with usual_mode(folder / MODEL_WEIGHTS) as file:
        save_file({name: weight.contiguous() for name, weight in weights.items()}, file, {"format": "pt"})
    tokenizer.save_pretrained(folder)
