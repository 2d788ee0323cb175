"""Settings of the checkpoint that `snakemake merge` makes."""

from typing import Literal

from dreamtune.settings.base import Section, result


class MergeConfig(Section):
    """Settings of the export of a trained adapter, which `snakemake merge` makes."""

    weights: Literal["base", "float32", "unmerged"] = result(
        "base",
        "base adds the adapter to weights of the base checkpoint's own type, which may round much of a small update "
        "away (in bfloat16; merge.json says how much); float32 keeps the update, in twice the size of bfloat16; "
        "unmerged writes the adapter alone, under the official code's names, for PEFT on top of the base",
    )
