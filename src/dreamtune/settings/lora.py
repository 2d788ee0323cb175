"""The adapter's settings, in a module apart from train.py: a stage that only loads an adapter imports no other ones."""

from typing import Any, Literal

from dreamtune.settings.base import Float, Section, result


class LoraSettings(Section):
    """Settings of the low-rank adapter (Hu et al. 2021; over 4-bit NF4 base weights: Dettmers et al. 2023)."""

    rank: int = result(16, "rank of the low-rank weight update", ge=1, le=65_536)
    alpha: int = result(16 * 2, "scale of the weight update, which is multiplied by alpha / rank", ge=1, le=1_000_000)
    variant: Literal["lora", "rslora", "dora"] = result(
        "lora",
        "lora; rslora, whose update is multiplied by alpha / sqrt(rank), so that large ranks learn too (arXiv "
        "2312.03732); or dora, which also trains the norm of each row of the weight (arXiv 2402.09353), in PEFT's own "
        "layers, which take more time",
    )
    dropout: Float = result(0.05, "dropout probability on the adapter's input, during training", ge=0.0, lt=1.0)
    shared_dropout: bool = result(
        False,
        "whether adapters that share an input (q, k and v; gate and up) also share its dropout, which is faster and is "
        "another noise",
    )
    target_modules: list[str] = result(
        lambda: ["q_proj", "v_proj"], 'names of the adapted linear layers, or ["all-linear"]', min_length=1
    )

    def as_peft(self) -> dict[str, Any]:
        """Return the settings under PEFT's names, without the target modules."""
        return {
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "use_rslora": self.variant == "rslora",
            "use_dora": self.variant == "dora",
        }
