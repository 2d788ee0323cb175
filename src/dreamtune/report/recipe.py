"""The recipe: what was trained, on which data and hardware, and how long it took; for the report's first screen."""

from collections.abc import Mapping, Sequence
from typing import Any

from dreamtune.readable import duration, number, percent
from dreamtune.report.axes import scientific
from dreamtune.report.text import reveal

UNMASKED = {
    "causal": "autoregressive: cross entropy of the next token",
    "copy": "copy: nothing is masked, so the input holds the answer",
}
WEIGHTS = {"elbo": "losses weighted by {}", "cart": "losses weighted by visible neighbours (CART)"}
MASKS = (  # settings of `train` that choose masks, of tokens with their weights and of attention
    *("mask_counts", "complementary", "pairs", "rate_density", "rate_range", "mask_block", "tail_masks"),
    *("cut_share", "attention_annealing"),
)
Json = Mapping[str, Any]


def find_recipe(
    settings: Json, training: Json, manifests: Mapping[str, Json], audit: Json, wall_s: Json
) -> dict[str, Any]:
    """Return the recipe of the full run as summary.json has it; what is unknown is None.

    Args:
        settings: each stage's settings by section.
        training: training.json of the full run, {} if there is none.
        manifests: of each stage.
        audit: audit.json of the shards.
        wall_s: seconds of each stage, and their total.
    """
    full, manifest = settings.get("full", {}), manifests.get("full", {})
    train, model, device = full.get("train", {}), full.get("model", {}), training.get("ran_as", {}).get("device")
    lora = train.get("lora", {}) if train.get("finetuning", "lora") == "lora" else {}
    total, trained = training.get("parameters"), training.get("trainable")
    return {
        "model": model.get("path"),
        "parameters": total - trained if lora and total and trained else total,
        "quantization": model.get("quantization"),
        "data": _paths(settings.get("shards", {}).get("data", {})),
        "rows": training.get("rows"),
        "test_rows": (audit.get("rows") or {}).get("test"),
        "objective": train.get("objective"),
        "masks": {name: train[name] for name in MASKS if name in train},
        "finetuning": train.get("finetuning"),
        "rank": lora.get("rank"),
        "variant": lora.get("variant", "lora") if lora else None,
        "products": train.get("products"),
        "learning_rate": training.get("learning_rate", _number(train.get("learning_rate"))),
        "schedule": train.get("schedule"),
        "epochs": training.get("epochs"),
        "steps": training.get("steps"),
        "global_batch": train.get("global_batch"),
        "device": device,
        "processes": training.get("processes"),
        "processor": manifest.get("gpu" if device == "cuda" else "cpu"),
        "host": manifest.get("host"),
        "training_s": wall_s.get("full"),
        "total_s": wall_s.get("total"),
    }


def _number(rate: float | str | None) -> float | None:
    """Return a learning rate of the settings; None for `find`, for which training.json has the number."""
    return None if isinstance(rate, str) else rate


def _paths(data: Json) -> list[str]:
    """Return the files of the data, of several sources those of each in turn."""
    return [*(data.get("files") or []), *(path for source in data.get("sources") or [] for path in source["files"])]


def recipe_rows(recipe: Json) -> list[tuple[str, str]]:
    """Return the recipe as pairs of name and words, without those of which nothing is known."""
    rows = [
        ("Model", _joined(_short(recipe["model"]), _size(recipe["parameters"]))),
        ("Data", _data(recipe)),
        ("Objective", objective_words(recipe["objective"], recipe["masks"]) if recipe["objective"] else ""),
        ("Method", _method(recipe)),
        (
            "Learning rate",
            _joined(scientific(recipe["learning_rate"]) if recipe["learning_rate"] else "", recipe["schedule"]),
        ),
        ("Steps", _steps(recipe)),
        ("Hardware", _hardware(recipe)),
        ("Time", _time(recipe)),
    ]
    return [(name, words) for name, words in rows if words]


