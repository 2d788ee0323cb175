"""Facts about a loaded model beside its transformers configuration, kept on that configuration."""

from typing import NamedTuple

from transformers import PretrainedConfig

from dreamtune.inputs.checkpoint_format import SHIFTED


class Facts(NamedTuple):
    """Facts of a loaded model that never change.

    This is a NamedTuple because a transformers configuration prints itself as JSON, which can hold tuples but no
    dataclass.

    Attributes:
        family: "dream", "llada", "qwen2" or "llama".
        revision: commit of the hub repository it was loaded from; None for a local folder.
        new_row: row of the embeddings of a mask token that the base lacks (see `new_row`); None if it has one.
        flash: whether torch's own FlashAttention runs on the device that it was loaded onto.
        causal: whether each token sees only itself and those before it.
    """

    family: str
    revision: str | None = None
    flash: bool = False
    new_row: int | None = None
    causal: bool = False

    @property
    def shifted(self) -> bool:
        """Whether raw row i - 1 of the head scores token i (see `inputs.checkpoint_format.SHIFTED`)."""
        return self.family in SHIFTED


def set_facts(config: PretrainedConfig, facts: Facts) -> None:
    """Keep the facts on a model's configuration, which its layers and its PEFT wrapper share."""
    config.dreamtune = facts  # type: ignore[attr-defined]


def facts_of(config: PretrainedConfig) -> Facts:
    """Return the facts of the model that a configuration belongs to."""
    facts: Facts = config.dreamtune  # type: ignore[attr-defined]
    return facts


def loaded_as_causal(config: PretrainedConfig) -> bool:
    """Return whether a model was loaded as causal; one that only its `is_causal` calls so was turned by mistake."""
    facts: Facts | None = getattr(config, "dreamtune", None)
    return facts is not None and facts.causal
