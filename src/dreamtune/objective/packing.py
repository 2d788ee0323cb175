"""Packing: the documents of one forward pass stand one behind the other in a single row, and nothing is padded."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from dreamtune.model.logits import hidden_states
from dreamtune.objective.diffusion import Noised

GPU_MULTIPLE = 64


@dataclass(frozen=True)
class Batch:
    """One forward pass (micro-batch): T tokens, N of which (counted from the left) are supervised."""

    rows: tuple[Noised, ...]
    starts: tuple[int, ...]  # where each document begins
    input_ids: Tensor  # [T] int64
    position_ids: Tensor  # [T] int64, counted from 0 in each document
    boundaries: Tensor  # [documents + 1] int32: starts, and T; what fills the row up is one more document
    widest: int  # tokens of the longest of these documents
    positions: Tensor  # [N] int64, places in the row of T
    targets: Tensor  # [N] int64
    weights: Tensor  # [N] float32
    elbo_weights: Tensor  # [N] float32

    @property
    def longest(self) -> int:
        """Tokens of the longest document that was given."""
        return max(len(row.input_ids) for row in self.rows)

    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the document, counted from 0, and the position within it, of each supervised token: [N] and [N]."""
        positions = self.positions.cpu().numpy()
        starts = np.asarray(self.starts)
        document = np.searchsorted(starts, positions, side="right") - 1
        return document, positions - starts[document]


def split_window(rows: Sequence[Noised], micro_batch_tokens: int) -> list[list[Noised]]:
    """Share documents out among as few forward passes as the budget allows, all of similar size.

    The longest comes first and goes where least stands (Graham's rule). A document longer than the budget has a pass
    to itself, as none can be cut.
    """
    by_length = sorted(rows, key=lambda row: -len(row.input_ids))
    total = sum(len(row.input_ids) for row in rows)
    passes: list[list[Noised]] = []
    fewest = math.ceil(total / micro_batch_tokens)
    for count in range(min(fewest, len(rows)), len(rows) + 1):
        passes = [[] for _ in range(count)]
        filled = [0] * count
        for row in by_length:
            least = filled.index(min(filled))
            passes[least].append(row)
            filled[least] += len(row.input_ids)
        if all(filled[i] <= micro_batch_tokens or len(passes[i]) == 1 for i in range(count)):
            break
    return passes  # at the latest, each document has a pass to itself


def collate(rows: Sequence[Noised], device: torch.device | str = "cpu", multiple: int | None = None) -> Batch:
    """Pack corrupted documents into one row on `device`; a GPU is not waited for.

    Args:
        rows: the documents.
        device: where the tensors are wanted.
        multiple: the row is filled up to a multiple of so many tokens by one more document that nothing looks at; on
            a GPU passes of a new length were seen to take longer, so by default there are fewer lengths.
    """
    multiple = multiple or (GPU_MULTIPLE if torch.device(device).type == "cuda" else 1)
    lengths = [len(row.input_ids) for row in rows]
    starts = np.cumsum([0, *lengths])[:-1].tolist()
    fill = -sum(lengths) % multiple
    lengths += [fill] if fill else []
    boundaries = np.cumsum([0, *lengths])
    places = [start + np.flatnonzero(row.supervised) for start, row in zip(starts, rows, strict=True)]
    return Batch(
        rows=tuple(rows),
        starts=tuple(starts),
        input_ids=_to(np.concatenate([*(row.input_ids for row in rows), np.zeros(fill, np.int64)]), device),
        position_ids=_to(np.concatenate([np.arange(length) for length in lengths]), device),
        boundaries=_to(boundaries.astype(np.int32), device),
        widest=max(lengths),
        positions=_to(np.concatenate(places), device),
        targets=_to(np.concatenate([row.document.tokens[row.supervised] for row in rows]), device),
        weights=_to(np.concatenate([row.weights[row.supervised] for row in rows]), device),
        elbo_weights=_to(np.concatenate([row.elbo_weights[row.supervised] for row in rows]), device),
    )


def hidden_rows(model: nn.Module, batch: Batch) -> Tensor:
    """Return the hidden row that scores each token, [T, D]; see `model.hidden_states`.

    In a shifted family the row of a document's first token is the last of the document before it. No first token is
    ever supervised (`corrupt`), so nothing reads it.
    """
    unused = batch.input_ids.new_ones(1, 1, 1, 1, dtype=torch.bool)  # keeps transformers from making one, [T, T]
    return hidden_states(
        model,
        batch.input_ids[None],
        unused,
        batch.position_ids[None],
        cu_seq_lens_q=batch.boundaries,
        max_length_q=batch.widest,
    )[0]


def _to(array: np.ndarray, device: torch.device | str) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if torch.device(device).type == "cuda" else tensor
