"""Packing: the documents of a micro-batch stand one behind the other in a single row, without padding between them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from dreamtune.model.logits import hidden_states
from dreamtune.objective.diffusion import Noised

GPU_MULTIPLE = 64  # tokens; on a GPU a packed row is padded to a multiple, see `collate`


@dataclass(frozen=True)
class Batch:
    """One micro-batch: documents packed into a row of T tokens, N of which are supervised, from left to right."""

    noised: tuple[Noised, ...]  # the corrupted documents
    starts: tuple[int, ...]  # where each document begins in the row
    input_ids: Tensor  # [T] int64
    position_ids: Tensor  # [T] int64, counted from 0 in each document
    boundaries: Tensor  # [documents + 1] int32: `starts`, and T; padding counts as one more document
    max_length: int  # tokens of the longest document, the padding's included
    positions: Tensor  # [N] int64, where the supervised tokens stand in the row
    targets: Tensor  # [N] int64, the tokens that stood there before corruption
    weights: Tensor  # [N] float32, w of the trained loss
    elbo_weights: Tensor  # [N] float32, w of the reported bound
    sources: Tensor | None = None  # [N] int64, the source of each supervised token, where there are several
    right_context: int | None = None  # later tokens that each token attends to, see `objective.annealing`; None for all

    @property
    def ordered(self) -> bool:
        """Whether `positions` ascend; those of a micro-batch that is padded for a CUDA graph do not."""
        return bool(self.noised)

    @property
    def longest(self) -> int:
        """Tokens of the longest document, padding left out."""
        return max(len(noised.input_ids) for noised in self.noised)

    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """Return for each supervised token its document, counted from 0, and its position in it: [N] and [N]."""
        positions = self.positions.cpu().numpy()
        starts = np.asarray(self.starts)
        document = np.searchsorted(starts, positions, side="right") - 1
        return document, positions - starts[document]


def split_window(documents: Sequence[Noised], micro_batch_tokens: int) -> list[list[Noised]]:
    """Share documents out among as few micro-batches as the token budget allows, all of similar size.

    The longest document comes first, and each goes to the micro-batch that has the fewest tokens so far (Graham 1969,
    longest processing time first). Documents are never cut, so one that is longer than the budget stands alone.

    With a budget of 12 tokens, documents of 5, 9, 3 and 4 make two micro-batches:

    >>> from dreamtune.objective.diffusion import Document, Noise, corrupt
    >>> noise = Noise("elbo", rate=1.0, seed=0, epoch=0, mask_id=9)
    >>> window = [corrupt(Document(n, np.zeros(length, int), 1, 0), noise) for n, length in enumerate([5, 9, 3, 4])]
    >>> [[len(noised.input_ids) for noised in documents] for documents in split_window(window, 12)]
    [[9, 3], [5, 4]]
    """
    by_length = sorted(documents, key=lambda noised: -len(noised.input_ids))
    total = sum(len(noised.input_ids) for noised in documents)
    micro_batches: list[list[Noised]] = []
    fewest = math.ceil(total / micro_batch_tokens)
    for count in range(min(fewest, len(documents)), len(documents) + 1):
        micro_batches = [[] for _ in range(count)]
        tokens = [0] * count
        for noised in by_length:
            least = tokens.index(min(tokens))
            micro_batches[least].append(noised)
            tokens[least] += len(noised.input_ids)
        if all(tokens[i] <= micro_batch_tokens or len(micro_batches[i]) == 1 for i in range(count)):
            break
    return micro_batches  # the last attempt has one document in each, which is always allowed


def collate(documents: Sequence[Noised], device: torch.device | str = "cpu", multiple: int | None = None) -> Batch:
    """Pack corrupted documents into one micro-batch on `device`, without waiting for the GPU.

    Args:
        documents: at least one.
        device: of the tensors.
        multiple: the row is padded to a multiple of this many tokens. The padding is one more document, to which no
            other attends. Default: GPU_MULTIPLE on a GPU, where a row of a new length was seen to take longer, so
            that there are fewer lengths; 1 elsewhere.
    """
    multiple = multiple or (GPU_MULTIPLE if torch.device(device).type == "cuda" else 1)
    lengths = [len(noised.input_ids) for noised in documents]
    starts = np.cumsum([0, *lengths])[:-1].tolist()
    padding = -sum(lengths) % multiple
    lengths += [padding] if padding else []
    boundaries = np.cumsum([0, *lengths])
    numbers = [(noised.document.source, int(noised.supervised.sum())) for noised in documents]
    sources = None
    if all(source is not None for source, _ in numbers):
        sources = _to(np.repeat(*np.array(numbers, np.int64).T), device)
    places = [start + np.flatnonzero(noised.supervised) for start, noised in zip(starts, documents, strict=True)]
    return Batch(
        noised=tuple(documents),
        starts=tuple(starts),
        input_ids=_to(
            np.concatenate([*(noised.input_ids for noised in documents), np.zeros(padding, np.int64)]), device
        ),
        position_ids=_to(np.concatenate([np.arange(length) for length in lengths]), device),
        boundaries=_to(boundaries.astype(np.int32), device),
        max_length=max(lengths),
        positions=_to(np.concatenate(places), device),
        targets=_to(np.concatenate([noised.document.tokens[noised.supervised] for noised in documents]), device),
        weights=_to(np.concatenate([noised.weights[noised.supervised] for noised in documents]), device),
        elbo_weights=_to(np.concatenate([noised.elbo_weights[noised.supervised] for noised in documents]), device),
        sources=sources,
    )


def hidden_rows(model: nn.Module, batch: Batch, tokens: Tensor | None = None) -> Tensor:
    """Return the hidden states of a micro-batch, [T, D], whose row i scores token i; see `logits.hidden_states`.

    In a shifted family the row of a document's first token comes from the document before it. `corrupt` never
    supervises a first token, so nothing reads this row.

    Args:
        model: with or without an adapter.
        batch: the micro-batch.
        tokens: [N], ascending: only the rows that score these tokens are returned, [N, D], and computed by the last
            layer. The model's layers must know how (`train.layers.prepare_layers`).
    """
    # A right context that no document exceeds is none: the same kernels as without, to the bit.
    limited = batch.right_context is not None and batch.right_context < batch.max_length - 1
    unused = batch.input_ids.new_ones(1, 1, 1, 1, dtype=torch.bool)  # without a mask transformers makes one, [T, T]
    return hidden_states(
        model,
        batch.input_ids[None],
        unused,
        batch.position_ids[None],
        cu_seq_lens_q=batch.boundaries,
        max_length_q=batch.max_length,
        tokens=tokens,
        **{"right_context": batch.right_context} if limited else {},
    )[0]


def _to(array: np.ndarray, device: torch.device | str) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if torch.device(device).type == "cuda" else tensor
