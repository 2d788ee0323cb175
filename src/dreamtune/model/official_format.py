"""The transformers configuration of a checkpoint in one of the official formats (see `inputs.checkpoint_format`)."""

from typing import Any

from transformers import LlamaConfig, Qwen2Config
from transformers.configuration_utils import PretrainedConfig

from dreamtune.inputs.checkpoint_format import llada_fields

# Fields of config.json that name code or a storage type, not the architecture.
NOT_ARCHITECTURE = {"model_type", "architectures", "auto_map", "torch_dtype", "dtype", "transformers_version"}


def native_config(raw: dict[str, Any], family: str) -> PretrainedConfig:
    """Return the transformers configuration that a config.json of `family` stands for, with `is_causal` set on it.

    Setting the layers' `is_causal` instead is a trap: with a 2-D padding mask the model silently turns causal.

    Raises:
        UserError: a LLaDA variant that Llama cannot express.
    """
    rest = {key: value for key, value in raw.items() if key not in NOT_ARCHITECTURE}
    config: PretrainedConfig
    if family == "llada":
        config = LlamaConfig(**llada_fields(raw))
    elif family == "llama":
        config = LlamaConfig(**rest)
    else:
        config = Qwen2Config(**rest)
    config.is_causal = False
    config.use_cache = False
    return config
