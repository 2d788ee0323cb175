"""The model as generation wants it: many forward passes, none backward."""

from pathlib import Path
from typing import Any

from dreamtune.generate.adapter_fold import cast_factors, fold_where_exact
from dreamtune.model.adapter_format import is_checkpoint
from dreamtune.model.loading import DTYPES, count_parameters, load, load_adapter
from dreamtune.model.nf4 import has_room_for_dense, keep_dequantised
from dreamtune.settings.model import ModelConfig


def load_to_generate(config: ModelConfig, trained: Path | None = None) -> Any:
    """Return the same model, prepared for many forward passes.

    Its 4-bit weights are held dequantised (equal to the bit) where there is room: on the CPU those of a small model,
    on a GPU those that leave 4 GiB free. The 4-bit product would spend most of its time unpacking. An adapter is then
    added into them: in float32 always (equal to rounding), in bfloat16 where the rounding of the sum is small beside
    the update (`adapter_fold`). Kept unmerged is the adapter of every other layer, and all of it where the weights
    stay 4-bit; in bfloat16 its factors are cast to bfloat16.

    Args:
        trained: an adapter or, of full fine-tuning, a checkpoint, see `model.load`.
    """
    adapter = None if trained is None or is_checkpoint(trained) else trained
    model = load(config, trained if adapter is None else None)
    dense = has_room_for_dense(model, count_parameters(model)[1], DTYPES[config.dtype])
    if dense:
        keep_dequantised(model)
    if adapter is None:
        return model
    tuned = load_adapter(model, adapter).eval()
    if config.dtype == "float32":
        return tuned.merge_and_unload() if dense else tuned
    if dense:
        fold_where_exact(tuned)
    return cast_factors(tuned, DTYPES[config.dtype])
