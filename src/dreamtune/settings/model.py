"""The base model: which checkpoint, in which precision, on which device."""

from typing import Any, Literal

from dreamtune.settings.base import Section, UserPath, result, runtime


class ModelConfig(Section):
    """Settings of the base model. A version also depends on the checkpoint itself: hub revision or files' digests."""

    path: UserPath = runtime(..., "local folder of the checkpoint, or a hub name such as Dream-org/Dream-v0-Base-7B")
    revision: str | None = runtime(
        None, "commit of the hub repository, 40 hex digits; required for a hub name, unused for a local folder"
    )
    family: Literal["dream", "llada", "qwen2", "llama"] | None = result(
        None, "architecture of the checkpoint; null reads it from the checkpoint's config.json"
    )
    attention: Literal["bidirectional", "causal"] = result(
        "bidirectional",
        "bidirectional for a diffusion model; causal trains, measures and decodes a qwen2 or llama checkpoint as the "
        "autoregressive model that it is, on the same rows (docs/causal.md)",
    )
    mask_token: str | None = result(
        None,
        "text of an unused token of the tokenizer that serves as mask token; or new, for a row of the embeddings that "
        "has no token, which is set to the mean of the others; null takes the token that the checkpoint names",
        min_length=1,
    )
    quantization: Literal["none", "nf4"] = result(
        "nf4", "how the linear layers' weights are held: nf4 (4-bit NormalFloat, double quantised: QLoRA), or as dtype"
    )
    dtype: Literal["bfloat16", "float32"] = result(
        "bfloat16", "number type of the computation and of all weights that are not quantised"
    )
    device: Literal["auto", "cpu", "cuda"] = runtime("auto", "where the model runs; auto takes a GPU if there is one")
    cache: UserPath | None = runtime(
        "results/.cache",
        "folder in which jobs keep for each other what can be made again (the base in NF4, compiled code); it may be "
        "deleted at any time; null keeps nothing",
    )
    threads: int = runtime(0, "CPU threads that torch uses; 0 leaves the number to torch", rounds=True, ge=0, le=4096)

    def by_kind(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return result and runtime fields as every section does, but name the attention only where it is causal.

        So the versions of diffusion models are those from before there was a choice.
        """
        results, runtimes = super().by_kind()
        if self.attention == "bidirectional":
            del results["attention"]
        return results, runtimes

    @property
    def causal(self) -> bool:
        """Whether the model is autoregressive: each token sees itself and those before it."""
        return self.attention == "causal"
