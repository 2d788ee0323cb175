"""README.md: the trained weights' model card for the Hugging Face hub.

It says what was trained on what, how to load the weights with PEFT and transformers alone, and the verdict with its
interval. Publishing puts it beside a copy of the weights (`workflow.publish`): the training itself is finished before
there is a verdict. Figures of an invalid verdict say nothing of what was learned, so that card holds none.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from dreamtune.formats.likelihood import BOUND, EXACT
from dreamtune.formats.names import HEADLINE
from dreamtune.formats.reads import Reads
from dreamtune.formats.shards import AUDIT_FILE, SHARDS_FILE
from dreamtune.inputs.checkpoint_format import SHIFTED, key_patterns
from dreamtune.readable import nats, percent, points
from dreamtune.report.recipe import recipe_rows, variant_name
from dreamtune.report.text import reveal
from dreamtune.settings.report import ReportConfig

HERE = Path(__file__).parent
CARD_FILE = "README.md"
HUB_DATA = "hf://datasets/"
CLASSES = {"dream": "Qwen2", "qwen2": "Qwen2", "llada": "Llama", "llama": "Llama"}
INVALID = "invalid"
NLL_NAMES = {BOUND: "bound on the NLL (ELBO)", EXACT: "exact NLL"}
Json = Mapping[str, Any]


def model_card(report: ReportConfig, reads: Reads, summary: Json, licence: Mapping[str, str]) -> str:
    """Return README.md: YAML front matter that the hub reads, and Markdown.

    Args:
        report: names the licence, and the base model on the hub, where the settings say them.
        reads: version folders by name.
        summary: content of summary.json.
        licence: the fields that the base model's files state (`inputs.base_card.base_licence`).
    """
    manifests = reads.manifests()
    base, stated = _base(report, summary, manifests), _licence(report, licence)
    full = summary["recipe"]["finetuning"] == "full"
    data = ModelCardData(
        base_model=base["name"],
        base_model_relation=("finetune" if full else "adapter") if base["name"] else None,
        base_model_revision=base["revision"],
        base_model_sha256=base["files"] or None,
        datasets=_datasets(summary["recipe"]["data"]) or None,
        eval_results=_results(summary) or None,
        library_name="transformers" if full else "peft",
        metrics=["accuracy"] if summary["verdict"] != INVALID else None,
        model_name=summary["experiment"],
        pipeline_tag="text-generation",
        tags=_tags(summary["recipe"]),
        verdict=summary["verdict"],
        **stated,
    )
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n{_body(report, reads, summary, manifests, base, stated)}")
    return str(card.content)


def loading_code(family: str, base: str, revision: str | None, model: Json, adapter: bool, causal: bool = False) -> str:
    """Return Python that loads the weights from the working folder as `model`, with PEFT and transformers alone.

    Args:
        family: "dream", "llada", "qwen2" or "llama".
        base: folder of the base model, or its name on the hub.
        revision: the hub commit.
        model: the settings quantization and dtype.
        adapter: whether the weights are an adapter, or else a whole checkpoint in the base's format.
        causal: whether the model is autoregressive, as transformers takes it to be.
    """
    name, quantization = CLASSES[family], model.get("quantization")
    imports = {f"{name}Config", f"{name}ForCausalLM"}
    imports |= {"PretrainedConfig"} if family == "llada" else set()
    imports |= {"BitsAndBytesConfig"} if quantization == "nf4" else set()
    return _render(
        "loading.py.j2",
        adapter=adapter,
        base=base,
        revision=revision,
        family=family,
        imports=sorted(imports),
        names=key_patterns(family),
        config=f"{name}Config",
        model=f"{name}ForCausalLM",
        dtype=model.get("dtype", "bfloat16"),
        quantization=quantization,
        causal=causal,
    ).strip()


def _body(
    report: ReportConfig, reads: Reads, summary: Json, manifests: Mapping[str, Json], base: Json, stated: Json
) -> str:
    recipe, settings = summary["recipe"], summary["settings"].get("full", {})
    train, model, training = settings.get("train", {}), settings.get("model", {}), summary["training"]
    meta, audit = reads.json("shards", SHARDS_FILE), reads.json("shards", AUDIT_FILE)
    full, manifest = recipe["finetuning"] == "full", manifests.get("full", {})
    family, ids = training.get("family"), meta.get("tokenizer", {})
    packages = {name: manifest.get("packages", {}).get(name) for name in ("torch", "transformers", "peft")}
    about = {name: value for name, value in model.items() if name != "path"}  # a local one is nobody else's business
    invalid, causal = summary["verdict"] == INVALID, model.get("attention") == "causal"
    article = "An" if recipe["variant"] == "rslora" else "A"
    return _render(
        "card.md.j2",
        causal=causal,
        title=reveal(report.title or summary["experiment"], 200),
        kind="All weights, fine-tuned," if full else f"{article} {variant_name(recipe)} adapter",
        base=base["shown"],
        named=base["name"],
        verdict=summary,
        measured=[] if invalid else _measured(summary),
        level=percent(1 - summary["alpha"], 0),
        primary=summary["primary"],
        alpha=summary["alpha"],
        reasons=[reveal(reason) for reason in summary["reasons"]],
        adapter=not full,
        code=loading_code(family, base["shown"] or "", base["revision"], model, not full, causal) if family else "",
        shifted=family in SHIFTED,
        mask=ids.get("mask_id"),
        end=ids.get("end_id"),
        new_row=not full and model.get("mask_token") == "new",
        template=meta.get("template"),
        chat=(meta.get("chat") or {}).get("template"),
        system=(meta.get("chat") or {}).get("system"),
        beginning=meta.get("beginning_token"),
        recipe=recipe_rows(recipe),
        rows=", ".join(f"{rows:,} {split}" for split, rows in (audit.get("rows") or {}).items()),
        split=_short_json(summary["settings"].get("shards", {}).get("data", {}).get("split")),
        data=[
            _sha256(identity)
            for listed in manifests.get("shards", {}).get("inputs", {}).get("data", [])
            for identity in ([listed] if isinstance(listed, str) else listed)  # of several sources, a list for each
        ],
        base_files={name: _sha256(identity) for name, identity in base["files"].items()},
        settings=json.dumps({"train": train, "model": about}, indent=1, ensure_ascii=False),
        licence=_licence_words(report, stated),
        commit=(manifest.get("git") or {}).get("commit"),
        versions={name: summary["versions"].get(name) for name in ("shards", "full") if name in summary["versions"]},
        packages=", ".join(f"{name} {version}" for name, version in packages.items() if version),
    )


def _render(file: str, **values: Any) -> str:
    return _environment().get_template(file).render(**values)


@cache
def _environment() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(HERE)
    return jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def _base(report: ReportConfig, summary: Json, manifests: Mapping[str, Json]) -> dict[str, Any]:
    """Return the base model's name on the hub, its revision, the digests of its files, and the name to load it by.

    A local folder has a name on the hub only if the settings say so: its path could be that of a stranger's model.
    """
    settings = summary["settings"].get("full", {}).get("model", {})
    path, identity = settings.get("path"), manifests.get("full", {}).get("inputs", {}).get("model")
    on_hub = isinstance(identity, str)
    name = report.base_model or (path if on_hub else None)
    return {
        "name": name,
        "revision": settings.get("revision") if on_hub and name == path else None,
        "files": identity if isinstance(identity, dict) else {},
        "shown": name or path,
    }


def _licence(report: ReportConfig, base: Mapping[str, str]) -> dict[str, str]:
    return {"license": report.license} if report.license else dict(base) or {"license": "unknown"}


def _licence_words(report: ReportConfig, stated: Json) -> str:
    named = f"`{reveal(stated['license'], 100)}`"
    if report.license:
        return f"{named}, as `report.license` in the configuration says."
    if stated["license"] == "unknown":
        return "Unknown: neither the base model's files nor the configuration (`report.license`) state one."
    more = " ".join(f"{stated[key]}" for key in ("license_name", "license_link") if key in stated)
    return f"{named}{f' ({reveal(more, 300)})' if more else ''}, which the base model's files state for the base."


def _datasets(files: list[str]) -> list[str]:
    """Return the names on the hub of the data sets that files come from, each once; local files have none.

    >>> _datasets([f"hf://datasets/me/sums@{'0' * 40}/a.parquet", "data/rows.parquet"])
    ['me/sums']
    """
    hub = [file.removeprefix(HUB_DATA).partition("@")[0] for file in files if file.startswith(HUB_DATA)]
    return list(dict.fromkeys(hub))


def _tags(recipe: Json) -> list[str]:
    masked = ["masked-diffusion"] if recipe["objective"] in ("elbo", "cart", "uniform") else []
    method = "full-fine-tuning" if recipe["finetuning"] == "full" else "lora"
    kind = ["autoregressive"] if recipe["objective"] == "causal" else ["diffusion-language-model", *masked]
    return [*kind, method, "dreamtune"]


def _results(summary: Json) -> list[EvalResult]:
    """Return the entries of model-index: accuracy, its change with the verdict, and held-out likelihood."""
    if summary["verdict"] == INVALID:
        return []
    found = []
    for name, block in summary["comparisons"].items():
        questions, _, setting = name.partition("/")
        accuracy = block["accuracy"]
        if setting != HEADLINE or accuracy["tuned"]["value"] is None:
            continue
        said = {"verdict": summary["verdict"]} if (questions, summary["primary"]) == ("test", "accuracy") else {}
        about = _asked(questions, summary)
        temperature = block["settings"].get("temperature")
        called = f"accuracy, sampled at temperature {temperature:g}" if temperature else f"accuracy, {setting}"
        found += [
            _result(about, "accuracy", called, accuracy["tuned"], accuracy),
            _result(about, "accuracy", f"{called}, minus the base's", accuracy["gain"], accuracy, **said),
        ]
    nll = summary["nll"]
    if nll["tuned"]["value"] is not None:
        said = {"verdict": summary["verdict"]} if summary["primary"] == "nll" else {}
        about = _asked("test", summary)
        found += [
            _result(about, "nll", f"{NLL_NAMES[nll['kind']]}, nats per response token", nll["tuned"], nll),
            _result(about, "nll", "the same, minus the base's; negative is better", nll["delta"], nll, **said),
        ]
    return found


def _asked(questions: str, summary: Json) -> dict[str, str]:
    """Return model-index's description of a question set, "test" or a benchmark."""
    answers = summary["settings"].get(f"answers/{questions}/{HEADLINE}/tuned", {})
    files = summary["recipe"]["data"] if questions == "test" else answers.get("benchmark", {}).get("files", [])
    hub = _datasets(files)
    name = f"held-out rows of {Path(files[0]).name}" if questions == "test" and files else questions
    return {"dataset_type": hub[0] if hub else "parquet", "dataset_name": name}


