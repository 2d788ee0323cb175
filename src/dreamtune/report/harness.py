"""The answers of base and tuned model in the files that EleutherAI's lm-evaluation-harness writes and compares.

    lm-eval/base/results_DATE.json                 accuracy by task, with standard errors
    lm-eval/base/samples_TASK_DATE.jsonl           one line per question that counts
    lm-eval/tuned/…                                the same questions and tasks

A task is a question set under one setting of the sampler: `dreamtune.SET.SETTING.v1`. Readers look for a task's file by
a part of its name, hence a form in which no task's name is a part of another's. Metrics: `acc`, mathematical
equivalence, as `accuracy` in summary.json; `strict`, the reference's own characters; and `lenient`, the last number,
where all references are numbers. `filtered_resps` is the answer that was extracted and graded.

A standard error is that of the mean over the effective number of questions: the harness's own where questions are
unrelated, larger where they form clusters. The held-out NLL is left out: a bound under random masks is not comparable
with the harness's perplexities of causal models.
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from math import sqrt
from pathlib import Path
from typing import Any

import polars as pl

from dreamtune.data.template import render_prompt
from dreamtune.evaluate.comparison import counted_questions
from dreamtune.files import write_json
from dreamtune.formats.answers import ANSWERS_FILE
from dreamtune.formats.names import BASE, TUNED
from dreamtune.formats.reads import Reads
from dreamtune.formats.scores import SCORES_FILE
from dreamtune.formats.shards import SHARDS_FILE

VERSION = 1  # of the tasks
METRICS = {"acc": "correct", "strict": "strict", "lenient": "lenient"}  # a metric's column in scores.parquet
READINGS = {"acc": "accuracy", "strict": "strict", "lenient": "lenient"}  # and its block in summary.json
NO_ANSWER = "[invalid]"  # the harness's word for an answer in which a filter found nothing
Json = Mapping[str, Any]


def write_harness_results(reads: Reads, summary: Json, out: Path) -> None:
    """Write both models' folders; nothing where no question could be graded.

    Args:
        reads: version folders by name.
        summary: content of summary.json.
        out: the folder `lm-eval`, made if there is something to write.
    """
    date = _date(reads)
    template = reads.json("shards", SHARDS_FILE).get("template")
    for who in (BASE, TUNED):
        results: dict[str, Any] = {name: {} for name in ("results", "configs", "versions", "n-shot", "n-samples")}
        results |= {"group_subtasks": {}, "higher_is_better": {}, "task_hashes": {}}
        for questions, setting in reads.comparisons():
            block = summary["comparisons"][f"{questions}/{setting}"]
            rows = _graded(reads, questions, setting, who)
            if rows is None or not rows.height:
                continue
            task = f"dreamtune.{questions}.{setting}.v{VERSION}"
            metrics = [name for name in METRICS if not rows[name].null_count()]
            (out / who).mkdir(parents=True, exist_ok=True)
            hashes = hashlib.sha256()
            with (out / who / f"samples_{task}_{date}.jsonl").open("wb") as file:
                for number, row in enumerate(rows.iter_rows(named=True)):
                    sample = _sample(number, row, metrics, template, block["settings"])
                    hashes.update("".join(sample[f"{part}_hash"] for part in ("doc", "prompt", "target")).encode())
                    file.write(f"{json.dumps(sample, ensure_ascii=False)}\n".encode(errors="backslashreplace"))
            results["results"][task] = _means(task, rows, metrics, block, who)
            results["configs"][task] = _config(task, metrics, template, block)
            results["versions"][task], results["n-shot"][task] = VERSION, 0
            asked = rows.height + block["accuracy"]["ungradable"] + block["accuracy"]["undecided"]
            results["n-samples"][task] = {"original": asked, "effective": rows.height}
            results["higher_is_better"][task] = dict.fromkeys(metrics, True)
            results["task_hashes"][task] = hashes.hexdigest()
        if results["results"]:
            write_json(out / who / f"results_{date}.json", results | _about(reads, summary, who, date))


def _graded(reads: Reads, questions: str, setting: str, who: str) -> pl.DataFrame | None:
    """Return the questions that the comparison counts, one row each: texts, and metrics as means over the samples.

    None where the answers are not at hand.
    """
    scores = {name: reads.table(f"scores/{questions}/{setting}/{name}", SCORES_FILE) for name in (BASE, TUNED)}
    base, tuned, answers = scores[BASE], scores[TUNED], reads.lazy(f"answers/{questions}/{setting}/{who}", ANSWERS_FILE)
    if base is None or tuned is None or answers is None:
        return None
    counted, _ = counted_questions(base, tuned, "correct")
    mine = base if who == BASE else tuned
    grades = mine.lazy().select("example_id", "sample", "reference", "extracted", *METRICS.values())
    texts = answers.select("example_id", "sample", "question", "answer", "completion")
    means = [
        pl.when(pl.col(column).is_null().any()).then(None).otherwise(pl.col(column).cast(pl.Float64).mean()).alias(name)
        for name, column in METRICS.items()
    ]
    return (
        counted.lazy()
        .select("example_id", "cluster")
        .join(texts, on="example_id")
        .join(grades, on=["example_id", "sample"])
        .sort("example_id", "sample")
        .group_by("example_id", maintain_order=True)
        .agg(pl.first("cluster", "question", "answer", "reference", "extracted"), pl.col("completion"), *means)
        .collect()
    )


def _sample(number: int, row: Json, metrics: list[str], template: str | None, settings: Json) -> dict[str, Any]:
    doc = {name: row[name] for name in ("example_id", "cluster", "question", "answer")}
    prompt = render_prompt(template, row["question"]) if template else row["question"]
    target = row["reference"] or ""
    return {
        "doc_id": number,
        "doc": doc,
        "target": target,
        "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": _generation(settings)}},
        "resps": [row["completion"]],
        "filtered_resps": [row["extracted"] or NO_ANSWER],
        "filter": "none",
        "metrics": metrics,
        "doc_hash": _sha256(json.dumps(doc, indent=2, ensure_ascii=False)),
        "prompt_hash": _sha256(prompt),
        "target_hash": _sha256(target),
        **{name: row[name] for name in metrics},
    }


def _means(task: str, rows: pl.DataFrame, metrics: list[str], block: Json, who: str) -> dict[str, Any]:
    found: dict[str, Any] = {"name": task, "alias": task, "sample_len": rows.height}
    for name in metrics:
        effective_n = block[READINGS[name]][who]["effective_n"] or rows.height
        deviation: Any = rows[name].std()  # with n - 1; None for one row
        found[f"{name},none"] = float(rows[name].mean())  # type: ignore[arg-type]
        found[f"{name}_stderr,none"] = "N/A" if deviation is None else float(deviation) / sqrt(effective_n)
    return found


def _config(task: str, metrics: list[str], template: str | None, block: Json) -> dict[str, Any]:
    return {
        "task": task,
        "output_type": "generate_until",
        "doc_to_text": template or "{question}",
        "doc_to_target": "{answer}",
        "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in metrics],
        "generation_kwargs": _generation(block["settings"]),
        "repeats": block["accuracy"]["samples"],
        "num_fewshot": 0,
        "metadata": {"version": VERSION},
    }


def _generation(settings: Json) -> dict[str, Any]:
    """Return the sampler's settings with those that the harness has a name for under that name."""
    ours = {name: value for name, value in settings.items() if name not in ("prompts", "scatter")}
    sampled = bool(settings.get("temperature"))
    return {"until": [], "max_gen_toks": settings.get("max_new_tokens"), "do_sample": sampled, **ours}


