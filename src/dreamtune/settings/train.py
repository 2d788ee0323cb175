"""Settings of training: objective, adapter, optimiser, memory. The runs smoke and full change some (runs.py)."""

import math
from typing import Annotated, Literal

from pydantic import Field, field_validator

from dreamtune.settings.base import LONG, MANY, SEED, Float, Section, result, runtime
from dreamtune.settings.lora import LoraSettings
from dreamtune.settings.rate import Rate


class TrainConfig(Section):
    """Settings of a training run. `smoke` and `full` override `rows`, `epochs`, `max_steps` and `log_every`."""

    objective: Literal["elbo", "cart", "uniform", "copy", "causal"] = result(
        "elbo",
        "weight of a masked token's loss at masking rate t: 1/t (elbo), more with visible tokens nearby (cart), or 1 "
        "(uniform); copy masks nothing, so the input holds the answer: it is kept to show that the canaries catch it; "
        "causal (next-token cross entropy, weight 1) is what model.attention causal sets it to",
    )
    mask_counts: Literal["exact", "random"] = result(
        "exact",
        "how response tokens are chosen: exactly k of L of them, k evenly from 1 to L, with the weight L/k in place of "
        "1/t (arXiv 2502.09992, eq. 6), or each by itself with probability t: the same bound, a noisier gradient",
    )
    complementary: bool = result(
        False, "train on each document twice per optimiser step: with a random mask, and with its complement"
    )
    pairs: Literal["complement", "mirror"] = result(
        "complement",
        "the second mask that complementary trains: what the first shows, at the rate 1 - t; or mirror, at the rate t "
        "again, the tokens with the largest random numbers where the first takes the smallest (arXiv 2511.18159)",
    )
    rate_draws: Literal["even", "independent", "per_document"] = result(
        "even",
        "how mask rates are spread: evenly over successive documents, each document by itself, or evenly over the "
        "epochs of each document",
    )
    rate_density: list[Annotated[Float, Field(gt=0.0, le=1e9)]] = result(
        list,
        "relative density with which mask rates are drawn, at evenly spaced rates from the lowest to the highest, "
        "linear between; losses are divided by it, so no expectation changes; empty is uniform; "
        "benchmarks/objectives.py density measures that of P-POTS (arXiv 2511.18159)",
        max_length=10_000,
    )
    rate_range: list[Annotated[Float, Field(ge=0.0, le=1.0)]] = result(
        lambda: [0.0, 1.0],
        "lowest and highest mask rate (clipped t); a narrower range than 0 to 1 trains another loss than the bound: "
        "it is biased for it, so train_log.jsonl has no elbo then",
        min_length=2,
        max_length=2,
    )
    mask_block: int | None = result(
        None,
        "mask only a block of this many response tokens, drawn for each document and epoch, with all before it visible "
        "and all behind it hidden (arXiv 2508.19529): this bounds the likelihood of writing block by block, another "
        "one than is reported, so train_log.jsonl has no elbo then; null masks over the whole response",
        ge=1,
        le=LONG,
    )
    tail_masks: Literal["each", "together"] = result(
        "each",
        "whether the end tokens behind an answer are hidden one by one, or the first and its tail together, as one of "
        "the tokens: a tail then never gives away where the answer ends",
    )
    max_tail: int = result(
        64,
        "most end tokens appended after the first one, on top of data.max_tokens; their number is drawn per row, 0 to "
        "this, uniformly; also the default of generate.lookahead",
        ge=0,
        le=LONG,
    )
    long_tail: int = result(
        0,
        "most end tokens of a long tail: their number is drawn from 0 to this in long_tail_share of the rows; 0 for "
        "none; generation in blocks can show lookahead + block_length - 1 positions behind an answer's end",
        ge=0,
        le=LONG,
    )
    long_tail_share: Float = result(0.1, "share of the rows (0 to 1) whose tail is a long one", ge=0.0, le=1.0)
    tail_loss: Literal["one", "each"] = result(
        "one",
        "what a tail counts for in the loss: as one token, by the mean over its tokens, or each of its tokens as one; "
        "with each, long tails would make most of the loss",
    )
    padding_tokens: list[Annotated[int, Field(ge=0, le=2**31 - 1)]] = result(
        list,
        "ids of tokens that fill a tail in turn, in place of repeated end tokens (arXiv 2510.03680: seven distinct "
        "ones keep a model from ending early); empty repeats the end token",
    )
    cut_share: Float = result(
        0.0,
        "share of the rows (0 to 1) of which only the beginning is shown, cut at a random token of the response, with "
        "neither end token nor tail: training then also shows canvases that end before the answer does; for these rows "
        "loss and elbo bound the likelihood of the beginning that is shown",
        ge=0.0,
        lt=1.0,
    )
    attention_annealing: Float = result(
        0.0,
        "share of the steps (0 to 1), the first ones, in which each token of an autoregressive checkpoint attends to "
        "few later ones: to none, then to 8, then to twice as many again and again; all other steps, validation and "
        "whatever follows training attend to the whole document; 0 for no such steps (docs/recipes.md)",
        ge=0.0,
        lt=1.0,
    )
    finetuning: Literal["lora", "full"] = result(
        "lora", "lora trains an adapter; full trains all weights (full fine-tuning; needs model.quantization none)"
    )
    lora: LoraSettings = result(LoraSettings, "the low-rank adapter; unused in full fine-tuning")
    products: Literal["bf16", "fp8"] = result(
        "bf16",
        "number type in which frozen weights are multiplied in training: that of the model, or 8-bit floating point "
        "with a scale for each token, which is faster and rounds more coarsely; fp8 needs a GPU that has it (Ada, "
        "Hopper or newer) and model.dtype bfloat16",
    )
    learning_rate: Rate = result(
        2e-5,
        "peak learning rate; or find: smoke's range test (arXiv 1506.01186) chooses a tenth of the rate at which the "
        "loss turned, and the full run takes it (not for full fine-tuning)",
    )
    schedule: Literal["cosine", "linear", "constant"] = result(
        "cosine", "course of the learning rate after the warm-up: falling towards 0 after the last step, or constant"
    )
    warmup: Float = result(
        0.03, "share of all steps (0 to 1) over which the learning rate rises linearly from 0", ge=0.0, le=1.0
    )
    optimizer: Literal["adamw", "paged_adamw_8bit"] = result(
        "adamw", "AdamW, or bitsandbytes' paged AdamW with an 8-bit state, which needs a GPU"
    )
    betas: list[Annotated[Float, Field(ge=0.0, lt=1.0)]] = result(
        lambda: [0.9, 0.999], "AdamW's decay rates of first and second moment", min_length=2, max_length=2
    )
    weight_decay: Float = result(0.0, "AdamW's decoupled weight decay", ge=0.0, le=10.0)
    max_grad_norm: Float = result(1.0, "gradient norm above which gradients are scaled down to it", gt=0.0, le=1e9)
    global_batch: int = result(8, "documents per optimiser step, on all GPUs together", ge=1, le=1_000_000)
    rows: int | None = result(
        None, "train only on this many rows, which rows_by chooses; null trains on all", ge=1, le=MANY
    )
    rows_by: Literal["order", "draw"] = result(
        "order",
        "which rows `rows` takes: the first ones, of several sources some of each; or those that rows_seed draws, each "
        "smaller draw inside each larger one",
    )
    rows_seed: int = result(0, "seed of that draw", **SEED)
    epochs: int = result(3, "times that the rows of epochs_of are trained on", ge=1, le=1_000_000)
    epochs_of: Literal["rows", "all"] = result(
        "rows",
        "what `epochs` counts: passes over the rows that are trained on; or steps enough for passes over all training "
        "rows, so that runs on fewer rows take as many steps (and repeat them more often)",
    )
    max_steps: int | None = result(None, "stop after this many optimiser steps; null runs all epochs", ge=1, le=MANY)
    seed: int = result(0, "seed of order, masks, number of end tokens, dropout and adapter initialisation", **SEED)
    validate_every: int | None = result(
        None, "optimiser steps between validations; null validates once per epoch", ge=1, le=MANY
    )
    validation_rows: int = result(
        256, "validation rows used: the first ones, under the same masks at every validation; 0 for none", ge=0, le=MANY
    )
    gpus: int = runtime(
        1,
        "GPUs per node, one process each (on the CPU: processes); they share the documents of every step",
        rounds=True,
        ge=1,
        le=1024,
    )
    nodes: int = runtime(1, "nodes, each with that many GPUs; more than one needs SLURM", rounds=True, ge=1, le=10_000)
    micro_batch_tokens: int | None = runtime(
        None,
        "tokens of one micro-batch; the gradients of a step's micro-batches are accumulated, so the loss does not "
        "depend on it; null chooses it by the free memory",
        rounds=True,
        ge=1,
        le=MANY,
    )
    recompute_layers: int | None = runtime(
        None,
        "decoder layers with activation checkpointing: they recompute their activations in the backward pass, which "
        "saves memory and costs time; 0 is none; null chooses it by the free memory",
        rounds=True,
        ge=0,
        le=100_000,
    )
    weights: Literal["auto", "packed", "dequantised"] = runtime(
        "auto",
        "how 4-bit weights are held: packed, or dequantised once into the same numbers (faster, about four times the "
        "memory); auto chooses by the free memory",
        rounds=True,
    )
    compile: bool | None = runtime(
        None,
        "whether the decoder layers are compiled by torch.compile; null compiles on a GPU if the full run is "
        "long enough to pay for it",
        rounds=True,
    )
    graphs: bool | None = runtime(
        None,
        "whether a micro-batch's forward and backward pass is launched as one CUDA graph, padded to few lengths; null "
        "does so on a GPU where the model is so small that launching kernels takes longer than running them",
        rounds=True,
    )
    memory_gib: Float | None = runtime(
        None,
        "GPU memory in GiB that a process may take, the model included; null takes all that is free",
        gt=0.0,
        le=100_000.0,
    )
    log_every: int = runtime(5, "optimiser steps between log lines", ge=1, le=MANY)
    checkpoint_minutes: Float = runtime(
        10.0,
        "most minutes between checkpoints; another one is written at the end of each epoch",
        gt=0.0,
        le=1_000_000.0,
    )
    checkpoint_steps: int | None = runtime(
        None, "optimiser steps between further checkpoints; null writes none by the step", ge=1, le=MANY
    )
    keep_checkpoints: int = runtime(2, "number of checkpoints kept, the newest ones", ge=1, le=100_000)
    tensorboard: bool = runtime(False, "whether TensorBoard events are written, too, into the version's folder")
    on_failed_gate: Literal["stop", "continue"] = runtime(
        "stop",
        "whether the full run starts although a canary of smoke failed; with continue the verdict can only be invalid",
    )

    @property
    def longest_tail(self) -> int:
        """Most tokens that stand behind an answer's end token."""
        return max(self.max_tail, self.long_tail if self.long_tail_share else 0)

    @property
    def mean_tail(self) -> float:
        """Mean number of tokens behind a row's end token, over cut rows too, which have none.

        >>> TrainConfig(max_tail=8, long_tail=24, long_tail_share=0.25, cut_share=0.5).mean_tail
        3.0
        """
        share = self.long_tail_share if self.long_tail else 0.0
        return (1 - self.cut_share) * ((1 - share) * self.max_tail + share * self.long_tail) / 2

    @field_validator("rate_density")
    @classmethod
    def density_has_two_points(cls, density: list[float]) -> list[float]:
        if len(density) == 1:
            raise ValueError("expected two densities at least, for the lowest and the highest rate, or none")
        return density

    @field_validator("rate_range")
    @classmethod
    def range_is_not_empty(cls, bounds: list[float]) -> list[float]:
        if bounds[0] >= bounds[1]:
            raise ValueError("expected the lowest and then the highest rate, such as [0.2, 0.8]")
        return bounds

    @property
    def exact_counts(self) -> bool:
        """Whether exactly k of L response tokens are masked."""
        return self.mask_counts == "exact"

    @property
    def all_rates(self) -> bool:
        """Whether mask rates are drawn from all of 0 to 1, as the reported bound takes them."""
        return self.rate_range == [0.0, 1.0]

    @property
    def peak_rate(self) -> float:
        """The learning rate as a number; `find` has to be replaced by what the range test chose before."""
        assert not isinstance(self.learning_rate, str), "no learning rate was found yet"
        return self.learning_rate

    def steps_per_epoch(self, all_rows: int) -> int:
        """Return the optimiser steps of an epoch as `epochs` counts it, of a training split with `all_rows` rows."""
        rows = all_rows if self.epochs_of == "all" else min(self.rows or all_rows, all_rows)
        return math.ceil(rows / self.global_batch)

    def total_steps(self, all_rows: int) -> int:
        """Return the optimiser steps of a run whose training split has `all_rows` rows.

        >>> quarter = {"rows": 25, "global_batch": 5, "epochs": 3}
        >>> TrainConfig(**quarter).total_steps(100), TrainConfig(**quarter, epochs_of="all").total_steps(100)
        (15, 60)
        """
        steps = self.steps_per_epoch(all_rows) * self.epochs
        return min(steps, self.max_steps or steps)

    @property
    def pairs_masks(self) -> bool:
        """Whether each document stands in its window twice, under a pair of masks; `copy` has no masks to pair."""
        return self.complementary and self.objective != "copy"
