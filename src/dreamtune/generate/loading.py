"""Load a model for generation: many forward passes and no backward pass."""

from pathlib import Path
from typing import Any

from dreamtune.device.phases import phase
from dreamtune.generate.adapter_fold import cast_factors, fold_where_exact
from dreamtune.model.adapter_format import is_checkpoint
from dreamtune.model.few_bits import check_products, use_few_bits
from dreamtune.model.loading import DTYPES, count_parameters, load, load_adapter
from dreamtune.model.nf4 import has_room_for_dense, keep_dequantised
from dreamtune.model.nonfinite import check_weights
from dreamtune.settings.model import ModelConfig


@phase("loading")
def load_to_generate(config: ModelConfig, trained: Path | None = None, products: str = "bf16") -> Any:
    """Return the model that `model.loading.load` would return, in a form whose forward passes are faster.

    4-bit weights are held dequantised, which gives the same bits, where there is room: on the CPU those of a small
    model, on a GPU those that leave 4 GiB free. A 4-bit product would spend most of its time unpacking weights. The
    adapter is then merged into the dense weights: in float32 always (equal up to rounding), in bfloat16 in the layers
    where rounding is small beside the update (`adapter_fold`). The other layers, and all layers that stay 4-bit, keep
    the adapter beside the weight; its factors have the type `config.dtype`.

    With other `products` than bf16 the decoder's weights stay in 4 bits or become FP8, and the adapter is never merged
    (`few_bits`).

    Args:
        config: the base model, its precision and device.
        trained: an adapter, or the checkpoint of full fine-tuning; None for the base model.
        products: number type of the weights in the layers' products, see the settings.

    Raises:
        UserError: files that are missing or damaged, an adapter that does not fit the model, a weight that is not
            finite, or products that model or device do not have.
    """
    adapter = None if trained is None or is_checkpoint(trained) else trained
    model = load(config, trained if adapter is None else None)
    check_products(products, config, model.device)
    check_weights(model)
    room = has_room_for_dense(model, count_parameters(model)[1], DTYPES[config.dtype])
    if room and products == "bf16":
        keep_dequantised(model)
    tuned = model if adapter is None else load_adapter(model, adapter).eval()
    if adapter is not None:
        check_weights(tuned)
    if products != "bf16":
        use_few_bits(tuned, products, keep_dense=room)
        return cast_factors(tuned, DTYPES[config.dtype])
    if adapter is None:
        return model
    if config.dtype == "float32":
        return tuned.merge_and_unload() if room else tuned
    if room:
        fold_where_exact(tuned)
    return cast_factors(tuned, DTYPES[config.dtype])