def _about(reads: Reads, summary: Json, who: str, date: str) -> dict[str, Any]:
    """Return the entries of a results file that describe model and run."""
    manifests, settings = reads.manifests(), summary["settings"].get("full", {}).get("model", {})
    answered = next((manifests[name] for name in manifests if name.startswith("answers/")), {})
    wall = [summary["wall_s"][name] for name in summary["wall_s"] if name.startswith("answers/") and name.endswith(who)]
    arguments = {"pretrained": summary["recipe"]["model"], "revision": settings.get("revision")}
    arguments |= {key: settings.get(key) for key in ("quantization", "dtype", "mask_token")}
    if who == TUNED:
        arguments["peft" if summary["recipe"]["finetuning"] == "lora" else "trained"] = summary["versions"].get("full")
    name = summary["experiment"] if who == TUNED else str(summary["recipe"]["model"])
    return {
        "config": {
            "model": "dreamtune",
            "model_args": {key: value for key, value in arguments.items() if value is not None},
            "model_num_parameters": summary["recipe"]["parameters"],
            "model_dtype": settings.get("dtype"),
            "model_revision": settings.get("revision"),
            "batch_size": None,
            "device": summary["recipe"]["device"],
            "limit": None,
            "bootstrap_iters": 0,
            "gen_kwargs": None,
        },
        "git_hash": (answered.get("git") or {}).get("commit"),
        "date": _as_time(date).timestamp(),
        "transformers_version": (answered.get("packages") or {}).get("transformers"),
        "model_source": "dreamtune",
        "model_name": name,
        "model_name_sanitized": name.replace("/", "__"),
        "system_instruction": None,
        "chat_template": (reads.json("shards", SHARDS_FILE).get("chat") or {}).get("template"),
        "fewshot_as_multiturn": None,
        "total_evaluation_time_seconds": str(sum(wall)),
    }


def _date(reads: Reads) -> str:
    """Return when the last of the stages that the report reads was finished, as the harness writes dates into names."""
    times = [m.get("finished") or m.get("started") or "" for m in reads.manifests().values()]
    return (max(times, default="") or "1970-01-01T00:00:00")[:19].replace(":", "-")


def _as_time(date: str) -> datetime:
    return datetime.strptime(f"{date}+0000", "%Y-%m-%dT%H-%M-%S%z")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()
