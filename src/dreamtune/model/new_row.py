"""A mask token that the base model lacks, in a row of its embeddings that has no token (`model.mask_token: new`).

Embeddings are often larger than the tokenizer (Dream 7B: 152,064 rows, 151,667 tokens), so that no weight grows. The
row is the mean of the rows of all tokens. Training an adapter leaves it as it is, full fine-tuning trains it.

With the adapter it is saved as PEFT saves a token that was trained (`trainable_token_indices`), one row of numbers:
PEFT puts it in place, without this code.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamtune.errors import UserError
from dreamtune.model.facts import facts_of

EMBEDDINGS = "embed_tokens"  # last part of the module's name in transformers
SUFFIX = "token_adapter.trainable_tokens_delta"
KEY = f"base_model.model.model.{EMBEDDINGS}.{SUFFIX}"  # [1, D], in the adapter's file
INDICES = "trainable_token_indices"  # in adapter_config.json
ROUNDING = 0.05  # by which a row differs at most where the base was loaded in another type
AT_ONCE = 4096  # rows that are held in float64


def set_mean_row(embeddings: Tensor, row: int) -> Tensor:
    """Set row `row` of embeddings [V, D] to the mean of the rows before it, in place; return the embeddings.

    >>> set_mean_row(torch.tensor([[1.0, 0.0], [3.0, 2.0], [9.0, 9.0]]), 2)[2]
    tensor([2., 1.])

    Raises:
        UserError: there is no such row.
    """
    if not 0 < row < len(embeddings):
        raise UserError(
            f"model.mask_token is new, and the embeddings have {len(embeddings):,} rows, none of them without a token; "
            "name an unused token of the tokenizer instead"
        )
    with torch.no_grad():
        chunks = embeddings[:row].split(AT_ONCE)
        embeddings[row] = sum(chunk.double().sum(0) for chunk in chunks) / row
    return embeddings


def row_to_save(model: Any) -> dict[str, Tensor]:
    """Return the row of a new mask token under the name that PEFT gives it, [1, D]; {} without one.

    Args:
        model: from `load_model`, not wrapped.
    """
    row = facts_of(model.config).new_row
    return {} if row is None else {KEY: model.get_input_embeddings().weight.detach()[row : row + 1].clone()}


def check_row(model: Any, config: Mapping[str, Any], saved: Tensor | None, adapter: Path) -> None:
    """Check that a model's new mask token is the one that an adapter was trained with.

    Args:
        model: from `load_model`, not wrapped.
        config: the content of the adapter's adapter_config.json.
        saved: its tensor `KEY`, None without one.
        adapter: its folder, for messages.

    Raises:
        UserError: one of them has a new mask token and the other has none or another.
    """
    row = facts_of(model.config).new_row
    if config.get(INDICES) != (None if row is None else {EMBEDDINGS: [row]}) or (saved is None) != (row is None):
        said = "sets rows of the embeddings" if config.get(INDICES) else "sets no row of the embeddings"
        raise UserError(
            f"the adapter in {adapter} {said}, which does not fit the model; load it with the model.mask_token of its "
            "training"
        )
    if row is not None and saved is not None:
        made = model.get_input_embeddings().weight[row].float().cpu()
        if (saved[0].float() - made).norm() > ROUNDING * made.norm():
            raise UserError(
                f"the adapter in {adapter} was trained with another row {row} of the embeddings than the mean of this "
                "model's; load it on the base model of its training"
            )
