"""The shapes of a checkpoint's tensors against its config.json, from the files' headers alone. Torch-free.

4-bit quantisation flattens a weight, so that one of the wrong shape (transposed, say) would load and give finite
logits. transformers compares the shapes of weights that stay as they are, and of no others.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreamtune.errors import UserError
from dreamtune.inputs.checkpoint_format import native_key
from dreamtune.inputs.weight_files import Header

LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
EMBEDDINGS = "model.embed_tokens.weight"


def check_shapes(
    folder: Path, fields: Mapping[str, Any], family: str, headers: Mapping[str, Header]
) -> dict[str, Header]:
    """Check the shapes of all weights and the number of layers; return the headers by native names.

    A shape that follows from a field which is left out is not checked, nor that of an unknown tensor: the
    loader refuses names that the model does not have.

    Args:
        folder: of the checkpoint, for messages.
        fields: of its config.json, under the names that transformers gives them.
        family: "dream", "llada", "qwen2" or "llama".
        headers: of its tensors.

    Raises:
        UserError: a tensor has another shape than the model's, or the files hold another number of layers.
    """
    expected = expected_shapes(fields)
    native: dict[str, Header] = {}
    layers = set()
    for key, header in headers.items():
        name = native_key(key, family)
        native[name] = header
        inside = LAYER.fullmatch(name)
        if inside:
            layers.add(int(inside[1]))
        wanted = expected.get(inside[2] if inside else name)
        if wanted is not None and None not in wanted and header.shape != wanted:
            raise UserError(
                f"{header.file}: {key} has the shape {_text(header.shape)}, and by config.json it should have "
                f"{_text(wanted)}; copy or make the model again"
            )
    number = fields.get("num_hidden_layers")
    if isinstance(number, int) and layers and len(layers) != number:
        raise UserError(
            f"{folder}: config.json says {number:,} layers, and the weights do not fit its config.json: they hold "
            f"{len(layers)}; copy or make the model again"
        )
    return native


def expected_shapes(fields: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Return the shapes [out, in] by a weight's name, without `model.layers.N.` before it; None stands for unknown."""
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim")
    vocabulary, hidden, inner, heads, kv_heads, head = (_number(fields, name) for name in names)
    if head is None and hidden and heads:
        head = hidden // heads
    queries, keys = (head * count if head and count else None for count in (heads, kv_heads))
    return {
        EMBEDDINGS: (vocabulary, hidden),
        "lm_head.weight": (vocabulary, hidden),
        "model.norm.weight": (hidden,),
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
        "self_attn.q_proj.weight": (queries, hidden),
        "self_attn.k_proj.weight": (keys, hidden),
        "self_attn.v_proj.weight": (keys, hidden),
        "self_attn.o_proj.weight": (hidden, queries),
        "self_attn.q_proj.bias": (queries,),
        "self_attn.k_proj.bias": (keys,),
        "self_attn.v_proj.bias": (keys,),
        "self_attn.o_proj.bias": (hidden,),
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
        "mlp.gate_proj.bias": (inner,),
        "mlp.up_proj.bias": (inner,),
        "mlp.down_proj.bias": (hidden,),
    }


def _number(fields: Mapping[str, Any], name: str) -> int | None:
    value = fields.get(name)
    return value if isinstance(value, int) else None


def _text(shape: tuple[int, ...]) -> str:
    """Return a shape as people write it.

    >>> _text((512, 128))
    '512 x 128'
    """
    return " x ".join(map(str, shape)) or "that of a single number"
