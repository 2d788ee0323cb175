"""The transformers configuration of a checkpoint in one of the official formats (see `inputs.checkpoint_format`)."""

from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import LlamaConfig, Qwen2Config
from transformers.configuration_utils import PretrainedConfig

from dreamtune.errors import UserError
from dreamtune.inputs.checkpoint_format import llada_fields

# Fields of config.json that name code or a storage type, not the architecture.
NOT_ARCHITECTURE = {"model_type", "architectures", "auto_map", "torch_dtype", "dtype", "transformers_version"}


def native_config(raw: dict[str, Any], family: str, causal: bool = False) -> PretrainedConfig:
    """Return the transformers configuration that a config.json of `family` stands for, with `is_causal` set on it.

    Setting the layers' `is_causal` instead is a trap: with a 2-D padding mask the model silently turns causal.

    Args:
        raw: the content of config.json.
        family: "dream", "llada", "qwen2" or "llama".
        causal: whether each token shall see only itself and those before it.

    Raises:
        UserError: a LLaDA variant that Llama cannot express, or a field of another type than transformers expects.
    """
    rest = {key: value for key, value in raw.items() if key not in NOT_ARCHITECTURE}
    kind = LlamaConfig if family in ("llada", "llama") else Qwen2Config
    fields = llada_fields(raw) if family == "llada" else rest
    try:
        config: PretrainedConfig = kind(**fields)
    except (StrictDataclassError, TypeError, ValueError, ArithmeticError) as error:
        said = " ".join(str(error).split())
        raise UserError(f"config.json of the model: {said}; correct that field, or download the file again") from error
    config.is_causal = causal
    config.use_cache = False
    return config