def _result(about: Mapping[str, str], kind: str, name: str, estimate: Json, block: Json, **said: str) -> EvalResult:
    interval = {key: estimate[key] for key in ("low", "high", "n", "effective_n", "p", "test") if key in estimate}
    return EvalResult(
        task_type="text-generation",
        **about,
        metric_type=kind,
        metric_name=name,
        metric_value=estimate["value"],
        metric_args=interval | {"level": block.get("level")} | said,
    )


def _measured(summary: Json) -> list[tuple[str, ...]]:
    rows = []
    for name, block in summary["comparisons"].items():
        accuracy = block["accuracy"]
        if accuracy["tuned"]["value"] is not None:
            gain, sides = accuracy["gain"], (percent(accuracy[who]["value"]) for who in ("base", "tuned"))
            change = f"{points(gain['value'])} points{_limits(gain, points)}"
            rows.append((f"{name.replace('/', ', ')}: correct", *sides, change, str(accuracy["questions"])))
    nll = summary["nll"]
    if nll["tuned"]["value"] is not None:
        delta = nll["delta"]
        change = f"{nats(delta['value'], True)}{_limits(delta, lambda value: nats(value, True))}"
        sides = (nats(nll[who]["value"]) for who in ("base", "tuned"))
        rows.append((f"test: {NLL_NAMES[nll['kind']]}, nats per token", *sides, change, str(nll["rows"])))
    return rows


def _limits(estimate: Json, write: Any) -> str:
    known = estimate["low"] is not None and estimate["high"] is not None
    return f" ({write(estimate['low'])} to {write(estimate['high'])})" if known else ""


def _sha256(identity: str) -> str:
    """Return a pinned hub address as it is, and a digest with its kind.

    >>> _sha256("0f" * 32)[:12]
    'sha256:0f0f0'
    """
    return identity if identity.startswith(HUB_DATA) else f"sha256:{identity}"


def _short_json(value: Any) -> str:
    return json.dumps(value) if value else ""