def objective_words(objective: str, masks: Json) -> str:
    """Return what is trained: how tokens are masked, and what their losses are weighted by.

    >>> objective_words("elbo", {})
    'masked diffusion, losses weighted by 1/t'
    >>> objective_words("elbo", {"mask_counts": "exact", "complementary": True, "mask_block": 32})
    'masked diffusion, exactly k of L tokens in blocks of 32, complementary pairs, losses weighted by L/k'

    Args:
        masks: settings of `train` by name, see `MASKS`; those that are missing change nothing.
    """
    if objective in UNMASKED:
        return _joined(UNMASKED[objective], _cut(masks))
    exact, block = masks.get("mask_counts") == "exact", masks.get("mask_block")
    chosen = "exactly k of L tokens" if exact else "tokens" if block else ""
    low, high = masks.get("rate_range") or (0.0, 1.0)
    annealed = masks.get("attention_annealing")
    return _joined(
        "masked diffusion",
        f"{chosen} in blocks of {block}" if block else chosen,
        ("mirrored pairs" if masks.get("pairs") == "mirror" else "complementary pairs")
        if masks.get("complementary")
        else "",
        "end tokens masked together" if masks.get("tail_masks") == "together" else "",
        f"mask rates from {low:g} to {high:g} alone" if (low, high) != (0.0, 1.0) else "",
        "mask rates by a density, losses divided by it" if masks.get("rate_density") else "",
        WEIGHTS.get(objective, "losses unweighted").format("L/k" if exact else "1/t"),
        _cut(masks),
        f"attention annealed over the first {percent(annealed)} of the steps" if annealed else "",
    )


def _cut(masks: Json) -> str:
    return f"{percent(masks['cut_share'])} of the responses cut" if masks.get("cut_share") else ""


def _data(recipe: Json) -> str:
    counts = {"rows trained on": recipe["rows"], "held out for the test": recipe["test_rows"]}
    said = ", ".join(f"{number(rows)} {what}" for what, rows in counts.items() if rows is not None)
    return ": ".join(text for text in (_files(recipe["data"]), said) if text)


def _files(paths: Sequence[str]) -> str:
    """Return the name of the data's only file, or of the first one and how many there are.

    >>> _files(["data/a.parquet"]), _files(["hf://datasets/simplescaling/s1K@0123/a.parquet", "b.parquet"])
    ('data/a.parquet', 'simplescaling/s1K and 1 other file')
    """
    if not paths:
        return ""
    hub = paths[0].removeprefix("hf://datasets/")
    first = _short(paths[0]) if hub == paths[0] else reveal(hub.partition("@")[0], 80)
    others = len(paths) - 1
    return first + (f" and {others} other file{'s' if others > 1 else ''}" if others else "")


def variant_name(recipe: Json) -> str:
    """Return what an adapter is called: LoRA, rsLoRA or DoRA."""
    return {"rslora": "rsLoRA", "dora": "DoRA"}.get(recipe["variant"] or "", "LoRA")


def _method(recipe: Json) -> str:
    if recipe["finetuning"] == "full":
        return "full fine-tuning"
    if recipe["rank"] is None:
        return ""
    name = variant_name(recipe)
    if recipe["quantization"] == "nf4":
        kind = f"{name if name == 'rsLoRA' else f'Q{name}'}: an adapter on 4-bit weights"  # nobody says QrsLoRA
    else:
        kind = f"{name}: an adapter"
    return f"{kind}, rank {recipe['rank']}{', frozen weights multiplied in FP8' if recipe['products'] == 'fp8' else ''}"


def _steps(recipe: Json) -> str:
    if recipe["steps"] is None:
        return ""
    batch = f" of {recipe['global_batch']} rows" if recipe["global_batch"] else ""
    epochs = recipe["epochs"]
    return number(recipe["steps"]) + batch + (f", {epochs} epoch{'s' if epochs > 1 else ''}" if epochs else "")


def _hardware(recipe: Json) -> str:
    if recipe["device"] is None:
        return ""
    count, kind = recipe["processes"] or 1, "GPU" if recipe["device"] == "cuda" else "CPU"
    named = f"{kind}: {recipe['processor']}" if recipe["processor"] else f"{kind} of {recipe['host'] or 'unknown host'}"
    return reveal(f"{count} × {named}" if count > 1 or kind == "GPU" else named, 120)


def _time(recipe: Json) -> str:
    times = {"training": recipe["training_s"], "all stages": recipe["total_s"]}
    return ", ".join(f"{what} {duration(seconds)}" for what, seconds in times.items() if seconds is not None)


def _short(path: str | None) -> str:
    """Return a path's last two parts, which tell files and models apart; a hub's name has no more."""
    return reveal("/".join(str(path).rstrip("/").split("/")[-2:]), 80) if path else ""


def _size(parameters: int | None) -> str:
    """Return a number of parameters in words.

    >>> _size(1_090_688), _size(7_615_616_512), _size(None)
    ('1.1 million parameters', '7.6 billion parameters', '')
    """
    if parameters is None:
        return ""
    if parameters < 1e6:
        return f"{number(parameters)} parameters"
    return (
        f"{parameters / 1e9:.1f} billion parameters"
        if parameters >= 1e9
        else f"{parameters / 1e6:.1f} million parameters"
    )


def _joined(*words: str | None) -> str:
    return ", ".join(word for word in words if word)
