"""What can be known of a model before anything runs: by its config.json, tokenizer and the headers of its weights.

Torch-free: the Snakefile checks each model while it plans, and `snakemake download` what it has fetched.
"""

from pathlib import Path

from dreamtune.inputs.checkpoint_format import check_attention, family_of, native_fields, read_config
from dreamtune.inputs.shapes import EMBEDDINGS, check_shapes
from dreamtune.inputs.special_tokens import check_special_tokens
from dreamtune.inputs.weight_files import read_headers, weight_files


def check_model(
    folder: Path, family: str | None = None, mask_token: str | None = None, attention: str = "bidirectional"
) -> None:
    """Check that a model can be loaded and trained as far as its files say so without being read.

    Args:
        folder: of the checkpoint.
        family: the setting model.family.
        mask_token: the setting model.mask_token.
        attention: the setting model.attention; a causal model needs no mask token.

    Raises:
        UserError: see `checkpoint_format.family_of` and `check_attention`, `shapes.check_shapes` and
            `special_tokens.check_special_tokens`.
    """
    raw = read_config(folder)
    kind = family_of(raw, family, folder)
    check_attention(kind, attention, folder)
    headers = check_shapes(folder, native_fields(raw, kind), kind, read_headers(weight_files(folder)))
    rows = headers[EMBEDDINGS].shape[0] if EMBEDDINGS in headers else None
    check_special_tokens(folder, raw, rows, mask_token, masks=attention == "bidirectional")
