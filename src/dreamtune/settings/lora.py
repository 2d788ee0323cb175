"""The adapter. Apart from training, so that a training option does not enter what only loads a model."""

from dreamtune.settings.base import Float, Section, result


class LoraSettings(Section):
    """The low-rank adapter (Hu et al. 2021; with NF4 base weights: Dettmers et al. 2023)."""

    rank: int = result(16, "rank of the update", ge=1)
    alpha: int = result(16 * 2, "scale of the update; it is multiplied by alpha / rank", ge=1)
    dropout: Float = result(0.05, "dropout on the adapter's input", ge=0.0, lt=1.0)
    target_modules: list[str] = result(
        lambda: ["q_proj", "v_proj"], 'names of the adapted linear layers, or ["all-linear"]', min_length=1
    )
