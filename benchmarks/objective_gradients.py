"""Gradients of fixed documents, and the densities of mask rates that they ask for, for benchmarks/objectives.py."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import _src  # noqa: F401, puts src on the path
import numpy as np
import torch

from dreamtune.model.loading import attach_lora, load, load_adapter
from dreamtune.model.logits import unwrap
from dreamtune.model.nf4 import keep_dequantised
from dreamtune.objective.density import best_density
from dreamtune.objective.diffusion import Document, Noise, Noised, corrupt
from dreamtune.objective.loss import loss_sums, token_losses
from dreamtune.objective.packing import collate, split_window
from dreamtune.settings.model import ModelConfig
from dreamtune.settings.train import TrainConfig
from dreamtune.shards import read_meta, read_split
from dreamtune.train.windows import TrainingWindows

GRID = 11  # rates at which densities are measured, 0 included; its value is taken from the next
MICRO_BATCH = 8192  # tokens that run through the model at a time


class Gradients:
    """Gradients of the trained weights of a model.

    Args:
        base: the base model.
        train: settings of the adapter.
        adapter: folder of a trained one; None takes a new one, with which the model is the base.
    """

    def __init__(self, base: ModelConfig, train: TrainConfig, adapter: Path | None) -> None:
        loaded = load(base)
        if base.quantization == "nf4":
            keep_dequantised(loaded)
        self.model = load_adapter(loaded, adapter) if adapter else attach_lora(loaded, train.lora, train.seed)
        self.weights = [weight for name, weight in self.model.named_parameters() if "lora_" in name]
        for weight in self.weights:
            weight.requires_grad_(True)
        self.model.eval()  # without dropout's noise
        self.device = next(unwrap(self.model).parameters()).device

    def of(self, noised: Sequence[Noised]) -> torch.Tensor:
        """Return the gradient of Σ w·CE, [P] on the CPU, float64."""
        for documents in split_window(noised, MICRO_BATCH):
            batch = collate(documents, self.device)
            if len(batch.positions):
                loss_sums(self.model, batch)[0].backward()
        found = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in self.weights]
        whole = torch.cat([gradient.flatten() for gradient in found]).double().cpu()
        for weight in self.weights:
            weight.grad = None
        return whole


def documents_of(shards: Path, train: TrainConfig, count: int) -> list[Document]:
    """Return the first documents of the first epoch, whole, with the tails that it draws."""
    whole = train.model_copy(update={"cut_share": 0.0, "global_batch": count, "complementary": False})
    windows = TrainingWindows(read_split(shards, "train"), read_meta(shards), whole)
    return [noised.document for noised in windows.noised(1)]


def densities(
    gradients: Gradients, train: TrainConfig, documents: Sequence[Document], masks: int, mask_id: int
) -> dict[str, list[float]]:
    """Return the densities of rates that make loss and gradient least noisy, see `objective.density`."""
    roots: dict[str, list[float]] = {"loss": [], "gradient": []}
    for rate in np.linspace(0, 1, GRID)[1:]:
        losses, squares = [], []
        for document in documents:
            noise = Noise("elbo", float(rate), train.seed, 0, mask_id, tail_as_one=train.tail_loss == "one")
            drawn = [corrupt(document, replace(noise, epoch=draw)) for draw in range(masks)]
            losses.append([_loss(gradients, one) for one in drawn])
            norms = [float(gradients.of([one]).square().sum()) for one in drawn[: max(2, masks // 4)]]
            squares += [norm / drawn[0].loss_tokens ** 2 for norm in norms]
        variance = np.var(losses, axis=1, ddof=1).mean()
        roots["loss"].append(float(np.sqrt(np.mean(losses) ** 2 + variance)))
        roots["gradient"].append(float(np.sqrt(np.mean(squares))))
    return {name: best_density(np.array([found[0], *found]), np.zeros(GRID)) for name, found in roots.items()}


def _loss(gradients: Gradients, noised: Noised) -> float:
    batch = collate([noised], gradients.device)
    if not len(batch.positions):
        return 0.0
    return float((token_losses(gradients.model, batch) * batch.weights).sum()) / noised.loss_tokens
