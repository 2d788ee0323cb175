"""Training: the objective, the adapter, the optimiser; and what smoke and full change of it."""

from typing import Literal

from dreamtune.settings.base import Float, Section, result, runtime
from dreamtune.settings.lora import LoraSettings


class TrainConfig(Section):
    """One training run. `smoke` and `full` override `rows`, `epochs`, `max_steps` and `log_every`."""

    objective: Literal["elbo", "cart", "uniform", "copy"] = result(
        "elbo",
        "weight of a masked token: 1/t (elbo), context-adaptive (cart), 1 (uniform); copy masks nothing and is kept "
        "to show that it fails",
    )
    complementary: bool = result(False, "train each document on a mask and on its complement in the same window")
    max_tail: int = result(64, "at most so many further end tokens after the first, drawn per row", ge=0)
    finetuning: Literal["lora", "full"] = result(
        "lora", "what is trained: an adapter, or all weights (full; needs model.quantization none)"
    )
    lora: LoraSettings = result(LoraSettings, "the adapter")
    learning_rate: Float = result(2e-5, "peak learning rate", gt=0.0)
    schedule: Literal["cosine", "linear", "constant"] = result("cosine", "decay after the warm-up, to 0 at the end")
    warmup: Float = result(0.03, "share of all steps over which the learning rate rises from 0", ge=0.0, le=1.0)
    optimizer: Literal["adamw", "paged_adamw_8bit"] = result("adamw", "paged_adamw_8bit needs a GPU")
    betas: list[Float] = result(lambda: [0.9, 0.999], "AdamW's two decay rates", min_length=2, max_length=2)
    weight_decay: Float = result(0.0, "AdamW's decoupled weight decay", ge=0.0)
    max_grad_norm: Float = result(1.0, "gradient norm above which gradients are scaled down", gt=0.0)
    global_batch: int = result(8, "documents of one optimiser step", ge=1)
    rows: int | None = result(None, "train only on the first so many rows; null takes all", ge=1)
    epochs: int = result(3, "passes over the training rows", ge=1)
    max_steps: int | None = result(None, "stop after so many optimiser steps; null runs all epochs", ge=1)
    seed: int = result(0, "seed of order, masks, tails, dropout and adapter initialisation")
    validate_every: int | None = result(None, "steps between validations; null validates once per epoch", ge=1)
    validation_rows: int = result(256, "validation rows used, always the same with the same masks", ge=0)
    gpus: int = runtime(1, "processes, each on a GPU of its own, that share every window of a training; per node", ge=1)
    nodes: int = runtime(1, "nodes with so many GPUs each; more than one needs SLURM", ge=1)
    micro_batch_tokens: int | None = runtime(
        None, "tokens of one forward pass; splits a window, never changes its loss; null plans it", ge=1
    )
    recompute_layers: int | None = runtime(
        None,
        "decoder layers whose activations are recomputed in the backward pass: 0 none, the model's number of layers "
        "all; null plans it",
        ge=0,
    )
    weights: Literal["auto", "packed", "dequantised"] = runtime(
        "auto", "how 4-bit weights are held in memory: packed, or as the same numbers dequantised; auto plans it"
    )
    compile: bool | None = runtime(None, "torch.compile each decoder layer; null: on a GPU")
    memory_gib: Float | None = runtime(None, "GPU memory that may be taken; null takes what is free", gt=0.0)
    log_every: int = runtime(5, "optimiser steps between log lines", ge=1)
    checkpoint_minutes: Float = runtime(10.0, "minutes between checkpoints; one is written per epoch besides", gt=0.0)
    checkpoint_steps: int | None = runtime(None, "optimiser steps between checkpoints besides", ge=1)
    keep_checkpoints: int = runtime(2, "newest checkpoints that are kept", ge=1)
    tensorboard: bool = runtime(False, "also write TensorBoard events into the stage's folder")
    on_failed_gate: Literal["stop", "continue"] = runtime(
        "stop", "continue trains on after smoke's canaries failed; the verdict can then only be invalid"
    )

    @property
    def pairs_masks(self) -> bool:
        """Whether each document stands in its window twice, with complementary masks; `copy` has no masks to pair."""
        return self.complementary and self.objective != "copy"


class RunOverrides(Section):
    """What a run (`smoke` or `full`) changes of `train`; null keeps what stands there."""

    rows: int | None = result(None, "train only on the first so many rows", ge=1)
    epochs: int | None = result(None, "passes over the rows", ge=1)
    max_steps: int | None = result(None, "stop after so many optimiser steps", ge=1)
    log_every: int | None = runtime(None, "optimiser steps between log lines", ge=1)

    def applied_to(self, train: TrainConfig) -> TrainConfig:
        """Return `train` with this run's numbers."""
        given = {name: value for name, value in self.model_dump().items() if value is not None}
        return train.model_copy(update=given)


class SmokeOverrides(RunOverrides):
    """What the smoke run changes of `train`: by default 64 rows for one epoch, each step logged."""

    rows: int | None = result(64, "train only on the first so many rows", ge=1)
    epochs: int | None = result(1, "passes over the rows", ge=1)
    log_every: int | None = runtime(1, "optimiser steps between log lines", ge=1)
