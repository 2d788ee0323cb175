"""Which base model, and in which precision it is held."""

from typing import Literal

from dreamtune.settings.base import Section, UserPath, result, runtime


class ModelConfig(Section):
    """The base model. Its identity (hub name and revision, or the digest of a local folder) is hashed apart."""

    path: UserPath = runtime(..., "local folder of the checkpoint, or a hub name such as Dream-org/Dream-v0-Base-7B")
    revision: str | None = runtime(None, "commit of the hub repository, 40 hex digits; required for a hub name")
    family: Literal["dream", "llada", "qwen2", "llama"] | None = result(
        None, "architecture of the checkpoint; null reads it from the checkpoint's config.json"
    )
    quantization: Literal["none", "nf4"] = result("nf4", "nf4: 4-bit NormalFloat, double quantised (QLoRA)")
    dtype: Literal["bfloat16", "float32"] = result("bfloat16", "type of computation, embeddings, norms and head")
    device: Literal["auto", "cpu", "cuda"] = runtime("auto", "auto takes the GPU where there is one")
    threads: int = runtime(0, "CPU threads of torch; 0 leaves torch's own choice", ge=0)
